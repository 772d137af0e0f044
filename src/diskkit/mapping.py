# SPDX-License-Identifier: Apache-2.0
"""From tables to runs and ranges: merging across the pieces in which a map is handed out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from diskkit.runs import State, joined
from diskkit.table import DATA, RunTable, merge, present

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from diskkit.table import Int64


class Alike(NamedTuple):
    """By source number: the first source that says the same of a row."""

    by_link: Sequence[int]
    """For rows that point at no file: the first of the same link."""
    by_file: Sequence[int]
    """For rows that do: the first of the same link and file."""


def merged_tables(tables: Iterable[RunTable], alike: Alike) -> Iterator[RunTable]:
    """The map as users see it, with no two neighbours that could be one.

    Compressed data has position -1. Sources that are `alike` are replaced by the first of them. The
    last row of each piece is held back until the next shows whether it goes on.
    """
    by_link, by_file = np.array(alike.by_link), np.array(alike.by_file)
    held: RunTable | None = None
    for table in tables:
        shown = present(table)
        pointless = (shown.states != DATA) | (shown.positions < 0)
        sources = np.where(pointless, by_link[shown.sources], by_file[shown.sources])
        shown = _merge_shown(shown._replace(sources=sources))
        if held is not None:
            shown = _merge_shown(_append(held, shown))
        last = len(shown.starts) - 1
        if last:
            yield shown.rows(0, last)
        held = shown.rows(last, last + 1)
    if held is not None:
        yield held


def _append(one: RunTable, more: RunTable) -> RunTable:
    """`more` after the single row `one`."""
    return RunTable(
        np.concatenate([one.starts, more.starts]),
        more.end,
        np.concatenate([one.states, more.states]),
        np.concatenate([one.sources, more.sources]),
        np.concatenate([one.positions, more.positions]),
    )


def _merge_shown(table: RunTable) -> RunTable:
    """`merge`, for tables whose compressed rows have position -1."""
    packed = (table.positions == -1) & (table.states == DATA)
    if packed.any():
        states = np.where(packed, np.uint8(State.PACKED), table.states)
        merged = merge(table._replace(states=states))
        states = np.where(merged.states == State.PACKED, DATA, merged.states)
        return merged._replace(states=states)
    return merge(table)


def merged_rows(
    tables: Iterable[RunTable], alike: Alike
) -> Iterator[tuple[int, int, int, int, int]]:
    """(start, length, state, source, position) of each merged row, as plain integers."""
    for table in merged_tables(tables, alike):
        yield from zip(
            table.starts.tolist(),
            table.lengths.tolist(),
            table.states.tolist(),
            table.sources.tolist(),
            table.positions.tolist(),
            strict=True,
        )


def intervals(table: RunTable, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Int64:
    """The rows where `chosen` is true as an (n, 2) array of [begin, end), neighbours joined."""
    edges = np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8))
    bounds = np.append(table.starts, np.int64(table.end))
    return np.stack([bounds[edges == 1], bounds[edges == -1]], axis=1)


def ranges_where(
    tables: Iterable[RunTable], state: State, *, invert: bool = False
) -> Iterator[tuple[int, int]]:
    """[begin, end) of every stretch in `state` (or, with `invert`, in any other)."""
    return joined(
        (begin, end)
        for table in tables
        for begin, end in intervals(table, (table.states == state) != invert).tolist()
    )
