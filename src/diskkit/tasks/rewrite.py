# SPDX-License-Identifier: Apache-2.0
"""A hosted sparse extent written anew, in order and without gaps, in place of the old file.

What growing, shrinking and defragmenting have in common. Reading and judging grains runs on a few
threads, writing is in order. The new file is read back and held against the old one before it takes
its name; so until then the old file is the disk, and after that the new one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from diskkit.chain import Chain
from diskkit.errors import StorageError, UnsupportedFeature
from diskkit.formats.link import Extent, Link
from diskkit.formats.vmdk import sparse
from diskkit.formats.vmdk.writers import Grains, SparseWriter
from diskkit.interfaces import OpenPolicy
from diskkit.mapping import ranges_where
from diskkit.runs import State
from diskkit.storage.local import LocalFile
from diskkit.storage.replacing import filled_anew
from diskkit.tasks.work import in_order
from diskkit.units import SECTOR, align_up, ceil_div

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from diskkit.interfaces import Storage
    from diskkit.table import UInt8

    Step = Callable[[int], None]
    """Called with how many guest bytes of the extent are done."""

_PIECE = 2 << 20
_SMALLEST_GRAIN, _LARGEST_GRAIN = 8 * SECTOR, 2048 * SECTOR
_STRICT = OpenPolicy(strict=True)


class Plan(NamedTuple):
    """What the new file shall be."""

    capacity: int
    """Bytes, not less than the extent has."""
    descriptor: bytes
    """The text to embed; empty for a part of a split disk."""
    has_parent: bool
    drop_zeros: bool
    """Whether grains that are all zeros lose their room."""


def check_grain(extent: Extent) -> None:
    """Raise `UnsupportedFeature` for grains of a size that we do not write."""
    grain = extent.map.granularity
    if not _SMALLEST_GRAIN <= grain <= _LARGEST_GRAIN:
        raise UnsupportedFeature(
            "only extents with grains of 8 to 2048 sectors are written anew",
            path=extent.storage.name if extent.storage else "",
            structure="sparse header",
            field="grainSize",
            value=grain // SECTOR,
            advice="convert the disk",
        )


def rewrite(
    link: Link, number: int, plan: Plan, threads: int | None, step: Step | None = None
) -> None:
    """Put a new file in place of that of extent `number` of a link that is open for writing.

    Mode and owner stay. `link` has the new file afterwards. Raises `FormatError` if the extent is
    damaged and `StorageError`; then the old file is there as it was.
    """
    extent = link.extents[number]
    old = extent.storage
    of = extent.map
    assert old is not None
    assert isinstance(of, sparse.SparseMap)
    check_grain(extent)
    view = View(extent, old)
    length = extent.line.length

    def halfway(done: int) -> None:
        if step is not None:
            step(done // 2)

    def second_half(done: int) -> None:
        if step is not None:
            step((length + done) // 2)

    def fill(fd: int) -> None:
        room = 0
        if plan.descriptor:
            room = max(of.header.descriptor_size, align_up(len(plan.descriptor) + 1, SECTOR))
        writer = SparseWriter(
            fd, old.name, plan.capacity, plan.descriptor, grain=view.grain, room=room
        )
        stored = 0
        for grains in view.grains(plan, threads, halfway):
            writer.write(grains)
            stored += _count(grains)
        writer.finish()
        _verify(view, fd, plan, stored, threads, second_half)

    new = filled_anew(old, fill)
    link.storages[link.storages.index(old)] = new
    if link.storage is old:
        link.storage = new
    link.extents[number] = extent._replace(map=_open(new, plan.capacity), storage=new)
    old.close()


def _count(grains: Grains) -> int:
    """Grains that have an entry."""
    masks = (grains.filled, grains.blank, grains.zeroed)
    return int(np.any([m for m in masks if m is not None], axis=0).sum())


class View:
    """One extent as a disk of its own, grain by grain; what it does not hold reads as zeros."""

    def __init__(self, extent: Extent, storage: Storage) -> None:
        """`storage` stays the caller's."""
        link = Link(storage.name, storage)
        link.extents = [extent._replace(start=0, writer=None)]
        link.capacity = self.length = extent.line.length
        self.chain = Chain([link])
        self.grain = extent.map.granularity

    def pieces(self) -> Iterator[tuple[int, int]]:
        """(first grain, count) of aligned pieces that hold anything, ascending."""
        per_piece = max(1, _PIECE // self.grain)
        whole, reach = ceil_div(self.length, self.grain), 0
        tables = self.chain.tables(0, self.length)
        for begin, end in ranges_where(tables, State.HOLE, invert=True):
            first = max(reach, begin // self.grain // per_piece * per_piece)
            reach = max(reach, align_up(ceil_div(end, self.grain), per_piece))
            for number in range(first, min(reach, whole), per_piece):
                yield number, min(per_piece, whole - number)

    def read(self, first: int, count: int) -> tuple[NDArray[np.uint8], UInt8]:
        """The bytes of some grains, the last one of the extent padded, and their states."""
        data = np.zeros(count * self.grain, np.uint8)
        states = np.zeros(count, np.uint8)
        begin = first * self.grain
        end = min(begin + len(data), self.length)
        starts = begin + np.arange(count) * self.grain
        for table in self.chain.tables(begin, end - begin):
            inside = (starts >= table.offset) & (starts < table.end)
            rows = np.searchsorted(table.starts, starts[inside], "right") - 1
            states[inside] = table.states[rows]
        if (states >= State.DATA).any():
            self.chain.read_into(begin, data.data[: end - begin])
        return data, states

    def grains(self, plan: Plan, threads: int | None, step: Step) -> Iterator[Grains]:
        """What the new file shall hold."""

        def work(piece: tuple[int, int]) -> Grains:
            return _judged(piece[0], *self.read(*piece), plan)

        for (first, count), grains in in_order(self.pieces(), work, threads):
            yield grains
            step(min((first + count) * self.grain, self.length))


def _judged(first: int, data: NDArray[np.uint8], states: UInt8, plan: Plan) -> Grains:
    """Which grains are stored, which become entries without room."""
    filled = filled_grains(data, len(states))
    zeroed = np.asarray(states == State.ZERO)
    blank = np.asarray(states == State.DATA) & ~filled
    if not plan.drop_zeros:
        return Grains(first, data.data, filled, [], blank, zeroed)
    # A child's zeros hide its parent's data; a base reads as zeros where it has nothing.
    return Grains(first, data.data, filled, [], None, zeroed | blank if plan.has_parent else None)


def filled_grains(data: NDArray[np.uint8], count: int) -> NDArray[np.bool_]:
    """Which of `count` grains are not all zeros."""
    return np.asarray(data.view(np.uint64).reshape(count, -1).any(axis=1), bool)


def _open(storage: Storage, length: int) -> sparse.SparseMap:
    return sparse.SparseMap(storage, sparse.read_header(storage, _STRICT), length, _STRICT)


def _verify(old: View, fd: int, plan: Plan, stored: int, threads: int | None, step: Step) -> None:
    """Read the new file back: its bytes, its map, and nothing where the old file has nothing."""
    name = old.chain.links[0].path
    storage = LocalFile(os.dup(fd), name)
    try:
        line = old.chain.links[0].extents[0].line._replace(length=plan.capacity)
        new = View(Extent(0, line, _open(storage, plan.capacity), storage), storage)

        def work(piece: tuple[int, int]) -> int:
            return _compare(piece, old, new, plan)

        seen = 0
        for (first, count), found in in_order(old.pieces(), work, threads):
            seen += found
            step(min((first + count) * old.grain, old.length))
        held = sum(
            ceil_div(end - begin, new.grain)
            for begin, end in ranges_where(new.chain.tables(0, new.length), State.HOLE, invert=True)
        )
        if not seen == held == stored:
            raise _differs(name, f"it has {held} grains, not {stored}")
    finally:
        storage.close()


def _compare(piece: tuple[int, int], old: View, new: View, plan: Plan) -> int:
    """Compare one piece; returns how many grains the new file has there."""
    before, states = old.read(*piece)
    after, now = new.read(*piece)
    end = min(len(before), old.length - piece[0] * old.grain)
    if not np.array_equal(before[:end], after[:end]) or after[end:].any():
        raise _differs(old.chain.links[0].path, f"grains from {piece[0]} on differ")
    alike = np.array_equal(states, now)
    if plan.drop_zeros:
        # A base reads as zeros where it has nothing; a child shows its parent there.
        same_holes = np.array_equal(states == State.HOLE, now == State.HOLE)
        alike = same_holes or not plan.has_parent
    if not alike:
        raise _differs(old.chain.links[0].path, f"the map of grains from {piece[0]} on differs")
    return int((now != State.HOLE).sum())


def _differs(name: str, text: str) -> StorageError:
    return StorageError(name, f"the new file is not what was written: {text}; the old one stays")
