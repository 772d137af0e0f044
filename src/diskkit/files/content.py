# SPDX-License-Identifier: Apache-2.0
"""The bytes of a file, in large pieces, and where it has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diskkit.errors import FormatError, UnsupportedFeature

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diskkit.files.filesystem import Extent, FileSystem, Node
    from diskkit.interfaces import Readable

PIECE = 1 << 20
"""What fits into a processor's cache: the copy from it to the page cache is faster then."""
MOST_INFLATED = 16
"""Times its room that a file can have: NTFS compresses 16 clusters into one at best.

One that a guest compressed and that is mostly hole may have more, and beyond `ALWAYS` is refused:
what is read through a reader costs time for holes, too, and a size is easily made up.
"""
ALWAYS = 1 << 40


def pieces(
    fs: FileSystem, volume: Readable, node: Node, stream: str = ""
) -> Iterator[tuple[int, memoryview]]:
    """What a file holds as (offset, bytes): ascending; what is left out reads as zeros.

    The bytes are good until the next piece is asked for. Where the filesystem can say where they
    lie they are read from the volume, without passing through the reader's process.
    """
    if node.problem:
        raise UnsupportedFeature(node.problem, structure=f"file {node.id}")
    extents = fs.extents(node.id, stream)
    if extents is None:
        yield from _through_reader(fs, volume, node, stream)
    else:
        yield from _direct(volume, extents)


def _direct(volume: Readable, extents: list[Extent]) -> Iterator[tuple[int, memoryview]]:
    buffer = bytearray(min(PIECE, max((e.length for e in extents), default=0)))
    view = memoryview(buffer)
    at = 0
    for length, place in extents:
        if place >= 0:
            for begin in range(0, length, PIECE):
                part = view[: min(PIECE, length - begin)]
                volume.read_into(place + begin, part)
                yield at + begin, part
        at += length


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
        part = fs.read_at(node.id, at, min(PIECE, size - at), stream)
        if not part:
            raise FormatError(
                f"ends after {at} bytes of {size}",
                structure=f"{fs.kind} filesystem",
                field=f"file {node.id}",
            )
        # Holes of compressed files are not told apart otherwise.
        if part.count(0) < len(part):
            yield at, memoryview(part)
        at += len(part)
