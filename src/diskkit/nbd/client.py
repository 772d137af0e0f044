# SPDX-License-Identifier: Apache-2.0
"""`NbdDisk`: an NBD export as a disk, with its map.

A few connections where the server allows several: a caller takes one, and has several requests
under way on it. More callers than connections wait for each other.
"""

from __future__ import annotations

from contextlib import contextmanager
from queue import LifoQueue
from threading import Lock
from typing import TYPE_CHECKING

from diskkit.disk import Disk, Source
from diskkit.errors import ProtocolError, UsageError
from diskkit.nbd import protocol as p
from diskkit.nbd.connection import Connection
from diskkit.nbd.uri import parse
from diskkit.runs import State
from diskkit.table import single
from diskkit.units import align_down, align_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from diskkit.info import DiskInfo
    from diskkit.interfaces import OpenPolicy
    from diskkit.table import RunTable

_CONNECTIONS = 4
_PIECE = 512 << 10
_STATUS = 1 << 31
"""Bytes that are asked about at a time."""
_ZEROS = 1 << 30


def open_nbd(uri: str, policy: OpenPolicy) -> NbdDisk:
    """The export that an NBD URI names, for writing if the policy says so.

    Raises `UsageError` for a URI that is none or an export that cannot be written to,
    `ConnectionLost`, `AccessDenied`, `RemoteError`, `ProtocolError`.
    """
    address = parse(uri)
    disk = NbdDisk(uri, lambda: Connection(address, uri), writable=policy.writable)
    if policy.writable and not disk.writable:
        disk.close()
        raise UsageError(f"{uri}: the server lets nobody write to it")
    if disk.writable and not disk.flushes:
        policy.warning(f"{uri}: the server does not say when what is written is durable")
    return disk


class NbdDisk(Disk):
    """An export of an NBD server."""

    def __init__(
        self, path: str, connect: Callable[[], Connection], *, writable: bool = False
    ) -> None:
        """`connect` makes a connection; `writable` asks for writing, if the server allows it."""
        self.path = path
        self._connect = connect
        first = connect()
        self._offered = offered = first.offered
        self.size = offered.size
        self.writable = writable and not offered.flags & p.READ_ONLY
        self.granularity = offered.preferred
        self._idle: LifoQueue[Connection | None] = LifoQueue()
        """What callers take; None stands for a connection not made yet."""
        self.parallel = _CONNECTIONS if offered.flags & p.CAN_MULTI_CONN else 1
        for _ in range(self.parallel - 1):
            self._idle.put(None)
        self._idle.put(first)
        self._blocks = Lock()
        """Held by whoever writes, where the server takes whole blocks only."""
        self._dirty = False
        self._lock = Lock()
        self._open: list[Connection] = [first]
        """All that were made; guarded by `_lock`."""
        self._closed = False

    @property
    def flushes(self) -> bool:
        """Whether the server can be told to make what was written durable."""
        return bool(self._offered.flags & p.SEND_FLUSH)

    @property
    def info(self) -> DiskInfo:
        """What little a server says."""
        from diskkit.info import describe_bare

        self._check_open()
        return describe_bare(self.path, "nbd", self.size)

    @property
    def sources(self) -> Sequence[Source]:
        """The server: how many links it has is its own business."""
        return (Source(0),)

    # --- connections --------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("the disk is closed")

    @contextmanager
    def _taken(self) -> Iterator[Connection]:
        """A connection for one caller; one that broke tells so to whoever uses it."""
        self._check_open()
        held = self._idle.get()
        try:
            self._check_open()
            held = held or self._another()
            yield held
        finally:
            self._idle.put(held)

    def _another(self) -> Connection:
        """One more connection to what must be the same export."""
        made = self._connect()
        if made.offered != self._offered:
            made.close()
            raise ProtocolError(f"{self.path}: the server offers another export all of a sudden")
        with self._lock:
            self._open.append(made)
        return made

    # --- reading ------------------------------------------------------------------------------

    def _fill(self, offset: int, buffer: memoryview) -> None:
        self._check_open()
        least = self._offered.least
        if offset % least or len(buffer) % least:
            self._fill_around(offset, buffer)
        elif buffer:
            with self._taken() as connection:
                connection.read(self._cut(offset, buffer))

    def _cut(self, offset: int, buffer: memoryview) -> Iterator[tuple[int, memoryview]]:
        """A long range as requests that the server takes."""
        piece = align_down(min(_PIECE, self._offered.most), self._offered.least)
        for at in range(0, len(buffer), piece):
            yield offset + at, buffer[at : at + piece]

    def _around(self, offset: int, length: int) -> tuple[int, int]:
        """The smallest range of whole blocks that holds a range."""
        least = self._offered.least
        return align_down(offset, least), min(self.size, align_up(offset + length, least))

    def _fill_around(self, offset: int, buffer: memoryview) -> None:
        """Parts of blocks: whole ones are read, a bounded number at a time."""
        while buffer:
            n = min(len(buffer), _PIECE)
            begin, end = self._around(offset, n)
            whole = memoryview(bytearray(end - begin))
            with self._taken() as connection:
                connection.read(self._cut(begin, whole))
            buffer[:n] = whole[offset - begin : offset - begin + n]
            offset, buffer = offset + n, buffer[n:]

    # --- writing ------------------------------------------------------------------------------

    def _write(self, offset: int, data: memoryview) -> None:
        self._check_writable()
        least = self._offered.least
        if least == 1:
            self._send(offset, data)
            return
        # Whoever writes parts of blocks writes what is around them, too: one at a time.
        with self._blocks:
            while data:
                n = min(len(data), _PIECE)
                begin, end = self._around(offset, n)
                if (begin, end) == (offset, offset + n):
                    self._send(offset, data[:n])
                else:
                    whole = memoryview(bytearray(end - begin))
                    self._fill(begin, whole)
                    whole[offset - begin : offset - begin + n] = data[:n]
                    self._send(begin, whole)
                offset, data = offset + n, data[n:]

    def _send(self, offset: int, data: memoryview) -> None:
        if data:
            self._dirty = True
            with self._taken() as connection:
                connection.write(self._cut(offset, data))

    def _zero(self, offset: int, length: int, *, give_back: bool) -> None:
        self._check_writable()
        least, end = self._offered.least, offset + length
        low, high = align_up(offset, least), align_down(end, least)
        if not self._offered.flags & p.SEND_WRITE_ZEROES or low >= high:
            self._write_zeros(offset, end)
            return
        self._write_zeros(offset, low)
        self._dirty = True
        with self._taken() as connection:
            for at in range(low, high, _ZEROS):
                flags = 0 if give_back else p.NO_HOLE
                connection.order(p.WRITE_ZEROES, at, min(_ZEROS, high - at), flags)
        self._write_zeros(high, end)

    def _write_zeros(self, begin: int, end: int) -> None:
        zeros = memoryview(bytes(min(end - begin, _PIECE)))
        while begin < end:
            part = zeros[: end - begin]
            self._write(begin, part)
            begin += len(part)

    def _check_writable(self) -> None:
        self._check_open()
        if not self.writable:
            raise self._read_only()

    def _flush(self) -> None:
        """On any connection: a server that allows several flushes what came over all of them."""
        self._check_writable()
        if self._offered.flags & p.SEND_FLUSH:
            with self._taken() as connection:
                connection.order(p.FLUSH)
        self._dirty = False

    # --- the map ------------------------------------------------------------------------------

    def _scan(self, offset: int, length: int, links: int | None) -> Iterator[RunTable]:
        self._check_open()
        end = offset + length
        if p.ALLOCATION not in self._offered.contexts.values():
            if length:
                # Nothing is known, so all of it may be data.
                yield single(offset, length, State.DATA, offset)
            return
        while offset < end:
            begin, stop = self._around(offset, min(end - offset, _STATUS))
            with self._taken() as connection:
                found = connection.status(begin, stop - begin)
            table = p.combine(begin, found[p.ALLOCATION], found.get(p.DEPTH))
            if table.end <= offset:
                raise ProtocolError(f"{self.path}: NBD block status: an extent is no whole block")
            table = table.since(offset).clip(end)
            yield table
            offset = table.end

    def close(self) -> None:
        """Make what was written durable, and hang up. Doing so twice is fine."""
        if self._closed:
            return
        try:
            if self._dirty:
                self._flush()
        finally:
            self._closed = True
            with self._lock:
                for connection in self._open:
                    connection.close()
