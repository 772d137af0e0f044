# SPDX-License-Identifier: Apache-2.0
"""Copying a streamOptimized disk that arrives once, as from a pipe."""

from __future__ import annotations

import hashlib
import os
import select
import sys
import time
from typing import TYPE_CHECKING

import numpy as np

from diskkit.errors import StorageError, UsageError
from diskkit.formats.vmdk.sequence import StreamSequence
from diskkit.formats.vmdk.writers import GRAIN
from diskkit.open import open_disk
from diskkit.runs import State
from diskkit.storage.newfile import is_device, new_file, write_errors
from diskkit.storage.writing import append_all, write_all
from diskkit.tasks.clone import DEFAULT_LEVEL, PIECE, Job, deliver, judged, lay_out, spec_of
from diskkit.tasks.copy import PIPE_PIECE, Copied
from diskkit.tasks.work import in_order
from diskkit.units import SECTOR, align_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from diskkit.formats.vmdk.compose import NewDisk
    from diskkit.formats.vmdk.sequence import Source
    from diskkit.formats.vmdk.writers import Grains
    from diskkit.interfaces import OpenPolicy
    from diskkit.tasks.clone import Kind
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
            if verify and digest != _digest(temporary, stream.header.grain, "raw"):
                raise StorageError(name, "the copy differs from the stream")
    seconds = time.monotonic() - began
    return Copied(stream.capacity, written, stream.capacity - written, verify, seconds)


def clone_stream(
    source: Source,
    target: str | os.PathLike[str],
    kind: str,
    *,
    policy: OpenPolicy,
    adapter: str | None = None,
    level: int = DEFAULT_LEVEL,
    force: bool = False,
    verify: bool = False,
    sync: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Copied:
    """Copy a streamOptimized disk that arrives once into a new disk of `kind`, with new ids.

    Everything else is as for `clone`.
    """
    began = time.monotonic()
    stream = StreamSequence(source, "standard input", policy)
    keys = {key.lower(): value for key, value in stream.descriptor.ddb.items()}
    adapter = adapter or keys.get("adaptertype", "lsilogic")
    capacity = align_up(stream.capacity, SECTOR)
    spec = spec_of(kind, capacity, adapter, keys.get("virtualhwversion", "4"))
    job = _Arriving(stream, kind, spec, threads, progress, verify=verify)
    written = deliver(job, os.fspath(target), level, force=force, verify=verify, sync=sync)
    seconds = time.monotonic() - began
    return Copied(stream.capacity, written, stream.capacity - written, verify, seconds)


class _Arriving(Job):
    """A copy of what arrives in order: extents are made one after the other, in one pass."""

    def __init__(
        self,
        stream: StreamSequence,
        kind: str,
        spec: NewDisk,
        threads: int | None,
        progress: Progress | None,
        *,
        verify: bool,
    ) -> None:
        super().__init__(None, kind, spec, threads, progress)
        self._stream = stream
        self._verify = verify
        self._digest = hashlib.blake2b()
        self._grains = in_order(stream.grains(), stream.inflate, threads)
        self._next: tuple[int, bytes] | None = None

    def grains(
        self, begin: int, length: int, pack: Callable[[memoryview], bytes] | None
    ) -> Iterator[Grains]:
        def work(piece: tuple[int, NDArray[np.uint8]]) -> Grains:
            return judged(piece[0], piece[1], pack)

        for (first, _), grains in in_order(self._pieces_of(begin, length), work, self._threads):
            if grains.filled.any():
                self._note(begin, grains)
                yield grains
            if self._progress is not None:
                done = min(begin + first * GRAIN + PIECE, begin + length)
                self._progress(done, self._stream.capacity)

    def flat(self, fd: int, begin: int, length: int, kind: Kind) -> int:
        lay_out(fd, length, kind)
        written = 0
        for grains in self.grains(begin, length, None):
            for number in np.flatnonzero(grains.filled).tolist():
                at = (grains.first + number) * GRAIN
                data = grains.data[number * GRAIN : (number + 1) * GRAIN][: length - at]
                write_all(fd, data, at)
                written += len(data)
        return written

    def verify(self, path: str) -> None:
        if _digest(path, GRAIN, "vmdk") != self._digest.digest():
            raise StorageError(path, "the copy differs from the stream")

    def _note(self, begin: int, grains: Grains) -> None:
        if not self._verify:
            return
        for number in np.flatnonzero(grains.filled).tolist():
            at = begin + (grains.first + number) * GRAIN
            data = grains.data[number * GRAIN : (number + 1) * GRAIN]
            _digest_piece(self._digest, at, bytes(data[: self.spec.capacity - at]))

    def _pieces_of(self, begin: int, length: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """(number of its first grain, bytes) of each piece of an extent that anything came for."""
        held, data = -1, np.zeros(0, np.uint8)
        while (came := self._take(begin + length)) is not None:
            offset, body = came[0] - begin, memoryview(came[1])
            while body:
                number, inside = divmod(offset, PIECE)
                if number != held:
                    if held >= 0:
                        yield held * (PIECE // GRAIN), data
                    size = min(PIECE, align_up(length - number * PIECE, GRAIN))
                    held, data = number, np.zeros(size, np.uint8)
                part = body[: PIECE - inside]
                data[inside : inside + len(part)] = part
                offset, body = offset + len(part), body[len(part) :]
        if held >= 0:
            yield held * (PIECE // GRAIN), data

    def _take(self, end: int) -> tuple[int, bytes] | None:
        """What came next before `end`, the rest of it kept; None if that lies beyond."""
        if self._next is None:
            for grain, data in self._grains:
                self._next = grain.offset, data
                break
        if self._next is None or self._next[0] >= end:
            return None
        offset, data = self._next
        self._next = (end, data[end - offset :]) if offset + len(data) > end else None
        return offset, data[: end - offset]


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


def _digest(name: str, grain: int, format_name: str) -> bytes:
    """What was computed while a disk was written, from what was written."""
    digest = hashlib.blake2b()
    done = 0
    with open_disk(name, format=format_name) as copy:
        for table in copy.chain.stored(0, copy.size):
            data = table.states >= State.DATA
            for begin, end in zip(
                table.starts[data].tolist(), table.ends[data].tolist(), strict=True
            ):
                offset = max(done, begin - begin % grain)
                while offset < end:
                    n = min(grain, copy.size - offset)
                    _digest_piece(digest, offset, copy.read(offset, n))
                    done = offset = offset + n
    return digest.digest()
