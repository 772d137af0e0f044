# SPDX-License-Identifier: Apache-2.0
"""Writing whole hosted sparse extents and streams, grain by grain in ascending order.

For files that nobody sees until they are whole: the order of writes does not matter here. Tables
are written as soon as the grains pass them, so memory stays flat. Layouts are those of VMware's
own tools: docs/formats/hosted-sparse.md and stream.md.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from diskkit.errors import StorageError
from diskkit.formats.vmdk import layout
from diskkit.storage.writing import write_all
from diskkit.units import SECTOR, align_up, ceil_div

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

GRAIN = 128 * SECTOR
_ENTRIES = 512
_BLOCK = 4096
"""What filesystems give room in."""
_TABLE = _ENTRIES * 4
_DESCRIPTOR = 20 * SECTOR
"""Room for an embedded descriptor, as VMware's tools leave it."""
_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")
_VERSION_SPARSE, _VERSION_ZEROED, _VERSION_STREAM = 1, 2, 3
_ZEROED = 1
_MARKER_HEAD = 12
"""Bytes before a compressed grain, in its first sector."""
MOST_SPARSE = (1 << 32) * SECTOR - SECTOR
"""Largest capacity of a hosted sparse extent, bytes: table entries are 32-bit sector numbers."""


class Grains(NamedTuple):
    """Some consecutive grains of an extent, on their way into a writer."""

    first: int
    """Number of the first grain."""
    data: memoryview
    """Whole grains; the last of the extent padded with zeros."""
    filled: NDArray[np.bool_]
    """Which of them are not all zeros; only these are stored."""
    packed: list[bytes]
    """The filled ones compressed, for a stream; else empty."""
    blank: NDArray[np.bool_] | None = None
    """Which others shall have room of their own, which then reads as zeros."""
    zeroed: NDArray[np.bool_] | None = None
    """Which others shall read as zeros whatever a parent holds, without room."""


def pack_header(
    *,
    version: int,
    flags: int,
    capacity: int,
    descriptor: int,
    redundant: int,
    directory: int,
    overhead: int,
    grain: int = GRAIN,
) -> bytes:
    """The 512 bytes of a header; sizes and offsets in bytes."""
    compressed = bool(flags & layout.FLAG_COMPRESSED)
    return _HEADER.pack(
        layout.MAGIC_SPARSE,
        version,
        flags,
        capacity // SECTOR,
        grain // SECTOR,
        1 if descriptor else 0,
        descriptor // SECTOR,
        _ENTRIES,
        redundant // SECTOR,
        directory // SECTOR,
        overhead // SECTOR,
        0,
        b"\n \r\n",
        1 if compressed else 0,
    ).ljust(SECTOR, b"\0")


class SparseWriter:
    """A monolithicSparse file, or one part of a split disk, into a new file."""

    def __init__(
        self,
        fd: int,
        name: str,
        capacity: int,
        descriptor: bytes,
        *,
        grain: int = GRAIN,
        room: int = 0,
    ) -> None:
        """`descriptor` is the text to embed; empty for a part of a split disk.

        `room` is for the text, bytes, whole sectors; the usual 20 sectors if it asks for less.
        """
        self._fd, self._name, self._grain = fd, name, grain
        self._capacity = capacity
        self._room = max(_DESCRIPTOR, room) if descriptor else 0
        if len(descriptor) > self._room:
            text = f"the descriptor of {len(descriptor)} bytes needs more than {self._room}"
            raise StorageError(name, text)
        tables = ceil_div(capacity, grain * _ENTRIES)
        directory = align_up(tables * 4, SECTOR)
        self._redundant = SECTOR + self._room
        self._directory = self._redundant + directory + tables * _TABLE
        self._first_table = (self._redundant + directory, self._directory + directory)
        self._overhead = align_up(self._directory + directory + tables * _TABLE, grain)
        self._next = self._overhead
        self._table, self._entries = -1, np.zeros(_ENTRIES, "<u4")
        self._any_zeroed = False
        os.ftruncate(fd, self._overhead)
        write_all(self._fd, self._header() + descriptor, 0)
        steps = np.arange(tables, dtype=np.int64) * _TABLE
        for at, first in zip((self._redundant, self._directory), self._first_table, strict=True):
            write_all(self._fd, ((first + steps) // SECTOR).astype("<u4").tobytes(), at)

    def write(self, grains: Grains) -> int:
        """Store the filled grains; returns the bytes written."""
        filled = grains.filled
        stored = filled if grains.blank is None else filled | grains.blank
        count = int(stored.sum())
        if self._next + count * self._grain > MOST_SPARSE:
            raise StorageError(self._name, "a sparse extent cannot grow beyond 2 TiB")
        places = self._next + (np.cumsum(stored) - 1) * self._grain
        entries = np.where(stored, places // SECTOR, 0)
        if grains.zeroed is not None and grains.zeroed.any():
            entries[grains.zeroed & ~stored] = _ZEROED
            self._any_zeroed = True
        self._enter(grains.first, entries)
        chosen = np.flatnonzero(filled)
        edges = np.flatnonzero(np.diff(chosen) != 1) + 1
        for run in np.split(chosen, edges) if len(chosen) else []:
            begin, end = int(run[0]) * self._grain, (int(run[-1]) + 1) * self._grain
            self._put_data(grains.data[begin:end], int(places[run[0]]))
        self._next += count * self._grain
        return len(chosen) * self._grain

    def _put_data(self, data: memoryview, at: int) -> None:
        """Write whole grains; where most of them is zeros, only the rest: the file is new there."""
        words = np.frombuffer(data, np.uint64).reshape(-1, _BLOCK // 8)
        # The first word of each block tells whether it is worth looking at all of them.
        if np.count_nonzero(words[:, 0]) * 2 < len(words):
            filled = words.any(axis=1)
            if np.count_nonzero(filled) * 2 < len(words):
                edges = np.flatnonzero(np.diff(filled.astype(np.int8), prepend=0, append=0))
                for begin, end in (edges.reshape(-1, 2) * _BLOCK).tolist():
                    write_all(self._fd, data[begin:end], at + begin)
                return
        write_all(self._fd, data, at)

    def finish(self) -> None:
        """Write the last table and give the file its size."""
        self._flush()
        if self._any_zeroed:
            write_all(self._fd, self._header(), 0)
        os.ftruncate(self._fd, self._next)

    def _header(self) -> bytes:
        flags = layout.FLAG_NEWLINES | layout.FLAG_REDUNDANT
        return pack_header(
            version=_VERSION_ZEROED if self._any_zeroed else _VERSION_SPARSE,
            flags=flags | (layout.FLAG_ZEROED if self._any_zeroed else 0),
            capacity=self._capacity,
            descriptor=self._room,
            redundant=self._redundant,
            directory=self._directory,
            overhead=self._overhead,
            grain=self._grain,
        )

    def _enter(self, first: int, entries: NDArray[np.int64]) -> None:
        """Note what consecutive grains are: where they will lie, or that they are zeros."""
        numbers = first + np.arange(len(entries))
        for table in range(first // _ENTRIES, int(numbers[-1]) // _ENTRIES + 1):
            inside = numbers // _ENTRIES == table
            if not entries[inside].any():
                continue
            if table != self._table:
                self._flush()
                self._table = table
            self._entries[numbers[inside] % _ENTRIES] = entries[inside]

    def _flush(self) -> None:
        if self._table < 0:
            return
        for first in self._first_table:
            write_all(self._fd, self._entries.tobytes(), first + self._table * _TABLE)
        self._entries[:] = 0


def sparse_bytes(capacity: int, grains: int, *, embedded: bool) -> int:
    """Bytes of a sparse extent of the usual shape that stores `grains` grains."""
    tables = ceil_div(capacity, GRAIN * _ENTRIES)
    one_set = align_up(tables * 4, SECTOR) + tables * _TABLE
    front = SECTOR + (_DESCRIPTOR if embedded else 0) + 2 * one_set
    return align_up(front, GRAIN) + grains * GRAIN


def most_stream_bytes(capacity: int, grains: int, tables: int) -> int:
    """Bytes that a stream of `grains` grains, in `tables` tables, takes at most."""
    front = align_up(SECTOR + _DESCRIPTOR, GRAIN)
    grain = align_up(_MARKER_HEAD + len(stored(memoryview(bytes(GRAIN)))), SECTOR)
    directory = align_up(ceil_div(capacity, GRAIN * _ENTRIES) * 4, SECTOR)
    # Markers before each table, the directory and the footer; the footer; the end marker.
    return front + grains * grain + tables * (SECTOR + _TABLE) + SECTOR + directory + 3 * SECTOR


class StreamWriter:
    """A streamOptimized disk as ESXi sends it, to anything that takes bytes in order.

    Grains ascend, each table follows its grains, then the directory, the footer and the end marker
    (variant A of docs/formats/stream.md, which the most readers accept).
    """

    def __init__(self, put: Callable[[bytes], object], capacity: int, descriptor: bytes) -> None:
        """`put` takes the next bytes of the file."""
        self._put_bytes = put
        self._capacity = capacity
        self._room = max(_DESCRIPTOR, align_up(len(descriptor), SECTOR))
        self._overhead = align_up(SECTOR + self._room, GRAIN)
        self._at = 0
        tables = ceil_div(capacity, GRAIN * _ENTRIES)
        self._places = np.zeros(tables, "<u4")
        self._table, self._entries = -1, np.zeros(_ENTRIES, "<u4")
        head = self._header(layout.GD_AT_END * SECTOR) + descriptor
        self._put(head.ljust(self._overhead, b"\0"))

    def write(self, grains: Grains) -> int:
        """Append the filled grains, compressed; returns the bytes written."""
        before = self._at
        parts: list[bytes] = []
        size = 0
        numbers = (grains.first + np.flatnonzero(grains.filled)).tolist()
        for number, packed in zip(numbers, grains.packed, strict=True):
            if number // _ENTRIES != self._table:
                self._put(b"".join(parts))
                parts, size = [], 0
                self._flush()
                self._table = number // _ENTRIES
            place = (self._at + size) // SECTOR
            if place >= 1 << 32:
                raise StorageError("stream", "a stream cannot grow beyond 2 TiB")
            self._entries[number % _ENTRIES] = place
            marker = struct.pack("<QI", number * (GRAIN // SECTOR), len(packed))
            part = marker + packed
            part += bytes(-len(part) % SECTOR)
            parts.append(part)
            size += len(part)
        self._put(b"".join(parts))
        return self._at - before

    def finish(self) -> None:
        """Last table, directory, footer, end."""
        self._flush()
        directory = self._places.tobytes()
        directory += bytes(-len(directory) % SECTOR)
        self._put(self._marker(len(directory) // SECTOR, layout.MARKER_GD))
        place = self._at
        self._put(directory)
        self._put(self._marker(1, layout.MARKER_FOOTER) + self._header(place))
        self._put(bytes(SECTOR))

    def _flush(self) -> None:
        if self._table < 0 or not self._entries.any():
            return
        self._put(self._marker(_TABLE // SECTOR, layout.MARKER_GT))
        self._places[self._table] = self._at // SECTOR
        self._put(self._entries.tobytes())
        self._entries[:] = 0

    def _header(self, directory: int) -> bytes:
        return pack_header(
            version=_VERSION_STREAM,
            flags=layout.FLAG_NEWLINES | layout.FLAG_COMPRESSED | layout.FLAG_MARKERS,
            capacity=self._capacity,
            descriptor=self._room,
            redundant=0,
            directory=directory,
            overhead=self._overhead,
        )

    @staticmethod
    def _marker(value: int, kind: int) -> bytes:
        return struct.pack("<QII", value, 0, kind).ljust(SECTOR, b"\0")

    def _put(self, data: bytes) -> None:
        if data:
            self._put_bytes(data)
            self._at += len(data)


def packer(level: int) -> Callable[[memoryview], bytes]:
    """Compresses one grain into a zlib stream.

    Levels 0 to 3 are isal's, from fastest to smallest; 4 to 9 zlib's of the same number. What would
    grow is stored: a grain never takes more than a few bytes over its size.
    """
    if level <= 3:
        from isal import igzip_lib

        def pack(grain: memoryview) -> bytes:
            packed = igzip_lib.compress(grain, level, igzip_lib.COMP_ZLIB)
            return packed if len(packed) <= len(grain) else stored(grain)

        return pack
    import zlib

    return lambda grain: zlib.compress(grain, level)


def stored(grain: memoryview) -> bytes:
    """A zlib stream that holds the grain as it is."""
    import zlib

    return zlib.compress(grain, 0)
