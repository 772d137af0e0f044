# SPDX-License-Identifier: Apache-2.0
"""`LiveChain`: a chain whose leaf is written to.

The leaf's live tables say where its grains lie; what it does not have is asked of the chain below,
which never changes, so what that keeps stays right. Reads, and writes into grains that are there,
take no lock. Everything that changes a table takes one: filling a grain that was not there (the
rest of it comes from the chain below), clearing grains, committing.

Before the first change the link gets a new content ID, durably (vmdk-formats 2.8): a crash cannot
leave a changed disk under an old one.
"""

from __future__ import annotations

from bisect import bisect_right
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from diskkit import formats
from diskkit.chain import Chain
from diskkit.errors import LostWrites, UsageError
from diskkit.interfaces import NOTHING, ZEROS
from diskkit.runs import State
from diskkit.units import align_down, align_up, ceil_div

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from diskkit.formats.link import Extent, Link
    from diskkit.interfaces import BlockWriter, OpenPolicy
    from diskkit.table import RunTable

_PIECE = 16 << 20
"""Bytes that are filled or cleared under one hold of the lock."""
_AROUND = 128 << 20
"""Bytes before and after a place in which a stretch is looked for."""
_CLEARED = 1 << 16
"""Grains that are cleared under one hold of the lock."""


class Below(Protocol):
    """What the leaf does not have is asked of this. It never changes."""

    closed: bool

    def read(self, offset: int, length: int, /) -> bytes:
        """Exactly `length` bytes."""
        ...

    def read_into(self, offset: int, buffer: memoryview, /) -> None:
        """Fill all of `buffer`."""
        ...

    def tables(self, offset: int, length: int, /) -> Iterator[RunTable]:
        """The map of a range."""
        ...


class LiveChain(Chain):
    """The links of one disk, read and written as one. Only the leaf is ever written to."""

    def __init__(self, links: list[Link], policy: OpenPolicy, below: Below | None = None) -> None:
        """Take over opened links, leaf first, the leaf's files open for writing.

        `below`, at least as large, stands for the parents of a single link.
        """
        formats.make_writable(links[0], policy)
        super().__init__(links)
        self._below: Below | None = below or (Chain(links[1:]) if len(links) > 1 else None)
        self._extents = links[0].extents
        self._begins = [e.start for e in self._extents]
        self._change = Lock()
        self._changed = False
        self._lost: LostWrites | None = None

    def _parts(self, offset: int, length: int) -> Iterable[tuple[Extent, int, int]]:
        """The extents of a range: (extent, offset inside it, bytes of it)."""
        extent = self._extents[bisect_right(self._begins, offset) - 1]
        inside = offset - extent.start
        if 0 < length <= extent.line.length - inside:
            return ((extent, inside, length),)  # nearly always: no generator for a small write
        return self._split(offset, length)

    def _split(self, offset: int, length: int) -> Iterator[tuple[Extent, int, int]]:
        while length:
            extent = self._extents[bisect_right(self._begins, offset) - 1]
            inside = offset - extent.start
            n = min(length, extent.line.length - inside)
            yield extent, inside, n
            offset, length = offset + n, length - n

    # --- reading ------------------------------------------------------------------------------

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. The range must lie inside the disk."""
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill all of `buffer`. The range must lie inside the disk."""
        self.check_open()
        for extent, inside, n in self._parts(offset, len(buffer)):
            part, buffer = buffer[:n], buffer[n:]
            if extent.writer is None:
                super().read_into(extent.start + inside, part)
                continue
            for begin, end, place in extent.writer.places(inside, n):
                piece = part[begin - inside : end - inside]
                if place >= 0:
                    extent.writer.storage.read_into(place, piece)
                elif place == NOTHING and self._below is not None:
                    self._below.read_into(extent.start + begin, piece)
                else:
                    piece[:] = bytes(len(piece))

    def stretch(self, offset: int) -> tuple[int, int, int, int, bool] | None:
        """Begin, end, descriptor and position of what lies around `offset` in the leaf's file.

        It stays there while the leaf is only written to. The last tells whether it may be written
        without this chain, because all that comes before a first write was done.
        """
        self.check_open()
        extent, inside, _ = next(iter(self._parts(offset, 1)))
        writer = extent.writer
        descriptor = writer.storage.descriptor if writer is not None else None
        if writer is None or descriptor is None or self._lost is not None:
            return None
        low, high = max(0, inside - _AROUND), min(extent.line.length, inside + _AROUND)
        for begin, end, place in writer.places(low, high - low):
            if begin <= inside < end:
                # Room that the file has not yet is for `storage` to make.
                end = min(end, begin + writer.storage.size - place)
                if place < 0 or end <= inside:
                    return None
                first = extent.start + begin
                return first, first + end - begin, descriptor, place, self._begun(writer)
        return None

    def _begun(self, writer: BlockWriter) -> bool:
        return writer.changing and self._changed

    # --- writing ------------------------------------------------------------------------------

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of `data`. The range must lie inside the disk."""
        for extent, inside, n in self._parts(offset, len(data)):
            part, data = data[:n], data[n:]
            writer = self._writer(extent, inside, part)
            if writer is None:
                continue
            for begin, end, place in writer.places(inside, n):
                piece = part[begin - inside : end - inside]
                if place >= 0:
                    writer.storage.write(place, piece)
                else:
                    self._fill(extent, writer, begin, piece)

    def zero(self, offset: int, length: int, *, give_back: bool) -> None:
        """Make a range read as zeros; `give_back` the room it takes, where that is a choice."""
        for extent, inside, n in self._parts(offset, length):
            writer = self._writer(extent, inside, None)
            if writer is None:
                continue
            if writer.granularity == 1:
                writer.storage.erase(writer.places(inside, n)[0][2], n, give_back=give_back)
                continue
            grain, end = writer.granularity, inside + n
            low = align_up(inside, grain)
            # The last grain of an extent may be cut by its end: all there is of it is whole.
            high = align_down(end, grain) if end < writer.length else align_up(end, grain)
            if high <= low:
                self._write_zeros(extent, writer, inside, end)
                continue
            self._write_zeros(extent, writer, inside, low)
            for first in range(low // grain, high // grain, _CLEARED):
                last = min(high // grain, first + _CLEARED)
                self._clear(extent, writer, first, last - first)
            self._write_zeros(extent, writer, max(high, inside), end)

    def clears(self, offset: int, length: int) -> bool:
        """Whether `zero` of a range only changes tables: whole grains, which can say zero."""
        self.check_open()
        for extent, inside, n in self._parts(offset, length):
            writer, end = extent.writer, inside + n
            if writer is None or writer.granularity == 1:
                return False
            if inside % writer.granularity or (end % writer.granularity and end < writer.length):
                return False
            if not writer.hides and self._below is not None:
                return False
        return True

    def _writer(self, extent: Extent, inside: int, data: memoryview | None) -> BlockWriter | None:
        """What writes `extent`, ready for changes; None where zeros go to an extent of zeros."""
        self.check_open()
        if self._lost is not None:
            raise LostWrites(self.links[0].path, f"nothing is written after {self._lost}")
        writer = extent.writer
        if writer is not None and self._begun(writer):
            return writer
        if writer is None:
            self._check_unwritten(extent, inside, data)
            return None
        with self._change:
            if not self._changed:
                self.links[0].renew()
                self._changed = True
            if not writer.changing:
                writer.begin()
        return writer

    def _check_unwritten(self, extent: Extent, inside: int, data: memoryview | None) -> None:
        """Only zeros may go to an extent without a writer, and only to one of zeros."""
        if extent.line.kind == "ZERO" and (data is None or _is_zero(data)):
            return
        line = extent.line
        what = f"its {line.access} {line.kind} extent" + (f" {line.name}" if line.name else "")
        place = f"byte {extent.start + inside}"
        raise UsageError(
            f"{self.links[0].path}: {place} lies in {what}, which cannot be written to"
        )

    def _fill(self, extent: Extent, writer: BlockWriter, begin: int, data: memoryview) -> None:
        """Write into grains that were not there a moment ago, a piece at a time."""
        grain = writer.granularity
        while data:
            # Cut at grains, so that only the first and the last can be parts of one.
            n = min(len(data), align_up(begin + 1, grain) - begin + max(_PIECE, grain))
            n = min(n, len(data)) if n >= len(data) else align_down(begin + n, grain) - begin
            with self._change:
                self._fill_piece(extent, writer, begin, data[:n])
                if writer.full:
                    writer.commit()
            begin, data = begin + n, data[n:]

    def _fill_piece(
        self, extent: Extent, writer: BlockWriter, begin: int, data: memoryview
    ) -> None:
        """The same under the lock: parts of grains at the ends, whole grains between."""
        grain, end = writer.granularity, begin + len(data)
        low = align_up(begin, grain)
        high = align_down(end, grain)
        if low > high:
            self._fill_part(extent, writer, begin, data)
            return
        if begin < low:
            self._fill_part(extent, writer, begin, data[: low - begin])
        if low < high:
            self._fill_whole(extent, writer, low // grain, data[low - begin : high - begin])
        if high < end:
            self._fill_part(extent, writer, high, data[high - begin :])

    def _fill_part(self, extent: Extent, writer: BlockWriter, begin: int, data: memoryview) -> None:
        """Part of one grain; the rest of it comes from below."""
        ((_, _, place),) = writer.places(begin, len(data))
        if place >= 0:
            writer.storage.write(place, data)
            return
        number, inside = divmod(begin, writer.granularity)
        rest = b"" if place == ZEROS else self._grain_below(extent, writer, number)
        if not rest and _is_zero(data):
            return
        ((_, _, position, blank),) = writer.allocate(number, 1)
        if rest or not blank:
            whole = bytearray(rest) or bytearray(writer.granularity)
            whole[inside : inside + len(data)] = data
            writer.storage.write(position, memoryview(whole))
        else:
            writer.storage.write(position + inside, data)
        writer.enter(number, 1, position)

    def _grain_below(self, extent: Extent, writer: BlockWriter, number: int) -> bytes:
        """A whole grain as the chain below has it; empty if it is all zeros."""
        if self._below is None:
            return b""
        grain = writer.granularity
        begin = number * grain
        n = min(grain, writer.length - begin)
        found = self._below.read(extent.start + begin, n)
        return b"" if _is_zero(memoryview(found)) else found.ljust(grain, b"\0")

    def _fill_whole(
        self, extent: Extent, writer: BlockWriter, first: int, data: memoryview
    ) -> None:
        """Whole grains: those that are not all zeros are stored, runs of them in one write."""
        import numpy as np

        grain = writer.granularity
        count = len(data) // grain
        filled = np.frombuffer(data, np.uint64).reshape(count, -1).any(axis=1)
        here = np.zeros(count, bool)
        for begin, end, place in writer.places(first * grain, count * grain):
            if place >= 0:
                at = begin // grain - first
                here[at : ceil_div(end, grain) - first] = True
                low = begin - first * grain
                writer.storage.write(place, data[low : low + end - begin])
        hide = ~filled & ~here & self._holds_below(extent, writer, first, count)
        if not writer.hides:
            filled |= hide
        chosen = np.flatnonzero(filled & ~here)
        for run in np.split(chosen, np.flatnonzero(np.diff(chosen) != 1) + 1):
            if not len(run):
                continue
            for number, n, position, _ in writer.allocate(first + int(run[0]), len(run)):
                low = (number - first) * grain
                writer.storage.write(position, data[low : low + n * grain])
                writer.enter(number, n, position)
        if writer.hides:
            empty = np.flatnonzero(~filled & ~here)
            for run in np.split(empty, np.flatnonzero(np.diff(empty) != 1) + 1):
                if len(run):
                    writer.clear(first + int(run[0]), hide[run])

    def _holds_below(
        self, extent: Extent, writer: BlockWriter, first: int, count: int
    ) -> NDArray[np.bool_]:
        """Which grains the chain below has bytes for, be they zeros or not."""
        import numpy as np

        held = np.zeros(count, bool)
        if self._below is None:
            return held
        grain = writer.granularity
        begin = extent.start + first * grain
        end = min(begin + count * grain, extent.start + writer.length)
        for table in self._below.tables(begin, end - begin):
            full = table.states >= State.DATA
            lows = (table.starts[full] - begin) // grain
            highs = -((begin - table.ends[full]) // grain)
            for low, high in zip(lows.tolist(), highs.tolist(), strict=True):
                held[low:high] = True
        return held

    def _clear(self, extent: Extent, writer: BlockWriter, first: int, count: int) -> None:
        """Whole grains become zeros."""
        with self._change:
            hide = self._holds_below(extent, writer, first, count)
            if writer.hides or not hide.any():
                writer.clear(first, hide)
                if writer.full:
                    writer.commit()
                return
        for number in range(first, first + count):
            begin = number * writer.granularity
            end = min(begin + writer.granularity, writer.length)
            if hide[number - first]:
                self._store_zeros(extent, writer, begin, end)
            else:
                self._write_zeros(extent, writer, begin, end)

    def _store_zeros(self, extent: Extent, writer: BlockWriter, begin: int, end: int) -> None:
        """Zeros as data, for a kind that cannot say zero in any other way."""
        zeros = memoryview(bytes(end - begin))
        for low, high, place in writer.places(begin, end - begin):
            if place >= 0:
                writer.storage.write(place, zeros[: high - low])
            else:
                self._fill(extent, writer, low, zeros[: high - low])

    def _write_zeros(self, extent: Extent, writer: BlockWriter, begin: int, end: int) -> None:
        """Parts of grains."""
        if begin < end:
            self._store_zeros(extent, writer, begin, end)

    # --- durability ---------------------------------------------------------------------------

    def flush(self) -> None:
        """Return when everything written so far would survive a power cut."""
        self.check_open()
        with self._change:
            if self._lost is not None:
                raise LostWrites(self.links[0].path, f"nothing is flushed after {self._lost}")
            for writer in self._changing():
                self._guarded(writer.commit)

    def _changing(self) -> list[BlockWriter]:
        return [e.writer for e in self._extents if e.writer is not None and e.writer.changing]

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except LostWrites as error:
            self._lost = error
            raise

    def close(self) -> None:
        """Commit what was written, mark the disk as closed cleanly, and close every file."""
        if self.closed:
            return
        try:
            with self._change:
                if self._lost is None:
                    for writer in self._changing():
                        self._guarded(writer.finish)
        finally:
            if self._below is not None:
                self._below.closed = True
            super().close()


def _is_zero(data: memoryview) -> bool:
    return not data[0] and data.tobytes() == bytes(len(data))
