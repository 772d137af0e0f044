# SPDX-License-Identifier: Apache-2.0
"""Copying a disk out: to a file, a device or a pipe.

The map first, then few large transfers: what is known to be zero is never read, and is left a hole
where the target can have holes. A new file is built under another name and appears under its own
when it is whole; whatever stops the copy removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diskkit.errors import StorageError, UsageError
from diskkit.open import open_disk
from diskkit.runs import State
from diskkit.storage.newfile import is_device, new_file, write_errors
from diskkit.storage.writing import append_all, write_all
from diskkit.tasks.compare import compare
from diskkit.tasks.work import in_order, pieces

if TYPE_CHECKING:
    from collections.abc import Iterable

    from diskkit.disk import Disk
    from diskkit.table import RunTable
    from diskkit.tasks.work import Progress

_JOB = 32 << 20
PIPE_PIECE = 4 << 20
_BLKZEROOUT = 0x127F


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy did, in bytes of the disk."""

    capacity: int
    bytes_written: int
    bytes_skipped: int
    """Known to be zero, so neither read nor (where the target has holes) written."""
    verified: bool
    seconds: float


def convert(
    disk: Disk,
    target: str | os.PathLike[str],
    *,
    force: bool = False,
    verify: bool = False,
    sync: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Copied:
    """Copy all of `disk` to `target` as a raw image.

    `target` is a new file, or with `force` an existing file (replaced when the copy is whole) or
    block device (overwritten); "-" is standard output. `verify` reads the target back and compares.
    `sync` makes the copy survive a power cut the moment this returns. Raises `UsageError` for a
    target that exists, `StorageError` when bytes cannot be moved, and the disk's own errors; then
    a new file is not there, and a replaced one is as it was.
    """
    began = time.monotonic()
    name = os.fspath(target)
    if name == "-":
        if verify:
            raise UsageError("standard output cannot be read back: --verify needs a file")
        written = _to_stdout(disk, threads, progress)
    elif is_device(name):
        written = _to_device(disk, name, force, sync, threads, progress)
        if verify:
            verify_copy(disk, name, threads, "raw")
    else:
        with new_file(name, force=force, sync=sync) as (fd, temporary):
            written = copy_to_file(disk, fd, threads, progress)
            if verify:
                verify_copy(disk, temporary, threads, "raw")
    seconds = time.monotonic() - began
    return Copied(disk.size, written, disk.size - written, verify, seconds)


def copy_to_file(disk: Disk, fd: int, threads: int | None, progress: Progress | None) -> int:
    """Fill the empty regular file `fd` with the disk; returns the bytes written."""
    os.ftruncate(fd, disk.size)
    written = pour_all(disk, disk.stored(), fd, threads, progress)
    if progress:
        progress(disk.size, disk.size)
    return written


def pour_all(
    disk: Disk,
    tables: Iterable[RunTable],
    fd: int,
    threads: int | None,
    progress: Progress | None,
    base: int = 0,
) -> int:
    """Write what `tables` say holds bytes to `fd`, which begins with guest byte `base`.

    Returns the bytes written.
    """
    written = 0

    def work(piece: RunTable) -> int:
        return disk.pour(piece, fd, base)

    for piece, done in in_order(pieces(tables, _JOB), work, threads):
        written += done
        if progress:
            progress(piece.end, disk.size)
    return written


def _to_device(
    disk: Disk,
    name: str,
    force: bool,
    sync: bool,
    threads: int | None,
    progress: Progress | None,
) -> int:
    if not force:
        raise UsageError(f"{name}: is a device; all it holds will be lost (--force overwrites it)")
    with write_errors(name):
        # O_EXCL on a device: fails while it is mounted or otherwise in use.
        fd = os.open(name, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
        try:
            room = os.lseek(fd, 0, os.SEEK_END)
            if room < disk.size:
                text = f"has {room} bytes, the disk needs {disk.size}"
                raise StorageError(name, text, errno=errno.ENOSPC)
            written = _fill_device(disk, fd, threads, progress)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
    return written


def _fill_device(disk: Disk, fd: int, threads: int | None, progress: Progress | None) -> int:
    """Write data and zeros alike: what the device held before must not show through."""
    written = 0
    for table in disk.stored():
        empty = (table.states == State.HOLE) | (table.states == State.ZERO)
        for start, length in zip(
            table.starts[empty].tolist(), table.lengths[empty].tolist(), strict=True
        ):
            _zero_device(fd, start, length)
        written += pour_all(disk, [table], fd, threads, progress)
    if progress:
        progress(disk.size, disk.size)
    return written


def _zero_device(fd: int, start: int, length: int) -> None:
    try:
        fcntl.ioctl(fd, _BLKZEROOUT, struct.pack("@QQ", start, length))
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP):
            raise
        zeros = memoryview(bytes(min(length, PIPE_PIECE)))
        end = start + length
        while start < end:
            part = zeros[: end - start]
            write_all(fd, part, start)
            start += len(part)


def _to_stdout(disk: Disk, threads: int | None, progress: Progress | None) -> int:
    fd = sys.stdout.fileno()
    sys.stdout.flush()
    with write_errors("standard output"):
        mode = os.fstat(fd).st_mode
        appending = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
        if stat.S_ISREG(mode) and not appending and not os.fstat(fd).st_size:
            return copy_to_file(disk, fd, threads, progress)
        return copy_to_pipe(disk, fd, threads, progress)


def copy_to_pipe(disk: Disk, fd: int, threads: int | None, progress: Progress | None) -> int:
    """Write all bytes of the disk to `fd`, zeros too, in order; returns the bytes of data."""
    zeros = memoryview(bytes(PIPE_PIECE))
    written = 0

    def work(begin: int) -> memoryview | None:
        n = min(PIPE_PIECE, disk.size - begin)
        states = [table.states for table in disk.stored(begin, n)]
        if all(((s == State.HOLE) | (s == State.ZERO)).all() for s in states):
            return None
        buffer = memoryview(bytearray(n))
        disk.read_into(begin, buffer)
        return buffer

    for begin, data in in_order(range(0, disk.size, PIPE_PIECE), work, threads):
        n = min(PIPE_PIECE, disk.size - begin)
        rest = zeros[:n] if data is None else data
        written += 0 if data is None else n
        append_all(fd, rest)
        if progress:
            progress(begin + n, disk.size)
    return written


def verify_copy(disk: Disk, name: str, threads: int | None, format_name: str) -> None:
    """Read the copy back and compare; it may be larger, on a device or for whole sectors."""
    with open_disk(name, format=format_name) as copy:
        found = compare(disk, copy, threads=threads, length=disk.size)
    if not found.identical:
        text = f"the copy differs from the disk at byte {found.first_difference}"
        raise StorageError(name, text)
