# SPDX-License-Identifier: Apache-2.0
"""`Disk`: what users get, whatever stands behind it.

All methods are safe from many threads at once; reads take no lock. Offsets and lengths are bytes
and must lie inside the disk, else `OutOfRange`. Data that cannot be had raises the `FormatError`,
`UnsupportedFeature` or `StorageError` that says why; no zeros are ever made up in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diskkit.errors import OutOfRange, UsageError
from diskkit.interfaces import Closing
from diskkit.runs import Range, Run, State, joined
from diskkit.units import align_down, align_up

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator

    from diskkit.chain import Chain
    from diskkit.info import DiskInfo
    from diskkit.livechain import LiveChain
    from diskkit.mapping import Alike
    from diskkit.table import RunTable

MIN_CHUNK = 512


class Disk(Closing):
    """An open virtual disk. Use it in a `with` block, or call `close`.

    Closing one that was written to makes it durable, and may therefore fail.
    """

    def __init__(self, path: str, chain: Chain) -> None:
        """Take over an opened chain; `open_disk` is the way to get a disk."""
        self.path = path
        self.chain = chain
        self.size = chain.size
        """Capacity, bytes."""

    @property
    def info(self) -> DiskInfo:
        """What the disk is: kind, ids, geometry, links, extents, metadata."""
        from diskkit.info import describe

        self.chain.check_open()
        return describe(self.path, self.chain.links)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`."""
        if offset < 0 or length <= 0 or offset + length > self.size:
            self._check(offset, length)
            return b""
        return self.chain.read(offset, length)

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill all of a writable, contiguous `buffer` from `offset`."""
        view = memoryview(buffer).cast("B")
        self._check(offset, len(view))
        self.chain.read_into(offset, view)

    @property
    def writable(self) -> bool:
        """Whether it was opened for writing."""
        from diskkit.livechain import LiveChain

        return isinstance(self.chain, LiveChain)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of a contiguous `data` at `offset`.

        Visible to reads at once; durable after `flush` or `close`. Grains that are all zeros are
        not stored where nothing needs them. After an error any part of the range may be written.
        Raises `UsageError` if the disk, or this part of it, cannot be written to, and
        `StorageError`.
        """
        view = memoryview(data).cast("B")
        self._check(offset, len(view))
        self._live().write(offset, view)

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros, as `write` would; costs little for whole grains."""
        self._check(offset, length)
        self._live().zero(offset, length, give_back=False)

    def discard(self, offset: int, length: int) -> None:
        """`zero`, for what the guest no longer needs: room is given back where that is possible."""
        self._check(offset, length)
        self._live().zero(offset, length, give_back=True)

    def flush(self) -> None:
        """Return when everything written so far would survive a power cut."""
        self._live().flush()

    def _live(self) -> LiveChain:
        from diskkit.livechain import LiveChain

        if not isinstance(self.chain, LiveChain):
            raise UsageError(f"{self.path}: opened for reading only")
        return self.chain

    def runs(self, offset: int = 0, length: int | None = None) -> Iterator[Run]:
        """The map of a range: ascending, gap-free, neighbours that say the same merged."""
        from diskkit.mapping import merged_rows

        tables = self.tables(offset, length)
        names = [e.storage.name if e.storage else None for _, e in self.chain.sources]
        for start, n, state, source, position in merged_rows(tables, self.alike()):
            in_file = state == State.DATA and position >= 0
            yield Run(
                start,
                n,
                State(state),
                self.chain.sources[source][0],
                names[source] if in_file else None,
                position if in_file else None,
            )

    def alike(self) -> Alike:
        """Which sources of `tables` say the same to those who look at files and links."""
        from diskkit.mapping import Alike

        by_link: dict[object, int] = {}
        by_file: dict[object, int] = {}
        for number, (link, extent) in enumerate(self.chain.sources):
            by_link.setdefault(link, number)
            by_file.setdefault((link, extent.storage and extent.storage.identity), number)
        return Alike(
            [by_link[link] for link, _ in self.chain.sources],
            [by_file[n, e.storage and e.storage.identity] for n, e in self.chain.sources],
        )

    def tables(
        self, offset: int = 0, length: int | None = None, *, links: int | None = None
    ) -> Iterator[RunTable]:
        """The map of a range as numpy columns, in consecutive pieces of bounded size.

        Raises where the map cannot be had. `RunTable.sources` index `chain.sources`. `links` asks
        that many links only, from the leaf.
        """
        offset, length = self._range(offset, length)
        for table in self.chain.tables(offset, length, links):
            bad = table.states == State.BAD
            if bad.any():
                row = int(bad.argmax())
                raise self.chain.explain(int(table.sources[row]), int(table.starts[row]))
            yield table

    def allocated(
        self, offset: int = 0, length: int | None = None, chunk: int = 65536
    ) -> Iterator[Range]:
        """What is allocated, in whole chunks: ascending, apart from each other, clamped to the end.

        A chunk is reported if any byte of it is data or an explicit zero in any link: such a zero
        hides older data. `chunk` is a multiple of 512; `offset`, and `length` unless it reaches the
        end of the disk, are multiples of `chunk` (the rule of QueryAllocatedBlocks).
        """
        offset, length = self._range(offset, length)
        if chunk < MIN_CHUNK or chunk % MIN_CHUNK:
            raise UsageError(f"chunk is {chunk}: it must be a positive multiple of {MIN_CHUNK}")
        end = offset + length
        if offset % chunk or (length % chunk and end != self.size):
            raise UsageError(f"offset {offset} and length {length} must be multiples of {chunk}")
        return self._allocated(offset, length, chunk)

    def _allocated(self, offset: int, length: int, chunk: int) -> Iterator[Range]:
        from diskkit.mapping import ranges_where

        chunks = (
            (align_down(begin, chunk), min(align_up(end, chunk), self.size))
            for begin, end in ranges_where(self.tables(offset, length), State.HOLE, invert=True)
        )
        for begin, end in joined(chunks):
            yield Range(begin, end - begin)

    def as_file(self) -> io.BufferedReader:
        """The disk as a seekable, read-only binary file. Closing it leaves the disk open."""
        from diskkit.file import open_reader

        return open_reader(self.chain)

    def close(self) -> None:
        """Close every file of every link. Doing so twice is fine."""
        self.chain.close()

    def __repr__(self) -> str:
        """Path and size."""
        return f"<Disk {self.path!r} of {self.size} bytes>"

    def _range(self, offset: int, length: int | None) -> tuple[int, int]:
        if length is None:
            length = self.size - offset
        self._check(offset, length)
        return offset, length

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            text = f"bytes {offset} to {offset + length} are not inside its {self.size} bytes"
            raise OutOfRange(f"{self.path}: {text}")
