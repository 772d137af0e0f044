# SPDX-License-Identifier: Apache-2.0
"""`Disk`: what users get, whatever stands behind it, and the contract of every kind of disk.

A chain of files, an export on the network, a filter over another disk: all are Disks, so whatever
works on one works on all. A kind says where bytes come from (`_fill`), what its map is (`_scan`,
`sources`) and, if it can be written to, how (`_write`, `_zero`, `_flush`); the rest is here.

All methods are safe from many threads at once. Offsets and lengths are bytes and must lie inside
the disk, else `OutOfRange`. Data that cannot be had raises the `FormatError`, `UnsupportedFeature`,
`StorageError` or `RemoteError` that says why; no zeros are ever made up in its place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import OutOfRange, UsageError
from diskkit.interfaces import Closing
from diskkit.runs import Range, Run, State, joined
from diskkit.units import align_down, align_up

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator, Sequence

    from diskkit.chain import Chain
    from diskkit.info import DiskInfo
    from diskkit.mapping import Alike
    from diskkit.table import RunTable

MIN_CHUNK = 512


class Source(NamedTuple):
    """What decides some rows of a disk's map."""

    link: int
    """Number of the link it belongs to, 0 for the leaf. Never descends from source to source."""
    name: str | None = None
    """The file that holds its bytes; None where they lie in no file, or in one out of reach.

    Without a file, the position of a DATA row is its own offset, so that rows join.
    """
    identity: object = None
    """Equal exactly where the file is the same one; None where there is no file."""
    size: int = 0
    """Bytes of the file: no position is larger."""


class Stretch(NamedTuple):
    """A range of a disk that is a range of a file."""

    begin: int
    end: int
    file: int
    """Descriptor, open as long as the disk."""
    position: int
    """Of `begin` in the file."""
    writable: bool
    """Whether its bytes may be changed there now, for as long as no call to the disk fails."""


class Disk(Closing, ABC):
    """An open virtual disk. Use it in a `with` block, or call `close`.

    Closing one that was written to makes it durable, and may therefore fail.
    """

    path: str
    """What messages call it: the name it was opened by."""
    size: int
    """Capacity, bytes."""
    writable = False
    """Whether it was opened for writing."""
    granularity = 1
    """Bytes in which room is given to it and taken back; 1 where there is no such unit."""
    parallel = 1
    """Callers that it serves faster at once than one by one: more where each waits for others."""

    # --- what a kind of disk says -------------------------------------------------------------

    @property
    @abstractmethod
    def info(self) -> DiskInfo:
        """What the disk is: kind, ids, geometry, links, extents, metadata."""

    @property
    @abstractmethod
    def sources(self) -> Sequence[Source]:
        """By the numbers that the rows of `tables` carry. At least one."""

    @abstractmethod
    def _fill(self, offset: int, buffer: memoryview) -> None:
        """Fill all of `buffer`; the range lies inside the disk. Raises once it is closed."""

    @abstractmethod
    def _scan(self, offset: int, length: int, links: int | None) -> Iterator[RunTable]:
        """`tables` of a range inside the disk. Raises once it is closed."""

    def _write(self, offset: int, data: memoryview) -> None:
        """`write`, inside the disk."""
        raise self._read_only()

    def _zero(self, offset: int, length: int, *, give_back: bool) -> None:
        """`zero`, or with `give_back` `discard`, inside the disk."""
        raise self._read_only()

    def _flush(self) -> None:
        """`flush`."""
        raise self._read_only()

    def stretch(self, offset: int) -> Stretch | None:
        """What lies around `offset` as it is in one file, and stays there while the disk is open.

        It stays while the disk is read, written and flushed, not if ranges of it are zeroed or
        discarded. None where that is not known at once. For those who do without the disk.
        """
        return None

    # --- bytes --------------------------------------------------------------------------------

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`."""
        self._check(offset, length)
        buffer = bytearray(length)
        self._fill(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill all of a writable, contiguous `buffer` from `offset`."""
        view = memoryview(buffer).cast("B")
        self._check(offset, len(view))
        self._fill(offset, view)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of a contiguous `data` at `offset`.

        Visible to reads at once; durable after `flush` or `close`. Grains that are all zeros are
        not stored where nothing needs them. After an error any part of the range may be written.
        Raises `UsageError` if the disk, or this part of it, cannot be written to, and
        `StorageError`.
        """
        view = memoryview(data).cast("B")
        self._check(offset, len(view))
        self._write(offset, view)

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros, as `write` would; costs little for whole grains."""
        self._check(offset, length)
        self._zero(offset, length, give_back=False)

    def discard(self, offset: int, length: int) -> None:
        """`zero`, for what the guest no longer needs: room is given back where that is possible."""
        self._check(offset, length)
        self._zero(offset, length, give_back=True)

    def zeroes_quickly(self, offset: int, length: int) -> bool:
        """Whether `zero` and `discard` of a range are known to write none of the zeros."""
        return False

    def flush(self) -> None:
        """Return when everything written so far would survive a power cut."""
        self._flush()

    # --- the map ------------------------------------------------------------------------------

    def runs(self, offset: int = 0, length: int | None = None) -> Iterator[Run]:
        """The map of a range: ascending, gap-free, neighbours that say the same merged."""
        from diskkit.mapping import merged_rows

        tables = self.tables(offset, length)
        sources = self.sources
        for start, n, state, source, position in merged_rows(tables, self.alike()):
            link, name, _, _ = sources[source]
            if state != State.DATA or position < 0 or name is None:
                yield Run(start, n, State(state), link, None, None)
            else:
                yield Run(start, n, State(state), link, name, position)

    def alike(self) -> Alike:
        """Which sources of `tables` say the same to those who look at files and links."""
        from diskkit.mapping import Alike

        by_link: dict[object, int] = {}
        by_file: dict[object, int] = {}
        sources = self.sources
        for number, source in enumerate(sources):
            by_link.setdefault(source.link, number)
            by_file.setdefault((source.link, source.identity), number)
        return Alike(
            [by_link[s.link] for s in sources], [by_file[s.link, s.identity] for s in sources]
        )

    def tables(
        self, offset: int = 0, length: int | None = None, *, links: int | None = None
    ) -> Iterator[RunTable]:
        """The map of a range as numpy columns, in consecutive pieces of bounded size.

        Raises where the map cannot be had. `RunTable.sources` index `sources`. `links` asks that
        many links only, from the leaf: what none of them has is a hole.
        """
        offset, length = self._range(offset, length)
        yield from self._scan(offset, length, links)

    def stored(self, offset: int = 0, length: int | None = None) -> Iterator[RunTable]:
        """`tables` for those who read: what is known to read as zeros may be ZERO instead of DATA.

        Not the map, which says what is allocated; and a row that is bad stays a row.
        """
        return self.tables(offset, length)

    @property
    def link_count(self) -> int:
        """How many links it has, at least 1."""
        return self.sources[-1].link + 1

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

    # --- copies, files, links -----------------------------------------------------------------

    def pour(self, table: RunTable, out: int, base: int = 0) -> int:
        """Write the DATA and PACKED rows of `table` to file descriptor `out`, at their offsets.

        `base` is the guest byte that `out` begins with. Zeros and holes are the caller's. Returns
        the bytes written. Safe from many threads.
        """
        from diskkit.storage.writing import Gather

        gather, written = Gather(out), 0
        held = table.states >= State.DATA
        for begin, length in zip(
            table.starts[held].tolist(), table.lengths[held].tolist(), strict=True
        ):
            done = 0
            while done < length:
                part = gather.room(begin + done - base, length - done)
                self._fill(begin + done, part)
                done += len(part)
            written += length
        gather.flush()
        return written

    def as_file(self) -> io.BufferedReader:
        """The disk as a seekable, read-only binary file. Closing it leaves the disk open."""
        from diskkit.file import open_reader

        return open_reader(self)

    @property
    def chain(self) -> Chain:
        """Its links, for what works on files. Raises `UsageError` for a disk that has none here."""
        raise UsageError(f"{self.path}: is not made of files that can be opened here")

    def __repr__(self) -> str:
        """Path and size."""
        return f"<{type(self).__name__} {self.path!r} of {self.size} bytes>"

    def _read_only(self) -> UsageError:
        return UsageError(f"{self.path}: opened for reading only")

    def _range(self, offset: int, length: int | None) -> tuple[int, int]:
        if length is None:
            length = self.size - offset
        self._check(offset, length)
        return offset, length

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            text = f"bytes {offset} to {offset + length} are not inside its {self.size} bytes"
            raise OutOfRange(f"{self.path}: {text}")
