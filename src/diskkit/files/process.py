# SPDX-License-Identifier: Apache-2.0
"""A filesystem whose reader is another process: a crash or a hang there is an error here.

What the reader answers is judged like the image itself: it may have been taken over by it. Bytes
of files do not pass through it where it can say where they lie; they are read from the volume.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diskkit.errors import DiskkitError, FormatError, StorageError, UnsupportedFeature
from diskkit.files import wire
from diskkit.files.filesystem import Details, Extent, FileSystem, Node
from diskkit.filters.cache import CAPACITY, Counts
from diskkit.interfaces import Closing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from diskkit.files.filesystem import RegistryValue
    from diskkit.interfaces import Readable

PATIENCE = 60.0
"""Seconds that a reader may work on one answer, without the time that the disk takes."""
MAX_ENTRIES = 50_000_000
"""Entries of one directory that are believed."""
MAX_XATTRS = 4096
BATCH = 128
"""Files whose details are asked for at once."""

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); "
    "from diskkit.files.worker import main; main()"
)


def _python() -> str:
    """The interpreter; another program may have us inside."""
    if sys.executable and Path(sys.executable).name.startswith("python"):
        return sys.executable
    for name in ("python3", f"python3.{sys.version_info.minor}"):
        found = Path(sys.prefix) / "bin" / name
        if found.exists():
            return str(found)
    raise UnsupportedFeature("no Python program to run the filesystem reader with")


class Started(Closing):
    """A reader's process that was not told yet what to read: it gets ready in the meantime."""

    def __init__(self) -> None:
        """Start it."""
        self.peer, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [_python(), "-I", "-c", _START, json.dumps(sys.path)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"PATH": os.defpath, "PYTHONHASHSEED": "0"},
                close_fds=True,
            )

    def close(self) -> None:
        """End it."""
        self.peer.close()
        self.process.kill()
        self.process.wait()


class ProcessFileSystem(FileSystem):
    """The parent's side. Calls from many threads wait for each other."""

    def __init__(
        self,
        kind: str,
        volume: Readable,
        *,
        patience: float = PATIENCE,
        started: Started | None = None,
    ) -> None:
        """Start the reader, or take over one. Raises what opening the filesystem raises."""
        self.kind = kind
        self.volume = volume
        self._patience = patience
        self._lock = threading.Lock()
        self._dead: DiskkitError | None = None
        self._numbers = count(1)
        """Of listings."""
        self._started = started or Started()
        self._peer, self._process = self._started.peer, self._started.process
        try:
            _, raw = self._call(kind, volume.size, CAPACITY)
            root, warnings = self._judge_start(wire.unpack_json(raw))
        except BaseException:
            self.close()
            raise
        self.root = root
        self.warnings = warnings

    def _judge_start(self, answer: object) -> tuple[int, list[str]]:
        match answer:
            case [int(root), list(warnings)] if all(isinstance(w, str) for w in warnings):
                return root, warnings[:100]
        raise self._fault("made no sense at the start")

    # --- calls --------------------------------------------------------------------------------

    def _call(self, *words: object) -> tuple[bytes, bytearray]:
        with self._lock:
            if self._dead is not None:
                raise self._dead
            try:
                wire.send(self._peer, wire.CALL, wire.pack_json(words))
            except OSError:
                raise self._ended() from None
            return self._answer()

    def _answer(self) -> tuple[bytes, bytearray]:
        """Serve the reader's reads until it answers."""
        left = self._patience
        while True:
            began = time.monotonic()
            try:
                self._peer.settimeout(max(left, 0.001))
                kind, raw = wire.receive(self._peer)
            except TimeoutError:
                raise self._fault(f"did not answer for {self._patience:.0f} s") from None
            except (EOFError, OSError):
                raise self._ended() from None
            except FormatError as error:
                raise self._fault(f"broke the protocol: {error}") from None
            left -= time.monotonic() - began
            if kind == wire.READ:
                self._give(raw)
            elif kind == wire.ERROR:
                raise self._told(raw)
            elif kind in (wire.ANSWER, wire.BYTES):
                return kind, raw
            else:
                raise self._fault(f"sent a message of kind {kind!r}")

    def _give(self, raw: bytearray) -> None:
        if len(raw) != wire.RANGE.size:
            raise self._fault("asked for bytes in a wrong way")
        offset, length = wire.RANGE.unpack(raw)
        if length > wire.MAX_READ or offset + length > self.volume.size:
            raise self._fault(f"asked for bytes {offset} to {offset + length}")
        buffer = bytearray(length)
        try:
            self.volume.read_into(offset, memoryview(buffer))
            kind, content = wire.DATA, buffer
        except DiskkitError as error:
            kind, content = wire.FAILED, bytearray(str(error).encode("utf-8", "replace"))
        try:
            self._peer.settimeout(self._patience)
            wire.send(self._peer, kind, content)
        except OSError:
            raise self._ended() from None

    def _told(self, raw: bytearray) -> DiskkitError:
        try:
            return wire.unpack_error(raw, self.kind)
        except FormatError:
            return self._fault("sent an error that makes no sense")

    def _ended(self) -> DiskkitError:
        """The reader is gone: say how."""
        status = self._process.wait(self._patience)
        if status < 0:
            name = signal.Signals(-status).name
            if name == "SIGSYS":
                return self._fault("was stopped: it tried something that a reader does not do")
            return self._fault(f"crashed ({name})")
        return self._fault(f"ended by itself, status {status}")

    def _fault(self, what: str) -> FormatError:
        """End the reader; from now on every call raises this."""
        error = FormatError(
            f"the reader of this {self.kind} filesystem {what}",
            advice="the filesystem is damaged, or made to do this",
        )
        self._dead = error
        self._process.kill()
        return error

    # --- the contract -------------------------------------------------------------------------

    def scandir(self, id: int) -> Iterator[tuple[bytes, Node]]:
        number = next(self._numbers)
        done, ended = 0, False
        while not ended:
            raw = self._bytes("scan", number, id, done)
            ended = raw[:1] == wire.LAST
            if not ended and (raw[:1] != wire.MORE or len(raw) == 1):
                raise self._fault("made no sense")
            rows = list(wire.unpack_nodes(raw[1:]))
            done += len(rows)
            if done > MAX_ENTRIES:
                raise FormatError(f"more than {MAX_ENTRIES} entries", structure=f"directory {id}")
            for name, node in rows:
                if not name or b"/" in name or b"\0" in name or name in (b".", b".."):
                    yield name, node._replace(problem="no file can have this name")
                else:
                    yield name, node

    def lookup(self, id: int, name: bytes) -> Node | None:
        rows = list(wire.unpack_nodes(self._bytes("lookup", id, name.decode("latin-1"))))
        return rows[0][1] if rows else None

    def stat(self, id: int) -> Node:
        rows = list(wire.unpack_nodes(self._bytes("stat", id)))
        if len(rows) != 1:
            raise self._fault("made no sense")
        return rows[0][1]

    def read_at(self, id: int, offset: int, length: int, stream: str = "") -> bytes:
        content = self._bytes("read", id, offset, min(length, wire.MAX_READ), stream)
        if len(content) > length:
            raise self._fault("gave more than was asked for")
        return bytes(content)

    def readlink(self, id: int) -> bytes:
        return bytes(self._bytes("link", id))

    def xattrs(self, id: int) -> dict[bytes, bytes]:
        return self._believed(wire.unpack_xattrs(self._bytes("xattrs", id)))

    def _believed(self, xattrs: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        return dict(islice(xattrs.items(), MAX_XATTRS))

    def details(self, nodes: Sequence[Node]) -> Iterator[Details]:
        """`FileSystem.details`; many of them come in one message."""
        begin = 0
        while begin < len(nodes):
            asked = nodes[begin : begin + BATCH]
            raw = self._bytes("details", [[n.id, n.mode, n.size] for n in asked])
            given = 0
            for details in wire.unpack_details(raw, self.kind):
                if given == len(asked):
                    raise self._fault("gave more than was asked for")
                yield self._judged(asked[given], details)
                given += 1
            if not given:
                raise self._fault("made no sense")
            begin += given

    def _judged(self, node: Node, details: Details) -> Details:
        if details.content is not None and len(details.content) > node.size:
            raise self._fault("gave more than was asked for")
        try:
            self._judge_extents(node.id, details.extents or ())
        except FormatError as error:
            details = details._replace(extents=None, error=error)
        return details._replace(xattrs=self._believed(details.xattrs))

    def streams(self, id: int) -> list[tuple[str, int]]:
        match self._json("streams", id):
            case list(rows):
                return [(n, s) for n, s in rows if isinstance(n, str) and isinstance(s, int)]
        raise self._fault("made no sense")

    def registry(self, id: int, wanted: Sequence[tuple[str, str]]) -> list[RegistryValue]:
        answer = self._json("registry", id, list(wanted))
        try:
            return wire.unpack_values(answer, len(wanted))
        except FormatError:
            raise self._fault("made no sense") from None

    def extents(self, id: int, stream: str = "") -> list[Extent] | None:
        kind, raw = self._call("extents", id, stream)
        if kind == wire.ANSWER:
            return None
        found = wire.unpack_extents(raw)
        self._judge_extents(id, found)
        return found

    def _judge_extents(self, id: int, extents: Sequence[Extent]) -> None:
        if sum(e.length for e in extents if e.offset >= 0) > self.volume.size:
            raise FormatError(
                "its data would be more than the volume holds",
                structure=f"{self.kind} filesystem",
                field=f"file {id}",
            )
        for extent in extents:
            outside = extent.offset < -1 or extent.offset + extent.length > self.volume.size
            if extent.length <= 0 or (extent.offset >= 0 and outside) or extent.offset < -1:
                raise FormatError(
                    f"its bytes {extent.offset} to {extent.offset + extent.length} are outside of "
                    f"the volume's {self.volume.size}",
                    structure=f"{self.kind} filesystem",
                    field=f"file {id}",
                )

    def counts(self) -> Counts:
        """What the reader's cache did so far."""
        return Counts(*self._json("counts"))

    def _number(self, *words: object) -> int:
        answer = self._json(*words)
        if not isinstance(answer, int):
            raise self._fault("made no sense")
        return answer

    def _json(self, *words: object) -> Any:  # noqa: ANN401 - callers judge it
        kind, raw = self._call(*words)
        if kind != wire.ANSWER:
            raise self._fault("made no sense")
        return wire.unpack_json(raw)

    def _bytes(self, *words: object) -> bytearray:
        kind, raw = self._call(*words)
        if kind != wire.BYTES:
            raise self._fault("made no sense")
        return raw

    def close(self) -> None:
        self._dead = self._dead or StorageError(f"{self.kind} filesystem", "closed")
        self._started.close()
