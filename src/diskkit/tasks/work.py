# SPDX-License-Identifier: Apache-2.0
"""Long work: split into jobs, run on a few threads, given back in order, reported as it goes.

Threads pay because the work releases Python's lock: kernel copies, reads, inflating. At most a few
jobs per thread are under way, so memory does not grow with the disk; when one fails, or the caller
is interrupted, the others are waited for, so nothing is written after the error is seen.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from diskkit.runs import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from diskkit.table import Int64, RunTable

    Progress = Callable[[int, int], None]
    """Called with (bytes of the disk done, bytes of the disk in all)."""

Job = TypeVar("Job")
Result = TypeVar("Result")

_AHEAD = 4
_MOST_ROWS = 4096


def default_threads() -> int:
    """As many threads as this process may use processors, four at most."""
    try:
        return min(4, len(os.sched_getaffinity(0)))
    except AttributeError:
        return min(4, os.cpu_count() or 1)


def in_order(
    jobs: Iterable[Job], work: Callable[[Job], Result], threads: int | None
) -> Iterator[tuple[Job, Result]]:
    """Do `work` on each job on `threads` threads; yields (job, result) in the order of the jobs."""
    pool = ThreadPoolExecutor(threads or default_threads(), "diskkit")
    futures: deque[tuple[Job, Future[Result]]] = deque()
    try:
        for job in jobs:
            futures.append((job, pool.submit(work, job)))
            if len(futures) >= _AHEAD * (threads or default_threads()):
                done, future = futures.popleft()
                yield done, future.result()
        while futures:
            done, future = futures.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def pieces(tables: Iterable[RunTable], most: int) -> Iterator[RunTable]:
    """The tables cut into pieces that hold about `most` bytes each, and no piece without any.

    No DATA row is longer than `most`. What holds no bytes (HOLE, ZERO) rides along as rows between.
    """
    for table in tables:
        table = split_long(table, most)
        full = table.states >= State.DATA
        if not full.any():
            continue
        weight = np.cumsum(np.where(full, table.lengths, 0))
        begin, count = 0, len(table.starts)
        while begin < count:
            base = int(weight[begin - 1]) if begin else 0
            end = int(np.searchsorted(weight, base + most, "right"))
            end = min(max(end, begin + 1), begin + _MOST_ROWS, count)
            if full[begin:end].any():
                yield table.rows(begin, end)
            begin = end


def split_long(table: RunTable, most: int) -> RunTable:
    """The same map with no DATA row longer than `most` bytes."""
    parts: Int64 = np.where(table.states == State.DATA, -(-table.lengths // most), 1)
    if parts.max() == 1:
        return table
    row = np.repeat(np.arange(len(parts)), parts)
    step = np.arange(len(row)) - np.repeat(np.cumsum(parts) - parts, parts)
    shift = step * most  # 0 in every row that is not DATA: these have one part
    return table._replace(
        starts=table.starts[row] + shift,
        states=table.states[row],
        sources=table.sources[row],
        positions=table.positions[row] + shift,
    )
