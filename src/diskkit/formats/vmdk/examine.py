# SPDX-License-Identifier: Apache-2.0
"""What a check looks at inside one extent: every table entry, its redundant twin, what is leaked.

Reading judges only the entries it needs; this walks all of them, in batches of bounded size, and
also sees what no single entry shows: two entries that share a grain, copies that differ, space that
nothing points at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diskkit.errors import FormatError
from diskkit.formats.vmdk.cowd import CowdScheme
from diskkit.formats.vmdk.sparse import SparseMap
from diskkit.formats.vmdk.stream import check_marker
from diskkit.formats.vmdk.tablemap import TableMap
from diskkit.problem import Problem, from_error
from diskkit.runs import State, joined
from diskkit.units import SECTOR, align_down, align_up, format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from diskkit.formats.link import Extent
    from diskkit.formats.vmdk.grains import Entries, GrainTables, Judged
    from diskkit.table import Int64

_LISTED = 10
"""Findings of one kind that are named one by one; the rest are counted."""
_TABLES = 2048
_LATE = 1 << 16


def examine(extent: Extent, step: Callable[[int], None]) -> Iterator[Problem]:
    """Every problem of one extent. `step` is called with guest bytes looked at, now and then."""
    if isinstance(extent.map, TableMap):
        yield from _Tables(extent.map, step).problems()
    elif extent.storage is not None and extent.line.kind in ("FLAT", "VMFS"):
        rest = extent.storage.size - extent.line.offset - extent.line.length
        if rest > 0 and extent.line.kind == "VMFS":
            text = f"flat extent: {rest} bytes follow the extent in its file"
            yield Problem("flat-extent.longer", "warning", extent.storage.name, text)


class _Tables:
    """The walk over one extent's tables."""

    def __init__(self, of: TableMap, step: Callable[[int], None]) -> None:
        self.map = of
        self.tables: GrainTables = of.tables
        self.scheme = of.tables.scheme
        self.path = of.storage.name
        packed = isinstance(of, SparseMap) and of.header.compressed
        # Compressed grains may lie closer than a grain, but never two in one sector.
        self.seen = Seen(of.storage.size, SECTOR if packed else self.scheme.grain)
        self.step = step
        self.counts: dict[str, int] = {}
        self.late: list[int] = []
        """Where tables lie that come after the first grain."""
        self.used = self.unaligned = self.table_bytes = self.late_tables = 0

    def problems(self) -> Iterator[Problem]:
        cover = self.scheme.entries * self.scheme.grain
        for first in range(0, self.scheme.tables, _TABLES):
            last = min(first + _TABLES, self.scheme.tables)
            places, reasons = self.tables.directory(first, last)
            for index in np.flatnonzero(reasons).tolist():
                error = self.tables.explain((first + index) * cover)
                yield from self.listed(from_error(error))
            good = np.flatnonzero((places > 0) & (reasons == 0))
            raw = self.tables.read_tables(places[good])
            self.table_bytes += raw.nbytes
            if isinstance(self.map, SparseMap):
                late = places[good][places[good] >= self.map.header.overhead]
                self.late_tables += len(late)
                self.late += late[: max(0, _LATE - len(self.late))].tolist()
            yield from self.entries(first + good, raw)
            if self.tables.spare is not None:
                yield from self.twin(first, places, good, raw)
            self.step(min(last * cover, self.scheme.length))
        yield from self.tables_in_grains()
        yield from self.summary()

    def tables_in_grains(self) -> Iterator[Problem]:
        """A table among the grains must not lie in one: whoever writes one changes the other."""
        if isinstance(self.map, SparseMap) and self.map.header.compressed:
            return
        size = self.scheme.entries * self.scheme.width
        for place in self.late:
            if self.seen.overlaps(place, size):
                text = f"grain directory: the table at byte {place} lies in a grain"
                yield from self.listed(self.error("grain-directory.in-grain", text))

    def listed(self, problem: Problem) -> Iterator[Problem]:
        """Name the first few of a kind; count the rest for the summary."""
        count = self.counts[problem.code] = self.counts.get(problem.code, 0) + 1
        if count <= _LISTED:
            yield problem

    def entries(self, tables: Int64, raw: Entries) -> Iterator[Problem]:
        scheme = self.scheme
        judged = scheme.judge(raw, self.tables.needs(tables))
        offsets = (tables[:, None] * scheme.entries + np.arange(scheme.entries)) * scheme.grain
        inside = offsets < scheme.length
        for offset in offsets[(judged.reasons != 0) & inside].tolist():
            error = self.tables.explain(offset)
            error.structure = "grain table"
            problem = from_error(error)
            yield from self.listed(
                Problem("grain-table.entry", "error", problem.where, problem.message)
            )
        filled = (judged.states >= State.DATA) & (judged.reasons == 0) & inside
        yield from self.duplicates(offsets[filled], judged.positions[filled])
        yield from self.markers(judged, filled, offsets)
        stray = (raw != 0) & ~inside
        if stray.any():
            text = f"{int(stray.sum())} entries beyond the capacity are not 0"
            yield from self.listed(self.warning("grain-table.beyond-capacity", text))

    def duplicates(self, offsets: Int64, positions: Int64) -> Iterator[Problem]:
        self.used += len(positions)
        self.unaligned += int((positions % self.scheme.grain != 0).sum())
        again = self.seen.add(positions)
        for offset, position in zip(
            offsets[again].tolist(), positions[again].tolist(), strict=True
        ):
            text = (
                f"grain table: entry {offset // self.scheme.grain} points at byte {position}, "
                "where another entry's grain lies"
            )
            yield from self.listed(Problem("grain-table.duplicate", "error", self.path, text))

    def markers(
        self, judged: Judged, filled: NDArray[np.bool_], offsets: Int64
    ) -> Iterator[Problem]:
        if not isinstance(self.map, SparseMap) or not self.map.header.compressed:
            return
        storage, header = self.map.storage, self.map.header
        for offset, position in zip(
            offsets[filled].tolist(), judged.positions[filled].tolist(), strict=True
        ):
            try:
                check_marker(storage, header, offset, position)
            except FormatError as error:
                yield from self.listed(from_error(error))

    def twin(self, first: int, places: Int64, good: Int64, raw: Entries) -> Iterator[Problem]:
        """Hold directory and tables against their redundant copies."""
        spare = self.tables.spare
        assert spare is not None
        others, reasons = spare.directory(first, first + len(places))
        for index in np.flatnonzero(reasons).tolist():
            text = f"redundant grain directory: entry {first + index} cannot be right"
            yield from self.listed(self.error("redundant-directory.entry", text))
        for index in np.flatnonzero((places == others) & (places > 0)).tolist():
            text = f"grain directory: entry {first + index} and its redundant twin share a table"
            yield from self.listed(self.error("redundant-directory.shared", text))
        for index in np.flatnonzero((places > 0) != (others > 0)).tolist():
            text = f"grain directory: entry {first + index} and its redundant twin disagree"
            yield from self.listed(self.error("redundant-directory.differs", text))
        both = (others[good] > 0) & (reasons[good] == 0)
        copy = spare.read_tables(others[good[both]])
        for row in np.flatnonzero((copy != raw[both]).any(axis=1)).tolist():
            text = f"grain table {first + int(good[both][row])} differs from its redundant copy"
            yield from self.listed(self.error("redundant-table.differs", text))

    def summary(self) -> Iterator[Problem]:
        for code, count in self.counts.items():
            if count > _LISTED:
                text = f"{count - _LISTED} more findings of {code}"
                yield Problem(code, "error", self.path, text)
        if isinstance(self.scheme, CowdScheme):
            spare = self.leaked(self.scheme.low, self.scheme.free) - self.table_bytes
            used = self.used * self.scheme.grain
            # Zeroed grains and rounding leave crumbs in a log that is in use: grains are smaller
            # than what a filesystem takes back.
            if spare >= max(self.scheme.grain, self.scheme.entries * self.scheme.width, used // 16):
                yield self.warning("leaked", f"{format_size(spare)} belong to nothing")
        if not isinstance(self.map, SparseMap) or self.map.header.compressed:
            return
        if self.unaligned:
            text = f"{self.unaligned} grains do not begin on a multiple of the grain size"
            yield self.warning("grain-table.unaligned", text)
        leaked = self.leaked(self.map.header.overhead, self.map.storage.size)
        # Tables that were made with their use may each leave a gap before the next grain.
        if leaked >= self.scheme.grain * (1 + self.late_tables) + self.table_bytes:
            text = f"{format_size(leaked)} at the end or between grains belong to nothing"
            yield self.warning("leaked", text)

    def leaked(self, first: int, last: int) -> int:
        """Bytes between two places of the file that take room and belong to no grain.

        What the filesystem has as a hole takes none: that is what is left of a zeroed grain.
        """
        storage = self.map.storage
        rest = min(last, storage.size) - first
        if rest <= self.used * self.scheme.grain:
            return 0
        grain, leaked = self.scheme.grain, 0
        whole = (
            (align_down(begin, grain), align_up(end, grain))
            for begin, end in storage.data_ranges(first, rest)
        )
        for begin, end in joined(whole):
            used = self.seen.count(begin - grain + 1, end) * grain
            leaked += max(0, min(end, last, storage.size) - begin - used)
        return leaked

    def error(self, code: str, text: str) -> Problem:
        return Problem(code, "error", self.path, text)

    def warning(self, code: str, text: str) -> Problem:
        return Problem(code, "warning", self.path, text)


class Seen:
    """Remembers where grains lie: a bit per grain of file, for each way of being unaligned."""

    def __init__(self, size: int, grain: int) -> None:
        self._grain = grain
        self._bits: dict[int, NDArray[np.uint8]] = {}
        self._cells = size // grain + 3

    def add(self, positions: Int64) -> NDArray[np.bool_]:
        """Which of `positions` overlap one there before, or one earlier in the same array."""
        again = np.zeros(len(positions), bool)
        phases = positions % self._grain
        for phase in np.unique(phases).tolist():
            chosen = np.flatnonzero(phases == phase)
            cells = positions[chosen] // self._grain + 1
            first = np.zeros(len(cells), bool)
            first[np.unique(cells, return_index=True)[1]] = True
            hit = ~first | self._has(phase, cells)
            for other in self._bits:
                if other != phase:
                    hit |= self._has(other, cells)
                    hit |= self._has(other, cells + (1 if other < phase else -1))
            again[chosen] = hit
            bits = self._bits.setdefault(phase, np.zeros(self._cells // 8 + 1, np.uint8))
            np.bitwise_or.at(bits, cells >> 3, np.left_shift(1, cells & 7).astype(np.uint8))
        return again

    def overlaps(self, begin: int, length: int) -> bool:
        """Whether a range of the file shares a byte with a grain there."""
        return self.count(begin - self._grain + 1, begin + length) > 0

    def count(self, begin: int, end: int) -> int:
        """How many grains begin in a range of the file."""
        total = 0
        for phase, bits in self._bits.items():
            low, high = (-(-(at - phase) // self._grain) + 1 for at in (begin, end))
            part = np.unpackbits(bits[low >> 3 : (high >> 3) + 1], bitorder="little")
            total += int(part[low & 7 : high - (low >> 3 << 3)].sum())
        return total

    def _has(self, phase: int, cells: Int64) -> NDArray[np.bool_]:
        bits = self._bits.get(phase)
        if bits is None:
            return np.zeros(len(cells), bool)
        found: NDArray[np.bool_] = (bits[cells >> 3] >> (cells & 7)) & 1 != 0
        return found
