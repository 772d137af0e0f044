# SPDX-License-Identifier: Apache-2.0
"""Writing seSparse extents, on request only. Not verified against VMware.

The file is kept in the state of one that was closed: replayJournal stays 0, so the journal, whose
records are not public, is never needed. The bitmap and the back map are durable before the entry
they belong to (vmdk-formats 3.2). Whether ESXi takes such a file was never tried.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from diskkit.errors import StorageError, UsageError
from diskkit.formats.vmdk import esx
from diskkit.formats.vmdk.sesparse import DIRECTORY_MARK, SeSparseScheme
from diskkit.formats.vmdk.tablemap import TableMap
from diskkit.formats.vmdk.writing.grains import GrainWriter
from diskkit.interfaces import ZEROS
from diskkit.runs import State

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from diskkit.formats.link import Extent, Link
    from diskkit.formats.vmdk.grains import Entries
    from diskkit.interfaces import BlockWriter, OpenPolicy
    from diskkit.table import Int64

_FREE_TABLE_AT = 8
_CHUNK = 1 << 16
_SEARCHED = 1 << 26
"""Grains of the file among which free ones are looked for at a time, so that memory stays flat."""


class SeSparseWriter(GrainWriter):
    """One seSparse extent."""

    hides = True

    def __init__(self, of: TableMap, scheme: SeSparseScheme) -> None:
        """Grains are taken from beyond the end of the file, then from what is free inside it."""
        self._header = scheme.header
        super().__init__(of, max(of.storage.size, self._header.grains.offset))
        self.limit = self._header.grains.end
        self._next_table = -1
        self._new: list[tuple[int, int]] = []
        """Grain number and table number, of grains entered since the last commit."""
        self._free: list[int] = []
        self._searched = 0
        """The stretch of the file in which free grains were found last."""

    @property
    def alignment(self) -> int:
        """Grains are counted from where their area begins, which is a multiple of them."""
        return esx.SE_GRAIN

    def encode(self, places: Int64) -> Entries:
        """The type, and a rotated grain number."""
        index = np.maximum(places - self._header.grains.offset, 0) // esx.SE_GRAIN
        low, high = (index & 0xFFF).astype(np.uint64), (index >> 12).astype(np.uint64)
        filled = np.uint64(3 << 60) | (low << np.uint64(48)) | high
        zeros = np.uint64(2 << 60)
        nothing = np.uint64(0)
        return np.where(places >= 0, filled, np.where(places == ZEROS, zeros, nothing)).astype(
            "<u8"
        )

    def allocate(self, first: int, count: int) -> list[tuple[int, int, int, bool]]:
        """Beyond the end while there is room; then grain by grain where nothing lies."""
        if self._next + count * esx.SE_GRAIN <= self.limit:
            return super().allocate(first, count)
        parts = []
        for grain in range(first, first + count):
            place = self._parked.pop(grain, -1)
            parts.append((grain, 1, place if place >= 0 else self._inside(), False))
        return parts

    def _inside(self) -> int:
        """A grain inside the file that no table names."""
        if not self._free:
            self._free = self._unused()
        if not self._free:
            raise StorageError(self.storage.name, "no grain of the extent is free")
        return self._header.grains.offset + self._free.pop() * esx.SE_GRAIN

    def _unused(self) -> list[int]:
        """Numbers of grains inside the file that no table, live or on the medium, names."""
        grains = self._header.grains
        count = (min(self.storage.size, grains.end) - grains.offset) // esx.SE_GRAIN
        stretches = range(0, count, _SEARCHED)
        # On from where the last ones were: what lies before was full then.
        at = min(self._searched, len(stretches))
        for low in (*stretches[at:], *stretches[:at]):
            used = self._used(low, min(count, low + _SEARCHED))
            free: list[int] = []
            for begin in range(0, len(used), _CHUNK):
                free += (low + begin + np.flatnonzero(~used[begin : begin + _CHUNK])).tolist()
                if len(free) >= _CHUNK:
                    break
            if free:
                self._searched = low // _SEARCHED
                return free
        return []

    def _used(self, low: int, high: int) -> NDArray[np.bool_]:
        """Which of the grains from number `low` to `high` some table names."""
        used = np.zeros(high - low, bool)
        origin = self._header.grains.offset + low * esx.SE_GRAIN
        offset = 0
        while offset < self.length:
            table = self.scan(offset, self.length - offset)
            data = table.states == State.DATA
            starts = (table.positions[data] - origin) // esx.SE_GRAIN
            # The last grain of the extent may be cut by its end.
            ends = starts + np.maximum(1, table.lengths[data] // esx.SE_GRAIN)
            here = (ends > 0) & (starts < high - low)
            begins = np.maximum(starts[here], 0)
            for begin, end in zip(begins.tolist(), ends[here].tolist(), strict=True):
                used[begin:end] = True
            offset = table.end
        for place in (*(place for _, place in self._freed), *self._parked.values()):
            number = (place - origin) // esx.SE_GRAIN
            if 0 <= number < high - low:
                used[number] = True
        return used

    def enter(self, first: int, count: int, position: int) -> None:
        """In the live tables; the bitmap and the back map follow with the commit."""
        super().enter(first, count, position)
        index = (position - self._header.grains.offset) // esx.SE_GRAIN
        self._new += [(index + i, (first + i) // self._entries) for i in range(count)]

    def prepare(self) -> None:
        """Bitmap and back map of new grains, and the number of the next table."""
        grains = np.array([g for g, _ in self._new], np.int64)
        if len(grains):
            owners = np.array([self._index_of(t) for _, t in self._new], np.uint64)
            order = np.argsort(grains)
            self._mark(grains[order], used=True)
            self._map_back(grains[order], owners[order])
        if self._made:
            at = self._header.volatile.offset + _FREE_TABLE_AT
            self.storage.write(at, struct.pack("<Q", self._next_table))

    def _index_of(self, number: int) -> int:
        """The number, among the grain tables, of directory entry `number`'s."""
        where = self._where[number] or self._made[number]
        return (where[0] - self._header.tables.offset) // esx.SE_TABLE_SIZE

    def _mark(self, grains: Int64, *, used: bool) -> None:
        """Set or clear ascending grains' bits, the lowest bit of a byte first."""
        for part in _stretches(grains >> 3):
            cells = grains[part] >> 3
            begin = int(cells[0])
            length = int(cells[-1]) - begin + 1
            at = self._header.bitmap.offset + begin
            bits = np.frombuffer(bytearray(self.storage.read(at, length)), np.uint8)
            masks = np.left_shift(1, grains[part] & 7).astype(np.uint8)
            if used:
                np.bitwise_or.at(bits, cells - begin, masks)
            else:
                np.bitwise_and.at(bits, cells - begin, ~masks)
            self.storage.write(at, bits.tobytes())

    def _map_back(self, grains: Int64, owners: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> None:
        for part in _stretches(grains):
            at = self._header.back_map.offset + int(grains[part][0]) * 8
            self.storage.write(at, owners[part].astype("<u8").tobytes())

    def make_table(self, number: int) -> tuple[int, ...]:
        """The first one never used."""
        if self._next_table < 0:
            self._next_table = self._count_tables()
        place = self._header.tables.offset + self._next_table * esx.SE_TABLE_SIZE
        if place + esx.SE_TABLE_SIZE > self._header.tables.end:
            raise StorageError(self.storage.name, "no grain table of the extent is free")
        self._next_table += 1
        return (place,)

    def _count_tables(self) -> int:
        """Tables in use, counted from the first, by the directory and by the volatile header."""
        at = self._header.volatile.offset + _FREE_TABLE_AT
        count = int.from_bytes(self.storage.read(at, 8), "little")
        count = min(count, self._header.tables.size // esx.SE_TABLE_SIZE)
        for first in range(0, self.scheme.tables, _CHUNK):
            places, _ = self.tables.directory(first, min(first + _CHUNK, self.scheme.tables))
            if places.any():
                last = int(places.max()) - self._header.tables.offset
                count = max(count, last // esx.SE_TABLE_SIZE + 1)
        return count

    def link_tables(self, made: dict[int, tuple[int, ...]]) -> None:
        """There is one directory."""
        for number, (place,) in made.items():
            index = (place - self._header.tables.offset) // esx.SE_TABLE_SIZE
            entry = struct.pack("<II", index, DIRECTORY_MARK)
            self.storage.write(self.scheme.directory_offset + number * 8, entry)

    def commit(self) -> None:
        """As for every kind; then nothing new is left to be marked."""
        super().commit()
        self._new.clear()

    def freed(self, positions: list[int]) -> None:
        """Clear their bits."""
        grains = (np.array(positions, np.int64) - self._header.grains.offset) // esx.SE_GRAIN
        self._mark(np.unique(grains), used=False)


def _stretches(values: Int64) -> list[slice]:
    """Where ascending values follow each other closely enough to be handled in one go."""
    edges = (np.flatnonzero(np.diff(values) > 1) + 1).tolist()
    return [slice(a, b) for a, b in zip([0, *edges], [*edges, len(values)], strict=True)]


def write_sesparse(link: Link, extent: Extent, policy: OpenPolicy) -> BlockWriter:
    """SESPARSE."""
    of = extent.map
    assert isinstance(of, TableMap)
    scheme = of.tables.scheme
    assert isinstance(scheme, SeSparseScheme)
    if not policy.experimental:
        text = "writing seSparse disks is experimental: never tried on ESXi (ask for it explicitly)"
        raise UsageError(f"{of.storage.name}: {text}")
    return SeSparseWriter(of, scheme)
