# SPDX-License-Identifier: Apache-2.0
"""New disks of every kind: read back by us and by qemu, laid out as VMware's tools do."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.errors import StorageError, UsageError
from diskkit.formats.vmdk.compose import geometry, new_identity
from diskkit.formats.vmdk.writers import SparseWriter, packer
from diskkit.tasks.clone import KINDS, PART
from makers import expected, hosted_sparse, sample_grain
from makers.peers import qemu_img, qemu_raw, requires
from tasks.images import CAPACITY, child, packed, sparse

if TYPE_CHECKING:
    from pathlib import Path

    from makers import Grains

HOSTED = ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_becomes_a_new_disk_of_any_kind(tmp_path: Path, kind: str) -> None:
    top = child(tmp_path, sparse(tmp_path))
    with diskkit.open_disk(top.path) as disk:
        diskkit.clone(disk, tmp_path / "new.vmdk", kind, verify=True)
    with diskkit.open_disk(tmp_path / "new.vmdk", strict=kind in HOSTED[:1]) as new:
        assert new.read(0, new.size) == top.content
        assert new.info.create_type == ("vmfs" if kind.startswith("vmfs") else kind)
        assert len(new.info.links) == 1
    assert diskkit.check(tmp_path / "new.vmdk", data=True).problems == []


@pytest.mark.parametrize("kind", KINDS)
def test_qemu_reads_what_we_write(tmp_path: Path, kind: str) -> None:
    rng = random.Random(kind)
    content = bytearray(3 << 20)
    for _ in range(12):
        begin = rng.randrange(len(content))
        piece = rng.randbytes(rng.randrange(1, 200_000))
        content[begin : begin + len(piece)] = piece[: len(content) - begin]
    (tmp_path / "a.raw").write_bytes(content)
    with diskkit.open_disk(tmp_path / "a.raw") as disk:
        diskkit.clone(disk, tmp_path / "new.vmdk", kind)
    assert qemu_raw(tmp_path / "new.vmdk") == content
    if not kind.startswith("vmfs"):
        done = qemu_img("check", "-f", "vmdk", tmp_path / "new.vmdk")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", HOSTED)
def test_qemu_writes_into_what_we_create(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "new.vmdk"
    diskkit.create_disk(path, 5 << 20, kind)
    with diskkit.open_disk(path) as disk:
        assert disk.size == 5 << 20
        assert not any(run.state == diskkit.State.DATA for run in disk.runs())
    command = [requires("qemu-io"), "-f", "vmdk", "-c", "write -q -P 7 100k 300k", str(path)]
    subprocess.run(command, check=True, timeout=60)
    with diskkit.open_disk(path) as disk:
        wanted = bytes(100 << 10) + b"\7" * (300 << 10)
        assert disk.read(0, 5 << 20) == wanted.ljust(5 << 20, b"\0")
    assert diskkit.check(path).ok


@pytest.mark.parametrize("level", range(10))
@pytest.mark.parametrize("threads", [1, 3])
def test_streams_of_every_level_are_read_back(tmp_path: Path, level: int, threads: int) -> None:
    made = packed(tmp_path, "B")
    with diskkit.open_disk(made.path) as disk:
        diskkit.clone(disk, tmp_path / "new.vmdk", "streamOptimized", level=level, threads=threads)
    assert diskkit.check(tmp_path / "new.vmdk", data=True).problems == []
    with diskkit.open_disk(tmp_path / "new.vmdk") as new:
        assert new.read(0, new.size) == made.content
    if level == 6:
        assert qemu_raw(tmp_path / "new.vmdk") == made.content


def test_grains_that_do_not_compress_take_little_more_than_their_size() -> None:
    grain = random.Random(1).randbytes(65536)
    for level in range(10):
        assert len(packer(level)(memoryview(grain))) <= 65536 + 64


def test_a_stream_goes_through_pipes_both_ways(tmp_path: Path) -> None:
    made = sparse(tmp_path)
    diskkit_ = [sys.executable, "-m", "diskkit", "convert"]
    packed_ = subprocess.run(
        [*diskkit_, str(made.path), "-", "--type", "streamOptimized"],
        capture_output=True,
        check=True,
    ).stdout
    subprocess.run([*diskkit_, "-", str(tmp_path / "out.raw")], input=packed_, check=True)
    assert (tmp_path / "out.raw").read_bytes() == made.content


@pytest.mark.parametrize("kind", ["monolithicSparse", "twoGbMaxExtentSparse"])
def test_one_link_alone_keeps_what_hides_its_parent(tmp_path: Path, kind: str) -> None:
    base = sparse(tmp_path)
    grains: Grains = {1: sample_grain(101), 7: "zero", 9: bytes(65536), 38: "zero"}
    hosted_sparse(
        tmp_path / "child.vmdk", CAPACITY, grains, parent_cid="12345678", parent_hint="base.vmdk"
    )
    with diskkit.open_disk(tmp_path / "child.vmdk", single_link=True) as disk:
        diskkit.clone(disk, tmp_path / "new.vmdk", kind, verify=True)
    with diskkit.open_disk(tmp_path / "new.vmdk") as new:
        assert new.read(0, new.size) == expected(CAPACITY, grains, 128)
        states = {run.offset // 65536: run.state for run in new.runs() if run.state}
    assert states == {1: 2, 7: 1, 9: 1, 38: 1}
    assert diskkit.check(tmp_path / "new.vmdk", data=True).problems == []
    assert base.path.read_bytes()


def test_only_raw_goes_to_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sparse(tmp_path)
    before = made.path.read_bytes()
    monkeypatch.setattr(sys.modules[diskkit.clone.__module__], "is_device", lambda name: True)
    for kind in KINDS:
        with diskkit.open_disk(made.path) as disk, pytest.raises(UsageError, match="only raw"):
            diskkit.clone(disk, made.path, kind, force=True)
    assert made.path.read_bytes() == before


def test_sparse_layout_is_that_of_vmware(tmp_path: Path) -> None:
    """The maker's layout equals files that VMware's tools made, byte for byte."""
    grains = {i: sample_grain(i) for i in (0, 5, 6, 511, 512, 1300)}
    capacity = 128 * 1400 + 8
    hosted_sparse(tmp_path / "want.vmdk", capacity, grains, descriptor=None)
    with (
        diskkit.open_disk(_raw(tmp_path, grains, capacity)) as disk,
        (tmp_path / "got.vmdk").open("wb+") as out,
    ):
        writer = SparseWriter(out.fileno(), "got.vmdk", capacity * 512, b"")
        for grain in grains:
            from numpy import array

            from diskkit.formats.vmdk import writers

            data = bytearray(disk.read(grain * 65536, 65536))
            writer.write(writers.Grains(grain, memoryview(data), array([True]), []))
        writer.finish()
    assert (tmp_path / "got.vmdk").read_bytes() == (tmp_path / "want.vmdk").read_bytes()


def _raw(folder: Path, grains: dict[int, bytes], capacity: int) -> Path:
    with (folder / "source.raw").open("wb") as out:
        out.truncate(capacity * 512)
        for index, content in grains.items():
            out.seek(index * 65536)
            out.write(content)
    return folder / "source.raw"


def test_zeros_that_were_written_are_not_stored(tmp_path: Path) -> None:
    content = bytes(1 << 20) + b"x" + bytes((1 << 20) - 1)
    (tmp_path / "a.raw").write_bytes(content)
    for kind in ("monolithicSparse", "streamOptimized"):
        with diskkit.open_disk(tmp_path / "a.raw") as disk:
            done = diskkit.clone(disk, tmp_path / f"{kind}.vmdk", kind)
        assert done.bytes_written == 65536
        with diskkit.open_disk(tmp_path / f"{kind}.vmdk") as new:
            assert [(r.offset, r.length) for r in new.runs() if r.state == 2] == [(1 << 20, 65536)]


def test_parts_have_vmwares_size_and_are_joined_right(tmp_path: Path) -> None:
    size = PART * 2 + (3 << 20)
    with (tmp_path / "a.raw").open("wb") as out:
        out.truncate(size)
        for at in (0, PART - 5, 2 * PART - 700, 2 * PART, size - 9):
            out.seek(at)
            out.write(b"123456789"[: size - at])
    for kind in ("twoGbMaxExtentSparse", "twoGbMaxExtentFlat"):
        with diskkit.open_disk(tmp_path / "a.raw") as disk:
            diskkit.clone(disk, tmp_path / f"{kind}.vmdk", kind, verify=True)
        with diskkit.open_disk(tmp_path / f"{kind}.vmdk") as new:
            lengths = [e.length for e in new.info.links[0].extents]
            assert lengths == [PART, PART, 3 << 20]
    assert (tmp_path / "twoGbMaxExtentFlat-f003.vmdk").stat().st_size == 3 << 20
    assert (tmp_path / "twoGbMaxExtentSparse-s003.vmdk").exists()


def test_thick_takes_room_and_thin_does_not(tmp_path: Path) -> None:
    diskkit.create_disk(tmp_path / "thick.vmdk", 8 << 20, "vmfs")
    diskkit.create_disk(tmp_path / "thin.vmdk", 8 << 20, "vmfsThin")
    assert (tmp_path / "thick-flat.vmdk").stat().st_blocks * 512 >= 8 << 20
    assert (tmp_path / "thin-flat.vmdk").stat().st_blocks == 0
    diskkit.create_disk(tmp_path / "eager.vmdk", 8 << 20, "vmfsEagerZeroedThick")
    with diskkit.open_disk(tmp_path / "eager.vmdk") as disk:
        # Room that was only reserved counts as a hole; zeros that were written do not.
        assert [(run.length, run.state) for run in disk.runs()] == [(8 << 20, diskkit.State.DATA)]
        assert "thinProvisioned" not in disk.info.metadata
    with diskkit.open_disk(tmp_path / "thin.vmdk") as disk:
        assert disk.info.metadata["thinProvisioned"] == "1"


def test_new_disks_have_ids_of_their_own(tmp_path: Path) -> None:
    seen = set()
    for _ in range(50):
        identity = new_identity()
        assert re.fullmatch(r"60 00 c2 9([0-9a-f] ?)[0-9a-f -]{35}", identity.uuid)
        assert len(identity.uuid) == 47
        assert identity.long_content_id.endswith(f"{identity.cid:08x}")
        assert len(identity.long_content_id) == 32
        seen.add(identity)
    assert len(seen) == 50


@pytest.mark.parametrize(
    ("sectors", "adapter", "wanted"),
    [
        (10485760, "ide", (10402, 16, 63)),
        (4096, "lsilogic", (2, 64, 32)),
        (61440, "buslogic", (30, 64, 32)),
        (33554432, "lsilogic", (2088, 255, 63)),
        (67108864, "lsilogic", (4177, 255, 63)),
        (1 << 40, "ide", (16383, 16, 63)),
    ],
)
def test_geometry_is_what_vmware_writes(
    sectors: int, adapter: str, wanted: tuple[int, int, int]
) -> None:
    assert geometry(sectors * 512, adapter) == wanted


@pytest.mark.parametrize("name", ['quo"te.vmdk', "line\nfeed.vmdk", "tab\t.vmdk"])
@pytest.mark.parametrize("kind", ["monolithicSparse", "twoGbMaxExtentFlat"])
def test_names_that_no_descriptor_can_hold_are_refused(
    tmp_path: Path, name: str, kind: str
) -> None:
    with pytest.raises(UsageError, match="cannot be written into a descriptor"):
        diskkit.create_disk(tmp_path / name, 1 << 20, kind)
    assert list(tmp_path.iterdir()) == []


def test_capacities_beyond_a_kind_are_refused(tmp_path: Path) -> None:
    diskkit.create_disk(tmp_path / "most.vmdk", (1 << 41) - 512)
    with pytest.raises(UsageError, match=f"at most {(1 << 41) - 512} bytes, not {1 << 41}"):
        diskkit.create_disk(tmp_path / "more.vmdk", 1 << 41)
    with pytest.raises(UsageError, match="whole, positive number"):
        diskkit.create_disk(tmp_path / "odd.vmdk", 1000)


@pytest.mark.parametrize("kind", ["monolithicFlat", "twoGbMaxExtentSparse", "vmfs"])
def test_one_file_in_the_way_leaves_all_as_it_was(tmp_path: Path, kind: str) -> None:
    suffix = KINDS[kind].suffix.format(1)
    (tmp_path / f"new{suffix}.vmdk").write_text("mine")
    made = sparse(tmp_path)
    with diskkit.open_disk(made.path) as disk, pytest.raises(UsageError, match="exists already"):
        diskkit.clone(disk, tmp_path / "new.vmdk", kind)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["base.vmdk", f"new{suffix}.vmdk"]


def test_a_file_that_appears_meanwhile_is_kept_and_nothing_else_stays(tmp_path: Path) -> None:
    from diskkit.storage.newfile import new_files

    names = [str(tmp_path / name) for name in ("a", "b", "c")]
    with (
        pytest.raises(UsageError, match="exists already"),
        new_files(names, force=False, sync=False),
    ):
        (tmp_path / "b").write_text("another's")
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_disks_of_several_files_are_not_replaced(tmp_path: Path) -> None:
    made = sparse(tmp_path)
    diskkit.create_disk(tmp_path / "flat.vmdk", 1 << 20, "monolithicFlat")
    with diskkit.open_disk(made.path) as disk:
        with pytest.raises(UsageError, match="remove it first"):
            diskkit.clone(disk, tmp_path / "flat.vmdk", "monolithicFlat", force=True)
        diskkit.create_disk(tmp_path / "mono.vmdk", 1 << 20)
        diskkit.clone(disk, tmp_path / "mono.vmdk", "monolithicSparse", force=True, verify=True)


def test_a_full_filesystem_leaves_nothing(tmp_path: Path) -> None:
    made = sparse(tmp_path)
    script = (
        "import resource, signal, sys, diskkit\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "with diskkit.open_disk(sys.argv[1]) as disk:\n"
        "    try: diskkit.clone(disk, sys.argv[2], sys.argv[3])\n"
        "    except diskkit.StorageError as error: print(error)\n"
    )
    for kind in ("monolithicSparse", "twoGbMaxExtentFlat", "streamOptimized"):
        (tmp_path / "noise.raw").write_bytes(random.Random(1).randbytes(1 << 20))
        done = subprocess.run(
            [sys.executable, "-c", script, tmp_path / "noise.raw", tmp_path / "new.vmdk", kind],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "writing failed: File too large" in done.stdout
        assert sorted(p.name for p in tmp_path.iterdir()) == [made.path.name, "noise.raw"]


def test_a_copy_that_differs_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sparse(tmp_path)

    def differ(*_: object) -> None:
        raise StorageError("new.vmdk", "the copy differs")

    monkeypatch.setattr(sys.modules[diskkit.clone.__module__], "verify_copy", differ)
    for kind in ("monolithicSparse", "twoGbMaxExtentFlat"):
        with (
            diskkit.open_disk(made.path) as disk,
            pytest.raises(StorageError, match="the copy differs"),
        ):
            diskkit.clone(disk, tmp_path / "new.vmdk", kind, verify=True)
        assert [p.name for p in tmp_path.iterdir()] == ["base.vmdk"]


def test_the_command_line_creates_and_converts(tmp_path: Path) -> None:
    from diskkit.cli import main

    disk = tmp_path / "new.vmdk"
    assert main(["create", str(disk), "--size", "1G", "--adapter", "ide", "-q"]) == 0
    assert main(["create", str(disk), "--size", "1G"]) == 2
    assert json.loads(qemu_img("info", "--output=json", disk).stdout)["virtual-size"] == 1 << 30
    other = tmp_path / "other.vmdk"
    assert main(["convert", str(disk), str(other), "-t", "streamOptimized", "--level", "best"]) == 0
    with diskkit.open_disk(other) as opened:
        assert opened.info.adapter_type == "ide"
