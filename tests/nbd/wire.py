# SPDX-License-Identifier: Apache-2.0
"""A client that says exactly what a test wants said."""

from __future__ import annotations

import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

from diskkit.nbd import negotiation as n
from diskkit.nbd import protocol as p

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 30
HELLO = (n.FIXED_NEWSTYLE | n.NO_ZEROES).to_bytes(4, "big")


def option(kind: int, data: bytes = b"") -> bytes:
    return n.OPTION.pack(n.OPTION_MAGIC, kind, len(data)) + data


def string(text: str) -> bytes:
    return len(text.encode()).to_bytes(4, "big") + text.encode()


STRUCTURED = option(n.STRUCTURED)
CONTEXTS = option(
    n.SET_CONTEXTS,
    string("") + (2).to_bytes(4, "big") + string(p.ALLOCATION) + string(p.DEPTH),
)
GO = option(n.GO, string("") + bytes(2))


class Wire:
    """A connection on which the greeting has come."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(SECONDS)
        self.socket.connect(path)
        assert self.take(18) == n.ServerNegotiation.greeting

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def take(self, count: int) -> bytes:
        """Exactly so many bytes."""
        found = bytearray()
        while len(found) < count:
            part = self.socket.recv(count - len(found))
            assert part, f"the server hung up after {len(found)} of {count} bytes"
            found += part
        return bytes(found)

    def hung_up(self) -> bool:
        """Whether the server has nothing more to say, and leaves."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def options(self, *options: bytes) -> list[tuple[int, bytes]]:
        """(type, body) of all answers, up to the last option's final one."""
        self.send(*options)
        found: list[tuple[int, bytes]] = []
        final = 0
        while final < len(options):
            _, _, kind, length = n.REPLY.unpack(self.take(n.REPLY.size))
            found.append((kind, self.take(length)))
            final += kind == n.ACK or kind >> 31
        return found

    def request(
        self, command: int, offset: int = 0, length: int = 0, flags: int = 0, data: bytes = b""
    ) -> None:
        self.send(p.Request(flags, command, 77, offset, length).pack() + data)

    def simple(self, length: int = 0) -> tuple[int, bytes]:
        """Error and data of a simple reply."""
        magic, error, handle = p.SIMPLE.unpack(self.take(p.SIMPLE.size))
        assert (magic, handle) == (p.SIMPLE_MAGIC, 77)
        return error, self.take(length) if not error else b""

    def chunks(self) -> list[tuple[int, bytes]]:
        """(type, payload) of each chunk of a structured reply."""
        found: list[tuple[int, bytes]] = []
        done = 0
        while not done:
            magic, done, kind, handle, length = p.CHUNK.unpack(self.take(p.CHUNK.size))
            assert (magic, handle) == (p.CHUNK_MAGIC, 77)
            found.append((kind, self.take(length)))
        return found

    def error(self) -> tuple[int, str]:
        """Number and text of an answer that is an error."""
        ((kind, payload),) = self.chunks()
        assert kind == p.ERROR
        number, length = struct.unpack_from(">IH", payload)
        assert len(payload) == 6 + length
        return number, payload[6:].decode()


@contextmanager
def wire(path: str, *options: bytes) -> Iterator[Wire]:
    """A client that has said these options after hello."""
    made = Wire(path)
    with made.socket:
        made.send(HELLO)
        made.options(*options)
        yield made
