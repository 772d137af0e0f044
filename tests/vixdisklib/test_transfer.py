# SPDX-License-Identifier: Apache-2.0
"""Data through the VixDiskLib functions: limits, later, from many threads; allocated blocks."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit import vixdisklib as vix

from .conftest import SECTORS
from .test_disks import code

if TYPE_CHECKING:
    from .conftest import Started

READ_ONLY, SINGLE = 4, 2


def test_limits(started: Started) -> None:
    started.create()
    handle = started.open()
    for call in (vix.Read, vix.Write):
        last = bytearray(b"l" * 512)
        call(handle, SECTORS - 1, 1, last)
        for start, count in ((SECTORS, 1), (SECTORS - 1, 2), (1 << 60, 1)):
            assert code(call, handle, start, count, bytearray(1024)) == vix.VIX_E_DISK_OUTOFRANGE
        for start, count in ((0, 0), (-1, 1), (0, -1), (0, 3)):
            assert code(call, handle, start, count, bytearray(1024)) == vix.VIX_E_INVALID_ARG
    assert code(vix.Read, handle, 0, 1, bytes(512)) == vix.VIX_E_INVALID_ARG
    larger = bytearray(b"?" * 1024)
    vix.Read(handle, 0, 1, larger)
    assert larger == bytes(512) + b"?" * 512


def test_flush_makes_durable(started: Started) -> None:
    path = started.create()
    handle = started.open()
    vix.Write(handle, 9, 1, b"f" * 512)
    vix.Flush(handle)
    with diskkit.open_disk(path, ignore_locks=True) as disk:
        assert disk.read(9 * 512, 512) == b"f" * 512
    vix.Close(handle)
    vix.Flush(started.open(flags=READ_ONLY))


def test_asynchronous_calls_complete_once(started: Started) -> None:
    started.create()
    handle = started.open()
    results: list[tuple[object, int]] = []
    for i in range(40):
        data = bytes([i + 1]) * 512
        given = vix.WriteAsync(handle, i * 100, 1, data, lambda *w: results.append(w), i)
        assert given == vix.VIX_ASYNC == 25000
    vix.Wait(handle)
    assert sorted(results) == [(i, 0) for i in range(40)]
    buffers = [bytearray(512) for _ in range(40)]
    for i, buffer in enumerate(buffers):
        assert vix.ReadAsync(handle, i * 100, 1, buffer, lambda *w: results.append(w)) == 25000
    vix.Close(handle)
    assert len(results) == 80
    assert [b[0] for b in buffers] == list(range(1, 41))
    # No callback, and nobody else, still holds a buffer.
    for buffer in buffers:
        buffer.append(0)


def test_buffer_is_free_when_the_callback_is_called(started: Started) -> None:
    started.create()
    handle = started.open(flags=READ_ONLY)
    buffer = bytearray(512)
    vix.ReadAsync(handle, 0, 1, buffer, lambda *_: buffer.append(0))
    vix.Wait(handle)
    assert len(buffer) == 513


def test_refused_asynchronous_call_never_completes(started: Started) -> None:
    started.create()
    handle = started.open(flags=READ_ONLY)
    called: list[object] = []
    after = (lambda *w: called.append(w),)
    assert code(vix.ReadAsync, handle, SECTORS, 1, bytearray(512), *after) == 16007
    assert code(vix.WriteAsync, handle, 0, 1, bytes(512), *after) == vix.VIX_E_FILE_READ_ONLY
    assert code(vix.ReadAsync, handle, 0, 1, bytes(512), *after) == vix.VIX_E_INVALID_ARG
    vix.Wait(handle)
    vix.Close(handle)
    assert called == []


def test_failed_asynchronous_call_tells_its_callback(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    started.create()
    handle = started.open()
    results: list[int] = []

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(diskkit.Disk, "write", fail)
    vix.WriteAsync(handle, 0, 1, bytes(512), lambda _, c: results.append(c))
    vix.Wait(handle)
    assert results == [vix.VIX_E_DISK_FULL]
    vix.ReadAsync(handle, 0, 1, bytearray(512), lambda *_: 1 // 0)
    vix.Wait(handle)
    assert "callback failed" in started.warnings[-1]


def test_callback_may_begin_calls_but_not_wait(started: Started) -> None:
    started.create()
    handle = started.open()
    done = threading.Event()
    seen: list[int] = []

    def first(_: object, result: int) -> None:
        seen.append(result)
        seen.extend(code(call, handle) for call in (vix.Wait, vix.Close, vix.Flush))
        vix.WriteMetadata(handle, "from", "callback")
        vix.WriteAsync(handle, 1, 1, b"2" * 512, lambda *_: done.set())

    vix.WriteAsync(handle, 0, 1, b"1" * 512, first)
    vix.Wait(handle)
    assert done.wait(10)
    assert seen == [0, 5, 5, 5]
    assert vix.ReadMetadata(handle, "from") == "callback"


def test_many_threads_on_one_handle_and_many(started: Started) -> None:
    started.create()
    handle = started.open()

    def work(number: int) -> None:
        mine = bytes([number + 1]) * 512
        for i in range(20):
            at = number * 20 + i
            vix.Write(handle, at, 1, mine)
            buffer = bytearray(512)
            vix.Read(handle, at, 1, buffer)
            assert buffer == mine
            if i == 10:
                vix.WriteMetadata(handle, f"key{number}", "x")
        name = f"own{number}.vmdk"
        started.create(name)
        other = started.open(name)
        vix.Write(other, 0, 1, mine)
        vix.Close(other)
        assert code(vix.Close, other) == vix.VIX_E_DISK_INVAL

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert {f"key{n}" for n in range(8)} <= set(vix.GetMetadataKeys(handle))
    content = started.content(handle)
    assert content[: 160 * 512] == b"".join(bytes([n + 1]) * 512 * 20 for n in range(8))


def test_only_one_of_many_closes(started: Started) -> None:
    started.create()
    handle = started.open()
    with ThreadPoolExecutor(8) as pool:

        def close(_: int) -> int:
            try:
                vix.Close(handle)
            except vix.VixError as error:
                return error.code
            return 0

        codes = sorted(pool.map(close, range(8)))
    assert codes == [0] + [vix.VIX_E_DISK_INVAL] * 7


@pytest.mark.parametrize("kind", [1, 3])
def test_allocated_blocks(started: Started, kind: int) -> None:
    started.filled(kind=kind)
    handle = started.open(flags=READ_ONLY)
    whole = SECTORS + -SECTORS % 128
    blocks = vix.QueryAllocatedBlocks(handle, 0, whole, 128)
    assert blocks == [(128, 256), (SECTORS - 24, 24)]
    assert vix.QueryAllocatedBlocks(handle, 0, 1024, 256) == [(0, 512)]
    assert vix.QueryAllocatedBlocks(handle, 256, 128, 128) == [(256, 128)]
    assert vix.QueryAllocatedBlocks(handle, 384, 1280, 128) == []
    assert vix.QueryAllocatedBlocks(handle, 0, 131072, 131072) == [(0, SECTORS)]
    vix.FreeBlockList(blocks)


def test_allocated_blocks_of_a_chain_and_of_what_was_just_written(started: Started) -> None:
    started.filled()
    base = started.open(flags=READ_ONLY)
    vix.CreateChild(base, started.path("c.vmdk"), 1)
    child = started.open("c.vmdk")
    vix.Write(child, 1280, 1, b"x" * 512)
    assert vix.QueryAllocatedBlocks(child, 0, 2560, 128) == [(128, 256), (1280, 128)]
    vix.Close(child)
    alone = started.open("c.vmdk", READ_ONLY | SINGLE)
    assert vix.QueryAllocatedBlocks(alone, 0, 2560, 128) == [(1280, 128)]


@pytest.mark.parametrize(
    ("start", "count", "chunk"),
    [
        (0, 128, 127),
        (0, 64, 64),
        (0, 131073, 131073),
        (0, 0, 128),
        (64, 128, 128),
        (0, 192, 128),
        (0, SECTORS, 128),
        (-128, 128, 128),
        (0, -128, 128),
        (0, 128 * 524289, 128),
    ],
)
def test_allocated_blocks_of_wrong_ranges(
    started: Started, start: int, count: int, chunk: int
) -> None:
    started.create()
    handle = started.open(flags=READ_ONLY)
    assert code(vix.QueryAllocatedBlocks, handle, start, count, chunk) == vix.VIX_E_INVALID_ARG


def test_allocated_blocks_beyond_the_end(started: Started) -> None:
    started.create()
    handle = started.open(flags=READ_ONLY)
    last = SECTORS + -SECTORS % 128
    for start, count in ((last, 128), (last - 128, 256), (0, 128 * 524288)):
        found = code(vix.QueryAllocatedBlocks, handle, start, count, 128)
        assert found == vix.VIX_E_DISK_OUTOFRANGE
    started.create("tiny.vmdk", 1, 8)
    assert vix.QueryAllocatedBlocks(started.open("tiny.vmdk"), 0, 128, 128) == []
