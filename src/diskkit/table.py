# SPDX-License-Identifier: Apache-2.0
"""`RunTable`: a stretch of a map as numpy columns, and the algebra on it. Pure.

One row is one run. Rows are ascending and gap-free, so only the starts and the last end are kept.
`sources` names, by number, the map that decides a row; `positions` says where in that map's file
a DATA row's bytes begin or where a PACKED row's grain marker lies. Cutting a DATA row moves its
position along; a PACKED row keeps its own, because its grain can only be loaded whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from diskkit.runs import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Int64 = NDArray[np.int64]
    UInt8 = NDArray[np.uint8]

HOLE, ZERO, DATA, PACKED, BAD = (np.uint8(s) for s in State)


def distinct(*columns: Int64) -> Int64:
    """All their values, ascending, each once.

    `np.unique` and `np.union1d` do more, for which they load a package in 7 ms when first used.
    """
    ordered = np.sort(np.concatenate(columns), kind="stable")  # quick where much is in order
    return ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))[: len(ordered)]]


class RunTable(NamedTuple):
    """Rows covering [offset, end). Columns are 1-D arrays of equal length, at least 1."""

    starts: Int64
    """Where each row begins, bytes, ascending."""
    end: int
    """Where the last row ends."""
    states: UInt8
    """`State` values."""
    sources: Int64
    """Number of the map that decides the row."""
    positions: Int64
    """Bytes into that map's file; meaningful for DATA and PACKED rows only."""

    @property
    def offset(self) -> int:
        """Where the first row begins."""
        return int(self.starts[0])

    @property
    def ends(self) -> Int64:
        """Where each row ends."""
        return np.append(self.starts[1:], np.int64(self.end))

    @property
    def lengths(self) -> Int64:
        """Bytes in each row."""
        return self.ends - self.starts

    def clip(self, end: int) -> RunTable:
        """The rows before `end`, the last one cut there."""
        if end >= self.end:
            return self
        n = int(np.searchsorted(self.starts, end, "left"))
        return RunTable(self.starts[:n], end, self.states[:n], self.sources[:n], self.positions[:n])

    def since(self, offset: int) -> RunTable:
        """The rows from `offset` on, the first one cut there."""
        if offset <= self.offset:
            return self
        i = int(np.searchsorted(self.starts, offset, "right")) - 1
        starts, positions = self.starts[i:].copy(), self.positions[i:].copy()
        if self.states[i] == DATA:
            positions[0] += offset - starts[0]
        starts[0] = offset
        return RunTable(starts, self.end, self.states[i:], self.sources[i:], positions)

    def moved(self, by: int, source: int) -> RunTable:
        """The same rows `by` bytes further on, decided by map number `source`."""
        sources = np.full(len(self.starts), source, np.int64)
        return RunTable(self.starts + by, self.end + by, self.states, sources, self.positions)

    def rows(self, first: int, last: int) -> RunTable:
        """Rows `first` to `last` (exclusive) as a table of their own."""
        end = self.end if last >= len(self.starts) else int(self.starts[last])
        cut = slice(first, last)
        return RunTable(
            self.starts[cut], end, self.states[cut], self.sources[cut], self.positions[cut]
        )


def single(offset: int, length: int, state: State, position: int = 0) -> RunTable:
    """A table of one row, from source 0."""
    return RunTable(
        np.array([offset], np.int64),
        offset + length,
        np.array([state], np.uint8),
        np.zeros(1, np.int64),
        np.array([position], np.int64),
    )


def from_rows(rows: Sequence[tuple[int, State, int]], end: int) -> RunTable:
    """A table from (start, state, position) rows, from source 0."""
    starts, states, positions = zip(*rows, strict=True)
    return RunTable(
        np.array(starts, np.int64),
        end,
        np.array(states, np.uint8),
        np.zeros(len(rows), np.int64),
        np.array(positions, np.int64),
    )


def merge(table: RunTable) -> RunTable:
    """The same map in the fewest rows.

    Holes join whatever their source; zeros and bad rows join within a source; data joins within a
    source where the bytes follow each other in the file; pieces of one compressed grain join.
    """
    states = table.states
    if len(states) < 2:
        return table
    same = states[1:] == states[:-1]
    same_source = table.sources[1:] == table.sources[:-1]
    step = table.positions[1:] - table.positions[:-1]
    follows = step == table.starts[1:] - table.starts[:-1]
    tail = states[1:]
    within = (tail == ZERO) | (tail == BAD) | ((tail == DATA) & follows)
    within |= (tail == PACKED) & (step == 0)
    joins = same & ((tail == HOLE) | (same_source & within))
    keep = np.append(True, ~joins)
    return RunTable(
        table.starts[keep],
        table.end,
        states[keep],
        table.sources[keep],
        table.positions[keep],
    )


def weave(lanes: Sequence[Sequence[RunTable]], unit: int, offset: int) -> RunTable:
    """Lanes of equal length as one table from `offset` on, taking `unit` bytes of each in turns.

    A lane is consecutive tables. Rows that could join are not joined.
    """
    columns = []
    end = offset
    for number, lane in enumerate(lanes):
        begin, stop = lane[0].offset, lane[-1].end
        starts = np.concatenate([table.starts for table in lane])
        cuts = distinct(starts, np.arange(begin, stop, unit, dtype=np.int64))
        rows = np.searchsorted(starts, cuts, "right") - 1
        states, sources, positions = (
            np.concatenate([table[column] for table in lane])[rows] for column in (2, 3, 4)
        )
        positions = np.where(states == DATA, positions + (cuts - starts[rows]), positions)
        turns, inside = np.divmod(cuts - begin, unit)
        places = offset + (turns * len(lanes) + number) * unit + inside
        columns.append((places, states, sources, positions))
        end += stop - begin
    starts, states, sources, positions = (np.concatenate(c) for c in zip(*columns, strict=True))
    order = np.argsort(starts, kind="stable")  # quick where much is in order
    return RunTable(starts[order], end, states[order], sources[order], positions[order])


def overlay(top: RunTable, below: RunTable) -> RunTable:
    """What is seen through the holes of `top` onto `below`, over the stretch both cover.

    Both begin at the same offset. Vectorised: the cost is that of sorting the row starts.
    """
    end = min(top.end, below.end)
    top, below = top.clip(end), below.clip(end)
    if not (top.states == HOLE).any():
        return top
    starts = distinct(top.starts, below.starts)
    upper = np.searchsorted(top.starts, starts, "right") - 1
    lower = np.searchsorted(below.starts, starts, "right") - 1
    through = top.states[upper] == HOLE
    states = np.where(through, below.states[lower], top.states[upper])
    sources = np.where(through, below.sources[lower], top.sources[upper])
    origin = np.where(through, below.starts[lower], top.starts[upper])
    positions = np.where(through, below.positions[lower], top.positions[upper])
    positions = np.where(states == DATA, positions + (starts - origin), positions)
    return merge(RunTable(starts, end, states, sources, positions))


def restrict(table: RunTable, begins: Int64, ends: Int64) -> RunTable:
    """`table` with every DATA byte whose file position lies in no [begins, ends) made ZERO.

    `begins` and `ends` are ascending, disjoint byte ranges of the one file that all DATA rows of
    the table lie in.
    """
    data = np.flatnonzero(table.states == DATA)
    if not len(data):
        return table
    low = table.positions[data]
    high = low + table.lengths[data]
    first = np.searchsorted(ends, low, "right")
    last = np.searchsorted(begins, high, "left")
    whole = np.zeros(len(data), bool)
    hit = np.flatnonzero(last - first == 1)
    whole[hit] = (begins[first[hit]] <= low[hit]) & (ends[first[hit]] >= high[hit])
    empty = last <= first
    states = table.states.copy()
    states[data[empty]] = ZERO
    table = table._replace(states=states)
    partly = np.flatnonzero(~whole & ~empty)
    if len(partly):
        table = _cut_partly(table, data[partly], begins, ends, first[partly], last[partly])
    return merge(table)


def _cut_partly(
    table: RunTable, rows: Int64, begins: Int64, ends: Int64, first: Int64, last: Int64
) -> RunTable:
    """Split each of `rows` at the edges of the file ranges `first`..`last` that it meets."""
    count = last - first
    owner = np.repeat(rows, count)
    index = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    index += np.repeat(first, count)
    shift = table.starts[owner] - table.positions[owner]
    row_ends = table.ends[owner]
    data_from = np.maximum(begins[index] + shift, table.starts[owner])
    data_to = np.minimum(ends[index] + shift, row_ends)
    cuts = distinct(table.starts, data_from, data_to[data_to < row_ends])
    at = np.searchsorted(table.starts, cuts, "right") - 1
    states, positions = table.states[at], table.positions[at] + 0
    is_data = states == DATA
    positions[is_data] += (cuts - table.starts[at])[is_data]
    inside = np.searchsorted(data_from, cuts, "right") - 1
    covered = (inside >= 0) & (cuts < data_to[np.maximum(inside, 0)])
    touched = np.isin(at, rows)
    states = np.where(touched & ~covered, ZERO, states)
    return RunTable(cuts, table.end, states, table.sources[at], positions)


def present(table: RunTable) -> RunTable:
    """The table as a user sees it: compressed rows are data that no file offset describes.

    They carry position -1 and join with their neighbours from the same source.
    """
    packed = table.states == PACKED
    if not packed.any():
        return table
    states = np.where(packed, DATA, table.states)
    positions = np.where(packed, np.int64(-1), table.positions)
    joins = packed[1:] & packed[:-1] & (table.sources[1:] == table.sources[:-1])
    keep = np.append(True, ~joins)
    return RunTable(
        table.starts[keep], table.end, states[keep], table.sources[keep], positions[keep]
    )
