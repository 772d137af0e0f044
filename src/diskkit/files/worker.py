# SPDX-License-Identifier: Apache-2.0
"""The process that parses a filesystem: it has a socket to its parent, limits, and nothing else.

It is started by `process.py` with the socket as its standard input. It asks the parent
for bytes of the volume, through a block cache of its own, and answers one call at a time.
"""

from __future__ import annotations

import resource
import socket
from itertools import islice
from typing import TYPE_CHECKING, Any

from diskkit.errors import StorageError
from diskkit.files import wire
from diskkit.files.filesystem import NO_TIME, Node, as_ours
from diskkit.filters.cache import BlockCache

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diskkit.files.filesystem import FileSystem

ROWS = 4096
"""Directory entries in a message."""
ENOUGH = 1 << 20
"""Bytes of details after which a message is sent."""
MEMORY = 2 << 30
_SCANS = 4
_BARE = Node(0, 0, 0, 0, 0, 0, 0, 0, 0, NO_TIME, 0, 0)


class RemoteVolume:
    """The volume, as the parent gives its bytes."""

    def __init__(self, peer: socket.socket, size: int) -> None:
        self.size = size
        self._peer = peer

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Ask for them, in pieces of a bounded size."""
        for at in range(0, len(buffer), wire.MAX_READ):
            part = buffer[at : at + wire.MAX_READ]
            wire.send(self._peer, wire.READ, wire.RANGE.pack(offset + at, len(part)))
            kind, content = wire.receive(self._peer)
            if kind != wire.DATA:
                raise StorageError("volume", content.decode("utf-8", "replace"))
            part[:] = content


class Server:
    """Answers calls of the parent."""

    def __init__(self, peer: socket.socket, reader: FileSystem, cache: BlockCache) -> None:
        self._peer = peer
        self._reader = reader
        self._cache = cache
        self._scans: dict[int, Iterator[tuple[bytes, Node]]] = {}
        self._last = 0

    def serve(self) -> None:
        """Until the parent goes."""
        while True:
            try:
                kind, raw = wire.receive(self._peer)
            except EOFError:
                return
            if kind != wire.CALL:
                return
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

    def do_scan(self, id: int) -> int:
        """Begin to list a directory; the answer names the listing."""
        if len(self._scans) >= _SCANS:
            del self._scans[min(self._scans)]
        self._last += 1
        self._scans[self._last] = self._reader.scandir(id)
        return self._last

    def do_more(self, scan: int, id: int, done: int) -> bytes:
        """The next entries; none at the end."""
        rows = self._scans.get(scan)
        if rows is None:
            # It was pushed out by others: begin again, and pass over what was told.
            rows = self._scans[scan] = islice(self._reader.scandir(id), done, None)
        packed = wire.pack_nodes(islice(rows, ROWS))
        if not packed:
            self._scans.pop(scan, None)
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
        return list(self._reader.registry(id, [(path, name) for path, name in wanted]))

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


def main() -> None:
    """With the socket as file descriptor 0; the first call says what to read."""
    peer = socket.socket(fileno=0)
    limit()
    try:
        _, raw = wire.receive(peer)
    except EOFError:
        return
    kind, size, capacity = wire.unpack_json(raw)
    cache = BlockCache(RemoteVolume(peer, size), capacity=capacity)
    try:
        from diskkit.files.readers import open_reader

        reader = open_reader(kind, cache)
    except Exception as error:
        wire.send(peer, wire.ERROR, wire.pack_error(as_ours(error)))
        return
    wire.send(peer, wire.ANSWER, wire.pack_json([reader.root, reader.warnings]))
    Server(peer, reader, cache).serve()
