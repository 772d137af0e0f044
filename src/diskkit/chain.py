# SPDX-License-Identifier: Apache-2.0
"""The chain: child to parent, one merged map, and the only code that moves guest data.

Resolving walks the parent hints and checks what holds a chain together: content IDs, capacities,
no loops, bounded depth. Reading never walks: the maps of all links are merged, stretch by stretch,
into one table, and stretches are kept, as plain arrays, for as long as they are in demand. A read
that falls into one run is then a dict lookup, a bisection and one system call, and takes no lock.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from diskkit import formats
from diskkit.errors import ChainError, ShortRead, StorageError, UsageError
from diskkit.interfaces import MAX_DEPTH
from diskkit.runs import State
from diskkit.storage.kernelcopy import kernel_copy_pays
from diskkit.storage.local import LocalPlace, open_file
from diskkit.storage.writing import LONG, Gather

if TYPE_CHECKING:
    from array import array
    from collections import OrderedDict
    from collections.abc import Callable, Iterator

    from diskkit.formats.link import Extent, Link
    from diskkit.interfaces import OpenPolicy
    from diskkit.table import RunTable

_WINDOW_GRAINS_LOG2 = 12
_SMALLEST_SHIFT, _LARGEST_SHIFT = 21, 28
"""A kept stretch of the map covers 4096 of the finest grains, 2 to 256 MiB: enough to spread
the cost of merging it, not so much that a few reads all over a disk pay for rows they never use."""
_KEPT_ROWS = 1 << 20
"""Rows of the map kept at most; a row takes 32 bytes."""
_WINDOW_COST = 16
_KEPT_GRAINS = 64
_KEPT_GRAIN_BYTES = 64 << 20
_ZERO, _ASK = -1, -2
"""In place of a file descriptor: reads as zeros; needs its map."""
_NO_KERNEL_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
_kernel_copy = getattr(os, "copy_file_range", None)


class MismatchedParent(ChainError):
    """The parent's content ID is not the one its child recorded."""


def resolve(
    path: str,
    format_name: str | None,
    policy: OpenPolicy,
    judge: Callable[[Link, Link, OpenPolicy], None] | None = None,
) -> Iterator[Link]:
    """The links of a disk, leaf first, each opened and, by `judge`, checked against its child.

    Raises as soon as something is wrong; the links given out before are the caller's to close.
    """
    if not 1 <= policy.max_depth <= MAX_DEPTH:
        raise UsageError(f"a chain's depth is limited to 1 to {MAX_DEPTH}, not {policy.max_depth}")
    seen: set[object] = set()
    roots: tuple[str, ...] = ()
    child: Link | None = None
    kind = formats.choose(path, format_name)
    while True:
        place = LocalPlace(path, policy, roots)
        lone = kind == "raw" and child is None
        storage = open_file(path, policy, device=lone, write=policy.writable)
        if storage.identity in seen:
            storage.close()
            raise _chain_error(child, "the chain runs in a circle")
        seen.add(storage.identity)
        link = formats.FORMATS[kind].open_link(storage, place, policy)
        if child is not None and judge is not None:
            try:
                judge(child, link, policy)
            except ChainError:
                link.close()
                raise
        yield link
        if link.parent_hint is None or policy.single_link:
            return
        if len(seen) >= policy.max_depth:
            text = f"the chain has more than {policy.max_depth} links"
            raise _chain_error(link, text, "allow a greater depth")
        child, kind, policy = link, "vmdk", policy._replace(writable=False)
        path, roots = place.find_parent(link.parent_hint), place.roots


def _chain_error(link: Link | None, problem: str, advice: str = "") -> ChainError:
    assert link is not None
    return ChainError(
        problem,
        path=link.path,
        structure="descriptor",
        field="parentFileNameHint",
        value=link.parent_hint,
        advice=advice,
    )


def pair_problems(child: Link, parent: Link) -> Iterator[ChainError]:
    """Everything that says that `parent` is not the one `child` was made from."""
    if parent.descriptor is None:
        yield _chain_error(child, f"its parent is {parent.create_type}, not a VMDK")
    if parent.capacity != child.capacity:
        text = f"its parent has {parent.capacity} bytes, it has {child.capacity}"
        yield _chain_error(child, text, "a parent that was resized does not fit its children")
    kinds = {e.line.kind for link in (child, parent) for e in link.extents}
    if {"VMFSSPARSE", "SESPARSE"} <= kinds:
        yield _chain_error(child, "vmfsSparse and seSparse links do not mix in a chain")
    if parent.cid != child.parent_cid:
        yield MismatchedParent(
            f"the parent's content ID is {parent.cid or 0:08x}, the child recorded "
            f"{child.parent_cid:08x}: the parent was changed after the child was made",
            path=child.path,
            structure="descriptor",
            field="parentCID",
            value=f"{child.parent_cid:08x}",
            advice="data may be silently wrong; allow the mismatch to read it nevertheless",
        )


def check_pair(child: Link, parent: Link, policy: OpenPolicy) -> None:
    """Raise the first of `pair_problems`; a mismatch that the policy allows is a warning."""
    for problem in pair_problems(child, parent):
        if not isinstance(problem, MismatchedParent) or not policy.allow_mismatch:
            raise problem
        policy.warning(f"{child.path}: {problem.problem}")


class _Window(NamedTuple):
    """A kept stretch of the merged map, as parallel arrays: fast to search, small to keep."""

    starts: array[int]
    ends: array[int]
    files: array[int]
    """A file descriptor, `_ZERO` or `_ASK`."""
    shifts: array[int]
    """What to add to a guest offset to get the file's."""
    table: RunTable


class Chain:
    """The links of one disk, read as one."""

    def __init__(self, links: list[Link]) -> None:
        """Take over opened links, leaf first."""
        from collections import OrderedDict
        from threading import Lock

        # Loaded here, so that the first read does not pay for it.
        import diskkit.formats.vmdk.grains
        import diskkit.table  # noqa: F401

        self.links = links
        self.size = links[0].capacity
        self.sources: list[tuple[int, Extent]] = []
        """By source number: the link's number and the extent."""
        self._bases: list[int] = []
        for number, link in enumerate(links):
            self._bases.append(len(self.sources))
            self.sources += [(number, extent) for extent in link.extents]
        finest = min(e.map.granularity for _, e in self.sources)
        shift = finest.bit_length() - 1 + _WINDOW_GRAINS_LOG2 if finest > 1 else _LARGEST_SHIFT
        self._shift = max(_SMALLEST_SHIFT, min(shift, _LARGEST_SHIFT))
        self._windows: dict[int, _Window] = {}
        self._kept = 0
        self._grains: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._lock = Lock()
        """Guards what is kept, never a read of a file."""
        self.closed = False

    @property
    def link_of(self) -> list[int]:
        """By source number: the link's number. Ascending."""
        return [link for link, _ in self.sources]

    # --- the map ------------------------------------------------------------------------------

    def tables(self, offset: int, length: int, links: int | None = None) -> Iterator[RunTable]:
        """The merged map of a range, as consecutive tables of bounded size. Moves no data.

        `links` asks that many links only, from the leaf; what none of them has is a hole.
        """
        import numpy as np

        from diskkit.table import overlay

        end = offset + length
        held: list[RunTable | None] = [None] * (links or len(self.links))
        while offset < end:
            self.check_open()
            merged: RunTable | None = None
            for number in range(len(held)):
                reach = merged.end if merged is not None else end
                piece = held[number]
                if piece is None or piece.end <= offset:
                    piece = self.links[number].scan(offset, reach - offset)
                    piece = piece._replace(sources=piece.sources + self._bases[number])
                    held[number] = piece
                piece = piece.since(offset)
                merged = piece if merged is None else overlay(merged, piece)
                if not (merged.states == State.HOLE).any():
                    break
            assert merged is not None
            base = np.int64(len(self.sources) - 1)
            sources = np.where(merged.states == State.HOLE, base, merged.sources)
            yield merged._replace(sources=sources)
            offset = merged.end

    def stored(self, offset: int, length: int) -> Iterator[RunTable]:
        """`tables`, with DATA that lies in a hole of its file turned into ZERO.

        For readers: what is left out reads as zeros. Not the map, which says what is allocated.
        """
        for table in self.tables(offset, length):
            yield self._without_file_holes(table)

    def _without_file_holes(self, table: RunTable) -> RunTable:
        import numpy as np

        from diskkit.table import distinct, restrict

        data = table.states == State.DATA
        used = distinct(table.sources[data])
        if len(used) != 1:
            return table
        storage = self.sources[int(used[0])][1].storage
        if storage is None or storage.physical_bytes >= storage.size:
            return table
        low = int(table.positions[data].min())
        high = int((table.positions + table.lengths)[data].max())
        ranges = []
        for found in storage.data_ranges(low, high - low):
            ranges.append(found)
            if len(ranges) > len(table.starts) + 1024:
                return table
        begins, ends = np.array(ranges, np.int64).reshape(-1, 2).T
        return restrict(table, begins, ends)

    def explain(self, source: int, offset: int) -> Exception:
        """Why the guest byte `offset`, decided by `source`, cannot be had."""
        _, extent = self.sources[source]
        return extent.map.explain(offset - extent.start)

    # --- reading ------------------------------------------------------------------------------

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. The range must lie inside the disk."""
        window = self._windows.get(offset >> self._shift) or self._load_window(offset)
        row = bisect_right(window.starts, offset) - 1
        if offset + length <= window.ends[row]:
            file = window.files[row]
            if file >= 0:
                try:
                    data = os.pread(file, length, offset + window.shifts[row])
                except OSError as error:
                    raise self._failed(window, row, error) from error
                if len(data) == length:
                    return data
            elif file == _ZERO:
                return bytes(length)
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill all of `buffer`. The range must lie inside the disk."""
        while buffer:
            window = self._windows.get(offset >> self._shift) or self._load_window(offset)
            row = bisect_right(window.starts, offset) - 1
            n = min(len(buffer), window.ends[row] - offset)
            part = buffer[:n]
            file = window.files[row]
            if file >= 0:
                try:
                    done = os.preadv(file, [part], offset + window.shifts[row])
                except OSError as error:
                    raise self._failed(window, row, error) from error
                if not done:
                    raise self._cut(window, row)
                n = done
            elif file == _ZERO:
                part[:] = bytes(n)
            else:
                n = self._ask(window.table, row, offset, part)
            offset += n
            buffer = buffer[n:]

    def stretch(self, offset: int) -> tuple[int, int, int, int, bool] | None:
        """Begin, end, descriptor and position of the kept row at `offset`, if it is in a file.

        And whether it may be written there, which it may not.
        """
        window = self._windows.get(offset >> self._shift)
        if window is None:
            return None
        row = bisect_right(window.starts, offset) - 1
        file, begin = window.files[row], window.starts[row]
        if file < 0:
            return None
        return begin, window.ends[row], file, begin + window.shifts[row], False

    def _load_window(self, offset: int) -> _Window:
        """Merge the map of one window and keep it, forgetting the oldest ones if need be."""
        self.check_open()
        number = offset >> self._shift
        begin = number << self._shift
        parts = list(self.tables(begin, min(1 << self._shift, self.size - begin)))
        window = self._window(parts[0] if len(parts) == 1 else _joined(parts))
        with self._lock:
            if number not in self._windows:
                self._kept += len(window.starts) + _WINDOW_COST
                self._windows[number] = window
            while self._kept > _KEPT_ROWS and len(self._windows) > 1:
                oldest = next(iter(self._windows))
                self._kept -= len(self._windows.pop(oldest).starts) + _WINDOW_COST
        return window

    def _window(self, table: RunTable) -> _Window:
        from array import array

        import numpy as np

        fds = [e.storage.descriptor if e.storage else None for _, e in self.sources]
        known = np.array([_ASK if fd is None else fd for fd in fds], np.int64)
        files = np.full(len(table.starts), _ASK, np.int64)
        files[(table.states == State.HOLE) | (table.states == State.ZERO)] = _ZERO
        data = table.states == State.DATA
        files[data] = known[table.sources[data]]
        shifts = table.positions - table.starts
        starts, ends, held, added = (
            array("q", column.tobytes()) for column in (table.starts, table.ends, files, shifts)
        )
        # Only rows that are not simply in a file are looked up in the table.
        return _Window(starts, ends, held, added, table if _ASK in files else table.rows(0, 1))

    def _ask(self, table: RunTable, row: int, offset: int, part: memoryview) -> int:
        """Fill the front of `part` from a row that is not simply in a file."""
        source, state = int(table.sources[row]), table.states[row]
        _, extent = self.sources[source]
        if state == State.BAD:
            raise self.explain(source, offset)
        if state == State.DATA:
            assert extent.storage is not None
            at = int(table.positions[row]) + offset - int(table.starts[row])
            extent.storage.read_into(at, part)
            return len(part)
        grain, begin = self._grain(source, int(table.positions[row]), offset)
        inside = offset - begin
        n = min(len(part), extent.map.granularity - inside)
        part[:n] = grain[inside : inside + n]
        return n

    def _grain(self, source: int, position: int, offset: int) -> tuple[bytes, int]:
        """The compressed grain that holds `offset`, from what is kept or loaded now."""
        extent = self.sources[source][1]
        begin = self._grain_start(extent, offset)
        key = source, begin
        grain = self._grains.get(key)
        if grain is None:
            grain = extent.map.load(begin - extent.start, position)
            most = max(1, min(_KEPT_GRAINS, _KEPT_GRAIN_BYTES // extent.map.granularity))
            with self._lock:
                self._grains[key] = grain
                while len(self._grains) > most:
                    self._grains.popitem(last=False)
        return grain, begin

    @staticmethod
    def _grain_start(extent: Extent, offset: int) -> int:
        inside = offset - extent.start
        return offset - inside % extent.map.granularity

    def _name(self, window: _Window, row: int) -> str:
        for _, extent in self.sources:
            if extent.storage is not None and extent.storage.descriptor == window.files[row]:
                return extent.storage.name
        return self.links[0].path

    def _failed(self, window: _Window, row: int, error: OSError) -> StorageError:
        text = f"reading failed: {error.strerror}"
        return StorageError(self._name(window, row), text, errno=error.errno)

    def _cut(self, window: _Window, row: int) -> ShortRead:
        text = "the file ends too early; it was cut after it was opened"
        return ShortRead(self._name(window, row), text)

    def check_open(self) -> None:
        """Raise `UsageError` if it was closed."""
        if self.closed:
            raise UsageError("the disk is closed")

    # --- moving -------------------------------------------------------------------------------

    def pour(self, table: RunTable, out: int, base: int = 0) -> int:
        """Write the DATA and PACKED rows of `table` to file descriptor `out`, at their offsets.

        `base` is the guest byte that `out` begins with. Zeros and holes are the caller's. Returns
        the bytes written. Safe from many threads.
        """
        written = 0
        gather, by_kernel = Gather(out), kernel_copy_pays(out)
        rows = zip(
            table.starts.tolist(),
            table.lengths.tolist(),
            table.states.tolist(),
            table.sources.tolist(),
            table.positions.tolist(),
            strict=True,
        )
        for start, length, state, source, position in rows:
            if state == State.DATA:
                done = 0
                if by_kernel and length >= LONG:
                    done = self._pour_by_kernel(source, position, out, start - base, length)
                self._pour_data(source, position + done, gather, start - base + done, length - done)
            elif state == State.PACKED:
                self._pour_grain(source, position, gather, start, length, base)
            elif state == State.BAD:
                raise self.explain(source, start)
            else:
                continue
            written += length
        gather.flush()
        return written

    def _pour_by_kernel(self, source: int, position: int, out: int, start: int, length: int) -> int:
        """Let the kernel copy a long row; returns how much it did, 0 where it cannot."""
        storage = self.sources[source][1].storage
        assert storage is not None
        fd, done = storage.descriptor, 0
        if fd is None or _kernel_copy is None:
            return 0
        while done < length:
            try:
                n = _kernel_copy(fd, out, length - done, position + done, start + done)
            except OSError as error:
                if error.errno in _NO_KERNEL_COPY:
                    return done
                raise
            if not n:
                raise ShortRead(storage.name, "the file ends too early; it was cut while in use")
            done += n
        return done

    def _pour_data(
        self, source: int, position: int, gather: Gather, start: int, length: int
    ) -> None:
        storage = self.sources[source][1].storage
        assert storage is not None
        while length:
            part = gather.room(start, length)
            storage.read_into(position, part)
            n = len(part)
            position, start, length = position + n, start + n, length - n

    def _pour_grain(
        self, source: int, position: int, gather: Gather, start: int, length: int, base: int
    ) -> None:
        extent = self.sources[source][1]
        while length:
            begin = self._grain_start(extent, start)
            grain = memoryview(extent.map.load(begin - extent.start, position))
            inside = start - begin
            rest = grain[inside : inside + min(length, extent.map.granularity - inside)]
            length -= len(rest)
            while rest:
                part = gather.room(start - base, len(rest))
                part[:] = rest[: len(part)]
                start, rest = start + len(part), rest[len(part) :]

    def close(self) -> None:
        """Close every file of every link. Doing so twice is fine."""
        self.closed = True
        with self._lock:
            self._windows.clear()
            self._grains.clear()
            self._kept = 0
        for link in self.links:
            link.close()


def _joined(parts: list[RunTable]) -> RunTable:
    import numpy as np

    from diskkit.table import RunTable, merge

    columns = zip(*((p.starts, p.states, p.sources, p.positions) for p in parts), strict=True)
    starts, states, sources, positions = (np.concatenate(c) for c in columns)
    return merge(RunTable(starts, parts[-1].end, states, sources, positions))
