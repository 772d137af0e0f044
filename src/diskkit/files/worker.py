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

from diskkit.errors import DiskkitError, FormatError, StorageError, UnsupportedFeature
from diskkit.files import wire
from diskkit.filters.cache import BlockCache

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diskkit.files.filesystem import FileSystem, Node

ROWS = 4096
"""Directory entries in a message."""
MEMORY = 2 << 30
_SCANS = 4


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
                wire.send(self._peer, wire.ERROR, describe(error))
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

    def do_xattrs(self, id: int) -> list[list[str]]:
        """Extended attributes."""
        found = self._reader.xattrs(id)
        return [[k.decode("latin-1"), v.decode("latin-1")] for k, v in found.items()]

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


def describe(error: Exception) -> bytes:
    """An error as the parent raises it again."""
    if isinstance(error, UnsupportedFeature):
        return wire.pack_json(["unsupported", error.what])
    if isinstance(error, FormatError):
        return wire.pack_json(["format", error.what])
    if isinstance(error, DiskkitError):
        return wire.pack_json(["storage", str(error)])
    if isinstance(error, MemoryError):
        return wire.pack_json(["format", f"needs more than {MEMORY} bytes of memory"])
    return wire.pack_json(["format", f"{type(error).__name__}: {error}"[:500]])


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
        wire.send(peer, wire.ERROR, describe(error))
        return
    wire.send(peer, wire.ANSWER, wire.pack_json([reader.root, reader.warnings]))
    Server(peer, reader, cache).serve()
