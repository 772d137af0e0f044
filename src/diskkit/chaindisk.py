# SPDX-License-Identifier: Apache-2.0
"""`ChainDisk`: the disk that is a chain of files. Reads take no lock."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, cast

from diskkit.disk import Disk, Source, Stretch
from diskkit.runs import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diskkit.chain import Chain
    from diskkit.info import DiskInfo
    from diskkit.livechain import LiveChain
    from diskkit.table import RunTable


class ChainDisk(Disk):
    """A disk made of links in files of this machine."""

    def __init__(self, path: str, chain: Chain) -> None:
        """Take over an opened chain; `open_disk` is the way to get a disk."""
        self.path = path
        self._chain = chain
        self.size = chain.size

    @property
    def chain(self) -> Chain:
        """Its links."""
        return self._chain

    @property
    def info(self) -> DiskInfo:
        """What the disk is."""
        from diskkit.info import describe

        self._chain.check_open()
        return describe(self.path, self._chain.links)

    @property
    def sources(self) -> Sequence[Source]:
        """One for each extent of each link."""
        return [
            Source(link, e.storage.name, e.storage.identity, e.storage.size)
            if e.storage
            else Source(link)
            for link, e in self._chain.sources
        ]

    @cached_property
    def granularity(self) -> int:  # type: ignore[override]
        """That of the leaf's first extent."""
        return self._chain.links[0].extents[0].map.granularity

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`."""
        if offset < 0 or length <= 0 or offset + length > self.size:
            self._check(offset, length)
            return b""
        return self._chain.read(offset, length)

    def _fill(self, offset: int, buffer: memoryview) -> None:
        self._chain.read_into(offset, buffer)

    def stretch(self, offset: int) -> Stretch | None:
        """The run of the map at `offset`, if a read has just looked it up."""
        found = self._chain.stretch(offset)
        return found and Stretch(*found)

    def _scan(self, offset: int, length: int, links: int | None) -> Iterator[RunTable]:
        for table in self._chain.tables(offset, length, links):
            bad = table.states == State.BAD
            if bad.any():
                row = int(bad.argmax())
                raise self._chain.explain(int(table.sources[row]), int(table.starts[row]))
            yield table

    def stored(self, offset: int = 0, length: int | None = None) -> Iterator[RunTable]:
        """`tables`, with what lies in a hole of its own file turned to zeros."""
        return self._chain.stored(*self._range(offset, length))

    def pour(self, table: RunTable, out: int, base: int = 0) -> int:
        """By the kernel where it can."""
        return self._chain.pour(table, out, base)

    @cached_property
    def writable(self) -> bool:  # type: ignore[override]
        """Whether it was opened for writing."""
        from diskkit.livechain import LiveChain

        return isinstance(self._chain, LiveChain)

    def _write(self, offset: int, data: memoryview) -> None:
        self._live.write(offset, data)

    def _zero(self, offset: int, length: int, *, give_back: bool) -> None:
        self._live.zero(offset, length, give_back=give_back)

    def zeroes_quickly(self, offset: int, length: int) -> bool:
        """For whole grains whose tables can say zero."""
        self._check(offset, length)
        return self._live.clears(offset, length)

    def _flush(self) -> None:
        self._live.flush()

    @cached_property
    def _live(self) -> LiveChain:
        """Its chain, if it was opened for writing."""
        if not self.writable:
            raise self._read_only()
        return cast("LiveChain", self._chain)

    def close(self) -> None:
        """Close every file of every link. Doing so twice is fine."""
        self._chain.close()
