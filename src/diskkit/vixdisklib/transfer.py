# SPDX-License-Identifier: Apache-2.0
"""Data: read, written, at once or later, flushed; and which of it is allocated."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING

from diskkit.errors import DiskkitError
from diskkit.vixdisklib import constants as c
from diskkit.vixdisklib.codes import NUMBERS
from diskkit.vixdisklib.config import OLD_PARAMS
from diskkit.vixdisklib.failures import VixError, from_exception, translated, vix_error
from diskkit.vixdisklib.library import library
from diskkit.vixdisklib.params import Block

if TYPE_CHECKING:
    from diskkit.disk import Disk
    from diskkit.vixdisklib.library import Handle

CompletionCB = Callable[[object, int], object]
"""Called with the caller's data and the code, once, from any thread."""

_SECTOR = c.VIXDISKLIB_SECTOR_SIZE
_ASYNC = NUMBERS["VIX_ASYNC"]


def Read(
    diskHandle: int, startSector: int, numSectors: int, readBuffer: bytearray | memoryview
) -> None:
    """Fill the first `numSectors` sectors of a writable buffer."""
    with translated():
        handle = library.disk(diskHandle)
        with handle.using() as disk:
            view = _view(disk, startSector, numSectors, readBuffer, writing=False)
            disk.read_into(startSector * _SECTOR, view)


def read_sectors(number: int, start: int, count: int, buffer: memoryview | None, odd: int) -> None:
    """`Read` into memory of a C program, with diskkit's own errors.

    `buffer` is writable bytes, as many as the sectors take unless `count` is beyond all sense;
    `odd` says how far from a multiple of a sector they begin. It is called more than all else.
    """
    handle = library.disks.get(number)
    if handle is None or handle.attached:
        handle = library.disk(number)
    disk = handle.enter()
    try:
        _check_odd(handle, odd)
        disk.read_into(start * _SECTOR, _aimed(disk, start, count, buffer, writing=False))
        handle.offer(disk, start * _SECTOR)
    finally:
        handle.leave()


def write_sectors(
    number: int,
    start: int,
    count: int,
    buffer: memoryview | None,
    odd: int,
) -> None:
    """`Write`, as `read_sectors` is `Read`."""
    handle = library.disks.get(number)
    if handle is None or handle.attached:
        handle = library.disk(number)
    handle.check_writable()
    disk = handle.enter()
    try:
        _check_odd(handle, odd)
        disk.write(start * _SECTOR, _aimed(disk, start, count, buffer, writing=True))
        handle.offer(disk, start * _SECTOR, written=True)
    except DiskkitError as error:
        handle.withdraw(error)
        raise
    finally:
        handle.leave()


def _aimed(
    disk: Disk, start: int, count: int, buffer: memoryview | None, *, writing: bool
) -> memoryview:
    """`buffer` as it is where all is right, which is cheaper than `_view`; else what that says."""
    if buffer is None or len(buffer) != count * _SECTOR or not 0 < count <= disk.size:
        return _view(disk, start, count, buffer, writing=writing)
    if start < 0 or (start + count) * _SECTOR > disk.size:
        raise _outside(disk, start, count)
    return buffer


def _check_odd(handle: Handle, odd: int) -> None:
    if odd and handle.unbuffered:
        text = f"opened unbuffered, and the buffer begins {odd} bytes after a multiple of {_SECTOR}"
        raise vix_error("INVALID_ARG", text)


def _outside(disk: Disk, start: int, count: int) -> VixError:
    text = f"sectors {start} to {start + count} are not inside the disk's"
    return vix_error("DISK_OUTOFRANGE", f"{text} {disk.size // _SECTOR}")


def Write(
    diskHandle: int,
    startSector: int,
    numSectors: int,
    writeBuffer: bytes | bytearray | memoryview,
) -> None:
    """Write the first `numSectors` sectors of a buffer; durable after `Flush` or `Close`."""
    with translated():
        handle = library.disk(diskHandle)
        handle.check_writable()
        with handle.using() as disk:
            view = _view(disk, startSector, numSectors, writeBuffer, writing=True)
            disk.write(startSector * _SECTOR, view)


def ReadAsync(
    diskHandle: int,
    startSector: int,
    numSectors: int,
    readBuffer: bytearray | memoryview,
    callback: CompletionCB,
    cbData: object = None,
) -> int:
    """`Read` in the background; returns `VIX_ASYNC`, and `callback` gets the result."""
    return _begin(diskHandle, startSector, numSectors, readBuffer, callback, cbData, writing=False)


def WriteAsync(
    diskHandle: int,
    startSector: int,
    numSectors: int,
    writeBuffer: bytes | bytearray | memoryview,
    callback: CompletionCB,
    cbData: object = None,
) -> int:
    """`Write` in the background; returns `VIX_ASYNC`, and `callback` gets the result."""
    return _begin(diskHandle, startSector, numSectors, writeBuffer, callback, cbData, writing=True)


def Flush(diskHandle: int) -> None:
    """Return when all that was written would survive a power cut."""
    with translated():
        handle = library.disk(diskHandle)
        handle.wait()
        if handle.writable:
            with handle.using() as disk:
                try:
                    disk.flush()
                except DiskkitError as error:
                    handle.withdraw(error)
                    raise


def Wait(diskHandle: int) -> None:
    """Return when every callback of the handle has returned."""
    with translated():
        library.disk(diskHandle).wait()


def QueryAllocatedBlocks(
    diskHandle: int, startSector: int, numSectors: int, chunkSize: int
) -> list[Block]:
    """The allocated chunks of a range: ascending, neighbours merged, clamped to the end.

    A chunk is 128 to 131072 sectors; `startSector` and `numSectors` are multiples of it, and at
    most 524288 chunks are asked for. The range may pass the end by less than a chunk. A grain that
    is marked as zeros counts as allocated: it hides older data.
    """
    with translated():
        handle = library.disk(diskHandle)
        if handle.old:
            text = "not with connection parameters that the program declared itself: use"
            text += f" AllocateConnectParams, or {OLD_PARAMS}=1 in the configuration file"
            raise vix_error("NOT_SUPPORTED", text)
        if not c.VIXDISKLIB_MIN_CHUNK_SIZE <= chunkSize <= c.VIXDISKLIB_MAX_CHUNK_SIZE:
            limits = f"{c.VIXDISKLIB_MIN_CHUNK_SIZE} to {c.VIXDISKLIB_MAX_CHUNK_SIZE} sectors"
            raise vix_error("INVALID_ARG", f"a chunk is {limits}, not {chunkSize}")
        if startSector < 0 or numSectors <= 0 or startSector % chunkSize or numSectors % chunkSize:
            text = f"start {startSector} and length {numSectors} must be multiples of {chunkSize}"
            raise vix_error("INVALID_ARG", text)
        if numSectors // chunkSize > c.VIXDISKLIB_MAX_CHUNK_NUMBER:
            most = c.VIXDISKLIB_MAX_CHUNK_NUMBER
            raise vix_error("INVALID_ARG", f"more than {most} chunks are asked for")
        with handle.using() as disk:
            return _allocated(disk, startSector, numSectors, chunkSize)


def FreeBlockList(blockList: list[Block] | None) -> None:
    """Nothing: lists are Python's."""


def _allocated(disk: Disk, start: int, count: int, chunk: int) -> list[Block]:
    capacity = disk.size // _SECTOR
    if start >= capacity or start + count > capacity + -capacity % chunk:
        text = f"sectors {start} to {start + count} are not inside the disk's {capacity}"
        raise vix_error("DISK_OUTOFRANGE", text)
    length = min(count, capacity - start)
    found = disk.allocated(start * _SECTOR, length * _SECTOR, chunk * _SECTOR)
    return [Block(offset // _SECTOR, n // _SECTOR) for offset, n in found]


def _view(
    disk: Disk,
    start: int,
    count: int,
    buffer: bytes | bytearray | memoryview | None,
    *,
    writing: bool,
) -> memoryview:
    """The part of the buffer that a call is about, when all arguments are right."""
    if buffer is None:
        raise vix_error("INVALID_ARG", "the buffer is NULL")
    if start < 0 or count <= 0:
        raise vix_error("INVALID_ARG", f"{count} sectors from {start}: at least one is moved")
    if start + count > disk.size // _SECTOR:
        raise _outside(disk, start, count)
    try:
        view = memoryview(buffer).cast("B")
    except TypeError as error:
        raise vix_error("INVALID_ARG", f"not a usable buffer: {error}") from error
    if len(view) < count * _SECTOR or (view.readonly and not writing):
        problem = "is read-only" if len(view) >= count * _SECTOR else f"has {len(view)} bytes"
        raise vix_error("INVALID_ARG", f"the buffer for {count} sectors {problem}")
    return view[: count * _SECTOR]


def _begin(
    number: int,
    start: int,
    count: int,
    buffer: bytes | bytearray | memoryview,
    callback: CompletionCB,
    data: object,
    *,
    writing: bool,
) -> int:
    with translated():
        handle = library.disk(number)
        if callback is None:
            raise vix_error("INVALID_ARG", "the callback is NULL")
        if writing:
            handle.check_writable()
        handle.will_call_back()
        try:
            disk = handle.enter()
        except BaseException:
            handle.called_back()
            raise
        try:
            view = _view(disk, start, count, buffer, writing=writing)

            def work() -> None:
                _complete(handle, disk, start, view, callback, data, writing=writing)

            library.pool().submit(work)
        except BaseException:
            handle.leave()
            handle.called_back()
            raise
        return _ASYNC


def _complete(
    handle: Handle,
    disk: Disk,
    start: int,
    view: memoryview,
    callback: CompletionCB,
    data: object,
    *,
    writing: bool,
) -> None:
    code = NUMBERS["VIX_OK"]
    try:
        if writing:
            disk.write(start * _SECTOR, view)
        else:
            disk.read_into(start * _SECTOR, view)
    except Exception as error:
        failure = from_exception(error)
        code = failure.code
        library.warn(f"{handle.path}: asynchronous call failed: {failure}")
    finally:
        # The buffer may be gone the moment the callback was called.
        view.release()
        handle.leave()
    handle.calling.add(get_ident())
    try:
        callback(data, code)
    except Exception as error:
        library.warn(f"{handle.path}: a completion callback failed: {error!r}")
    finally:
        handle.calling.discard(get_ident())
        handle.called_back()
