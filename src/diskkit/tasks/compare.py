# SPDX-License-Identifier: Apache-2.0
"""Comparing what the guests of two disks would see.

The maps first: what both know to be zero, and what both keep in the same place of the same file,
is equal without being read. The rest is read, a few megabytes at a time, on a few threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diskkit.runs import Range, State, joined
from diskkit.table import DATA, RunTable
from diskkit.tasks.work import in_order, split_long

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from diskkit.disk import Disk
    from diskkit.table import Int64
    from diskkit.tasks.work import Progress

_JOB = 8 << 20
_READ = 128 << 10
"""Two of these fit in a processor's own cache: reading and comparing never wait for memory."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether two disks hold the same."""

    identical: bool
    first_difference: int | None
    """The first byte that differs; where one disk ends before the other, that end."""


def compare(
    a: Disk,
    b: Disk,
    *,
    length: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare two disks, or their first `length` bytes.

    Disks of different capacity differ, at the end of the shorter one if not before.
    """
    both = min(a.size, b.size)
    total = both if length is None else min(both, length)
    for found in _compared(a, b, total, 0, threads, progress):
        if found.first is not None:
            return Comparison(False, found.first)
    if progress:
        progress(total, total)
    if length is None and a.size != b.size:
        return Comparison(False, both)
    return Comparison(True, None)


def differences(
    a: Disk,
    b: Disk,
    *,
    unit: int = 65536,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Range]:
    """The stretches in which two disks differ, in whole units of `unit` bytes, by reading them.

    Where one disk is longer, all of its rest differs.
    """
    both = min(a.size, b.size)
    longest = max(a.size, b.size)

    def stretches() -> Iterator[tuple[int, int]]:
        for found in _compared(a, b, both, unit, threads, progress):
            yield from found.ranges
        if longest > both:
            yield both, longest

    for begin, end in joined(stretches()):
        yield Range(begin, end - begin)


@dataclass(slots=True)
class _Found:
    first: int | None
    ranges: list[tuple[int, int]]


def _compared(
    a: Disk, b: Disk, total: int, unit: int, threads: int | None, progress: Progress | None
) -> Iterator[_Found]:
    def work(job: list[tuple[int, int, bool, bool]]) -> _Found:
        return _read_job(a, b, job, unit)

    for job, found in in_order(_jobs(a, b, total), work, threads):
        if progress:
            progress(job[-1][1], total)
        yield found


def _jobs(a: Disk, b: Disk, total: int) -> Iterator[list[tuple[int, int, bool, bool]]]:
    """Lists, about `_JOB` big, of (begin, end, a holds bytes, b holds bytes) to be read."""
    job: list[tuple[int, int, bool, bool]] = []
    size = 0
    for begin, end, in_a, in_b in _to_read(a, b, total):
        job.append((begin, end, in_a, in_b))
        size += end - begin
        if size >= _JOB:
            yield job
            job, size = [], 0
    if job:
        yield job


def _to_read(a: Disk, b: Disk, total: int) -> Iterator[tuple[int, int, bool, bool]]:
    offset = 0
    tables_a, tables_b = a.stored(0, total), b.stored(0, total)
    of_a = of_b = None
    files = _file_numbers(a, b)
    while offset < total:
        of_a = next(tables_a) if of_a is None or of_a.end <= offset else of_a
        of_b = next(tables_b) if of_b is None or of_b.end <= offset else of_b
        end = min(of_a.end, of_b.end)
        yield from _rows_to_read(of_a.since(offset).clip(end), of_b.since(offset).clip(end), *files)
        offset = end


def _rows_to_read(
    of_a: RunTable, of_b: RunTable, files_a: Int64, files_b: Int64
) -> Iterator[tuple[int, int, bool, bool]]:
    starts = np.union1d(of_a.starts, of_b.starts)
    at_a = np.searchsorted(of_a.starts, starts, "right") - 1
    at_b = np.searchsorted(of_b.starts, starts, "right") - 1
    in_a, in_b = of_a.states[at_a] >= DATA, of_b.states[at_b] >= DATA
    same = (of_a.states[at_a] == DATA) & (of_b.states[at_b] == DATA)
    same &= files_a[of_a.sources[at_a]] == files_b[of_b.sources[at_b]]
    place_a = of_a.positions[at_a] - of_a.starts[at_a]
    same &= place_a == of_b.positions[at_b] - of_b.starts[at_b]
    kind = np.where(same, 0, in_a + 2 * in_b).astype(np.uint8)
    keep = np.append(True, kind[1:] != kind[:-1])
    merged = RunTable(
        starts[keep],
        of_a.end,
        np.where(kind[keep] != 0, DATA, np.uint8(State.ZERO)),
        kind[keep].astype(np.int64),
        np.zeros(int(keep.sum()), np.int64),
    )
    merged = split_long(merged, _JOB)
    wanted = merged.sources != 0
    columns = merged.starts[wanted], merged.ends[wanted], merged.sources[wanted]
    for begin, end, which in zip(*(c.tolist() for c in columns), strict=True):
        yield begin, end, bool(which & 1), bool(which & 2)


def _file_numbers(a: Disk, b: Disk) -> tuple[Int64, Int64]:
    """A number per source of each disk, equal exactly where the file is the same."""
    numbers: dict[object, int] = {}

    def of(disk: Disk) -> Int64:
        # What lies in no known file is equal to nothing else.
        known = [object() if s.identity is None else s.identity for s in disk.sources]
        return np.array([numbers.setdefault(i, len(numbers)) for i in known], np.int64)

    return of(a), of(b)


def _read_job(a: Disk, b: Disk, job: list[tuple[int, int, bool, bool]], unit: int) -> _Found:
    found = _Found(None, [])
    one, two = np.empty(_READ, np.uint8), np.empty(_READ, np.uint8)
    for begin, end, in_a, in_b in job:
        while begin < end:
            n = min(end, begin - begin % _READ + _READ) - begin
            left, right = one[:n], two[:n]
            if in_a:
                a.read_into(begin, left.data)
            else:
                left[:] = 0
            if in_b:
                b.read_into(begin, right.data)
            else:
                right[:] = 0
            if not _equal(left, right):
                different = np.flatnonzero(left != right) + begin
                found.first = int(different[0]) if found.first is None else found.first
                if not unit:
                    return found
                units = np.unique(different // unit).tolist()
                size = min(a.size, b.size)
                found.ranges += [(u * unit, min((u + 1) * unit, size)) for u in units]
            begin += n
    return found


def _equal(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> bool:
    if len(left) % 8 == 0:
        return bool(np.array_equal(left.view(np.uint64), right.view(np.uint64)))
    return bool(np.array_equal(left, right))
