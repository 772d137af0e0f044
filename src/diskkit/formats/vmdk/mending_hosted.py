# SPDX-License-Identifier: Apache-2.0
"""What mends the directories and tables of a hosted sparse extent that is not compressed.

A table of the primary copy counts if all of it can be right, since every reader shows it; else the
redundant one, if all of that can be. Where both have faults, each entry of the primary counts that
can be right, else the redundant one's. What neither copy knows is left. A table that its directory
entry does not lead to is put where VMware's layout has it, if nothing else lies there, else at the
end of the file.

Two entries that name one grain: the later one gets a copy of it. Dropping one would be simpler, but
nobody can know whose bytes they are, and this way everybody reads what they read before, and
writing is safe again.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from diskkit.formats.vmdk import layout
from diskkit.formats.vmdk.examine import Seen
from diskkit.formats.vmdk.mending import Mend, Patch, Stage
from diskkit.runs import State
from diskkit.units import SECTOR, align_up, format_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from diskkit.formats.vmdk.grains import Entries, GrainTables, Scheme
    from diskkit.formats.vmdk.mending import Plan
    from diskkit.formats.vmdk.sparse import SparseMap
    from diskkit.table import Int64

_MOST_TABLES = 1 << 20
_TABLES = 2048
_MOST_STRAYS = 256
_KNOWN = layout.FLAG_NEWLINES | layout.FLAG_REDUNDANT | layout.FLAG_ZEROED
_UNCLEAN_AT = 72
_TABLE_STAGES = (Stage.TABLE, Stage.REDUNDANT_TABLE)
_DIRECTORY_STAGES = (Stage.DIRECTORY, Stage.REDUNDANT_DIRECTORY)
_NAMES = ("grain directory", "redundant grain directory")
_CODES = ("grain-directory", "redundant-directory")
_LIMIT = (1 << 32) * SECTOR


def mend_hosted(of: SparseMap, plan: Plan) -> None:
    """Add to `plan` what mends `of`."""
    header, path = of.header, of.storage.name
    unknown = header.flags & ~_KNOWN
    if unknown or header.version > 2:
        text = f"flags {unknown:#x}" if unknown else f"version {header.version}"
        plan.leave("sparse-header.flags", path, f"{text} of the header: not touched")
        return
    if of.tables.scheme.tables > _MOST_TABLES:
        text = f"more than {_MOST_TABLES} grain tables: too many to be repaired"
        plan.leave("sparse-header.capacity", path, text)
        return
    _Hosted(of, plan).run()


class _Copy:
    """One of the two copies of directory and tables."""

    def __init__(self, number: int, tables: GrainTables, reserved: int, overhead: int) -> None:
        self.number, self.tables = number, tables
        scheme = self.scheme = tables.scheme
        raw = tables.storage.read(scheme.directory_offset, scheme.tables * scheme.width)
        self.places, self.reasons = scheme.judge_directory(np.frombuffer(raw, "<u4"))
        self.ok = (self.places > 0) & (self.reasons == 0)
        self.size = align_up(scheme.entries * scheme.width, SECTOR)
        first = scheme.directory_offset + reserved
        self.expected = first + np.arange(scheme.tables, dtype=np.int64) * self.size
        """Where VMware's layout has each table."""
        probe = (self.expected[[0, -1]] // SECTOR).astype("<u4")
        fits = first + scheme.tables * self.size <= overhead
        self.fits = fits and not scheme.judge_directory(probe)[1].any()
        """Whether there is room for all of them."""

    @property
    def there(self) -> NDArray[np.bool_]:
        """Which tables lie where the layout has them."""
        there: NDArray[np.bool_] = (self.places == self.expected) & self.ok
        return there

    @property
    def follows(self) -> bool:
        """Whether tables lie where the layout has them, as far as is known."""
        return self.fits and 2 * int(self.there.sum()) >= int(self.ok.sum())

    @property
    def certain(self) -> bool:
        """Whether it follows the layout, and some table shows it."""
        return self.follows and bool(self.there.any())


class _Hosted:
    """The walk over one extent."""

    def __init__(self, of: SparseMap, plan: Plan) -> None:
        self.header, self.storage, self.plan = of.header, of.storage, plan
        self.scheme: Scheme = of.tables.scheme
        self.path = of.storage.name
        both = [of.tables] if of.tables.spare is None else [of.tables, of.tables.spare]
        overhead = of.header.overhead
        self.copies = [
            _Copy(n, tables, of.header.directory_size, overhead) for n, tables in enumerate(both)
        ]
        self.primary = self.copies[0]
        self.seen = Seen(self.storage.size, self.scheme.grain)
        self.used = overhead
        self.next = align_up(self.storage.size, self.scheme.grain)
        self.new = False
        self.adopted: tuple[set[int], set[int]] = (set(), set())
        """By copy: tables that nothing led to. Their entries count where the other's cannot be."""
        self.homes: NDArray[np.int64] = np.zeros(0, np.int64)
        """Where tables that are right begin, ascending."""

    def run(self) -> None:
        self.part_tables()
        self.judge_late_tables()
        self.judge_strays()
        self.homes = np.sort(np.concatenate([c.places[c.ok] for c in self.copies]))
        for first in range(0, self.scheme.tables, _TABLES):
            self.batch(np.arange(first, min(first + _TABLES, self.scheme.tables)))
        self.finish()

    # --- which directory entries can be right -------------------------------------------------

    def part_tables(self) -> None:
        """No two entries lead to one table: who is where the layout has it, keeps it."""
        while True:
            rows = [
                (int(c.places[i]), c.places[i] != c.expected[i] or not c.follows, c, i)
                for c in self.copies
                for i in self.crowded(c)
            ]
            rows.sort(key=lambda r: (r[0], r[1]))
            hit = False
            for before, after in pairwise(rows):
                if after[0] - before[0] >= self.primary.size:
                    continue
                hit = True
                mine = [r for r in (before, after) if r[1]] or [before, after]
                if len(mine) == 2 and before[3] == after[3] and before[0] == after[0]:
                    # Both copies of one table: it may well be the right one.
                    mine = [r for r in mine if r[2].number]
                for _, _, copy, index in mine:
                    copy.ok[index] = False
            if not hit:
                return

    def crowded(self, copy: _Copy) -> list[int]:
        """Entries of `copy` that share bytes of a table with another of either copy."""
        everyone = np.sort(np.concatenate([c.places[c.ok] for c in self.copies]))
        mine = np.flatnonzero(copy.ok)
        low = np.searchsorted(everyone, copy.places[mine] - copy.size, "right")
        high = np.searchsorted(everyone, copy.places[mine] + copy.size, "left")
        return [int(i) for i in mine[high - low > 1]]

    def judge_late_tables(self) -> None:
        """A table behind the first grain may be none: it must not lie in a grain."""
        late = [c.ok & (c.places >= self.header.overhead) for c in self.copies]
        if not any(rows.any() for rows in late):
            return
        grains = Seen(self.storage.size, self.scheme.grain)
        for copy in self.copies:
            for first in range(0, self.scheme.tables, _TABLES):
                rows = first + np.flatnonzero(copy.ok[first : first + _TABLES])
                raw = copy.tables.read_tables(copy.places[rows])
                judged = self.scheme.judge(raw, copy.tables.needs(rows))
                clean = np.asarray(~judged.reasons.any(axis=1))
                early = copy.places[rows] < self.header.overhead
                filled = (judged.states == State.DATA) & (judged.reasons == 0)
                filled &= (clean | early)[:, None]
                grains.add(judged.positions[filled])
                for row in rows[~clean & late[copy.number][rows]].tolist():
                    other = self.copies[1 - copy.number] if len(self.copies) > 1 else None
                    # Full of what cannot be right, and its twin is there: it is no table.
                    if other is not None and other.ok[row]:
                        copy.ok[row] = False
        for copy in self.copies:
            for row in np.flatnonzero(copy.ok & late[copy.number]).tolist():
                if grains.overlaps(int(copy.places[row]), copy.size):
                    copy.ok[row] = False

    def judge_strays(self) -> None:
        """An entry leads elsewhere, and two tables that say the same lie where they should.

        Then it is the entry that is wrong, whatever it leads to looks like.
        """
        if len(self.copies) < 2:
            return
        for copy, twin in (self.copies, self.copies[::-1]):
            stray = copy.ok & (copy.places != copy.expected) & twin.ok & copy.fits
            for row in np.flatnonzero(stray)[:_MOST_STRAYS].tolist():
                copy.ok[row] = False
                homes = np.sort(np.concatenate([c.places[c.ok] for c in self.copies]))
                copy.ok[row] = True
                place = int(copy.expected[row])
                low, high = np.searchsorted(homes, [place - copy.size + 1, place + copy.size])
                if high > low:
                    continue
                mine, right, other = (
                    copy.tables.read_tables(np.array([at], np.int64))
                    for at in (int(copy.places[row]), place, int(twin.places[row]))
                )
                judged = self.scheme.judge(other, copy.tables.needs(np.array([row])))
                same = np.array_equal(right, other) and not np.array_equal(mine, other)
                if same and other.any() and not judged.reasons.any():
                    copy.ok[row] = False

    # --- tables -------------------------------------------------------------------------------

    def batch(self, rows: Int64) -> None:
        missing = [~c.ok[rows] & (c.places[rows] != 0) for c in self.copies]
        nothing = ~np.any([c.ok[rows] for c in self.copies], axis=0)
        for row in rows[nothing & np.any(missing, axis=0)].tolist():
            self.nowhere(row)
        rows = rows[np.any([c.ok[rows] for c in self.copies], axis=0)]
        if not len(rows):
            return
        for copy, twin in (self.copies, self.copies[::-1]) if len(self.copies) > 1 else ():
            self.adopt(copy, twin, rows)
        raws = [self.read(c, rows) for c in self.copies]
        wanted = self.merged(rows, raws)
        for copy, raw, kept in zip(self.copies, raws, wanted, strict=True):
            there = copy.ok[rows]
            self.lost_tables(copy, rows[~there], kept[~there])
            self.changed(copy, rows[there], raw[there], kept[there])
        self.grains(rows, wanted[0])
        for copy in self.copies:
            ends = copy.places[rows][copy.ok[rows]]
            if len(ends):
                self.used = max(self.used, int(ends.max()) + copy.size)

    def adopt(self, copy: _Copy, twin: _Copy, rows: Int64) -> None:
        """Take back a table that no entry leads to, from where it belongs, if its twin has faults.

        Otherwise it would be written over with what the twin has.
        """
        lone = rows[twin.ok[rows] & ~copy.ok[rows]]
        judged = self.scheme.judge(self.read(twin, lone), twin.tables.needs(lone))
        for row in lone[judged.reasons.any(axis=1)].tolist():
            place = int(copy.expected[row])
            if not copy.follows or self.taken(place, copy.size):
                continue
            raw = copy.tables.read_tables(np.array([place], np.int64))
            found = self.scheme.judge(raw, copy.tables.needs(np.array([row])))
            if found.reasons.any() or not raw.any():
                continue
            entry = struct.pack("<I", place // SECTOR)
            at = copy.scheme.directory_offset + row * 4
            old = int(copy.places[row]) // SECTOR
            text = (
                f"{_NAMES[copy.number]}: entry {row} is {old}: the table lies at sector "
                f"{place // SECTOR}, where it belongs"
            )
            patch = Patch(_DIRECTORY_STAGES[copy.number], at, 4, entry)
            code = f"{_CODES[copy.number]}.entry"
            if self.plan.add(Mend(code, self.path, text, patches=(patch,))):
                copy.places[row], copy.ok[row] = place, True
                self.homes = np.insert(self.homes, np.searchsorted(self.homes, place), place)
                if twin.places[row] >= self.header.overhead:
                    # It has faults, and lies among grains: it may be a part of one.
                    twin.ok[row] = False
                else:
                    self.adopted[copy.number].add(row)

    def read(self, copy: _Copy, rows: Int64) -> Entries:
        """Its tables; all zeros where there is none."""
        raw = np.zeros((len(rows), self.scheme.entries), "<u4")
        there = copy.ok[rows]
        raw[there] = copy.tables.read_tables(copy.places[rows[there]])
        return raw

    def merged(self, rows: Int64, raws: list[Entries]) -> list[Entries]:
        """What each copy's tables should hold."""
        scheme = self.scheme
        needs = self.primary.tables.needs(rows)
        offsets = (rows[:, None] * scheme.entries + np.arange(scheme.entries)) * scheme.grain
        inside = offsets < scheme.length
        there = [c.ok[rows] for c in self.copies]
        bad = [
            (scheme.judge(raw, needs).reasons != 0) | ~have[:, None]
            for raw, have in zip(raws, there, strict=True)
        ]
        best = raws[0]
        hopeless = bad[0]
        if len(raws) == 2:
            # A table without fault counts as a whole against one that has some, as for reading.
            better = bad[0].any(axis=1) & ~bad[1].any(axis=1)
            late = [np.isin(rows, list(taken)) for taken in self.adopted]
            better &= ~late[1]
            second = np.where(late[0][:, None], ~bad[1], (bad[0] & ~bad[1]) | better[:, None])
            best = np.where(second, raws[1], raws[0])
            # Neither can be right: each stays what it is, and a new copy is like the old one.
            best = np.where(bad[0] & bad[1] & ~there[0][:, None], raws[1], best)
            hopeless = bad[0] & bad[1]
        for row, entry in np.argwhere(hopeless & inside)[:1000].tolist():
            number = int(rows[row]) * scheme.entries + entry
            error = self.primary.tables.explain(number * scheme.grain)
            self.plan.leave("grain-table.entry", self.path, f"{error.what}: in every copy")
        # What lies beyond the capacity is not touched in a table that has faults: is it one?
        sound = inside | (hopeless & inside).any(axis=1)[:, None]
        best = np.where(sound, best, 0).astype("<u4")
        return [
            np.where(hopeless & inside & have[:, None], raw, best).astype("<u4")
            for raw, have in zip(raws, there, strict=True)
        ]

    def changed(self, copy: _Copy, rows: Int64, raw: Entries, wanted: Entries) -> None:
        """Tables that stay where they are, with other entries."""
        for at in np.flatnonzero((raw != wanted).any(axis=1)).tolist():
            row = int(rows[at])
            entries = np.flatnonzero(raw[at] != wanted[at])
            low, high = int(entries[0]), int(entries[-1]) + 1
            beyond = bool((wanted[at][entries] == 0).all()) and (
                (row * self.scheme.entries + low) * self.scheme.grain >= self.scheme.length
            )
            name = "redundant grain table" if copy.number else "grain table"
            if beyond:
                code = "grain-table.beyond-capacity"
                text = f"{name} {row}: {len(entries)} entries beyond the capacity become 0"
            else:
                code = "redundant-table.differs" if copy.number else "grain-table.entry"
                first = row * self.scheme.entries + low
                other = "the other copy" if copy.number == 0 else "the primary copy"
                text = f"{name} {row}: {len(entries)} entries, the first {first}, from {other}"
            place = int(copy.places[row]) + low * 4
            data = wanted[at][low:high].tobytes()
            patch = Patch(_TABLE_STAGES[copy.number], place, len(data), data)
            self.plan.add(Mend(code, self.path, text, patches=(patch,)))

    def lost_tables(self, copy: _Copy, rows: Int64, wanted: Entries) -> None:
        """Tables that one directory does not lead to: written anew from the other copy's."""
        for row, table in zip(rows.tolist(), wanted, strict=True):
            place = self.home(copy, row)
            if place is None:
                continue
            data = table.tobytes()
            entry = struct.pack("<I", place // SECTOR)
            at = copy.scheme.directory_offset + row * 4
            old = int(copy.places[row]) // SECTOR
            text = (
                f"{_NAMES[copy.number]}: entry {row} is {old}: the table is written at sector "
                f"{place // SECTOR}, from the other copy"
            )
            made = self.plan.add(
                Mend(
                    f"{_CODES[copy.number]}.entry",
                    self.path,
                    text,
                    patches=(
                        Patch(Stage.ROOM, place, copy.size, data.ljust(copy.size, b"\0")),
                        Patch(_DIRECTORY_STAGES[copy.number], at, 4, entry),
                    ),
                )
            )
            if made:
                copy.places[row], copy.ok[row] = place, True

    def home(self, copy: _Copy, row: int) -> int | None:
        """Where a table may be written: where it belongs, else at the end of the file."""
        place = int(copy.expected[row])
        if copy.follows and not self.taken(place, copy.size):
            self.homes = np.insert(self.homes, np.searchsorted(self.homes, place), place)
            return place
        return self.room(copy.size, SECTOR)

    def taken(self, place: int, size: int) -> bool:
        low, high = np.searchsorted(self.homes, [place - size + 1, place + size])
        return bool(high > low)

    def room(self, size: int, alignment: int) -> int | None:
        """Room at the end of the file."""
        place = align_up(self.next, alignment)
        if place + size > _LIMIT:
            self.plan.leave("sparse.full", self.path, "the file cannot grow beyond 2 TiB")
            return None
        self.next, self.new = place + size, True
        return place

    def nowhere(self, row: int) -> None:
        """No directory leads to a table that one of them claims to have."""
        chosen = []
        for copy in self.copies:
            place = int(copy.expected[row])
            if copy.follows and not self.taken(place, copy.size):
                raw = copy.tables.read_tables(np.array([place], np.int64))
                judged = self.scheme.judge(raw, copy.tables.needs(np.array([row])))
                if not judged.reasons.any():
                    chosen.append((copy, place, raw))
        same = len(chosen) == 2 and np.array_equal(chosen[0][2], chosen[1][2])
        sure = len(chosen) == len(self.copies) and (
            same or (len(chosen) == 1 and chosen[0][0].certain)
        )
        primary = self.primary
        if not sure and len(self.copies) == 2 and not primary.places[row]:
            # The primary says that there is no table, and so does every reader.
            copy = self.copies[1]
            at = copy.scheme.directory_offset + row * 4
            text = f"{_NAMES[1]}: entry {row} becomes 0, as in the primary one"
            patch = Patch(Stage.REDUNDANT_DIRECTORY, at, 4, bytes(4))
            self.plan.add(Mend(f"{_CODES[1]}.entry", self.path, text, patches=(patch,)))
            return
        if not sure:
            text = f"{_NAMES[0]}: entry {row} cannot be right, and nothing tells what it was"
            self.plan.leave(f"{_CODES[0]}.entry", self.path, text)
            return
        patches = []
        for copy, place, _ in chosen:
            at = copy.scheme.directory_offset + row * 4
            entry = struct.pack("<I", place // SECTOR)
            if copy.places[row] != place:
                patches.append(Patch(_DIRECTORY_STAGES[copy.number], at, 4, entry))
            copy.places[row] = place
        sector = chosen[0][1] // SECTOR
        text = f"{_NAMES[0]}: entry {row}: the table lies at sector {sector}, where it belongs"
        made = self.plan.add(Mend(f"{_CODES[0]}.entry", self.path, text, patches=tuple(patches)))
        if made:
            for copy, place, _ in chosen:
                copy.ok[row] = True
                self.homes = np.insert(self.homes, np.searchsorted(self.homes, place), place)

    # --- grains -------------------------------------------------------------------------------

    def grains(self, rows: Int64, tables: Entries) -> None:
        """Note where grains lie; those that lie where others do get copies."""
        scheme = self.scheme
        judged = scheme.judge(tables, self.primary.tables.needs(rows))
        filled = (judged.states == State.DATA) & (judged.reasons == 0)
        positions = judged.positions[filled]
        if not len(positions):
            return
        numbers = (rows[:, None] * scheme.entries + np.arange(scheme.entries))[filled]
        end = int(positions.max()) + scheme.grain
        self.used = max(self.used, min(end, self.storage.size))
        again = self.seen.add(positions)
        for number, position in zip(
            numbers[again].tolist(), positions[again].tolist(), strict=True
        ):
            self.part(number, position)

    def part(self, number: int, position: int) -> None:
        """Give a grain that shares its place a copy of its bytes."""
        scheme = self.scheme
        row, entry = divmod(number, scheme.entries)
        place = self.room(scheme.grain, scheme.grain)
        if place is None:
            return
        data = struct.pack("<I", place // SECTOR)
        patches = [Patch(Stage.ROOM, place, scheme.grain, None, position)]
        patches += [
            Patch(_TABLE_STAGES[c.number], int(c.places[row]) + entry * 4, 4, data)
            for c in self.copies
            if c.ok[row]
        ]
        text = (
            f"grain table: entry {number} points at byte {position}, where another entry's grain "
            f"lies: it gets a copy at byte {place}; whose bytes they were nobody can know"
        )
        code = "grain-table.duplicate"
        self.plan.add(Mend(code, self.path, text, patches=tuple(patches)))

    # --- the end ------------------------------------------------------------------------------

    def finish(self) -> None:
        plan, path = self.plan, self.path
        if plan.hopeless(path) or plan.cut:
            return
        tail = self.storage.size - self.used
        if not self.new and tail >= self.scheme.grain:
            text = f"{format_size(tail)} at the end of the file belong to nothing: cut off"
            plan.add(Mend("leaked", path, text, size=self.used))
        if self.header.unclean:
            text = "not closed cleanly (uncleanShutdown): cleared, now that the rest is in order"
            patch = Patch(Stage.CLOSE, _UNCLEAN_AT, 1, b"\0")
            plan.add(Mend("unclean", path, text, patches=(patch,)))
