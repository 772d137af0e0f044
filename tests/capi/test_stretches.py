# SPDX-License-Identifier: Apache-2.0
"""Reads that C does without Python: only where that is right, and never after their disk."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import threading
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.capi import calls
from diskkit.vixdisklib.transfer import read_sectors, write_sectors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from capi.conftest import Native

SIZE = 8 << 20
SECTORS = SIZE // 512


class Vix:
    """The library in this process, and how often reads came through Python."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lib = ctypes.CDLL(str(path))
        names = "InitEx ConnectEx Open Close Read Write Flush Attach CreateChild"
        for name in names.split():
            getattr(self.lib, f"VixDiskLib_{name}").restype = ctypes.c_uint64
        assert self.lib.VixDiskLib_InitEx(6, 7, None, None, None, None, None) == 0
        self.connection = ctypes.c_void_p()
        connect = self.lib.VixDiskLib_ConnectEx
        assert connect(None, 0, None, None, ctypes.byref(self.connection)) == 0
        self.python_reads = self.python_writes = 0

        def read(*arguments: object) -> None:
            self.python_reads += 1
            read_sectors(*arguments)  # type: ignore[arg-type]

        def write(*arguments: object) -> None:
            self.python_writes += 1
            write_sectors(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(calls, "read_sectors", read)
        monkeypatch.setattr(calls, "write_sectors", write)

    def open(self, path: Path, flags: int = 4) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        done = self.lib.VixDiskLib_Open(
            self.connection, str(path).encode(), flags, ctypes.byref(handle)
        )
        assert done == 0
        return handle

    def read(self, handle: ctypes.c_void_p, start: int, count: int = 8) -> bytes | int:
        buffer = ctypes.create_string_buffer(count * 512)
        wide = ctypes.c_uint64
        code: int = self.lib.VixDiskLib_Read(handle, wide(start), wide(count), buffer)
        return buffer.raw if code == 0 else code

    def write(self, handle: ctypes.c_void_p, start: int, data: bytes) -> int:
        wide = ctypes.c_uint64
        code: int = self.lib.VixDiskLib_Write(handle, wide(start), wide(len(data) // 512), data)
        return code


@pytest.fixture
def vix(native: Native, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vix]:
    opened = Vix(native.library, monkeypatch)
    yield opened
    opened.lib.VixDiskLib_Exit()


def content(seed: int) -> bytes:
    return b"".join((seed * 7919 + n).to_bytes(8, "little") * 64 for n in range(SECTORS))


def disk(folder: Path, name: str, seed: int, kind: str = "monolithicSparse") -> Path:
    raw = folder / f"{name}.raw"
    raw.write_bytes(content(seed))
    path = folder / f"{name}.vmdk"
    with diskkit.open_disk(raw) as opened:
        diskkit.clone(opened, path, kind)
    return path


@pytest.mark.parametrize("kind", ["monolithicFlat", "monolithicSparse", "twoGbMaxExtentSparse"])
def test_the_second_read_needs_no_python(vix: Vix, tmp_path: Path, kind: str) -> None:
    data = content(1)
    handle = vix.open(disk(tmp_path, "d", 1, kind))
    for start in (0, 5000, SECTORS - 8, 12, 777):
        assert vix.read(handle, start) == data[start * 512 : start * 512 + 4096]
    assert vix.python_reads == 1
    assert vix.read(handle, SECTORS - 7) == 16007
    assert vix.lib.VixDiskLib_Close(handle) == 0
    assert vix.read(handle, 0) == 16000


@pytest.mark.parametrize("kind", ["monolithicFlat", "monolithicSparse", "twoGbMaxExtentSparse"])
def test_writes_against_a_model(vix: Vix, tmp_path: Path, kind: str) -> None:
    path, model = disk(tmp_path, "d", 1, kind), bytearray(content(1))
    with diskkit.open_disk(path) as opened:
        cid = opened.info.cid
    handle = vix.open(path, flags=0)
    chance = random.Random(kind)
    for _ in range(400):
        start = chance.randrange(SECTORS)
        count = min(SECTORS - start, chance.choice([1, 8, 64, 300]))
        if chance.random() < 0.5:
            data = chance.randbytes(count * 512)
            assert vix.write(handle, start, data) == 0
            model[start * 512 : start * 512 + len(data)] = data
        else:
            assert vix.read(handle, start, count) == bytes(
                model[start * 512 : (start + count) * 512]
            )
        if chance.random() < 0.05:
            assert vix.lib.VixDiskLib_Flush(handle) == 0
    # The first one of each prepares the others.
    assert vix.python_writes <= 2
    assert vix.python_reads <= 2
    assert vix.write(handle, SECTORS, bytes(512)) == 16007
    assert vix.lib.VixDiskLib_Close(handle) == 0
    assert vix.write(handle, 0, bytes(512)) == 16000
    with diskkit.open_disk(path) as opened:
        assert opened.read(0, SIZE) == model
        assert opened.info.cid != cid
    assert diskkit.check(path).ok


def test_new_grains_are_pythons(vix: Vix, tmp_path: Path) -> None:
    path = tmp_path / "empty.vmdk"
    diskkit.create_disk(path, SIZE)
    handle, model = vix.open(path, flags=0), bytearray(SIZE)
    chance = random.Random(3)
    for _ in range(300):
        start = chance.randrange(SECTORS - 8)
        data = chance.randbytes(4096)
        assert vix.write(handle, start, data) == 0
        model[start * 512 : start * 512 + 4096] = data
        assert vix.read(handle, start) == data
    assert vix.read(handle, 0, SECTORS) == bytes(model)
    assert vix.lib.VixDiskLib_Close(handle) == 0
    with diskkit.open_disk(path) as opened:
        assert opened.read(0, SIZE) == model
    assert diskkit.check(path).ok


def test_nothing_is_written_after_a_flush_that_failed(
    vix: Vix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = vix.open(disk(tmp_path, "d", 1), flags=0)
    assert vix.write(handle, 0, b"w" * 512) == 0
    assert vix.write(handle, 8, b"w" * 512) == 0
    assert vix.python_writes == 1
    real = os.fdatasync

    def failing(fd: int) -> None:
        real(fd)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", failing)
    monkeypatch.setattr(os, "fsync", failing)
    assert vix.lib.VixDiskLib_Flush(handle) == 7
    monkeypatch.undo()
    assert vix.write(handle, 16, b"w" * 512) == 7
    assert vix.lib.VixDiskLib_Flush(handle) == 7
    assert vix.lib.VixDiskLib_Close(handle) == 7
    assert vix.lib.VixDiskLib_Close(handle) == 16000


def test_a_parent_is_not_written_to(vix: Vix, tmp_path: Path) -> None:
    handle = vix.open(disk(tmp_path, "d", 1), flags=0)
    assert vix.write(handle, 0, b"w" * 512) == 0
    child = str(tmp_path / "child.vmdk").encode()
    assert vix.lib.VixDiskLib_CreateChild(handle, child, 1, None, None) == 0
    assert vix.write(handle, 8, b"w" * 512) == 11
    assert vix.read(handle, 0, 1) == b"w" * 512


def test_compressed_disks_are_always_asked(vix: Vix, tmp_path: Path) -> None:
    handle = vix.open(disk(tmp_path, "d", 1, "streamOptimized"))
    for start in range(100):
        assert vix.read(handle, start) == content(1)[start * 512 : start * 512 + 4096]
    assert vix.python_reads == 100


def test_unbuffered_is_judged_each_time(vix: Vix, tmp_path: Path) -> None:
    handle = vix.open(disk(tmp_path, "d", 1), flags=5)
    room = ctypes.create_string_buffer(8192)
    aligned = ctypes.addressof(room) + -ctypes.addressof(room) % 512
    for offset, code in ((0, 0), (1, 3), (0, 0), (511, 3)):
        assert vix.lib.VixDiskLib_Read(handle, 0, 8, ctypes.c_void_p(aligned + offset)) == code


def test_attached_parents_are_forgotten(vix: Vix, tmp_path: Path) -> None:
    base = disk(tmp_path, "base", 1)
    child = tmp_path / "child.vmdk"
    diskkit.create_child(base, child)
    with diskkit.open_disk(child, writable=True) as opened:
        opened.write(4096, b"c" * 4096)
    lower, upper = vix.open(base), vix.open(child, flags=6)
    assert vix.read(lower, 1024) == content(1)[1024 * 512 : 1032 * 512]
    assert vix.read(upper, 1024) == bytes(4096)
    assert vix.lib.VixDiskLib_Attach(lower, upper) == 0
    assert vix.read(lower, 1024) == 16000
    assert vix.read(upper, 1024) == content(1)[1024 * 512 : 1032 * 512]
    assert vix.read(upper, 8) == b"c" * 4096
    assert vix.lib.VixDiskLib_Close(upper) == 0
    assert vix.read(upper, 0) == 16000


def test_closing_while_others_read(vix: Vix, tmp_path: Path) -> None:
    """Reads give the disk's own bytes, or say that it is closed: never another file's."""
    paths = [disk(tmp_path, f"d{n}", n) for n in (1, 2)]
    expected = [content(n)[:4096] for n in (1, 2)]
    wrong: list[object] = []
    stop = threading.Event()
    current: list[ctypes.c_void_p] = [vix.open(paths[0]), vix.open(paths[1])]

    def read(which: int) -> None:
        while not stop.is_set():
            got = vix.read(current[which], 0)
            if got not in (expected[which], 16000):
                wrong.append(got)

    threads = [threading.Thread(target=read, args=(n,)) for n in (0, 1, 0, 1)]
    for thread in threads:
        thread.start()
    for turn in range(60):
        which = turn % 2
        old = current[which]
        current[which] = vix.open(paths[which])
        assert vix.lib.VixDiskLib_Close(old) == 0
        # Its descriptors are free, and soon another disk's.
        again = vix.open(paths[1 - which])
        assert vix.read(old, 0) == 16000
        assert vix.lib.VixDiskLib_Close(again) == 0
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
