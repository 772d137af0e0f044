# SPDX-License-Identifier: Apache-2.0
"""The algebra on tables against a slow one: a list with one entry per byte."""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diskkit.mapping import Alike, intervals, merged_rows, merged_tables, ranges_where
from diskkit.runs import State
from diskkit.table import (
    RunTable,
    distinct,
    from_rows,
    merge,
    overlay,
    present,
    restrict,
    single,
    weave,
)

if TYPE_CHECKING:
    from collections.abc import Callable

HOLE, ZERO, DATA, PACKED, BAD = State


class Byte(NamedTuple):
    """What a table says of one byte."""

    state: State
    source: int
    """0 for a hole: which map lets a byte through says nothing."""
    place: int
    """Of a DATA byte its own place in the file, of a PACKED one its grain's; else 0."""


Slow = list[Byte]
"""A stretch of a map, byte by byte; where it begins is kept beside it."""


def slow(table: RunTable) -> Slow:
    found: Slow = []
    for row in range(len(table.starts)):
        begin, end = int(table.starts[row]), int(table.ends[row])
        assert begin < end
        state, position = State(int(table.states[row])), int(table.positions[row])
        source = 0 if state == HOLE else int(table.sources[row])
        for offset in range(begin, end):
            place = {DATA: position + offset - begin, PACKED: position}.get(state, 0)
            found.append(Byte(state, source, place))
    return found


def rows_needed(bytes_: Slow) -> int:
    """The fewest rows that can say it."""

    def goes_on(one: Byte, two: Byte) -> bool:
        step = 1 if one.state == DATA else 0
        return two == one._replace(place=one.place + step)

    return 1 + sum(not goes_on(one, two) for one, two in pairwise(bytes_))


# --- tables to try --------------------------------------------------------------------------------


@st.composite
def tables(
    draw: st.DrawFn,
    offset: int = 0,
    states: tuple[State, ...] = tuple(State),
    sources: int = 2,
    most: int = 12,
) -> RunTable:
    """Rows of 1 to 6 bytes; places are chosen so that data often follows on."""
    count = draw(st.integers(1, most))
    starts, kinds, owners, positions = [], [], [], []
    at, place = offset, 0
    for _ in range(count):
        state = draw(st.sampled_from(states))
        length = draw(st.integers(1, 6))
        place += draw(st.sampled_from((0, 0, 0, 1, 7)))
        starts.append(at)
        kinds.append(state)
        owners.append(draw(st.integers(0, sources - 1)))
        positions.append(place if state in (DATA, PACKED) else 0)
        at += length
        if state == DATA:
            place += length
    return RunTable(
        np.array(starts, np.int64),
        at,
        np.array(kinds, np.uint8),
        np.array(owners, np.int64),
        np.array(positions, np.int64),
    )


def same_form(table: RunTable) -> None:
    assert table.states.dtype == np.uint8
    assert all(c.dtype == np.int64 for c in (table.starts, table.sources, table.positions))
    assert len({len(c) for c in table if isinstance(c, np.ndarray)}) == 1


def in_pieces(table: RunTable, cuts: list[int]) -> list[RunTable]:
    """The same map in consecutive tables, cut at bytes `cuts`."""
    edges = sorted({table.offset, table.end, *(c for c in cuts if table.offset < c < table.end)})
    return [table.since(begin).clip(end) for begin, end in pairwise(edges)]


# --- the algebra ----------------------------------------------------------------------------------


@given(tables())
def test_merge_says_the_same_in_the_fewest_rows(table: RunTable) -> None:
    merged = merge(table)
    same_form(merged)
    assert slow(merged) == slow(table)
    assert len(merged.starts) == rows_needed(slow(table))


@given(tables(offset=5), st.data())
def test_clip_and_since_cut(table: RunTable, data: st.DataObject) -> None:
    at = data.draw(st.integers(table.offset + 1, table.end - 1 if table.end > 6 else 6))
    front, back = table.clip(at), table.since(at)
    assert slow(front) == slow(table)[: at - 5]
    assert (front.offset, front.end) == (5, min(at, table.end))
    if at < table.end:
        assert slow(back) == slow(table)[at - 5 :]
        assert (back.offset, back.end) == (at, table.end)


@given(tables(offset=5))
def test_cuts_at_or_outside_the_ends_change_nothing(table: RunTable) -> None:
    assert table.clip(table.end) is table
    assert table.clip(table.end + 9) is table
    assert table.since(5) is table
    assert table.since(0) is table


@given(tables(offset=9), st.data())
def test_cutting_leaves_the_table_as_it_was(table: RunTable, data: st.DataObject) -> None:
    before = slow(table)
    table.since(data.draw(st.integers(9, table.end - 1)))
    assert slow(table) == before


@given(tables())
def test_moved_tables_keep_their_places(table: RunTable) -> None:
    moved = table.moved(1000, 7)
    assert (moved.offset, moved.end) == (1000, table.end + 1000)
    assert slow(moved) == [b if b.state == HOLE else b._replace(source=7) for b in slow(table)]


@given(tables(), st.data())
def test_rows_are_a_part(table: RunTable, data: st.DataObject) -> None:
    count = len(table.starts)
    first = data.draw(st.integers(0, count - 1))
    last = data.draw(st.integers(first + 1, count))
    part = table.rows(first, last)
    assert slow(part) == slow(table)[part.offset : part.end]
    assert len(part.starts) == last - first


@given(st.lists(tables(offset=7), min_size=1, max_size=4), st.integers(1, 9), st.data())
def test_weaving_takes_lanes_in_turns(
    lanes: list[RunTable], unit: int, data: st.DataObject
) -> None:
    length = min(t.end for t in lanes) - 7
    unit = min(unit, length)
    end = 7 + length // unit * unit
    lanes = [t._replace(sources=t.sources + 10 * i).clip(end) for i, t in enumerate(lanes)]
    cuts = data.draw(st.lists(st.integers(8, end)))
    woven = weave([in_pieces(lane, cuts) for lane in lanes], unit, 100)
    same_form(woven)
    assert (woven.offset, woven.end) == (100, 100 + (end - 7) * len(lanes))
    want: Slow = []
    for at in range(0, end - 7, unit):
        for lane in lanes:
            want += slow(lane)[at : at + unit]
    assert slow(woven) == want


@given(tables(offset=3), tables(offset=3))
def test_overlay_lets_only_holes_through(top: RunTable, below: RunTable) -> None:
    below = below._replace(sources=below.sources + 10)
    seen = overlay(top, below)
    same_form(seen)
    pairs = zip(slow(top), slow(below), strict=False)
    want = [under if over.state == HOLE else over for over, under in pairs]
    assert slow(seen) == want
    assert seen.end == min(top.end, below.end)
    if HOLE in {b.state for b in slow(top)[: len(want)]}:
        assert len(seen.starts) == rows_needed(want)


@given(st.lists(tables(), min_size=1, max_size=5))
def test_overlays_of_a_chain_may_be_bracketed_either_way(links: list[RunTable]) -> None:
    end = min(t.end for t in links)
    links = [t._replace(sources=t.sources + 10 * i).clip(end) for i, t in enumerate(links)]
    left = links[0]
    for link in links[1:]:
        left = overlay(left, link)
    right = links[-1]
    for link in links[-2::-1]:
        right = overlay(link, right)
    assert slow(left) == slow(right)


@given(
    tables(states=(HOLE, ZERO, DATA), sources=1),
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 12)), max_size=10),
)
def test_restrict_makes_what_lies_outside_zeros(
    table: RunTable, gaps: list[tuple[int, int]]
) -> None:
    ranges: list[tuple[int, int]] = []
    at = 0
    for gap, length in gaps:
        # Touching ranges are not disjoint as files report them, so there is a gap between two.
        at += gap + bool(ranges)
        ranges.append((at, at + length))
        at += length
    begins, ends = np.array(ranges, np.int64).reshape(-1, 2).T
    cut = restrict(table, begins, ends)
    same_form(cut)
    inside = {place for begin, end in ranges for place in range(begin, end)}
    want = [
        Byte(ZERO, b.source, 0) if b.state == DATA and b.place not in inside else b
        for b in slow(table)
    ]
    assert slow(cut) == want
    if DATA in table.states:
        assert len(cut.starts) == rows_needed(want)


@given(tables(states=(HOLE, ZERO, PACKED, BAD)))
def test_restrict_leaves_tables_without_data_alone(table: RunTable) -> None:
    none = np.zeros(0, np.int64)
    assert restrict(table, none, none) is table


@given(tables())
def test_present_shows_compressed_rows_as_data_without_a_place(table: RunTable) -> None:
    shown = present(table)
    same_form(shown)
    assert PACKED not in shown.states
    assert (shown.positions[shown.states == DATA] >= -1).all()
    states = [DATA if b.state == PACKED else b.state for b in slow(table)]
    assert [b.state for b in slow(shown)] == states


def test_tables_made_by_hand() -> None:
    table = from_rows([(4, HOLE, 0), (9, DATA, 100)], 20)
    assert slow(table) == [Byte(HOLE, 0, 0)] * 5 + [Byte(DATA, 0, 100 + i) for i in range(11)]
    assert slow(single(4, 3, ZERO)) == [Byte(ZERO, 0, 0)] * 3
    assert table.lengths.tolist() == [5, 11]
    assert table.offset == 4


# --- across pieces --------------------------------------------------------------------------------


def shown_rows(table: RunTable) -> list[tuple[int, int, int, int, int]]:
    """What a user must see of a map, from the bytes: (start, length, state, source, place)."""
    at = 0
    found = []

    def key(item: tuple[int, Byte]) -> tuple[State, int, int]:
        number, byte = item
        if byte.state == PACKED:
            return DATA, byte.source, -1 << 60
        return byte.state, byte.source, byte.place - number if byte.state == DATA else 0

    for (state, source, _), group in groupby(enumerate(slow(table)), key):
        members = [byte for _, byte in group]
        place = members[0].place if state == DATA else 0
        place = -1 if members[0].state == PACKED else place
        found.append((at, len(members), int(state), source, place))
        at += len(members)
    return found


@given(
    # An extent holds data either as it is or compressed, never both.
    st.one_of(tables(states=(HOLE, ZERO, DATA)), tables(states=(HOLE, ZERO, PACKED))),
    st.lists(st.integers(1, 60), max_size=6),
)
def test_rows_shown_do_not_depend_on_the_pieces(table: RunTable, cuts: list[int]) -> None:
    rows = merged_rows(in_pieces(merge(table), cuts), Alike(range(9), range(9)))
    plain = [
        (start, n, state, 0 if state == HOLE else source, place if state == DATA else 0)
        for start, n, state, source, place in rows
    ]
    assert plain == shown_rows(table)


@given(tables(states=(HOLE, ZERO, DATA, PACKED)), st.lists(st.integers(1, 60), max_size=6))
def test_merged_tables_cover_without_a_gap(table: RunTable, cuts: list[int]) -> None:
    reach = 0
    for piece in merged_tables(in_pieces(table, cuts), Alike(range(9), range(9))):
        assert piece.offset == reach
        reach = piece.end
    assert reach == table.end


def stretches(bytes_: Slow, wanted: Callable[[Byte], bool]) -> list[tuple[int, int]]:
    found, at = [], 0
    for hit, group in groupby(bytes_, wanted):
        n = len(list(group))
        if hit:
            found.append((at, at + n))
        at += n
    return found


@given(
    tables(),
    st.lists(st.integers(1, 60), max_size=6),
    st.sampled_from(tuple(State)),
    st.booleans(),
)
def test_ranges_where_joins_across_pieces(
    table: RunTable, cuts: list[int], state: State, invert: bool
) -> None:
    found = list(ranges_where(in_pieces(table, cuts), state, invert=invert))
    assert found == stretches(slow(table), lambda b: (b.state == state) != invert)


@given(tables(offset=0))
def test_intervals_are_the_chosen_rows_joined(table: RunTable) -> None:
    chosen = table.states == ZERO
    found = [tuple(pair) for pair in intervals(table, chosen).tolist()]
    assert found == stretches(slow(table), lambda b: b.state == ZERO)


@given(st.lists(st.integers(-3, 3), max_size=12))
def test_distinct_values_come_once_and_ascending(values: list[int]) -> None:
    assert distinct(np.array(values, np.int64)).tolist() == sorted(set(values))
