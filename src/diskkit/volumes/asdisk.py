# SPDX-License-Identifier: Apache-2.0
"""`VolumeDisk`: a volume as a disk, so that whatever works on disks works on it: copies, NBD, maps.

Its map is that of the disks it lies on, cut and moved. What is deciphered as it is read (LUKS) has
no place in any file: there the map says data, and nothing more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from diskkit.disk import Disk, Source, Stretch
from diskkit.errors import UsageError
from diskkit.runs import State
from diskkit.table import merge, single, weave
from diskkit.volumes.find import find_volumes
from diskkit.volumes.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from diskkit.info import DiskInfo
    from diskkit.interfaces import Readable
    from diskkit.table import Int64, RunTable
    from diskkit.volumes.volume import Part

    Ask = Callable[[Disk, int, int], Iterator[RunTable]]


_WOVEN = 4 << 30
"""Bytes of stripes whose maps are put together at a time,"""
_TURNS = 1 << 18
"""and the pieces that they are at most."""


class Placed(NamedTuple):
    """A contiguous range of what is no volume itself: of a disk, or of what deciphers one."""

    source: Readable
    offset: int
    length: int


class Home(NamedTuple):
    """The disk of a volume that is one range of it."""

    disk: Disk
    offset: int
    """Byte of the disk at which the volume begins."""
    numbers: Int64
    """By the numbers of the disk's sources, ascending: those of the volume's."""


def open_volume(disks: Sequence[Disk], name: str | int, key: bytes | None = None) -> VolumeDisk:
    """The volume of this number or name. Takes over all `disks`, unless this fails.

    Raises what `find_volumes` raises, the volume's own problem, and `UsageError` if there is none.
    """
    table = find_volumes(*disks, key=key)
    try:
        volume = table.volume(name)
    except UsageError as error:
        raise UsageError(f"{disks[0].path}: {error}") from None
    return VolumeDisk(volume, disks)


def _placed(source: Readable, offset: int, length: int) -> Iterator[Placed]:
    """Where a range lies, in no order: a partition may hold a part of a logical volume, and so on.

    What is striped is a single range of each stripe, as far as whole turns go.
    """
    if isinstance(source, Volume):
        for part in source.parts(offset, length):
            for lane in part.lanes:
                yield from _placed(*lane)
    else:
        yield Placed(source, offset, length)


def _shifted(table: RunTable, by: int) -> RunTable:
    """The same rows further on."""
    return table._replace(starts=table.starts + by, end=table.end + by)


def _in_place(table: RunTable, loose: NDArray[np.bool_]) -> RunTable:
    """Where a row is in no file, its position is its own offset."""
    own = loose & (table.states == State.DATA)
    return table._replace(positions=np.where(own, table.starts, table.positions))


class VolumeDisk(Disk):
    """A volume, with the disks it lies on. `open_volume` is the way to get one that has them."""

    def __init__(self, volume: Volume, disks: Sequence[Disk], *, borrowed: bool = False) -> None:
        """Take over the disks, or, where they are `borrowed`, leave closing them to their owner.

        Raises the volume's problem, if its bytes cannot be had.
        """
        if volume.problem is not None:
            raise volume.problem
        self.volume = volume
        self.path = f"{disks[0].path}:{volume.name}"
        self.size = volume.size
        self.writable = volume.writable
        self.granularity = min(disk.granularity for disk in disks)
        self.parallel = max(disk.parallel for disk in disks)
        self._disks = disks
        self._borrowed = borrowed
        self._closed = False
        # Sources of several disks are told apart, and stand in the order of their links. The first
        # is for what is deciphered, and lies in no file.
        rows = [
            (source.link, place, number, source)
            for place, disk in enumerate(disks)
            for number, source in enumerate(disk.sources)
        ]
        rows.sort(key=lambda row: row[:3])
        self._numbers = [np.zeros(len(disk.sources), np.int64) for disk in disks]
        for new, (_, place, number, _) in enumerate(rows):
            self._numbers[place][number] = new + 1
        self._sources = [Source(0), *(source for *_, source in rows)]
        self._in_files = np.array([source.name is not None for source in self._sources])
        self._home = self._find_home()

    def _find_home(self) -> Home | None:
        """None where it lies in several places, or is deciphered."""
        first = next(_placed(self.volume, 0, self.size), None)
        if first is not None and first.length == self.size:
            for disk, numbers in zip(self._disks, self._numbers, strict=True):
                if disk is first.source:
                    return Home(disk, first.offset, numbers)
        return None

    @property
    def info(self) -> DiskInfo:
        """That of the first disk, whose ids are not the volume's."""
        info = self._disks[0].info
        return info._replace(
            path=self.path,
            format="volume",
            create_type=self.volume.type_name or self.volume.type,
            capacity=self.size,
            cid=None,
            parent_cid=None,
            uuid=None,
            geometry=None,
            metadata={},
        )

    @property
    def sources(self) -> Sequence[Source]:
        """What lies in no file, then those of the disks."""
        return self._sources

    # --- reading and its map ------------------------------------------------------------------

    def _fill(self, offset: int, buffer: memoryview) -> None:
        self._check_open()
        if self._home is None:
            self.volume.read_into(offset, buffer)
        else:
            disk, begin, _ = self._home
            disk.read_into(offset + begin, buffer)

    def _scan(self, offset: int, length: int, links: int | None) -> Iterator[RunTable]:
        return self._moved(offset, length, lambda disk, at, n: disk.tables(at, n, links=links))

    def stored(self, offset: int = 0, length: int | None = None) -> Iterator[RunTable]:
        """`tables`, with what reads as zeros in the disks turned to zeros."""
        offset, length = self._range(offset, length)
        return self._moved(offset, length, lambda disk, at, n: disk.stored(at, n))

    def _moved(self, offset: int, length: int, ask: Ask) -> Iterator[RunTable]:
        self._check_open()
        for table in self._below(self.volume, offset, length, ask):
            yield _in_place(table, ~self._in_files[table.sources])

    def _below(self, source: Readable, offset: int, length: int, ask: Ask) -> Iterator[RunTable]:
        """Tables of a range of whatever the volume lies on, in its bytes and with our sources."""
        if isinstance(source, Volume):
            for part in source.parts(offset, length):
                yield from self._of_part(part, ask)
            return
        for disk, numbers in zip(self._disks, self._numbers, strict=True):
            if disk is source:
                for table in ask(disk, offset, length):
                    yield table._replace(sources=numbers[table.sources])
                return
        yield single(offset, length, State.DATA, offset)

    def _of_part(self, part: Part, ask: Ask) -> Iterator[RunTable]:
        """The same for a part of a volume, in the bytes of that volume."""
        first, count = part.lanes[0], len(part.lanes)
        if count == 1:
            for table in self._below(*first, ask):
                yield _shifted(table, part.start - first.offset)
            return
        step = part.unit * max(1, min(_WOVEN // part.unit, _TURNS) // count)
        for begin in range(0, first.length, step):
            n = min(step, first.length - begin)
            lanes = [
                list(self._below(lane.source, lane.offset + begin, n, ask)) for lane in part.lanes
            ]
            yield merge(weave(lanes, part.unit, part.start + begin * count))

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("the disk is closed")

    def stretch(self, offset: int) -> Stretch | None:
        """That of its disk, within its bounds."""
        if self._home is None:
            return None
        disk, shift, _ = self._home
        found = disk.stretch(offset + shift)
        if found is None:
            return None
        begin, end = max(found.begin, shift), min(found.end, shift + self.size)
        position = found.position + begin - found.begin
        return found._replace(begin=begin - shift, end=end - shift, position=position)

    def pour(self, table: RunTable, out: int, base: int = 0) -> int:
        """By its disk, where it is one range of it."""
        if self._home is None:
            return super().pour(table, out, base)
        disk, shift, numbers = self._home
        there = _in_place(_shifted(table, shift), ~self._in_files[table.sources])
        there = there._replace(sources=np.searchsorted(numbers, table.sources))
        return disk.pour(there, out, base + shift)

    # --- writing ------------------------------------------------------------------------------

    def _check_writable(self) -> None:
        self._check_open()
        if not self.writable:
            raise self._read_only()

    def _write(self, offset: int, data: memoryview) -> None:
        self._check_writable()
        if self._home is None:
            self.volume.write(offset, data)
        else:
            disk, begin, _ = self._home
            disk.write(offset + begin, data)

    def _zero(self, offset: int, length: int, *, give_back: bool) -> None:
        self._check_writable()
        for place in _placed(self.volume, offset, length):
            assert isinstance(place.source, Disk)  # else it would not be writable
            change = place.source.discard if give_back else place.source.zero
            change(place.offset, place.length)

    def zeroes_quickly(self, offset: int, length: int) -> bool:
        """Where all that it lies on can."""
        return all(
            isinstance(place.source, Disk)
            and place.source.zeroes_quickly(place.offset, place.length)
            for place in _placed(self.volume, offset, length)
        )

    def _flush(self) -> None:
        self._check_writable()
        for disk in self._disks:
            disk.flush()

    def close(self) -> None:
        """Close all its disks, even if one fails; borrowed ones stay open."""
        from contextlib import ExitStack

        self._closed = True
        with ExitStack() as stack:
            for disk in self._disks if not self._borrowed else ():
                stack.callback(disk.close)
