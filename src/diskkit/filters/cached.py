# SPDX-License-Identifier: Apache-2.0
"""`CachedDisk`: a disk over a disk that is far away, whose small reads are kept (`cache.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diskkit.disk import Disk
from diskkit.filters.cache import BLOCK, CAPACITY, BlockCache

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diskkit.disk import Source
    from diskkit.filters.cache import Counts
    from diskkit.info import DiskInfo
    from diskkit.table import RunTable

READ_AHEAD = 1 << 20


class CachedDisk(Disk):
    """The same disk, asked in blocks of 64 KiB; larger reads, and its map, are not kept.

    For disks that nobody else changes while this is open: what is kept would not be right any more.
    """

    def __init__(
        self, below: Disk, *, capacity: int = CAPACITY, read_ahead: int = READ_AHEAD
    ) -> None:
        """Take over `below`. Sizes in bytes; `capacity` bounds the memory."""
        self.path = below.path
        self.size = below.size
        self.writable = below.writable
        self.granularity = below.granularity
        self.parallel = below.parallel
        self._below = below
        self._cache = BlockCache(below, capacity=max(capacity, BLOCK), read_ahead=read_ahead)

    @property
    def counts(self) -> Counts:
        """What the cache did so far."""
        return self._cache.counts

    @property
    def info(self) -> DiskInfo:
        """Of the disk below."""
        return self._below.info

    @property
    def sources(self) -> Sequence[Source]:
        """Of the disk below."""
        return self._below.sources

    def _fill(self, offset: int, buffer: memoryview) -> None:
        self._below.read_into(offset, buffer[:0])  # raises once it is closed
        self._cache.read_into(offset, buffer)

    def _scan(self, offset: int, length: int, links: int | None) -> Iterator[RunTable]:
        return self._below.tables(offset, length, links=links)

    def stored(self, offset: int = 0, length: int | None = None) -> Iterator[RunTable]:
        """Of the disk below."""
        return self._below.stored(offset, length)

    def zeroes_quickly(self, offset: int, length: int) -> bool:
        """As the disk below."""
        return self._below.zeroes_quickly(offset, length)

    def _write(self, offset: int, data: memoryview) -> None:
        self._cache.write(offset, data)

    def _zero(self, offset: int, length: int, *, give_back: bool) -> None:
        work = self._below.discard if give_back else self._below.zero
        try:
            work(offset, length)
        finally:
            self._cache.forget(offset, length)

    def _flush(self) -> None:
        self._below.flush()

    def close(self) -> None:
        """Close the disk below."""
        try:
            self._cache.close()
        finally:
            self._below.close()
