# SPDX-License-Identifier: Apache-2.0
"""Growing, shrinking, defragmenting: same content, better stored; peers and our check agree."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import diskkit
from diskkit.cli import main
from diskkit.errors import FormatError, LockedError, StorageError, UnsupportedFeature, UsageError
from diskkit.formats.vmdk import layout
from diskkit.formats.vmdk.writers import Grains as Stored
from diskkit.formats.vmdk.writers import SparseWriter
from diskkit.tasks.clone import PART
from makers import cowd, expected, hosted_sparse, sample_grain
from makers.peers import qemu_img, qemu_raw
from peers.asking import libvmdk_raw, qemu_io
from tasks.images import CAPACITY, child, packed, sparse

if TYPE_CHECKING:
    from collections.abc import Callable

    from makers import Grains

SPARSE = ["monolithicSparse", "twoGbMaxExtentSparse"]
FLAT = ["monolithicFlat", "twoGbMaxExtentFlat", "vmfs", "vmfsThin"]
MIB = 1 << 20


def _content(path: Path) -> bytes:
    with diskkit.open_disk(path) as disk:
        return disk.read(0, disk.size)


def _ids(path: Path) -> tuple[str | None, str | None]:
    with diskkit.open_disk(path) as disk:
        return disk.info.cid, disk.info.metadata.get("longContentID")


def _header(path: Path) -> layout.SparseHeader:
    return layout.parse_sparse_header(path.read_bytes()[:512], "")


def _used(folder: Path, kind: str, size: int = 9 * MIB + 512) -> Path:
    """A disk written to out of order, with zeros that were stored and room that leaked."""
    path = folder / "disk.vmdk"
    diskkit.create_disk(path, size, kind)
    qemu_io(
        path,
        [
            "write -q -P 5 8M 300k",
            "write -q -P 6 1M 64k",
            "write -q -P 9 2M 256k",
            "write -q -P 0 2M 192k",
            "write -q -P 7 3M 1M",
        ],
    )
    return path


def _file(path: Path) -> Path:
    with diskkit.open_disk(path) as disk:
        return Path(disk.info.links[0].extents[0].path or "")


def _healthy(path: Path, content: bytes) -> None:
    assert _content(path) == content
    # qemu gives a disk it writes to a new CID, and forgets the long one.
    found = diskkit.check(path, data=True).problems
    assert [p for p in found if p.code != "descriptor.longContentID"] == []
    assert qemu_raw(path) == content
    with diskkit.open_disk(path) as disk:
        if disk.info.create_type != "vmfs":
            done = qemu_img("check", "-f", "vmdk", path)
            assert done.returncode == 0, done.stderr
    assert not [p.name for p in path.parent.iterdir() if p.name.endswith(".part")]


def _places(path: Path) -> list[int]:
    with diskkit.open_disk(path) as disk:
        return [r.file_offset for r in disk.runs() if r.file_offset is not None]


def _held(path: Path) -> int:
    with diskkit.open_disk(path) as disk:
        return sum(run.length for run in disk.runs() if run.state == diskkit.State.DATA)


@pytest.mark.parametrize("kind", SPARSE)
def test_shrinking_drops_zeros_and_orders_grains(tmp_path: Path, kind: str) -> None:
    path = _used(tmp_path, kind)
    content, ids, file = _content(path), _ids(path), _file(path)
    file.chmod(0o640)
    before = file.stat()
    done = diskkit.shrink(path)
    assert done.changed == [str(file)]
    after = file.stat()
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)
    filled = sum(any(content[i : i + 65536]) for i in range(0, len(content), 65536))
    assert after.st_size == _header(file).overhead + filled * 65536
    assert done.after < done.before
    assert _places(path) == sorted(_places(path))
    assert _ids(path) == ids
    _healthy(path, content)
    again = diskkit.shrink(path)
    assert (again.changed, len(again.left)) == ([], 1)
    if kind == SPARSE[0]:
        assert libvmdk_raw(path) == content


@pytest.mark.parametrize("kind", SPARSE)
def test_defragmenting_keeps_zeros_and_orders_grains(tmp_path: Path, kind: str) -> None:
    path = _used(tmp_path, kind)
    content, ids, file = _content(path), _ids(path), _file(path)
    with diskkit.open_disk(path) as disk:
        before = list(disk.allocated())
    size = file.stat().st_size
    assert _places(path) != sorted(_places(path))
    assert diskkit.defragment(path).changed == [str(file)]
    with diskkit.open_disk(path) as disk:
        assert list(disk.allocated()) == before
    assert file.stat().st_size <= size
    assert _places(path) == sorted(_places(path))
    assert _ids(path) == ids
    _healthy(path, content)
    again = diskkit.defragment(path)
    assert (again.changed, again.left) == ([], [f"{file}: it is in order already"])


def test_room_that_belongs_to_nothing_goes(tmp_path: Path) -> None:
    made = sparse(tmp_path)
    size = made.path.stat().st_size
    with made.path.open("ab") as file:
        file.write(b"x" * 300_000)
    assert diskkit.defragment(made.path).changed
    assert made.path.stat().st_size == size
    _healthy(made.path, made.content)


def _family(folder: Path) -> tuple[Path, Path, bytes]:
    base = sparse(folder)
    grains: Grains = {1: bytes(65536), 7: "zero", 20: sample_grain(120), 9: sample_grain(99)}
    path = folder / "child.vmdk"
    hosted_sparse(
        path,
        CAPACITY,
        grains,
        parent_cid="12345678",
        parent_hint="base.vmdk",
        cid="00000002",
        order=[20, 1, 9],
    )
    return base.path, path, expected(CAPACITY, grains, 128, base.content)


@pytest.mark.parametrize("single_link", [False, True])
@pytest.mark.parametrize("verb", [diskkit.shrink, diskkit.defragment])
def test_a_childs_zeros_go_on_hiding_its_parent(
    tmp_path: Path, verb: Callable[..., object], single_link: bool
) -> None:
    base, path, content = _family(tmp_path)
    before = base.read_bytes()
    verb(path, policy=diskkit.OpenPolicy(single_link=single_link))
    assert _content(path) == content
    assert base.read_bytes() == before
    header = _header(path)
    assert header.version == 2
    assert header.flags & layout.FLAG_ZEROED
    stored = 2 if verb is diskkit.shrink else 3
    assert path.stat().st_size == header.overhead + stored * 65536
    assert qemu_raw(path) == content
    assert diskkit.check(path, data=True).problems == []


def test_a_parent_shrinks_without_force_and_its_child_still_fits(tmp_path: Path) -> None:
    base, path, content = _family(tmp_path)
    with base.open("r+b") as file:  # one grain becomes zeros
        file.seek(_places(base)[0])
        file.write(bytes(65536))
    content = _content(path)
    assert diskkit.shrink(base).changed
    assert _content(path) == content


def test_entries_that_say_zeros_are_not_needed_without_a_parent(tmp_path: Path) -> None:
    grains: Grains = {0: sample_grain(1), 3: "zero", 5: bytes(65536)}
    hosted_sparse(tmp_path / "a.vmdk", CAPACITY, grains)
    assert diskkit.shrink(tmp_path / "a.vmdk").changed
    header = _header(tmp_path / "a.vmdk")
    assert (header.version, header.flags & layout.FLAG_ZEROED) == (1, 0)
    _healthy(tmp_path / "a.vmdk", expected(CAPACITY, grains, 128))


@pytest.mark.parametrize("sectors", [8, 16, 1024, 2048])
def test_the_grain_size_stays(tmp_path: Path, sectors: int) -> None:
    grains = {i: sample_grain(i, sectors) for i in (9, 0, 3)}
    path = tmp_path / "a.vmdk"
    hosted_sparse(path, sectors * 11 + 8, grains, grain_sectors=sectors, order=[9, 0, 3])
    assert diskkit.shrink(path).changed
    assert _header(path).grain == sectors * 512
    content = expected(sectors * 11 + 8, grains, sectors)
    _healthy(path, content)
    diskkit.grow(path, 64 * MIB)
    assert _header(path).grain == sectors * 512
    _healthy(path, content.ljust(64 * MIB, b"\0"))


def test_grains_of_odd_sizes_are_left_to_convert(tmp_path: Path) -> None:
    path = tmp_path / "a.vmdk"
    hosted_sparse(path, 4096, {1: sample_grain(1, 4)}, grain_sectors=4)
    before = path.read_bytes()
    for verb in (diskkit.shrink, diskkit.defragment, lambda p: diskkit.grow(p, 4 * MIB)):
        with pytest.raises(UnsupportedFeature, match="8 to 2048"):
            verb(path)
    assert path.read_bytes() == before


def test_thin_files_get_holes_and_thick_ones_are_left(tmp_path: Path) -> None:
    for kind in FLAT:
        (tmp_path / kind).mkdir()
        path = _used(tmp_path / kind, kind)
        content, file = _content(path), _file(path)
        before, held = file.stat(), _held(path)
        done = diskkit.shrink(path)
        after = file.stat()
        if kind == "vmfs":
            assert done.changed == []
            assert done.left == [f"{file}: it is preallocated"]
            assert after.st_blocks == before.st_blocks
        else:
            assert done.changed == [str(file)]
            assert held - _held(path) == 192 << 10
            assert after.st_blocks < before.st_blocks
            assert diskkit.shrink(path).changed == []
        assert after.st_size == before.st_size
        assert diskkit.defragment(path).changed == []
        _healthy(path, content)


def test_what_cannot_be_stored_anew_is_refused(tmp_path: Path) -> None:
    stream = packed(tmp_path, "A").path
    cowd(tmp_path / "redo-delta.vmdk", CAPACITY, {0: sample_grain(1, 1)})
    redo = tmp_path / "redo.vmdk"
    redo.write_text(
        "# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\n"
        f'createType="vmfsSparse"\nRW {CAPACITY} VMFSSPARSE "redo-delta.vmdk"\n'
    )
    raw = tmp_path / "a.raw"
    raw.write_bytes(bytes(MIB))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for verb in (diskkit.shrink, diskkit.defragment, lambda p: diskkit.grow(p, 64 * MIB)):
        with pytest.raises(UnsupportedFeature, match="written once"):
            verb(stream)
        with pytest.raises(UnsupportedFeature, match="VMFSSPARSE"):
            verb(redo)
        with pytest.raises(UsageError, match="raw image"):
            verb(raw)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_damaged_disk_is_left_as_it_is(tmp_path: Path) -> None:
    made = sparse(tmp_path)
    with made.path.open("r+b") as file:
        for directory in (_header(made.path).directory_offset, _header(made.path).redundant_offset):
            file.seek(directory)
            table = int.from_bytes(file.read(4), "little") * 512
            file.seek(table + 8)
            file.write((1 << 30).to_bytes(4, "little"))
    before = made.path.read_bytes()
    for verb in (diskkit.shrink, diskkit.defragment, lambda p: diskkit.grow(p, 64 * MIB)):
        with pytest.raises(FormatError, match="beyond the end"):
            verb(made.path)
        assert made.path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["base.vmdk"]


def test_a_disk_in_use_is_left_alone(tmp_path: Path) -> None:
    made = sparse(tmp_path)
    with diskkit.open_disk(made.path):
        for verb in (diskkit.shrink, diskkit.defragment, lambda p: diskkit.grow(p, 64 * MIB)):
            with pytest.raises(LockedError):
                verb(made.path)


def test_a_new_file_that_differs_does_not_replace_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sparse(tmp_path)
    with made.path.open("ab") as file:
        file.write(b"x" * 300_000)
    before = made.path.read_bytes()
    real = SparseWriter.write

    def spoil(self: SparseWriter, grains: Stored) -> int:
        data = bytearray(grains.data)
        data[5] ^= 1
        return real(self, grains._replace(data=memoryview(data)))

    def forget(self: SparseWriter, grains: Stored) -> int:
        return real(self, grains._replace(blank=None, filled=np.zeros_like(grains.filled)))

    for bad in (spoil, forget):
        monkeypatch.setattr(SparseWriter, "write", bad)
        with pytest.raises(StorageError, match="not what was written"):
            diskkit.shrink(made.path)
        assert made.path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["base.vmdk"]


@pytest.mark.parametrize("kind", SPARSE + FLAT)
def test_a_disk_grows(tmp_path: Path, kind: str) -> None:
    path = _used(tmp_path, kind)
    content, ids = _content(path), _ids(path)
    reported: list[tuple[int, int]] = []
    done = diskkit.grow(path, 77 * MIB, progress=lambda a, b: reported.append((a, b)))
    assert (done.before, done.after) == (9 * MIB + 512, 77 * MIB)
    assert reported[-1] == (77 * MIB, 77 * MIB)
    assert reported == sorted(reported)
    _healthy(path, content.ljust(77 * MIB, b"\0"))
    assert json.loads(qemu_img("info", "--output=json", path).stdout)["virtual-size"] == 77 * MIB
    assert all(a != b for a, b in zip(_ids(path), ids, strict=True))
    with diskkit.open_disk(path) as disk:
        assert disk.info.geometry == (77, 64, 32)
        room = sum(Path(e.path or "").stat().st_blocks for e in disk.info.links[0].extents) * 512
    assert (room >= 77 * MIB) == (kind == "vmfs")


def test_the_geometry_can_stay(tmp_path: Path) -> None:
    for adapter, keep, wanted in (
        ("ide", False, (16383, 16, 63)),
        ("lsilogic", False, (10240, 64, 32)),
        ("lsilogic", True, (4, 64, 32)),
    ):
        path = tmp_path / f"{adapter}{keep}.vmdk"
        diskkit.create_disk(path, 4 * MIB, adapter=adapter)
        diskkit.grow(path, 10 << 30, not keep)
        with diskkit.open_disk(path) as disk:
            assert disk.info.geometry == wanted


@pytest.mark.parametrize("kind", ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_a_split_disk_fills_its_last_part_and_gets_more(tmp_path: Path, kind: str) -> None:
    path = _used(tmp_path, kind)
    head = _content(path)
    size = 2 * PART + 5 * MIB
    diskkit.grow(path, size)
    with diskkit.open_disk(path) as disk:
        extents = disk.info.links[0].extents
        assert [e.length for e in extents] == [PART, PART, 5 * MIB]
        names = [Path(e.path or "").name for e in extents]
        assert disk.read(0, len(head)) == head
        assert not any(r.state == 2 and r.offset > len(head) for r in disk.runs())
    letter = "s" if "Sparse" in kind else "f"
    assert names == [f"disk-{letter}00{n}.vmdk" for n in (1, 2, 3)]
    assert diskkit.check(path).problems == []
    qemu_io(path, [f"write -q -P 3 {size - 512} 512", f"write -q -P 4 {PART - 512} 1024"])
    with diskkit.open_disk(path) as disk:
        assert disk.read(size - 512, 512) == b"\3" * 512
        assert disk.read(PART - 512, 1024) == b"\4" * 1024


@pytest.mark.parametrize("kind", ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_only_an_empty_leftover_is_replaced(tmp_path: Path, kind: str) -> None:
    path = _used(tmp_path, kind)
    suffix = "s" if "Sparse" in kind else "f"
    leftover, other = tmp_path / f"disk-{suffix}002.vmdk", tmp_path / "other.vmdk"
    diskkit.create_disk(other, MIB, kind)
    part = tmp_path / f"other-{suffix}001.vmdk"
    text = path.read_bytes()

    def refused(match: str = "in the way") -> None:
        kept = leftover.read_bytes() if leftover.is_file() else b""
        with pytest.raises((UsageError, StorageError), match=match):
            diskkit.grow(path, PART + MIB)
        assert path.read_bytes() == text
        assert not leftover.is_file() or leftover.read_bytes() == kept

    leftover.write_bytes(b"mine" * 1000)
    refused()
    leftover.unlink()
    qemu_io(other, ["write -q -P 1 0 512"])
    part.rename(leftover)
    refused()
    leftover.unlink()
    leftover.symlink_to(path)
    refused()
    leftover.unlink()
    leftover.mkdir()
    refused()
    leftover.rmdir()
    other.unlink()
    diskkit.create_disk(other, MIB, kind)
    part.rename(leftover)
    diskkit.grow(path, PART + MIB)
    with diskkit.open_disk(path) as disk:
        assert disk.size == PART + MIB


def test_bytes_behind_a_flat_extent_do_not_come_to_light(tmp_path: Path) -> None:
    path = _used(tmp_path, "monolithicFlat")
    content, file = _content(path), _file(path)
    with file.open("ab") as out:
        out.write(bytes(5000) + b"secret")
    size = file.stat().st_size
    with pytest.raises(UsageError, match="come to light"):
        diskkit.grow(path, 20 * MIB)
    assert file.stat().st_size == size
    os.truncate(file, size - 6)
    diskkit.grow(path, 20 * MIB)
    _healthy(path, content.ljust(20 * MIB, b"\0"))


def test_what_may_not_grow(tmp_path: Path) -> None:
    base = sparse(tmp_path)
    made = child(tmp_path, base)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for path, size, text in (
        (made.path, 64 * MIB, "has a parent"),
        (base.path, 64 * MIB, "has children"),
        (base.path, CAPACITY * 512, "already"),
        (base.path, MIB, "already"),
        (base.path, 64 * MIB + 1, "512-byte sectors"),
        (base.path, 1 << 41, "at most"),
    ):
        with pytest.raises(UsageError, match=text):
            diskkit.grow(path, size)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def _track(path: Path) -> None:
    from diskkit.formats.vmdk import edit, redescribe
    from diskkit.open import open_links

    link = open_links(path, policy=diskkit.OpenPolicy(writable=True))[0]
    assert link.descriptor is not None
    keys = {"version": "3", "changeTrackPath": "disk-ctk.vmdk"}
    redescribe.replace(link, edit.edited(link.descriptor, header=keys))
    link.close()


def _tracking(path: Path) -> tuple[int, str | None]:
    from diskkit.open import open_links

    link = open_links(path)[0]
    link.close()
    assert link.descriptor is not None
    return link.descriptor.version, link.descriptor.change_track_path


def test_a_commit_ends_the_parents_change_tracking_with_a_warning(tmp_path: Path) -> None:
    base, leaf = tmp_path / "disk.vmdk", tmp_path / "child.vmdk"
    diskkit.create_disk(base, MIB)
    _track(base)
    diskkit.create_child(base, leaf)
    with diskkit.open_disk(leaf, writable=True) as disk:
        disk.write(0, b"new")
    assert _tracking(base) == (3, "disk-ctk.vmdk")
    said: list[str] = []
    diskkit.commit(leaf, policy=diskkit.OpenPolicy(warn=said.append))
    assert len(said) == 1
    assert "disk-ctk.vmdk" in said[0]
    assert _tracking(base) == (1, None)
    assert _content(base)[:3] == b"new"


@pytest.mark.parametrize("kind", ["monolithicSparse", "monolithicFlat"])
def test_change_tracking_ends_with_a_warning(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "disk.vmdk"
    diskkit.create_disk(path, MIB, kind)
    _track(path)
    said: list[str] = []
    diskkit.shrink(path, policy=diskkit.OpenPolicy(warn=said.append))
    assert said == []
    diskkit.grow(path, 2 * MIB, policy=diskkit.OpenPolicy(warn=said.append))
    assert len(said) == 1
    assert "disk-ctk.vmdk" in said[0]
    assert _tracking(path) == (1, None)
    _healthy(path, bytes(2 * MIB))


def test_unknown_keys_and_a_large_descriptor_area_stay(tmp_path: Path) -> None:
    path, room = tmp_path / "a.vmdk", 64 * 512
    diskkit.create_disk(path, MIB)
    vendor = "".join(f'ddb.vendor.{i} = "{"kept " * 20}"\n' for i in range(100)).encode()
    text = path.read_bytes()[512 : 512 * 21].rstrip(b"\0") + vendor
    with path.open("wb+") as file:
        writer = SparseWriter(file.fileno(), "a.vmdk", MIB, text, room=room)
        for number in (3, 1):
            writer.write(Stored(number, memoryview(b"x" * 65536), np.array([True]), []))
        writer.finish()
    content = _content(path)
    assert diskkit.defragment(path).changed
    assert _header(path).descriptor_size == room
    assert path.read_bytes()[512 : 512 + room].rstrip(b"\0") == text
    diskkit.grow(path, 64 * MIB)
    assert vendor in path.read_bytes()[512 : 512 + room]
    _healthy(path, content.ljust(64 * MIB, b"\0"))


@pytest.mark.parametrize("kind", ["monolithicFlat", "vmfs"])
def test_a_flat_file_that_cannot_grow_has_its_old_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = _used(tmp_path, kind)
    file = _file(path)
    size = file.stat().st_size

    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="No space left"):
        diskkit.grow(path, 20 * MIB)
    assert file.stat().st_size == size


def test_random_disks_keep_their_content(tmp_path: Path) -> None:
    for seed in range(12):
        rng = random.Random(seed)
        count = 1200
        numbers = rng.sample(range(count), rng.randrange(1, 200))
        grains: Grains = {
            i: bytes(4096)
            if rng.random() < 0.2
            else "zero"
            if rng.random() < 0.1
            else rng.randbytes(4096)
            for i in numbers
        }
        stored = [i for i in numbers if grains[i] != "zero"]
        path = tmp_path / f"{seed}.vmdk"
        hosted_sparse(path, count * 8, grains, grain_sectors=8, order=stored)
        content = expected(count * 8, grains, 8)
        for verb in (diskkit.defragment, diskkit.shrink, lambda p: diskkit.grow(p, 33 * MIB)):
            verb(path)
            assert _content(path)[: len(content)] == content
            assert diskkit.check(path).problems == []


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(_used(tmp_path, "monolithicSparse"))
    assert main(["defrag", path]) == 0
    assert "now" in capsys.readouterr().err
    assert main(["defrag", path]) == 0
    assert "left alone" in capsys.readouterr().err
    assert main(["shrink", path, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1]["message_type"] == "summary"
    assert lines[-1]["changed"] == [path]
    assert main(["grow", path, "20M", "--json", "--keep-geometry"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (lines[-1]["verb"], lines[-1]["capacity"]) == ("grow", 20 * MIB)
    assert main(["grow", path, "20M"]) == 2
    assert main(["grow", path, "twenty"]) == 2
    with diskkit.open_disk(path):
        assert main(["shrink", path]) == 11
