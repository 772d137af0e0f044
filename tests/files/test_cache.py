# SPDX-License-Identifier: Apache-2.0
"""The block cache: right bytes, few reads, flat memory, many threads, writes, errors."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskkit import FormatError, OutOfRange, UsageError
from diskkit.filters.cache import BlockCache

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK = 4096


class Source:
    """A disk in memory that remembers what it was asked, and can be made to wait or to fail."""

    writable = True

    def __init__(self, size: int, seed: int = 0) -> None:
        self.content = bytearray(random.Random(seed).randbytes(size))
        self.asked: list[tuple[int, int]] = []
        self.before: Callable[[int, int], None] = lambda offset, length: None
        self.after: Callable[[int, int], None] = lambda offset, length: None
        self.flushed = 0

    @property
    def size(self) -> int:
        return len(self.content)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.asked.append((offset, len(buffer)))
        self.before(offset, len(buffer))
        buffer[:] = self.content[offset : offset + len(buffer)]
        self.after(offset, len(buffer))

    def write(self, offset: int, data: memoryview) -> None:
        self.content[offset : offset + len(data)] = data

    def flush(self) -> None:
        self.flushed += 1


def cached(source: Source, blocks: int = 8, ahead: int = 0) -> BlockCache:
    return BlockCache(source, block=BLOCK, capacity=blocks * BLOCK, read_ahead=ahead * BLOCK)


@given(st.integers(0, 2**32), st.integers(0, 9), st.integers(0, 6))
def test_reads_and_writes_agree_with_the_source(seed: int, tail: int, ahead: int) -> None:
    chance = random.Random(seed)
    source = Source(BLOCK * 20 + tail * 77)
    with cached(source, 5, ahead) as cache:
        at = 0
        for _ in range(80):
            length = chance.choice((1, 3, 500, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK))
            offset = chance.choice((at, chance.randrange(source.size)))
            length = min(length, source.size - offset)
            at = (offset + length) % source.size
            if chance.random() < 0.3:
                data = chance.randbytes(length)
                cache.write(offset, data)
                assert source.content[offset : offset + length] == data
            else:
                wanted = bytes(source.content[offset : offset + length])
                assert cache.read(offset, length) == wanted


def test_small_reads_of_one_block_are_one_read() -> None:
    source = Source(BLOCK * 4)
    cache = cached(source)
    for offset in range(0, BLOCK, 64):
        cache.read(offset, 64)
    assert source.asked == [(0, BLOCK)]
    assert cache.counts == (63, 1, BLOCK)


def test_large_reads_bypass_it() -> None:
    source = Source(BLOCK * 8)
    cache = cached(source)
    cache.read(100, BLOCK)
    cache.read(100, 5 * BLOCK)
    assert source.asked == [(100, BLOCK), (100, 5 * BLOCK)]


def test_least_recently_used_block_goes_first() -> None:
    source = Source(BLOCK * 10)
    cache = cached(source, blocks=2)
    for number in (0, 1, 0, 2, 0, 1):
        cache.read(number * BLOCK, 1)
    assert [offset // BLOCK for offset, _ in source.asked] == [0, 1, 2, 1]


def test_memory_stays_within_capacity() -> None:
    source = Source(BLOCK * 64)
    cache = cached(source, blocks=4, ahead=4)
    for offset in range(0, source.size, 512):
        cache.read(offset, 512)
        assert len(cache._kept) <= 4
    cache.close()


def test_block_wanted_by_many_is_read_once() -> None:
    source = Source(BLOCK * 4)
    started, go_on = threading.Event(), threading.Event()

    def wait(offset: int, length: int) -> None:
        started.set()
        assert go_on.wait(20)

    source.before = wait
    cache = cached(source)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(cache.read, 10, 20)
        assert started.wait(20)
        others = [pool.submit(cache.read, n, 20) for n in range(7)]
        go_on.set()
        assert first.result() == source.content[10:30]
        for n, other in enumerate(others):
            assert other.result() == source.content[n : n + 20]
    assert source.asked == [(0, BLOCK)]


def test_write_during_a_read_is_not_hidden_by_it() -> None:
    source = Source(BLOCK * 4)
    began, go_on = threading.Event(), threading.Event()

    def wait(offset: int, length: int) -> None:
        began.set()
        assert go_on.wait(20)

    source.after = wait
    cache = cached(source)
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(cache.read, 0, 10)
        assert began.wait(20)
        cache.write(0, b"new bytes!")
        go_on.set()
        early.result()
    assert cache.read(0, 10) == b"new bytes!"


def test_sequential_reader_gets_ahead_and_random_one_does_not() -> None:
    source = Source(BLOCK * 64)
    with cached(source, 32, ahead=8) as cache:
        for offset in range(0, BLOCK * 32, 1024):
            assert cache.read(offset, 1024) == source.content[offset : offset + 1024]
    assert max(length for _, length in source.asked) == 4 * BLOCK
    assert len(source.asked) < 32
    assert sum(length for _, length in source.asked) <= (32 + 8) * BLOCK
    source.asked.clear()
    with cached(source, 32, ahead=8) as cache:
        for number in (5, 50, 20, 11, 60):
            cache.read(number * BLOCK, 1)
    assert [length for _, length in source.asked] == [BLOCK] * 5


def test_part_that_cannot_be_read_hides_nothing_else() -> None:
    source = Source(BLOCK * 32)

    def fail(offset: int, length: int) -> None:
        if offset <= 5 * BLOCK + 700 < offset + length:
            raise FormatError("bad row")

    source.before = fail
    with cached(source, 16, ahead=8) as cache:
        for offset in range(0, BLOCK * 32, 256):
            if offset == 5 * BLOCK + 512:
                with pytest.raises(FormatError, match="bad row"):
                    cache.read(offset, 256)
            else:
                assert cache.read(offset, 256) == source.content[offset : offset + 256]
        source.before = lambda offset, length: None
        assert cache.read(5 * BLOCK + 512, 256) == source.content[5 * BLOCK + 512 :][:256]


def test_many_threads_read_right_bytes() -> None:
    source = Source(BLOCK * 64)
    with cached(source, 6, ahead=4) as cache, ThreadPoolExecutor(8) as pool:

        def work(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(300):
                offset = chance.randrange(source.size - 600)
                assert cache.read(offset, 600) == source.content[offset : offset + 600]

        for done in [pool.submit(work, n) for n in range(8)]:
            done.result()


def test_what_lies_outside_is_refused() -> None:
    cache = cached(Source(BLOCK * 2))
    for offset, length in ((-1, 1), (2 * BLOCK, 1), (0, 2 * BLOCK + 1)):
        with pytest.raises(OutOfRange):
            cache.read(offset, length)
    assert cache.read(2 * BLOCK, 0) == b""


def test_writes_need_a_source_that_takes_them() -> None:
    source = Source(BLOCK)
    source.writable = False
    with pytest.raises(UsageError, match="reading only"):
        cached(source).write(0, b"x")
    for block, capacity in ((100, 4096), (4096, 100), (513, 4096)):
        with pytest.raises(UsageError):
            BlockCache(source, block=block, capacity=capacity)


def test_who_reads_on_and_on_gets_more_at_once_in_several_places() -> None:
    source = Source(64 * BLOCK)
    cache = cached(source, blocks=64)
    for number in range(16):
        for place in (0, 32):
            at = (place + number) * BLOCK + 7
            assert cache.read(at, 100) == source.content[at : at + 100]
    assert [n // BLOCK for _, n in source.asked] == [1, 1, 2, 2, 4, 4, 8, 8, 8, 8]
    assert cache.block(20) == source.content[20 * BLOCK : 21 * BLOCK]
    assert len(source.asked) == 10
    # Elsewhere it begins anew, and nothing is read twice.
    for number in (28, 29, 30, 31):
        cache.block(number)
    assert [(at // BLOCK, n // BLOCK) for at, n in source.asked[10:]] == [(28, 1), (29, 2), (31, 1)]


def test_a_bad_block_that_came_along_hides_nothing() -> None:
    source = Source(16 * BLOCK)

    def bad(offset: int, length: int) -> None:
        if offset <= 6 * BLOCK + 99 < offset + length:
            raise FormatError("bad")

    source.before = bad
    cache = cached(source, blocks=16 * 4)
    for number in (0, 1, 2, 3, 4, 5):
        at = number * BLOCK
        assert cache.read(at, 10) == source.content[at : at + 10]
    assert cache.read(6 * BLOCK, 99) == source.content[6 * BLOCK :][:99]
    with pytest.raises(FormatError):
        cache.read(6 * BLOCK + 90, 10)
    assert cache.read(7 * BLOCK, 10) == source.content[7 * BLOCK :][:10]
