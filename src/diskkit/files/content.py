# SPDX-License-Identifier: Apache-2.0
"""The bytes of a file, in large pieces, and where it has none."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, repeat
from typing import TYPE_CHECKING

from diskkit.errors import FormatError, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from diskkit.files.filesystem import Details, Extent, FileSystem, Node
    from diskkit.interfaces import Readable

PIECE = 2 << 20
"""What fits into a processor's cache: the copy from it to the page cache is faster then."""
THROUGH = 1 << 20
"""Asked of a reader at once; what is all zeros in it becomes a hole."""
LARGE = 8 << 20
"""Bytes of data that are worth threads."""
READERS = 2
"""Threads that read ahead: one would do for plain disks, compressed ones are faster with two."""
MOST_INFLATED = 16
"""Times its room that a file can have: NTFS compresses 16 clusters into one at best.

One that a guest compressed and that is mostly hole may have more, and beyond `ALWAYS` is refused:
what is read through a reader costs time for holes, too, and a size is easily made up.
"""
ALWAYS = 1 << 40


def pieces(
    fs: FileSystem,
    volume: Readable,
    node: Node,
    stream: str = "",
    *,
    known: Details | None = None,
    before: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, memoryview]]:
    """What a file holds as (offset, bytes): ascending; what is left out reads as zeros.

    `known` is what the filesystem told of the file already.

    The bytes are good until the next piece is asked for. Where the filesystem can say where they
    lie they are read from the volume, without passing through the reader's process; `before` is
    then called with offset and length of each stretch of them, for those who make room.
    """
    if node.problem:
        raise UnsupportedFeature(node.problem, structure=f"file {node.id}")
    if known is not None and known.error is not None:
        raise known.error
    extents = known.extents if known else fs.extents(node.id, stream)
    if known is not None and known.content is not None:
        yield from _told(fs, node, known.content)
    elif extents is None:
        yield from _through_reader(fs, volume, node, stream)
    else:
        jobs = _jobs(extents, before)
        data = sum(extent.length for extent in extents if extent.offset >= 0)
        yield from (_ahead if data >= LARGE else _direct)(volume, jobs)


def _told(fs: FileSystem, node: Node, content: bytes) -> Iterator[tuple[int, memoryview]]:
    """Content that came with the rest."""
    if len(content) < node.size:
        raise _too_short(fs, node, len(content), node.size)
    if content.count(0) < len(content):
        yield 0, memoryview(content)


def _jobs(
    extents: list[Extent], before: Callable[[int, int], None] | None
) -> Iterator[tuple[int, int, int]]:
    """Offset in the file, place on the volume and length of each piece."""
    at = 0
    for length, place in extents:
        if place >= 0:
            if before is not None:
                before(at, length)
            for begin in range(0, length, PIECE):
                yield at + begin, place + begin, min(PIECE, length - begin)
        at += length


def _direct(
    volume: Readable, jobs: Iterator[tuple[int, int, int]]
) -> Iterator[tuple[int, memoryview]]:
    view = memoryview(b"")
    for at, place, length in jobs:
        if length > len(view):
            view = memoryview(bytearray(length))
        part = view[:length]
        volume.read_into(place, part)
        yield at, part


def _ahead(
    volume: Readable, jobs: Iterator[tuple[int, int, int]]
) -> Iterator[tuple[int, memoryview]]:
    """The next pieces are read, and inflated, while the caller writes this one."""
    pool = ThreadPoolExecutor(READERS, "diskkit-content")
    spare = [memoryview(bytearray(PIECE)) for _ in range(READERS + 2)]
    coming: deque[tuple[int, memoryview, memoryview, Future[None]]] = deque()
    try:
        for job in chain(jobs, repeat(None, READERS + 1)):
            if job is not None:
                at, place, length = job
                view = spare.pop()
                part = view[:length]
                coming.append((at, view, part, pool.submit(volume.read_into, place, part)))
            if coming and (job is None or len(coming) > READERS):
                at, view, part, read = coming.popleft()
                read.result()
                yield at, part
                spare.append(view)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _through_reader(
    fs: FileSystem, volume: Readable, node: Node, stream: str
) -> Iterator[tuple[int, memoryview]]:
    size = dict(fs.streams(node.id))[stream] if stream else node.size
    most = max(MOST_INFLATED * volume.size, ALWAYS)
    if size > most:
        raise FormatError(
            f"more than the {most} bytes that are believed on a volume of {volume.size}",
            structure=f"{fs.kind} filesystem",
            field=f"size of file {node.id}",
            value=size,
        )
    at = 0
    while at < size:
        part = fs.read_at(node.id, at, min(THROUGH, size - at), stream)
        if not part:
            raise _too_short(fs, node, at, size)
        # Holes of compressed files are not told apart otherwise.
        if part.count(0) < len(part):
            yield at, memoryview(part)
        at += len(part)


def _too_short(fs: FileSystem, node: Node, at: int, size: int) -> FormatError:
    return FormatError(
        f"ends after {at} bytes of {size}",
        structure=f"{fs.kind} filesystem",
        field=f"file {node.id}",
    )
