# SPDX-License-Identifier: Apache-2.0
"""The process that parses a filesystem: it has a socket to its parent, limits, and nothing else.

It is started by `process.py` with the socket as its standard input. Before it sees the first byte
of the volume it has loaded what it will need, and confines itself. It asks the parent for bytes of
the volume, through a block cache of its own, and answers one call at a time.
"""

from __future__ import annotations

import codecs
import resource
import socket
from collections import deque
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

from diskkit.errors import StorageError
from diskkit.files import confine, readers, wire
from diskkit.files.filesystem import NO_TIME, Node, as_ours
from diskkit.filters.cache import BlockCache

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diskkit.files.filesystem import FileSystem

ENOUGH = 1 << 20
"""Bytes of details after which a message is sent."""
MEMORY = 2 << 30
_SCANS = 64
"""Listings under way at once, such as those of folders inside of folders, while they are copied.
One that is pushed out begins anew, and passes over what was told."""
_BARE = Node(0, 0, 0, 0, 0, 0, 0, 0, 0, NO_TIME, 0, 0)


class RemoteVolume:
    """The volume, as the parent gives its bytes."""

    def __init__(self, peer: socket.socket, size: int) -> None:
        self.size = size
        self._peer = peer
        self._calls: deque[bytearray] = deque()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Ask for them, in pieces of a bounded size."""
        for at in range(0, len(buffer), wire.MAX_READ):
            part = buffer[at : at + wire.MAX_READ]
            wire.send(self._peer, wire.READ, wire.RANGE.pack(offset + at, len(part)))
            kind, content = wire.receive(self._peer, data=part)
            while kind == wire.CALL:
                # It came while something was read that nobody has asked for yet.
                self._calls.append(content)
                kind, content = wire.receive(self._peer, data=part)
            if kind != wire.DATA:
                raise StorageError("volume", content.decode("utf-8", "replace"))

    def next_call(self) -> bytearray | None:
        """What the parent wants done; None once it is gone."""
        if self._calls:
            return self._calls.popleft()
        try:
            kind, raw = wire.receive(self._peer)
        except EOFError:
            return None
        return raw if kind == wire.CALL else None


class Scan:
    """A directory that is being listed. The next rows are made while the parent has these."""

    def __init__(self, rows: Iterator[tuple[bytes, Node]]) -> None:
        self._rows = rows
        self._ready: bytes | Exception | None = None
        self._error: Exception | None = None
        self.ended = False

    def rows(self) -> bytes:
        """The next ones. Raises what listing them raises."""
        ready = self._ready if self._ready is not None else self._made()
        self._ready = None
        if isinstance(ready, Exception):
            raise ready
        return ready

    def go_on(self) -> None:
        """Make the next ones now."""
        if not self.ended:
            self._ready = self._made()

    def _made(self) -> bytes | Exception:
        """What came before an error is told first."""
        rows: list[tuple[bytes, Node]] = []
        try:
            if self._error is None:
                rows.extend(islice(self._rows, wire.ROWS))
        except Exception as error:
            self._error = error
        if self._error is not None and not rows:
            self.ended = True
            return self._error
        self.ended = len(rows) < wire.ROWS and self._error is None
        return (wire.LAST if self.ended else wire.MORE) + wire.pack_nodes(rows)


class Server:
    """Answers calls of the parent."""

    def __init__(
        self, peer: socket.socket, volume: RemoteVolume, reader: FileSystem, cache: BlockCache
    ) -> None:
        self._peer = peer
        self._volume = volume
        self._reader = reader
        self._cache = cache
        self._scans: dict[int, Scan] = {}
        self._after: Scan | None = None

    def serve(self) -> None:
        """Until the parent goes."""
        while (raw := self._volume.next_call()) is not None:
            name, *words = wire.unpack_json(raw)
            try:
                answer = getattr(self, f"do_{name}")(*words)
            except Exception as error:
                wire.send(self._peer, wire.ERROR, wire.pack_error(as_ours(error)))
                continue
            if isinstance(answer, bytes):
                wire.send(self._peer, wire.BYTES, answer)
            else:
                wire.send(self._peer, wire.ANSWER, wire.pack_json(answer))
            scan, self._after = self._after, None
            if scan is not None:
                scan.go_on()

    def do_scan(self, number: int, id: int, done: int) -> bytes:
        """Entries of a directory, behind the first `done`; the parent numbers its listings."""
        scan = self._scans.get(number)
        if scan is None:
            # New, or pushed out by others: pass over what was told.
            if len(self._scans) >= _SCANS:
                del self._scans[min(self._scans)]
            scan = self._scans[number] = Scan(islice(self._reader.scandir(id), done, None))
        try:
            packed = scan.rows()
        finally:
            if scan.ended:
                self._scans.pop(number, None)
        self._after = scan
        return packed

    def do_lookup(self, id: int, name: str) -> bytes:
        """One entry, or none."""
        node = self._reader.lookup(id, name.encode("latin-1"))
        return b"" if node is None else wire.pack_nodes([(b"", node)])

    def do_stat(self, id: int) -> bytes:
        """One entry."""
        return wire.pack_nodes([(b"", self._reader.stat(id))])

    def do_read(self, id: int, offset: int, length: int, stream: str) -> bytes:
        """Content."""
        return self._reader.read_at(id, offset, min(length, wire.MAX_READ), stream)

    def do_link(self, id: int) -> bytes:
        """A link's target."""
        return self._reader.readlink(id)

    def do_xattrs(self, id: int) -> bytes:
        """Extended attributes."""
        return wire.pack_xattrs(self._reader.xattrs(id))

    def do_details(self, rows: list[list[int]]) -> bytes:
        """All else of some files, given by id, mode and size; of the first ones, if it is much."""
        nodes = [_BARE._replace(id=id, mode=mode, size=size) for id, mode, size in rows]
        parts, room = [], ENOUGH
        for details in self._reader.details(nodes):
            parts.append(wire.pack_details(details))
            room -= len(parts[-1])
            if room <= 0:
                break
        return b"".join(parts)

    def do_streams(self, id: int) -> list[Any]:
        """Streams."""
        return [list(row) for row in self._reader.streams(id)]

    def do_extents(self, id: int, stream: str) -> bytes | None:
        """Where content lies."""
        found = self._reader.extents(id, stream)
        return None if found is None else wire.pack_extents(found)

    def do_registry(self, id: int, wanted: list[list[str]]) -> list[Any]:
        """Values of a hive."""
        found = self._reader.registry(id, [(path, name) for path, name in wanted])
        return wire.pack_values(found)

    def do_counts(self) -> list[int]:
        """What the cache did."""
        return list(self._cache.counts)


def limit() -> None:
    """Bound memory; write no file, no core."""
    for what, value in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 32),
    ):
        _, hard = resource.getrlimit(what)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(what, (value, value))


def load_late_ones() -> None:
    """What is loaded when first needed, which a confined process cannot do any more."""
    import diskkit.files.registry  # noqa: F401

    # Said when a hive is to be read.
    with suppress(ImportError):
        import pyregf  # noqa: F401
    codecs.lookup("utf-16-le")


def main() -> None:
    """With the socket as file descriptor 0; the first call says what to read."""
    peer = socket.socket(fileno=0)
    limit()
    load_late_ones()
    try:
        _, raw = wire.receive(peer)
    except EOFError:
        return
    kind, size, capacity = wire.unpack_json(raw)
    volume = RemoteVolume(peer, size)
    cache = BlockCache(volume, capacity=capacity)
    try:
        readers.load(kind)
        why_not = confine.confine()
        reader = readers.open_reader(kind, cache)
    except Exception as error:
        wire.send(peer, wire.ERROR, wire.pack_error(as_ours(error)))
        return
    warnings = [f"this kernel cannot confine the reader of this {kind}: {why_not}"] * bool(why_not)
    wire.send(peer, wire.ANSWER, wire.pack_json([reader.root, warnings + reader.warnings]))
    Server(peer, volume, reader, cache).serve()
