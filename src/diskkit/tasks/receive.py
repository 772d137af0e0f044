# SPDX-License-Identifier: Apache-2.0
"""Copying a streamOptimized disk that arrives once, as from a pipe."""

from __future__ import annotations

import hashlib
import os
import select
import sys
import time
from typing import TYPE_CHECKING

from diskkit.errors import StorageError, UsageError
from diskkit.formats.vmdk.sequence import StreamSequence
from diskkit.open import open_disk
from diskkit.runs import State
from diskkit.storage.newfile import is_device, new_file, write_errors
from diskkit.storage.writing import append_all, write_all
from diskkit.tasks.copy import PIPE_PIECE, Copied
from diskkit.tasks.work import in_order

if TYPE_CHECKING:
    from diskkit.formats.vmdk.sequence import Source
    from diskkit.interfaces import OpenPolicy
    from diskkit.tasks.work import Progress


class Pipe:
    """Bytes that arrive at a file descriptor.

    A signal that comes just before a read begins does not wake it: so no wait is longer than a
    second, and an interruption is seen even when nothing arrives any more.
    """

    def __init__(self, fd: int) -> None:
        """`fd` stays the caller's."""
        self._fd = fd

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; empty at the end."""
        while not select.select([self._fd], [], [], 1.0)[0]:
            pass
        return os.read(self._fd, size)


def convert_stream(
    source: Source,
    target: str | os.PathLike[str],
    *,
    policy: OpenPolicy,
    force: bool = False,
    verify: bool = False,
    sync: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Copied:
    """Copy a streamOptimized disk that arrives once, as from a pipe, to `target` as a raw image.

    `target`, `force`, `verify` and `sync` are as for `convert`; a device cannot be the target.
    """
    began = time.monotonic()
    name = os.fspath(target)
    if is_device(name):
        raise UsageError(f"{name}: a stream from a pipe can be copied to a file or a pipe only")
    stream = StreamSequence(source, "standard input", policy)
    if name == "-":
        if verify:
            raise UsageError("standard output cannot be read back: --verify needs a file")
        with write_errors("standard output"):
            written, _ = _pour_stream(stream, _PipeOut(sys.stdout.fileno()), threads, progress)
    else:
        with new_file(name, force=force, sync=sync) as (fd, temporary):
            os.ftruncate(fd, stream.capacity)
            written, digest = _pour_stream(stream, _FileOut(fd), threads, progress)
            if verify and digest != _digest(temporary, stream.header.grain):
                raise StorageError(name, "the copy differs from the stream")
    seconds = time.monotonic() - began
    return Copied(stream.capacity, written, stream.capacity - written, verify, seconds)


class _FileOut:
    """Writes at any offset; gaps stay holes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, offset: int, data: bytes) -> None:
        write_all(self._fd, data, offset)

    def finish(self, size: int) -> None:
        """Nothing to do: the file has its size."""


class _PipeOut:
    """Writes in order; gaps are filled with zeros."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0

    def write(self, offset: int, data: bytes) -> None:
        self.finish(offset)
        self._put(data)

    def finish(self, size: int) -> None:
        """Zeros up to `size`."""
        zeros = memoryview(bytes(PIPE_PIECE))
        while self._at < size:
            self._put(zeros[: size - self._at])

    def _put(self, data: bytes | memoryview) -> None:
        self._at += len(data)
        append_all(self._fd, data)


def _pour_stream(
    stream: StreamSequence,
    out: _FileOut | _PipeOut,
    threads: int | None,
    progress: Progress | None,
) -> tuple[int, bytes]:
    """Inflate on several threads, write in order; returns bytes written and a digest of them."""
    written, digest = 0, hashlib.blake2b()
    for grain, data in in_order(stream.grains(), stream.inflate, threads):
        out.write(grain.offset, data)
        written += len(data)
        _digest_piece(digest, grain.offset, data)
        if progress:
            progress(grain.offset + len(data), stream.capacity)
    out.finish(stream.capacity)
    return written, digest.digest()


def _digest_piece(digest: hashlib.blake2b, offset: int, data: bytes) -> None:
    """Zeros do not count: in a file they may be a hole or not."""
    if data.count(0) != len(data):
        digest.update(offset.to_bytes(8, "little"))
        digest.update(data)


def _digest(name: str, grain: int) -> bytes:
    """What `_pour_stream` computed, from the file it wrote."""
    digest = hashlib.blake2b()
    done = 0
    with open_disk(name, format="raw") as copy:
        for table in copy.chain.stored(0, copy.size):
            data = table.states == State.DATA
            for begin, end in zip(
                table.starts[data].tolist(), table.ends[data].tolist(), strict=True
            ):
                offset = max(done, begin - begin % grain)
                while offset < end:
                    n = min(grain, copy.size - offset)
                    _digest_piece(digest, offset, copy.read(offset, n))
                    done = offset = offset + n
    return digest.digest()
