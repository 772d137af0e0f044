# SPDX-License-Identifier: Apache-2.0
"""From tables to runs and ranges: merging across the pieces in which a map is handed out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diskkit.table import DATA, RunTable, merge, present

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from diskkit.runs import State
    from diskkit.table import Int64


def merged_tables(tables: Iterable[RunTable]) -> Iterator[RunTable]:
    """The same map as users see it, with no two neighbours that could be one.

    Compressed data has position -1. The last row of each piece is held back until the next shows
    whether it goes on.
    """
    held: RunTable | None = None
    for table in tables:
        shown = present(table)
        if held is not None:
            shown = _append(held, shown)
        last = len(shown.starts) - 1
        if last:
            yield shown.rows(0, last)
        held = shown.rows(last, last + 1)
    if held is not None:
        yield held


def _append(one: RunTable, more: RunTable) -> RunTable:
    """`more` after the single row `one`."""
    joined = RunTable(
        np.concatenate([one.starts, more.starts]),
        more.end,
        np.concatenate([one.states, more.states]),
        np.concatenate([one.sources, more.sources]),
        np.concatenate([one.positions, more.positions]),
    )
    packed = (joined.positions[:2] == -1) & (joined.states[:2] == DATA)
    if packed.all() and joined.sources[0] == joined.sources[1]:
        starts = np.concatenate([one.starts, more.starts[1:]])
        return more._replace(starts=starts)
    return merge(joined) if not packed.any() else joined


def merged_rows(tables: Iterable[RunTable]) -> Iterator[tuple[int, int, int, int, int]]:
    """(start, length, state, source, position) of each merged row, as plain integers."""
    for table in merged_tables(tables):
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
    held: tuple[int, int] | None = None
    for table in tables:
        for begin, end in intervals(table, (table.states == state) != invert).tolist():
            if held is not None and held[1] == begin:
                held = held[0], end
                continue
            if held is not None:
                yield held
            held = begin, end
    if held is not None:
        yield held
