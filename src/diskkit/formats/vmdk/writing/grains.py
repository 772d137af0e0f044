# SPDX-License-Identifier: Apache-2.0
"""What the writers of extents with grain tables share: live tables, and the order of writes.

Tables in use are kept in memory, decoded into file positions: a lookup is a dict and an array.
Changed ones stay there until `commit`, which writes in an order that leaves a disk at any moment:

1. new grains are written as they come, into room that nothing points at;
2. `commit` writes tables that are new, and what a kind keeps besides (`prepare`), and flushes;
3. what bounds the room in use is moved (`announce`), and flushed, where a kind has such a bound;
4. changed tables, the redundant copy first, then directory entries of new tables; flushed.

A crash before 4 leaves room that belongs to nothing. A crash in 4 leaves some entries new and some
old; both are right, because bytes not flushed yet may be there or not. Grains that were zeroed give
their room back to the filesystem after 4; the room is used again for the same grain only, so a
reader that looked a place up just before never sees another grain's bytes.
"""

from __future__ import annotations

from abc import abstractmethod
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from diskkit.errors import FormatError, StorageError
from diskkit.interfaces import NOTHING, ZEROS, BlockWriter, WritableStorage
from diskkit.runs import State, joined
from diskkit.table import DATA, HOLE, ZERO, RunTable, merge
from diskkit.units import align_up, ceil_div

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from diskkit.formats.link import Extent
    from diskkit.formats.vmdk.grains import Entries
    from diskkit.formats.vmdk.tablemap import TableMap
    from diskkit.table import Int64

_KEPT_BYTES = 32 << 20
"""Tables kept in memory, changed ones not counted."""
_PENDING = 1 << 16
"""Grains entered before they are committed unasked, so that memory stays flat,"""
_DIRTY_BYTES = 32 << 20
"""and bytes of tables that they are in."""
_PARKED = 1 << 16
"""Grains whose old room is remembered for them."""
_EXTEND = 1 << 20
"""The file is made longer in steps of at least this."""
_SCANNED = 512


class GrainWriter(BlockWriter):
    """Changes one extent that has tables of grains; a kind adds how entries look."""

    def __init__(self, of: TableMap, next_free: int) -> None:
        """`next_free` is the file position from which nothing is in use."""
        assert isinstance(of.storage, WritableStorage)
        self.map = of
        self.storage = of.storage
        self.tables = of.tables
        self.scheme = of.tables.scheme
        self.length, self.granularity = of.length, of.granularity
        self._entries = self.scheme.entries
        self._cover = self._entries * self.granularity
        self._next = align_up(next_free, self.alignment)
        self._kept: dict[int, Int64] = {}
        """By table number: the file position, `ZEROS` or `NOTHING` of each of its grains."""
        self._where: dict[int, tuple[int, ...]] = {}
        """By table number: where it and its redundant copy lie; empty for one that is not there."""
        self._most_kept = max(4, _KEPT_BYTES // (self._entries * 8))
        self._most_dirty = max(4, _DIRTY_BYTES // (self._entries * 8))
        self._guard = Lock()
        """Held while a table is loaded or forgotten."""
        self._dirty: set[int] = set()
        self._made: dict[int, tuple[int, ...]] = {}
        """Tables that have room, but no entry in the directory on the medium."""
        self._pending = 0
        self._parked: dict[int, int] = {}
        self._freed: list[tuple[int, int]] = []
        """Grain and old position, of grains zeroed since the last commit."""
        if self.length % self.granularity:
            # The last grain need not be whole in the file, but its room is its own.
            last = self.column(self.length // self.granularity, 1).item()
            self._next = max(self._next, align_up(last + self.granularity, self.alignment))

    # --- what a kind adds ---------------------------------------------------------------------

    @property
    def alignment(self) -> int:
        """Grains begin at multiples of this many bytes of the file."""
        return self.granularity

    limit = 1 << 62
    """Where the last grain must end, bytes."""

    @abstractmethod
    def encode(self, places: Int64) -> Entries:
        """Table entries for file positions, `ZEROS` and `NOTHING`."""

    @abstractmethod
    def make_table(self, number: int) -> tuple[int, ...]:
        """Room for table `number` and its copies; the file is long enough then."""

    @abstractmethod
    def link_tables(self, made: dict[int, tuple[int, ...]]) -> None:
        """Write the directory entries of new tables."""

    def prepare(self) -> None:
        """Write what must be durable before any entry is."""

    def announce(self) -> None:
        """Move, and flush, what bounds the room in use."""

    def freed(self, positions: list[int]) -> None:
        """Note grains whose room is in no table any more."""

    # --- looking up ---------------------------------------------------------------------------

    def places(self, offset: int, length: int) -> Sequence[tuple[int, int, int]]:
        """From the live tables."""
        grain = self.granularity
        first, inside = divmod(offset, grain)
        if inside + length <= grain:
            number, entry = divmod(first, self._entries)
            table = self._kept.get(number)
            if table is None:
                table = self._load(number)
            place = table.item(entry)
            return ((offset, offset + length, place + inside if place >= 0 else place),)
        end = offset + length
        places = self.column(first, ceil_div(end, grain) - first)
        step = np.where(places[:-1] >= 0, grain, 0)
        breaks = np.flatnonzero(places[1:] != places[:-1] + step) + 1
        rows = []
        for low, high in pairwise([0, *breaks.tolist(), len(places)]):
            begin = max(offset, (first + low) * grain)
            place = places.item(low)
            if place >= 0:
                place += begin - (first + low) * grain
            rows.append((begin, min(end, (first + high) * grain), place))
        return rows

    def column(self, first: int, count: int) -> Int64:
        """The place of each of `count` grains from number `first`."""
        parts = []
        end = first + count
        while first < end:
            number, entry = divmod(first, self._entries)
            table = self._kept.get(number)
            if table is None:
                table = self._load(number)
            part = table[entry : entry + end - first]
            parts.append(part)
            first += len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _load(self, number: int) -> Int64:
        """Read and judge a table, and keep it."""
        with self._guard:
            table = self._kept.get(number)
            if table is not None:
                return table
            where = self._find(number)
            table = np.full(self._entries, NOTHING, np.int64)
            if where:
                raw = self.tables.read_tables(np.array(where[:1], np.int64))
                judged = self.scheme.judge(raw, self.tables.needs(np.array([number])))
                if judged.reasons.any():
                    entry = int(judged.reasons[0].argmax())
                    raise self.tables.explain((number * self._entries + entry) * self.granularity)
                self._compare_copies(number, where, raw)
                states = judged.states[0]
                table[states == State.ZERO] = ZEROS
                table[states == State.DATA] = judged.positions[0][states == State.DATA]
            self._forget()
            self._where[number] = where
            self._kept[number] = table
            return table

    def _find(self, number: int) -> tuple[int, ...]:
        """Where a table and its redundant copy lie, as the directories say."""
        found = []
        for tables in (self.tables, self.tables.spare):
            if tables is None:
                continue
            places, reasons = tables.directory(number, number + 1)
            if reasons[0]:
                raise tables.explain(number * self._cover)
            found.append(int(places[0]))
        if any(found) != all(found):
            raise self._damaged(number, "one of the two directories does not have it")
        return tuple(found) if all(found) else ()

    def _compare_copies(self, number: int, where: tuple[int, ...], raw: Entries) -> None:
        for place in where[1:]:
            copy = self.tables.read_tables(np.array([place], np.int64))
            if not np.array_equal(copy, raw):
                raise self._damaged(number, "it differs from its redundant copy")

    def _damaged(self, number: int, problem: str) -> FormatError:
        return FormatError(
            f"{problem}: not written to as it is",
            path=self.storage.name,
            structure="grain table",
            field=f"table {number}",
            advice="repair the disk",
        )

    def _forget(self) -> None:
        """Make room among the kept tables. The caller holds the guard."""
        if len(self._kept) < self._most_kept + len(self._dirty):
            return
        clean = [n for n in self._kept if n not in self._dirty]
        for number in clean[: max(1, len(clean) // 4)]:
            del self._kept[number], self._where[number]

    def scan(self, offset: int, length: int) -> RunTable:
        """The file's tables, and the live ones where these differ."""
        number = offset // self._cover
        if number in self._dirty:
            last = number + 1
            while last in self._dirty and last - number < _SCANNED:
                last += 1
            return self._scan_live(offset, min(offset + length, last * self._cover))
        later = [n for n in tuple(self._dirty) if n > number]
        if later:
            length = min(length, min(later) * self._cover - offset)
        return self.tables.scan(offset, length)

    def _scan_live(self, offset: int, end: int) -> RunTable:
        first = offset // self.granularity
        places = self.column(first, ceil_div(end, self.granularity) - first)
        states = np.where(places >= 0, DATA, np.where(places == ZEROS, ZERO, HOLE))
        starts = (first + np.arange(len(places), dtype=np.int64)) * self.granularity
        sources = np.zeros(len(places), np.int64)
        positions = np.maximum(places, 0)
        return merge(RunTable(starts, end, states, sources, positions)).since(offset)

    # --- changing -----------------------------------------------------------------------------

    def allocate(self, first: int, count: int) -> list[tuple[int, int, int, bool]]:
        """At the end of the file; a grain that was zeroed gets the room back that it had."""
        if not self._parked or not any(g in self._parked for g in range(first, first + count)):
            return [(first, count, self.room(count * self.granularity, self.alignment), True)]
        parts = []
        for grain in range(first, first + count):
            place = self._parked.pop(grain, -1)
            blank = place < 0
            if blank:
                place = self.room(self.granularity, self.alignment)
            parts.append((grain, 1, place, blank))
        return parts

    def room(self, length: int, alignment: int) -> int:
        """`length` bytes at the end of what is in use, inside the file, reading as zeros."""
        place = align_up(self._next, alignment)
        if place + length > self.limit:
            text = f"the extent cannot grow beyond {self.limit} bytes"
            raise StorageError(self.storage.name, f"{text} (shrink it, or convert the disk)")
        if place + length > self.storage.size:
            self.storage.resize(max(place + length, self._next + _EXTEND))
            self.size_changed()
        self._next = place + length
        return place

    def enter(self, first: int, count: int, position: int) -> None:
        """In the live tables."""
        self._change(first, position + np.arange(count, dtype=np.int64) * self.granularity)

    def _change(self, first: int, places: Int64) -> None:
        done = 0
        while done < len(places):
            number, entry = divmod(first + done, self._entries)
            table = self._kept.get(number)
            if table is None:
                table = self._load(number)
            n = min(len(places) - done, self._entries - entry)
            # First noted, then changed: a table that is noted is not forgotten.
            self._dirty.add(number)
            if self._kept.get(number) is not table:
                continue
            table[entry : entry + n] = places[done : done + n]
            done += n
        self._pending += len(places)

    def size_changed(self) -> None:
        """Let the judge of entries know how long the file is now."""
        self.scheme.size = self.storage.size

    def clear(self, first: int, hide: NDArray[np.bool_]) -> None:
        """Entries become zeros or nothing; where they already are, nothing happens."""
        places = self.column(first, len(hide))
        wanted = np.where(hide, np.int64(ZEROS), np.int64(NOTHING))
        # What is explicitly zero may stay so: it hides nothing then.
        wanted = np.where((places == ZEROS) & ~hide, np.int64(ZEROS), wanted)
        changed = np.flatnonzero(places != wanted)
        if not len(changed):
            return
        old = places[changed]
        breaks = np.flatnonzero(np.diff(changed) != 1) + 1
        for part in np.split(changed, breaks):
            self._change(first + int(part[0]), wanted[part])
        held = old >= 0
        for grain, place in zip((changed[held] + first).tolist(), old[held].tolist(), strict=True):
            self._freed.append((grain, place))
            self._parked[grain] = place
        if len(self._parked) > _PARKED:
            self._parked.clear()

    @property
    def full(self) -> bool:
        """Whether so much is pending that it should be committed unasked."""
        return self._pending >= _PENDING or len(self._dirty) >= self._most_dirty

    def commit(self) -> None:
        """Steps 2 to 4."""
        if not self._dirty:
            self.storage.flush()
            return
        changed = sorted(self._dirty)
        for number in changed:
            if not self._where[number] and number not in self._made:
                self._made[number] = self.make_table(number)
        for number, where in self._made.items():
            raw = self.encode(self._kept[number]).tobytes()
            for place in where:
                self.storage.write(place, raw)
        self.prepare()
        self.storage.flush()
        self.announce()
        self._write_tables([n for n in changed if self._where[n]])
        if self._made:
            self.link_tables(self._made)
        self.storage.flush()
        self._where.update(self._made)
        self._made.clear()
        self._dirty.clear()
        self._pending = 0
        self._give_back()

    def _write_tables(self, numbers: list[int]) -> None:
        """Redundant copies first; neighbours in the file in one write."""
        if not numbers:
            return
        raw = [self.encode(self._kept[n]).tobytes() for n in numbers]
        for copy in reversed(range(len(self._where[numbers[0]]))):
            at = [self._where[n][copy] for n in numbers]
            begin = 0
            for i in range(1, len(at) + 1):
                if i == len(at) or at[i] != at[i - 1] + len(raw[i - 1]):
                    self.storage.write(at[begin], b"".join(raw[begin:i]))
                    begin = i

    def _give_back(self) -> None:
        """Return the room of zeroed grains to the filesystem."""
        gone = [p for grain, p in self._freed if self.column(grain, 1).item() != p]
        self._freed.clear()
        # Neighbours together: a filesystem takes back whole blocks only.
        for begin, end in joined((p, p + self.granularity) for p in sorted(gone)):
            self.storage.erase(begin, end - begin, give_back=True)
        if gone:
            self.freed(gone)


def check_unclean(extent: Extent, at: int) -> None:
    """An extent that was not closed cleanly is written to only if nothing is wrong with it."""
    from diskkit.formats.vmdk.examine import examine

    for problem in examine(extent, lambda done: None):
        if problem.severity == "error":
            raise FormatError(
                f"it was not closed cleanly, and {problem.message}",
                path=problem.where,
                structure="header",
                field="uncleanShutdown",
                offset=at,
                value=1,
                advice="repair the disk",
            )
