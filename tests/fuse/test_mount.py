# SPDX-License-Identifier: Apache-2.0
"""Disks as files: what programs see, through the kernel."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import signal
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

import diskkit as dk
from files.guests import make, walk
from filters.test_overlay import large
from fuse.conftest import TIMEOUT, diskkit
from makers.peers import requires
from volumes.tables import put_mbr

if TYPE_CHECKING:
    from pathlib import Path

    from fuse.conftest import Mounts

MIB = 1 << 20
SIZE = 8 * MIB + 3 * 512
_PUNCH, _ZERO, _KEEP = 2, 16, 1


def sparse(folder: Path, kind: str = "monolithicSparse") -> tuple[Path, bytearray]:
    """A disk with data in the middle and at its end."""
    path, content = folder / f"{kind}.vmdk", bytearray(SIZE)
    dk.create_disk(path, SIZE, kind)
    content[MIB : 2 * MIB] = random.Random(7).randbytes(MIB)
    content[-700:] = b"e" * 700
    with dk.open_disk(path, writable=True) as disk:
        disk.write(MIB, content[MIB : 2 * MIB])
        disk.write(SIZE - 700, content[-700:])
    return path, content


@pytest.mark.parametrize("kind", ["monolithicSparse", "twoGbMaxExtentFlat", "streamOptimized"])
def test_flat_is_the_disk(mounts: Mounts, tmp_path: Path, kind: str) -> None:
    path, content = sparse(tmp_path)
    if kind != "monolithicSparse":
        with dk.open_disk(path) as disk:
            path = tmp_path / f"{kind}.vmdk"
            dk.clone(disk, path, kind)
    folder, _ = mounts.mount(path)
    flat = folder / "flat"
    assert flat.read_bytes() == content
    assert flat.stat().st_size == SIZE
    assert stat.S_IMODE(flat.stat().st_mode) == 0o400
    with flat.open("rb") as file:
        for offset, length in ((SIZE - 1, 10), (SIZE, 5), (SIZE + 5000, 5), (MIB - 3, 9)):
            assert os.pread(file.fileno(), length, offset) == content[offset : offset + length]


def data_of(path: Path) -> list[tuple[int, int]]:
    """Where a file has data, as it says: begin and end."""
    fd = os.open(path, os.O_RDONLY)
    try:
        found: list[tuple[int, int]] = []
        at = 0
        while True:
            try:
                data = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return found
            at = os.lseek(fd, data, os.SEEK_HOLE)
            found.append((data, at))
    finally:
        os.close(fd)


def test_holes_can_be_found(mounts: Mounts, tmp_path: Path) -> None:
    path, content = sparse(tmp_path)
    folder, _ = mounts.mount(path)
    found = data_of(folder / "flat")
    with dk.open_disk(path) as disk:
        assert found == [(o, o + n) for o, n in disk.allocated(chunk=512)]
    assert (folder / "flat").stat().st_blocks * 512 == sum(end - begin for begin, end in found)
    copy = tmp_path / "copy"
    subprocess.run(["cp", "--sparse=auto", folder / "flat", copy], check=True, timeout=TIMEOUT)
    assert copy.read_bytes() == content
    assert copy.stat().st_blocks * 512 < 2 * MIB


def test_what_is_not_there(mounts: Mounts, tmp_path: Path) -> None:
    folder, _ = mounts.mount(sparse(tmp_path)[0])
    assert sorted(p.name for p in folder.iterdir()) == ["flat", "whole"]
    for work, number in (
        (lambda: (folder / "none").stat(), errno.ENOENT),
        (lambda: (folder / "flat" / "x").stat(), errno.ENOTDIR),
        (lambda: (folder / "new").write_bytes(b""), errno.EROFS),
        (lambda: (folder / "flat").open("r+b"), errno.EROFS),
        (lambda: (folder / "flat").unlink(), errno.EROFS),
        (lambda: (folder / "d").mkdir(), errno.EROFS),
        (lambda: os.getxattr(folder / "flat", "user.x"), errno.ENODATA),
        (lambda: (folder / "flat").readlink(), errno.EINVAL),
    ):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is judged
            work()
        assert caught.value.errno == number
    assert os.listxattr(folder / "flat") == []
    assert os.statvfs(folder).f_blocks == SIZE // 4096


def change_at_random(path: Path, model: bytearray, seed: str) -> None:
    """Change an opened disk or volume in all ways there are, and the model of it likewise."""
    chance = random.Random(seed)
    libc = ctypes.CDLL(None, use_errno=True)
    wide = ctypes.c_int64
    size = len(model)
    fd = os.open(path, os.O_RDWR)
    try:
        for _ in range(150):
            offset = chance.randrange(size)
            length = min(size - offset, chance.choice([1, 512, 4096, 70000, MIB]))
            what = chance.choice(["write", "write", "read", "punch", "zero", "sync"])
            if what == "write":
                data = chance.randbytes(length)
                assert os.pwrite(fd, data, offset) == length
                model[offset : offset + length] = data
            elif what == "read":
                assert os.pread(fd, length, offset) == model[offset : offset + length]
            elif what == "sync":
                os.fsync(fd)
            else:
                mode = (_PUNCH if what == "punch" else _ZERO) | _KEEP
                assert libc.fallocate(fd, mode, wide(offset), wide(length)) == 0
                model[offset : offset + length] = bytes(length)
        with pytest.raises(OSError, match="Operation not permitted"):
            os.ftruncate(fd, 0)
        os.ftruncate(fd, size)
        assert libc.fallocate(fd, 0, wide(0), wide(4096)) == -1
        with pytest.raises(OSError, match="No space left"):
            os.pwrite(fd, b"beyond", size)
    finally:
        os.close(fd)
    assert path.read_bytes() == model


@pytest.mark.parametrize("kind", ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse"])
def test_random_changes_against_a_model(mounts: Mounts, tmp_path: Path, kind: str) -> None:
    path, model = sparse(tmp_path, kind)
    folder, process = mounts.mount(path, "--writable")
    change_at_random(folder / "flat", model, kind)
    assert mounts.end(process) == (0, "")
    with dk.open_disk(path) as disk:
        assert disk.read(0, SIZE) == model
    assert dk.check(path).ok


def test_an_overlay_leaves_the_disk_alone(mounts: Mounts, tmp_path: Path) -> None:
    path, _ = sparse(tmp_path)
    before = path.read_bytes()
    over = tmp_path / "over"
    for turn in (1, 2):
        folder, process = mounts.mount(path, "--overlay", over)
        with (folder / "flat").open("r+b") as file:
            assert os.pread(file.fileno(), 6, 512) == (bytes(6) if turn == 1 else b"change")
            os.pwrite(file.fileno(), b"change", 512)
        assert mounts.end(process) == (0, "")
    assert path.read_bytes() == before


def test_an_overlay_of_a_large_disk(mounts: Mounts, tmp_path: Path) -> None:
    size = 20 << 40
    path, data = large(tmp_path, size)
    far = 15 << 40
    for turn in (1, 2):
        folder, process = mounts.mount(path, "--overlay", tmp_path / "over")
        fd = os.open(folder / "flat", os.O_RDWR)
        try:
            assert os.fstat(fd).st_size == size
            assert os.pread(fd, 4096, size - 4096) == data[size - MIB][-4096:]
            assert os.pread(fd, 6, far) == (bytes(6) if turn == 1 else b"change")
            os.pwrite(fd, b"change", far)
            assert os.lseek(fd, size // 2 + MIB, os.SEEK_DATA) == far
            assert os.lseek(fd, far, os.SEEK_HOLE) == far + 4096
        finally:
            os.close(fd)
        assert mounts.end(process) == (0, "")


def partitioned(tmp_path: Path) -> tuple[Path, Path]:
    """A disk with an ext4 in its second partition, and what is in it."""
    image, source = make("ext4", tmp_path)
    raw, start = tmp_path / "disk.raw", 8 * MIB
    table = bytearray(start)
    size = image.stat().st_size
    put_mbr(table, [(0x83, 2048, 2048), (0x83, start // 512, size // 512)])
    with raw.open("wb") as file:
        file.write(table)
    subprocess.run(
        ["dd", f"if={image}", f"of={raw}", "bs=1M", "seek=8", "conv=sparse,notrunc", "status=none"],
        check=True,
    )
    os.truncate(raw, start + size)
    path = tmp_path / "disk.vmdk"
    with dk.open_disk(raw) as disk:
        dk.clone(disk, path, "monolithicSparse")
    return path, source


def inside(folder: Path) -> dict[bytes, tuple[str, str]]:
    found = walk(folder)
    assert found.pop(b"lost+found") == ("folder", "")
    return found


def test_volumes_and_their_files(mounts: Mounts, tmp_path: Path) -> None:
    path, source = partitioned(tmp_path)
    folder, _ = mounts.mount(path)
    assert sorted(p.name for p in folder.iterdir()) == ["files", "flat", "p1", "p2"]
    with dk.open_disk(path) as disk, (folder / "p2").open("rb") as file:
        for offset in (0, 1024, 5 * MIB):
            assert os.pread(file.fileno(), 4096, offset) == disk.read(8 * MIB + offset, 4096)
    assert [p.name for p in (folder / "files").iterdir()] == ["p2"]
    assert inside(folder / "files" / "p2") == walk(source)
    with pytest.raises(OSError, match="Read-only"):
        (folder / "files" / "p2" / "hello.txt").open("r+b")


def test_the_disk_and_its_volumes_show_the_same_bytes(mounts: Mounts, tmp_path: Path) -> None:
    folder, process = mounts.mount(partitioned(tmp_path)[0], "--writable")
    with (folder / "flat").open("r+b", buffering=0) as file:
        for value in (b"one", b"two"):
            with (folder / "p2").open("rb") as other:
                assert other.read(3) != value
            os.pwrite(file.fileno(), value, 8 * MIB)
            with (folder / "p2").open("rb") as other:
                assert other.read(3) == value
    assert mounts.end(process) == (0, "")


def test_one_volume_alone(mounts: Mounts, tmp_path: Path) -> None:
    path, source = partitioned(tmp_path)
    folder, process = mounts.mount(path, "--volume", "2")
    assert inside(folder) == walk(source)
    hello = (folder / "hello.txt").stat()
    assert int(hello.st_mtime) == int((source / "hello.txt").stat().st_mtime)
    assert hello.st_nlink == (source / "hello.txt").stat().st_nlink
    found = subprocess.run(
        ["find", folder, "-xdev", "-printf", "x"], capture_output=True, check=True, timeout=TIMEOUT
    )
    assert len(found.stdout) == len(walk(source)) + 2
    assert mounts.end(process)[0] == 0


def test_what_is_doubtful_about_files_is_said(mounts: Mounts, tmp_path: Path) -> None:
    path, _ = partitioned(tmp_path)
    flags = 8 * MIB + 1024 + 96
    with dk.open_disk(path, writable=True) as disk:
        disk.write(flags, bytes([disk.read(flags, 1)[0] | 4]))  # the journal is to be replayed
    folder, process = mounts.mount(path)
    assert (folder / "files" / "p2" / "hello.txt").read_bytes() == b"hello\n"
    status, said = mounts.end(process)
    assert status == 0
    assert "warning: volume p2: this ext4 was not unmounted" in said
    alone = mounts.folder()
    for quiet, times in (([], 1), (["-q"], 0)):
        done = diskkit("mount", path, alone, "--volume", "2", *quiet)
        assert diskkit("umount", alone).returncode == done.returncode == 0
        assert done.stderr.count("warning: this ext4 was not unmounted") == times
        done = diskkit("volumes", path, "--os", *quiet)
        assert done.stderr.count("warning: volume p2: this ext4 was not unmounted") == times


def test_a_killed_server_leaves_errors_and_no_hang(mounts: Mounts, tmp_path: Path) -> None:
    path, content = sparse(tmp_path)
    folder, process = mounts.mount(path, "--writable")
    fd = os.open(folder / "flat", os.O_RDWR)
    try:
        os.pwrite(fd, b"kept", 0)
        os.fsync(fd)
        process.kill()
        process.wait(timeout=TIMEOUT)
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is judged
            os.pread(fd, 4096, 4 * MIB)
        assert caught.value.errno in (errno.EIO, errno.ENOTCONN)
    finally:
        os.close(fd)
    assert diskkit("umount", folder).returncode == 0
    again, process = mounts.mount(path, "--writable")
    content[:4] = b"kept"
    assert (again / "flat").read_bytes() == content
    assert mounts.end(process) == (0, "")
    assert dk.check(path).ok


def test_many_at_once(mounts: Mounts, tmp_path: Path) -> None:
    path, content = sparse(tmp_path)
    folder, _ = mounts.mount(path)
    wrong: list[int] = []

    def read(seed: int) -> None:
        chance = random.Random(seed)
        fd = os.open(folder / "flat", os.O_RDONLY)
        for _ in range(100):
            offset = chance.randrange(SIZE)
            if os.pread(fd, 5000, offset) != content[offset : offset + 5000]:
                wrong.append(offset)
        os.close(fd)

    threads = [threading.Thread(target=read, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert not wrong


def test_a_bad_grain_is_an_input_output_error(mounts: Mounts, tmp_path: Path) -> None:
    path, content = sparse(tmp_path)
    with dk.open_disk(path) as disk:
        place = next(r.file_offset for r in disk.runs() if r.offset == MIB)
    assert place is not None
    words = np.frombuffer(path.read_bytes(), "<u4", count=place // 4).copy()
    entries = np.flatnonzero(words[512:] == (place + 65536) // 512) + 512
    assert len(entries) == 2  # in both tables
    words[entries] = 0x7FFFFFFF
    with path.open("r+b") as file:
        file.write(words.tobytes())
    folder, process = mounts.mount(path)
    fd = os.open(folder / "flat", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Input/output error"):
            os.pread(fd, 4096, MIB + 65536)
        assert os.pread(fd, 700, SIZE - 700) == content[-700:]
    finally:
        os.close(fd)
    status, said = mounts.end(process)
    assert status == 0
    assert "grain" in said


def test_in_the_background_listed_and_unmounted(mounts: Mounts, tmp_path: Path) -> None:
    path, content = sparse(tmp_path)
    folder = tmp_path / "back ground"
    folder.mkdir()
    assert diskkit("mount", path, folder).returncode == 0
    try:
        assert (folder / "flat").read_bytes() == content
        listed = json.loads(diskkit("mount", "--list", "--json").stdout)["mounts"]
        assert [one["disk"] for one in listed if one["folder"] == str(folder)] == [str(path)]
        with (folder / "flat").open("rb"):
            busy = diskkit("umount", folder)
            assert busy.returncode == 1
            assert "is in use" in busy.stderr
    finally:
        done = diskkit("umount", folder)
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == []
    none = diskkit("umount", folder)
    assert none.returncode == 1
    assert "not mounted by diskkit" in none.stderr


def test_a_failing_start_says_why(mounts: Mounts, tmp_path: Path) -> None:
    folder = mounts.folder()
    for words, text in (
        ((tmp_path / "none.vmdk", folder), "No such file"),
        ((sparse(tmp_path)[0], tmp_path / "none"), "is not a folder"),
        ((sparse_again(tmp_path), folder, "--volume", "7"), "no volume 7"),
    ):
        done = diskkit("mount", *words)
        assert done.returncode != 0
        assert text in done.stderr
        assert len(done.stderr.splitlines()) == 1


def sparse_again(tmp_path: Path) -> Path:
    return tmp_path / "monolithicSparse.vmdk"


def test_busy_folders_are_left_when_interrupted(mounts: Mounts, tmp_path: Path) -> None:
    folder, process = mounts.mount(sparse(tmp_path)[0])
    fd = os.open(folder / "flat", os.O_RDONLY)
    process.send_signal(signal.SIGINT)
    # It is out of the tree at once, and goes on for those who are inside.
    while any(folder.iterdir()):
        os.sched_yield()
    assert os.pread(fd, 5, 0) == bytes(5)
    os.close(fd)
    _, said = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, said) == (0, "")


def test_by_fusermount_where_mount_is_not_allowed(mounts: Mounts, tmp_path: Path) -> None:
    requires("fusermount3")
    path, content = sparse(tmp_path)
    folder = mounts.folder()
    code = (
        "import sys; from diskkit.cli import main; from diskkit.fuse import mounting\n"
        "def refuse(*_, **__): raise PermissionError\n"
        "mounting._mount = refuse; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "mount", str(path), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr
    try:
        assert (folder / "flat").read_bytes() == content
    finally:
        done = diskkit("umount", folder)
    assert done.returncode == 0, done.stderr


def test_in_a_user_namespace(mounts: Mounts, tmp_path: Path) -> None:
    requires("unshare")
    path, content = sparse(tmp_path)
    folder = mounts.folder()
    (tmp_path / "expected").write_bytes(content)
    script = f"""
        {sys.executable} -m diskkit mount {path} {folder}
        cmp {folder}/flat {tmp_path}/expected
        {sys.executable} -m diskkit umount {folder}
    """
    command = ["unshare", "-Urm", "sh", "-ec", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if "unshare failed" in done.stderr:
        pytest.skip("no user namespaces here")
    assert done.returncode == 0, done.stderr
