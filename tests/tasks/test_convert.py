# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import random
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import diskkit
from diskkit.errors import FormatError, StorageError, UsageError
from makers import poke
from tasks.images import CAPACITY, child, packed, sparse


def convert(
    source: Path, target: Path, *, force: bool = False, verify: bool = False, sync: bool = False
) -> None:
    with diskkit.open_disk(source) as disk:
        diskkit.convert(disk, target, force=force, verify=verify, sync=sync)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_chain_becomes_one_raw_image(tmp_path: Path, threads: int) -> None:
    top = child(tmp_path, sparse(tmp_path))
    with diskkit.open_disk(top.path) as disk:
        done = diskkit.convert(disk, tmp_path / "out.raw", verify=True, threads=threads)
    assert (tmp_path / "out.raw").read_bytes() == top.content
    assert done.bytes_written + done.bytes_skipped == done.capacity == len(top.content)
    assert done.verified


def test_compressed_grains_are_written_out(tmp_path: Path) -> None:
    made = packed(tmp_path, "A")
    convert(made.path, tmp_path / "out.raw", verify=True)
    assert (tmp_path / "out.raw").read_bytes() == made.content


def test_what_is_not_allocated_stays_a_hole(tmp_path: Path) -> None:
    made = sparse(tmp_path)
    convert(made.path, tmp_path / "out.raw")
    allocated = sum(r.length for r in diskkit.open_disk(made.path).runs() if r.state.name == "DATA")
    assert (tmp_path / "out.raw").stat().st_blocks * 512 <= allocated + 4096


def test_holes_of_a_sparse_file_behind_allocated_grains_are_not_copied(tmp_path: Path) -> None:
    from makers import big_sparse

    big_sparse(tmp_path / "big.vmdk", 1 << 21, "every-other")
    with diskkit.open_disk(tmp_path / "big.vmdk") as disk:
        done = diskkit.convert(disk, tmp_path / "out.raw")
    assert done.bytes_written == 0
    assert (tmp_path / "out.raw").stat().st_size == 1 << 30
    assert (tmp_path / "out.raw").stat().st_blocks == 0


def test_an_existing_file_is_refused_and_kept(tmp_path: Path) -> None:
    made = sparse(tmp_path)
    target = tmp_path / "out.raw"
    target.write_text("mine")
    with pytest.raises(UsageError, match=r"out\.raw: exists already"):
        convert(made.path, target)
    assert target.read_text() == "mine"


def test_force_replaces_a_file_whole(tmp_path: Path) -> None:
    made = sparse(tmp_path)
    target = tmp_path / "out.raw"
    target.write_text("mine")
    convert(made.path, target, force=True, sync=True)
    assert target.read_bytes() == made.content


def test_a_target_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    from diskkit.storage.newfile import new_file

    target = tmp_path / "out.raw"
    with (
        pytest.raises(UsageError, match="exists already"),
        new_file(str(target), force=False, sync=False),
    ):
        target.write_text("another's")
    assert target.read_text() == "another's"
    assert [p.name for p in tmp_path.iterdir()] == ["out.raw"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    made = packed(tmp_path, "B")
    poke(made.path, 65536 + 40, "<Q", 0)  # variant B rounds its overhead up to a grain
    with pytest.raises(FormatError, match=r"grain marker: data at byte"):
        convert(made.path, tmp_path / "out.raw")
    assert [p.name for p in tmp_path.iterdir()] == ["stream.vmdk"]


def test_a_full_filesystem_is_one_clear_error(tmp_path: Path) -> None:
    made = sparse(tmp_path)
    script = (
        "import resource, signal, sys, diskkit\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "with diskkit.open_disk(sys.argv[1]) as disk:\n"
        "    try: diskkit.convert(disk, sys.argv[2])\n"
        "    except diskkit.StorageError as error: print(error)\n"
    )
    target = tmp_path / "out.raw"
    done = subprocess.run(
        [sys.executable, "-c", script, made.path, target],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{target}: writing failed: File too large\n"
    assert [p.name for p in tmp_path.iterdir()] == ["base.vmdk"]


def test_a_copy_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sparse(tmp_path)
    module = sys.modules[diskkit.convert.__module__]
    whole = module.copy_to_file

    def spoil(disk: diskkit.Disk, fd: int, *rest: object) -> int:
        written = int(whole(disk, fd, *rest))
        os.pwrite(fd, b"\xff", 70000)
        return written

    monkeypatch.setattr(module, "copy_to_file", spoil)
    with pytest.raises(StorageError, match="the copy differs from the disk at byte 70000"):
        convert(made.path, tmp_path / "out.raw", verify=True)
    assert [p.name for p in tmp_path.iterdir()] == ["base.vmdk"]


def test_a_device_is_overwritten_only_with_force_and_zeros_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sparse(tmp_path)
    device = tmp_path / "device"
    device.write_bytes(b"\xee" * (len(made.content) + 4096))
    module = sys.modules[diskkit.convert.__module__]
    monkeypatch.setattr(module, "is_device", lambda name: name == str(device))
    with pytest.raises(UsageError, match="all it holds will be lost"):
        convert(made.path, device)
    convert(made.path, device, force=True)
    assert device.read_bytes() == made.content + b"\xee" * 4096
    device.write_bytes(b"small")
    with pytest.raises(StorageError, match=f"has 5 bytes, the disk needs {len(made.content)}"):
        convert(made.path, device, force=True)


def test_new_files_get_ordinary_permissions(tmp_path: Path) -> None:
    made = sparse(tmp_path)
    old = os.umask(0o027)
    try:
        convert(made.path, tmp_path / "out.raw")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "out.raw").stat().st_mode) == 0o640


@pytest.mark.parametrize("after", [0, 1, 2, 99])
def test_the_kernel_copies_where_that_pays_and_reads_and_writes_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    content = random.Random(1).randbytes(3 << 20)
    (tmp_path / "a.raw").write_bytes(content + bytes(1 << 20) + content[: 1 << 16])
    calls = []

    def copy(*arguments: int) -> int:
        calls.append(arguments)
        if len(calls) > after:
            raise OSError(18, "Invalid cross-device link")
        source, out, length, position, start = arguments
        return os.copy_file_range(source, out, min(length, 1 << 20), position, start)

    with diskkit.open_disk(tmp_path / "a.raw") as disk:
        module = sys.modules[type(disk.chain).__module__]
        monkeypatch.setattr(module, "_kernel_copy", copy)
        monkeypatch.setattr(module, "kernel_copy_pays", lambda _: True)
        diskkit.convert(disk, tmp_path / "out.raw", verify=True)
    assert calls


def test_the_kernel_copies_where_blocks_can_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    from diskkit.storage import kernelcopy

    for name, pays in (("btrfs", True), ("nfs4", True), ("ext4", False), ("", False)):
        monkeypatch.setattr(kernelcopy, "_known", {})
        monkeypatch.setattr(kernelcopy, "filesystem", lambda _, name=name: name)
        assert kernelcopy.kernel_copy_pays(0) is pays
    monkeypatch.undo()
    with Path("/proc/self/status").open() as in_proc:
        assert kernelcopy.filesystem(in_proc.fileno()) == "proc"


def test_a_source_cut_while_copying_is_an_error(tmp_path: Path) -> None:
    made = sparse(tmp_path)
    with diskkit.open_disk(made.path) as disk:
        list(disk.runs())
        os.truncate(made.path, 70000)
        with pytest.raises(diskkit.ShortRead, match="the file ends"):
            diskkit.convert(disk, tmp_path / "out.raw")
    assert not (tmp_path / "out.raw").exists()


def test_progress_ascends_to_the_capacity(tmp_path: Path) -> None:
    made = packed(tmp_path, "E")
    seen: list[tuple[int, int]] = []
    with diskkit.open_disk(made.path) as disk:
        diskkit.convert(disk, tmp_path / "out.raw", progress=lambda *at: seen.append(at))
    assert seen == sorted(seen)
    assert seen[-1] == (CAPACITY * 512, CAPACITY * 512)


def test_interrupting_removes_the_unfinished_file(tmp_path: Path) -> None:
    made = sparse(tmp_path)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with diskkit.open_disk(made.path) as disk, pytest.raises(KeyboardInterrupt):
        diskkit.convert(disk, tmp_path / "out.raw", progress=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["base.vmdk"]


def test_bad_grains_stop_a_copy_with_their_reason(tmp_path: Path) -> None:
    made = sparse(tmp_path)
    with diskkit.open_disk(made.path) as disk:
        header = disk.chain.links[0].extents[0].map.header  # type: ignore[attr-defined]
    for directory in (header.directory_offset, header.redundant_offset):
        poke(made.path, directory, "<I", 0x7FFFFFFF)
    with pytest.raises(FormatError, match=r"grain directory: entry 0 at byte \d+ is 2147483647"):
        convert(made.path, tmp_path / "out.raw")
    assert not (tmp_path / "out.raw").exists()
