# SPDX-License-Identifier: Apache-2.0
"""Suites for those who write drivers: what a storage, a block map and a disk must do, as tests.

Derive a class from a suite and give it a fixture named `case`; pytest does the rest:

    class TestMyDisk(DiskSuite):
        pass

    @pytest.fixture
    def case(tmp_path):
        content = make_my_image(tmp_path / "disk.img")
        return DiskCase(lambda: diskkit.open_disk(tmp_path / "disk.img"), content)

Content may be `bytes` or anything else with a length that can be sliced. The suites never write,
so a case may be shared; all but the last, which is for disks that are written to. They need pytest;
nothing else in diskkit needs them. For assertions that explain themselves call
`pytest.register_assert_rewrite("diskkit.testing")` in your conftest.py.
"""

from __future__ import annotations

import io
import os
import random
from array import array
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pytest

from diskkit.errors import FormatError, LockedError, OutOfRange, ShortRead, UsageError
from diskkit.interfaces import BlockMap, Storage
from diskkit.runs import Range, Run, State
from diskkit.units import align_down, align_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from diskkit.disk import Disk
    from diskkit.table import RunTable

_PIECE = 1 << 20
_WHOLE = 1 << 28
"""Larger contents are compared in samples."""
_WINDOW = 1 << 25
_THREADS = 8
_CHUNKS = (65536, 1 << 17, 3 * 65536, 1 << 20, 1 << 26)
"""From the smallest to the largest that VDDK knows, and one that is no power of two."""


class Content(Protocol):
    """Bytes that need not be in memory."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, part: slice, /) -> bytes:
        """Some of them."""


@dataclass(frozen=True)
class StorageCase:
    """How to open a storage, and what it holds."""

    open: Callable[[], Storage]
    content: Content


@dataclass(frozen=True)
class MapCase:
    """One extent: its map, its file if it has one, and its guest bytes, holes as zeros."""

    map: BlockMap
    storage: Storage | None
    content: Content


@dataclass(frozen=True)
class DiskCase:
    """How to open a disk, and its guest bytes."""

    open: Callable[[], Disk]
    content: Content


class MemoryStorage(Storage):
    """Bytes in memory, for tests of drivers without files."""

    def __init__(self, data: bytes, name: str = "memory") -> None:
        """`data` is what the file would hold."""
        self.name = name
        self.identity = f"memory {id(data)}"
        self.size = len(data)
        self._data = data

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill all of `buffer` from `offset`."""
        part = self._data[offset : offset + len(buffer)]
        if len(part) < len(buffer):
            raise ShortRead(self.name, f"ends before byte {offset + len(buffer)}")
        buffer[:] = part

    def close(self) -> None:
        """Nothing to give back."""


# --- helpers --------------------------------------------------------------------------------------


def _places(size: int, count: int, edges: Iterable[int] = ()) -> list[tuple[int, int]]:
    """Reproducible (offset, length) pairs inside `size`, many of them around `edges`."""
    dice = random.Random(size)
    near = [e for e in edges if 0 <= e <= size]
    if len(near) > count:
        near = dice.sample(near, count)
    near += [0, size, *range(_WINDOW, min(size, 8 * _WINDOW), _WINDOW)]
    found = []
    for edge in near:
        for before, after in ((1, 1), (0, 512), (512, 0), (dice.randrange(9000), 4096)):
            begin, end = max(0, edge - before), min(size, edge + after)
            found.append((begin, end - begin))
    for _ in range(count):
        length = dice.choice((1, 2, 511, 512, 513, 4096, 65536, dice.randrange(1, 300_000)))
        length = min(length, size)
        found.append((dice.randrange(size - length + 1), length))
    return found


def _same(one: Run, two: Run) -> bool:
    """Whether `two`, right after `one`, says nothing new."""
    if (one.state, one.link, one.path) != (two.state, two.link, two.path):
        return False
    if one.file_offset is None or two.file_offset is None:
        return one.file_offset is two.file_offset
    return one.file_offset + one.length == two.file_offset


def check_runs(runs: list[Run], offset: int, length: int) -> None:
    """The contract of every sequence of runs: see `diskkit.runs`."""
    if not length:
        assert runs == []
        return
    assert runs[0].offset == offset
    assert runs[-1].offset + runs[-1].length == offset + length
    for run in runs:
        assert run.length > 0, run
        assert run.state in (State.DATA, State.ZERO, State.HOLE), run
        assert (run.path is None) == (run.file_offset is None), run
        assert run.state == State.DATA or run.path is None, run
    for one, two in pairwise(runs):
        assert one.offset + one.length == two.offset, (one, two)
        assert not _same(one, two), f"not merged: {one} {two}"


def cut_runs(runs: Iterable[Run], offset: int, length: int) -> list[Run]:
    """What the map of a part must be, given the map of the whole."""
    end = offset + length
    found = []
    for run in runs:
        begin, stop = max(run.offset, offset), min(run.offset + run.length, end)
        if begin < stop:
            at = None if run.file_offset is None else run.file_offset + begin - run.offset
            found.append(run._replace(offset=begin, length=stop - begin, file_offset=at))
    return found


def allocated_chunks(runs: Iterable[Run], chunk: int, size: int) -> list[Range]:
    """The rule of QueryAllocatedBlocks applied to a whole map: chunks with any data or zero."""
    found: list[Range] = []
    for run in runs:
        if run.state == State.HOLE:
            continue
        begin = align_down(run.offset, chunk)
        end = min(align_up(run.offset + run.length, chunk), size)
        if found and begin <= found[-1].offset + found[-1].length:
            begin = found.pop().offset
        found.append(Range(begin, end - begin))
    return found


def cut_ranges(ranges: Iterable[Range], offset: int, length: int) -> list[Range]:
    """What lies inside a part."""
    end = offset + length
    cut = ((max(r.offset, offset), min(r.offset + r.length, end)) for r in ranges)
    return [Range(begin, stop - begin) for begin, stop in cut if begin < stop]


def _in_threads(work: Callable[[int], object]) -> None:
    """Run `work` in eight threads at once; the first failure is raised."""
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(work, range(_THREADS)))


# --- storage --------------------------------------------------------------------------------------


class StorageSuite:
    """What every `Storage` must do. Needs a fixture `case`: a `StorageCase` of 1 byte or more."""

    @pytest.fixture
    def storage(self, case: StorageCase) -> Iterator[Storage]:
        """The storage, open for one test."""
        storage = case.open()
        yield storage
        storage.close()

    def test_size_and_name(self, case: StorageCase, storage: Storage) -> None:
        """It knows how long it is and what it is called."""
        assert storage.size == len(case.content)
        assert storage.name
        assert storage.physical_bytes >= 0

    def test_identity_is_that_of_the_file(self, case: StorageCase, storage: Storage) -> None:
        """Opening the same file twice is noticed."""
        again = case.open()
        assert again.identity == storage.identity
        again.close()

    def test_reads_any_range(self, case: StorageCase, storage: Storage) -> None:
        """`read` and `read_into` give exactly the bytes asked for."""
        for offset, length in _places(storage.size, 40):
            want = case.content[offset : offset + length]
            assert storage.read(offset, length) == want
            buffer = bytearray(b"\xa5" * (length + 2))
            storage.read_into(offset, memoryview(buffer)[1:-1])
            assert buffer == b"\xa5" + want + b"\xa5"

    def test_reading_past_the_end_is_a_short_read(self, storage: Storage) -> None:
        """Bytes that are not there are never made up."""
        for offset in (storage.size - 1, storage.size, storage.size + 4096):
            with pytest.raises(ShortRead):
                storage.read(offset, 2)
            with pytest.raises(ShortRead):
                storage.read_into(offset, memoryview(bytearray(2)))

    def test_data_ranges_leave_out_zeros_only(self, case: StorageCase, storage: Storage) -> None:
        """They ascend, stay inside what was asked, and cover every byte that is not zero."""
        places = [(0, storage.size), (0, 0), (storage.size, 0), *_places(storage.size, 20)]
        for offset, length in places:
            reach = offset
            for begin, end in storage.data_ranges(offset, length):
                assert reach <= begin < end <= offset + length
                assert not any(case.content[reach:begin])
                reach = end
            assert not any(case.content[reach : offset + length])

    def test_descriptor_reads_the_same_bytes(self, case: StorageCase, storage: Storage) -> None:
        """A file descriptor, where there is one, is that of these very bytes."""
        if storage.descriptor is not None:
            assert os.pread(storage.descriptor, 512, 0) == case.content[:512]

    def test_threads_agree(self, case: StorageCase, storage: Storage) -> None:
        """No reader disturbs another."""

        def work(number: int) -> None:
            for offset, length in _places(storage.size, 10 + number):
                assert storage.read(offset, length) == case.content[offset : offset + length]

        _in_threads(work)

    def test_closing_twice_is_fine(self, case: StorageCase) -> None:
        """The second time does nothing."""
        storage = case.open()
        storage.close()
        storage.close()


# --- block maps -----------------------------------------------------------------------------------


class BlockMapSuite:
    """What every `BlockMap` must do. Needs a fixture `case`: a `MapCase`."""

    def test_size_and_granularity(self, case: MapCase) -> None:
        """It describes the whole extent, in units of at least a byte."""
        assert case.map.length == len(case.content)
        assert case.map.granularity >= 1

    def test_scan_answers_in_good_form(self, case: MapCase) -> None:
        """It covers the front of what was asked with merged, ascending rows from source 0."""
        whole = self._tables(case.map, 0, case.map.length)
        for offset, length in _places(case.map.length, 25, self._edges(whole)):
            if length:
                self._check_table(case.map.scan(offset, length), offset, length)

    def test_scan_from_anywhere_says_the_same(self, case: MapCase) -> None:
        """What is said of a byte does not depend on where the scan began or ended."""
        whole = self._tables(case.map, 0, case.map.length)
        edges = self._edges(whole)
        for offset, length in _places(case.map.length, 25, edges):
            for table in self._tables(case.map, offset, length):
                for at in {table.offset, table.end - 1, (table.offset + table.end) // 2}:
                    assert self._at([table], at) == self._at(whole, at)

    def test_rows_lead_to_the_bytes(self, case: MapCase) -> None:
        """DATA lies in the file, PACKED can be loaded, and holes and zeros are zeros."""
        dice = random.Random(0)
        for table in self._tables(case.map, 0, case.map.length):
            count = len(table.starts)
            rows = range(count) if count <= 500 else sorted(dice.sample(range(count), 500))
            for row in rows:
                begin = int(table.starts[row])
                end = min(int(table.ends[row]), begin + _WHOLE)
                self._check_row(case, table, row, begin, end)

    def test_threads_agree(self, case: MapCase) -> None:
        """Many may scan at once."""
        whole = self._tables(case.map, 0, case.map.length)

        def work(number: int) -> None:
            for offset, length in _places(case.map.length, 5 + number):
                for table in self._tables(case.map, offset, length):
                    assert self._at([table], table.offset) == self._at(whole, table.offset)

        _in_threads(work)

    @staticmethod
    def _tables(block_map: BlockMap, offset: int, length: int) -> list[RunTable]:
        found = []
        end = offset + length
        while offset < end:
            found.append(block_map.scan(offset, end - offset))
            assert found[-1].end > offset, "a scan must get on"
            offset = found[-1].end
        return found

    @staticmethod
    def _edges(tables: list[RunTable]) -> list[int]:
        return [int(start) for table in tables for start in table.starts[:2000]]

    @staticmethod
    def _at(tables: list[RunTable], offset: int) -> tuple[int, int]:
        """State, and place in the file, of one guest byte."""
        table = next(t for t in tables if t.end > offset)
        row = int(np.searchsorted(table.starts, offset, "right")) - 1
        state, place = int(table.states[row]), int(table.positions[row])
        if state == State.DATA:
            return state, place + offset - int(table.starts[row])
        return state, place if state == State.PACKED else 0

    @staticmethod
    def _check_table(table: RunTable, offset: int, length: int) -> None:
        assert table.offset == offset
        assert offset < table.end <= offset + length
        assert (np.diff(np.append(table.starts, table.end)) > 0).all()
        columns = (table.starts, table.states, table.sources, table.positions)
        assert len({len(c) for c in columns}) == 1
        assert table.states.dtype == np.uint8
        assert all(c.dtype == np.int64 for c in (table.starts, table.sources, table.positions))
        assert not table.sources.any()
        assert table.states.max() <= max(State)
        stored = (table.states == State.DATA) | (table.states == State.PACKED)
        assert (table.positions[stored] >= 0).all()
        same = table.states[1:] == table.states[:-1]
        moved = np.diff(table.positions)
        joins = np.isin(table.states[1:], (State.HOLE, State.ZERO, State.BAD))
        joins |= (table.states[1:] == State.DATA) & (moved == np.diff(table.starts))
        joins |= (table.states[1:] == State.PACKED) & (moved == 0)
        assert not (same & joins).any(), "rows are not merged"

    @staticmethod
    def _check_row(case: MapCase, table: RunTable, row: int, begin: int, end: int) -> None:
        state, position = table.states[row], int(table.positions[row])
        want = case.content[begin:end]
        if state == State.DATA:
            assert case.storage is not None
            assert case.storage.read(position, end - begin) == want
        elif state == State.PACKED:
            first = align_down(begin, case.map.granularity)
            assert begin == first, "a compressed grain is not cut but by whoever asks"
            assert end <= first + case.map.granularity
            grain = case.map.load(first, position)
            assert len(grain) <= case.map.granularity
            assert grain[: end - begin] == want
        elif state == State.BAD:
            error = case.map.explain(begin)
            assert isinstance(error, FormatError)
            assert str(error)
        else:
            assert not any(want)


# --- disks ----------------------------------------------------------------------------------------


class DiskSuite:
    """What every `Disk` must do. Needs a fixture `case`: a `DiskCase`."""

    @pytest.fixture
    def disk(self, case: DiskCase) -> Iterator[Disk]:
        """The disk, open for one test."""
        with case.open() as disk:
            yield disk

    def test_size(self, case: DiskCase, disk: Disk) -> None:
        """Its size is the capacity."""
        assert disk.size == len(case.content)
        assert disk.info.capacity == disk.size

    def test_whole_disk_reads_as_expected(self, case: DiskCase, disk: Disk) -> None:
        """Every byte; of very large disks every byte near the ends of a run."""
        if disk.size <= _WHOLE:
            for offset in range(0, disk.size, _PIECE):
                length = min(_PIECE, disk.size - offset)
                assert disk.read(offset, length) == case.content[offset : offset + length]
        else:
            for offset, length in _places(disk.size, 500, self._edges(disk)):
                assert disk.read(offset, length) == case.content[offset : offset + length]

    def test_reads_at_any_place_and_size(self, case: DiskCase, disk: Disk) -> None:
        """Offsets and lengths need no alignment, and may span runs, links, extents."""
        for offset, length in _places(disk.size, 60, self._edges(disk)):
            assert disk.read(offset, length) == case.content[offset : offset + length]

    def test_read_into_fills_the_buffer_and_no_more(self, case: DiskCase, disk: Disk) -> None:
        """Whatever kind of writable buffer it is."""
        for offset, length in _places(disk.size, 20, self._edges(disk)):
            buffer = bytearray(b"\xa5" * (length + 2))
            disk.read_into(offset, memoryview(buffer)[1:-1])
            assert buffer == b"\xa5" + case.content[offset : offset + length] + b"\xa5"
        words = array("H", bytes(512))
        disk.read_into(0, memoryview(words))
        assert words.tobytes() == case.content[:512]

    def test_reads_of_no_bytes(self, disk: Disk) -> None:
        """They are fine anywhere in the disk, its very end included."""
        for offset in (0, 1, disk.size - 1, disk.size):
            assert disk.read(offset, 0) == b""
            disk.read_into(offset, bytearray())
            assert list(disk.runs(offset, 0)) == []
        assert list(disk.allocated(0, 0)) == []

    def test_ranges_outside_the_disk_are_refused(self, disk: Disk) -> None:
        """By every method, as the caller's mistake."""
        size = disk.size
        for offset, length in ((-1, 1), (0, size + 1), (size, 1), (size - 1, 2), (size + 1, 0)):
            with pytest.raises(OutOfRange):
                disk.read(offset, length)
            if length < _WHOLE:
                with pytest.raises(OutOfRange):
                    disk.read_into(offset, bytearray(length))
            self._refuse_map(disk, offset, length)
        with pytest.raises(OutOfRange):
            disk.read(0, -1)
        self._refuse_map(disk, 0, -65536)
        self._refuse_map(disk, size + 1, None)

    def test_as_a_file(self, case: DiskCase, disk: Disk) -> None:
        """It seeks, tells and reads like any file, and ends where the disk ends."""
        with disk.as_file() as file:
            assert file.readable()
            assert file.seekable()
            assert not file.writable()
            assert file.seek(0, io.SEEK_END) == disk.size
            assert file.read(1) == b""
            assert file.readinto(bytearray(10)) == 0
            for offset, length in _places(disk.size, 20, self._edges(disk)):
                want = case.content[offset : offset + length]
                assert file.seek(offset) == offset
                assert file.read(length) == want
                assert file.tell() == offset + length
            last = min(disk.size, 1000)
            assert file.seek(-last, io.SEEK_END) == disk.size - last
            buffer = bytearray(2 * last)
            assert file.readinto(buffer) == last
            assert buffer[:last] == case.content[disk.size - last : disk.size]
            with pytest.raises(ValueError, match="negative"):
                file.seek(-1)
            with pytest.raises(io.UnsupportedOperation):
                file.write(b"x")
        assert disk.read(0, 1) == case.content[:1], "closing the file must not close the disk"

    def test_as_a_file_beyond_the_end(self, disk: Disk) -> None:
        """Seeking there is fine, and there is nothing to read."""
        with disk.as_file() as file:
            assert file.seek(disk.size + 512) == disk.size + 512
            assert file.read(512) == b""
            assert file.readinto(bytearray(512)) == 0

    def test_map_of_the_whole_disk(self, disk: Disk) -> None:
        """Runs ascend, follow each other, cover everything and are merged."""
        runs = list(disk.runs())
        check_runs(runs, 0, disk.size)
        count = disk.link_count
        for run in runs:
            assert 0 <= run.link < count
            assert run.state != State.HOLE or run.link == count - 1

    def test_map_of_a_part_agrees_with_the_whole(self, disk: Disk) -> None:
        """It is the map of the whole disk, cut."""
        whole = list(disk.runs())
        for offset, length in _places(disk.size, 12, self._edges(disk)):
            part = list(disk.runs(offset, length))
            check_runs(part, offset, length)
            assert part == cut_runs(whole, offset, length)
        assert list(disk.runs(disk.size // 2)) == list(
            disk.runs(disk.size // 2, disk.size - disk.size // 2)
        )

    def test_map_tells_where_the_bytes_are(self, case: DiskCase, disk: Disk) -> None:
        """The file it names holds them; what it calls zero or hole reads as zeros."""
        for run in disk.runs():
            for offset in range(run.offset, run.offset + min(run.length, _WHOLE), _PIECE):
                length = min(_PIECE, run.offset + run.length - offset)
                want = case.content[offset : offset + length]
                if run.state != State.DATA:
                    assert not any(want), run
                elif run.path is not None and run.file_offset is not None:
                    with open(run.path, "rb") as file:  # noqa: PTH123
                        file.seek(run.file_offset + offset - run.offset)
                        assert file.read(length) == want, run

    def test_tables_cover_what_was_asked(self, disk: Disk) -> None:
        """Piece by piece, without a gap, and from sources that exist."""
        for offset, length in ((0, disk.size), *_places(disk.size, 10)):
            reach = offset
            for table in disk.tables(offset, length):
                assert table.offset == reach
                reach = table.end
                assert table.sources.min() >= 0
                assert table.sources.max() < len(disk.sources)
            assert reach == offset + length

    def test_allocated_follows_the_chunk_rule(self, disk: Disk) -> None:
        """Whole chunks, merged, clamped to the end; data and explicit zeros count, holes do not."""
        runs = list(disk.runs())
        for chunk in _CHUNKS:
            want = allocated_chunks(runs, chunk, disk.size)
            assert list(disk.allocated(chunk=chunk)) == want
            dice = random.Random(chunk)
            count = disk.size // chunk + 1
            for _ in range(4 if disk.size > chunk else 1):
                offset = dice.randrange(count) * chunk
                length = min(dice.randrange(1, count + 1) * chunk, disk.size - offset)
                part = cut_ranges(want, offset, length)
                assert list(disk.allocated(offset, length, chunk)) == part

    def test_allocated_refuses_what_is_not_aligned(self, disk: Disk) -> None:
        """Chunks that are no whole sectors, and ranges that are no whole chunks."""
        for chunk in (0, -512, 1, 511, 65537):
            with pytest.raises(UsageError):
                disk.allocated(chunk=chunk)
        for offset, length, chunk in ((512, 512, 1024), (0, 1024, 2048), (1, 1, 512)):
            if offset + length < disk.size:
                with pytest.raises(UsageError):
                    disk.allocated(offset, length, chunk)

    def test_eight_threads_agree(self, case: DiskCase, disk: Disk) -> None:
        """Readers need not know of each other, from the first read on."""

        def work(number: int) -> None:
            for offset, length in _places(disk.size, 4 + number):
                assert disk.read(offset, length) == case.content[offset : offset + length]
            check_runs(list(disk.runs()), 0, disk.size)

        _in_threads(work)

    def test_closing(self, case: DiskCase) -> None:
        """Twice is fine; after that every use says that the disk is closed."""
        disk = case.open()
        disk.read(0, 1)
        file = disk.as_file()
        disk.close()
        disk.close()
        uses: list[Callable[[], object]] = [
            lambda: disk.read(0, 1),
            lambda: disk.read_into(0, bytearray(1)),
            lambda: list(disk.runs()),
            lambda: list(disk.tables()),
            lambda: list(disk.allocated()),
            lambda: file.read(1),
        ]
        for use in uses:
            with pytest.raises(UsageError):
                use()

    @staticmethod
    def _refuse_map(disk: Disk, offset: int, length: int | None) -> None:
        with pytest.raises(OutOfRange):
            list(disk.runs(offset, length))
        with pytest.raises(OutOfRange):
            list(disk.tables(offset, length))
        with pytest.raises(OutOfRange):
            list(disk.allocated(offset, length))

    @staticmethod
    def _edges(disk: Disk) -> list[int]:
        return [run.offset for run, _ in zip(disk.runs(), range(5000), strict=False)]


# --- disks that are written to --------------------------------------------------------------------


class WritableDiskSuite:
    """What every disk open for writing must do. Needs a fixture `case`: a `DiskCase`.

    Its `open` gives a disk open for writing, and `content` is what it holds when a test begins:
    each test needs a case of its own. Disks of 1 MiB or less will do.
    """

    def test_is_what_it_was_before_the_first_write(self, case: DiskCase) -> None:
        """Opening and closing it changes nothing."""
        with case.open() as disk:
            assert disk.writable
            assert disk.read(0, disk.size) == case.content[0 : disk.size]
        with case.open() as disk:
            assert disk.read(0, disk.size) == case.content[0 : disk.size]

    def test_reads_what_was_written(self, case: DiskCase) -> None:
        """At once, after a flush, and after it was opened again; and nothing else changes."""
        with case.open() as disk:
            content = bytearray(case.content[0 : disk.size])
            dice = random.Random(disk.size)
            for number, (offset, length) in enumerate(_places(disk.size, 30)):
                data = dice.randbytes(length)
                disk.write(offset, data)
                content[offset : offset + length] = data
                begin = max(0, offset - 5000)
                end = min(disk.size, offset + length + 5000)
                assert disk.read(begin, end - begin) == content[begin:end], (offset, length)
                if number % 7 == 6:
                    disk.flush()
            assert disk.read(0, disk.size) == content
        with case.open() as disk:
            assert disk.read(0, disk.size) == content

    def test_zeros_are_zeros(self, case: DiskCase) -> None:
        """However they were asked for."""
        with case.open() as disk:
            content = bytearray(case.content[0 : disk.size])
            dice = random.Random(disk.size + 1)
            for number, (offset, length) in enumerate(_places(disk.size, 20)):
                data = dice.randbytes(length)
                disk.write(offset, data)
                content[offset : offset + length] = data
                offset, length = offset + length // 3, length // 2
                if number % 3 == 0:
                    disk.zero(offset, length)
                elif number % 3 == 1:
                    disk.discard(offset, length)
                else:
                    disk.write(offset, bytes(length))
                content[offset : offset + length] = bytes(length)
            assert disk.read(0, disk.size) == content
        with case.open() as disk:
            assert disk.read(0, disk.size) == content

    def test_the_map_follows(self, case: DiskCase) -> None:
        """What is not data reads as zeros, and what a run points at are its bytes."""
        with case.open() as disk:
            disk.write(disk.size // 2, b"x" * min(5000, disk.size - disk.size // 2))
            disk.discard(0, disk.size // 3)
            disk.flush()
            runs = list(disk.runs())
            check_runs(runs, 0, disk.size)
            for run in runs:
                data = disk.read(run.offset, run.length)
                if run.state != State.DATA:
                    assert data == bytes(run.length), run
                elif run.path is not None and run.file_offset is not None:
                    with open(run.path, "rb") as file:  # noqa: PTH123 - as a user would
                        file.seek(run.file_offset)
                        assert file.read(run.length) == data, run

    def test_threads_do_not_disturb_each_other(self, case: DiskCase) -> None:
        """Eight of them, each in every eighth piece, whose edges lie inside grains."""
        piece = 3000
        with case.open() as disk:
            content = bytearray(case.content[0 : disk.size])

            def work(number: int) -> None:
                for offset in range(number * piece, disk.size, _THREADS * piece):
                    length = min(piece, disk.size - offset)
                    data = random.Random(offset).randbytes(length)
                    disk.write(offset, bytes([number]) * length)
                    if offset // piece % 5 == number:
                        disk.discard(offset, length)
                    disk.write(offset, data)
                    assert disk.read(offset, length) == data
                    if offset // piece % 50 == number:
                        disk.flush()
                    content[offset : offset + length] = data

            _in_threads(work)
            assert disk.read(0, disk.size) == content
        with case.open() as disk:
            assert disk.read(0, disk.size) == content

    def test_a_range_outside_is_refused(self, case: DiskCase) -> None:
        """And nothing of it is written."""
        with case.open() as disk:
            for offset, length in ((disk.size, 1), (disk.size - 1, 2), (-1, 1)):
                with pytest.raises(OutOfRange):
                    disk.write(offset, bytes(length))
                with pytest.raises(OutOfRange):
                    disk.discard(offset, length)
            disk.write(disk.size, b"")
        with case.open() as disk:
            assert disk.read(0, disk.size) == case.content[0 : disk.size]

    def test_nobody_else_has_it(self, case: DiskCase) -> None:
        """A second writer is refused while the first has it open."""
        with case.open() as disk:
            with pytest.raises(LockedError):
                case.open()
            disk.write(0, b"x")

    def test_a_closed_disk_is_not_written_to(self, case: DiskCase) -> None:
        """Nor flushed."""
        disk = case.open()
        disk.write(0, b"x")
        disk.close()
        disk.close()
        with pytest.raises(UsageError):
            disk.write(0, b"y")
        with pytest.raises(UsageError):
            disk.discard(0, 1)
        with pytest.raises(UsageError):
            disk.flush()
