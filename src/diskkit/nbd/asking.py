# SPDX-License-Identifier: Apache-2.0
"""NBD's fixed newstyle handshake, the client's side, as a machine that takes and gives bytes. Pure.

It asks for what makes a map possible, and does without what the server does not know. A server that
answers without end, or with what was not asked for, is left.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import AccessDenied, ProtocolError, RemoteError
from diskkit.nbd import negotiation as n
from diskkit.nbd.protocol import ALLOCATION, DEPTH, HAS_FLAGS, MOST_PAYLOAD

if TYPE_CHECKING:
    from collections.abc import Generator

_MOST_ANSWERS = 64
"""Answers to one option; nothing that is asked for here has more than a few."""
_MOST_SIZE = (1 << 63) - 1
_OLDSTYLE = 0x00420281861253
_TRAILER = 124


class Offered(NamedTuple):
    """What a server gives: an export, and how to speak about it. Sizes are bytes."""

    size: int
    flags: int
    structured: bool
    contexts: dict[int, str]
    """By the number that block status carries: the context's name."""
    least: int = 1
    preferred: int = 4096
    most: int = MOST_PAYLOAD


class ClientNegotiation:
    """The client's half of one handshake, for the export `name`."""

    def __init__(self, name: str, *, tls: bool = False) -> None:
        """With `tls` nothing is said before encryption begins."""
        self._name, self._tls = name, tls
        self._data = bytearray()
        self._out = bytearray()
        self._need = 0
        self._steps = self._talk()
        self.offered: Offered | None = None
        self.wants_tls = False
        self._advance(None)

    @property
    def missing(self) -> int:
        """Bytes to read before `feed` can go on. Never more: requests' answers come after."""
        return 0 if self.offered or self.wants_tls else self._need - len(self._data)

    def secured(self) -> bytes:
        """Encryption has begun; returns what to send."""
        self.wants_tls = False
        self._advance(b"")
        return self._flushed()

    def feed(self, data: bytes) -> bytes:
        """Take what came in; returns what to send.

        Raises `ProtocolError`, `AccessDenied`, or `RemoteError` where the server refuses.
        """
        self._data += data
        while self._need and len(self._data) >= self._need:
            part = bytes(self._data[: self._need])
            del self._data[: self._need]
            self._advance(part)
        return self._flushed()

    def _flushed(self) -> bytes:
        out = bytes(self._out)
        self._out.clear()
        return out

    def _advance(self, part: bytes | None) -> None:
        try:
            self._need = next(self._steps) if part is None else self._steps.send(part)
        except StopIteration:
            self._need = 0

    # --- the conversation: each yield asks for so many bytes, and gets them -------------------

    def _talk(self) -> Generator[int, bytes, None]:
        magic, option_magic, flags = n.GREETING.unpack((yield n.GREETING.size))
        if magic != n.SERVER_MAGIC:
            raise ProtocolError(f"NBD greeting: magic is {magic:#x}: this is no NBD server")
        if option_magic == _OLDSTYLE or not flags & n.FIXED_NEWSTYLE:
            raise ProtocolError("NBD greeting: the server speaks a version from before 2011")
        if option_magic != n.OPTION_MAGIC:
            raise ProtocolError(f"NBD greeting: second magic is {option_magic:#x}")
        short = flags & n.NO_ZEROES
        self._out += (n.FIXED_NEWSTYLE | short).to_bytes(4, "big")
        if self._tls:
            if (yield from self._ask(n.STARTTLS, b"")) is None:
                raise AccessDenied("the NBD server does not offer encryption")
            self.wants_tls = True
            yield 0
        structured = (yield from self._ask(n.STRUCTURED, b"")) is not None
        contexts: dict[int, str] = {}
        encoded = self._name.encode()
        named = len(encoded).to_bytes(4, "big") + encoded
        if structured:
            asked = b"".join(len(c).to_bytes(4, "big") + c.encode() for c in (ALLOCATION, DEPTH))
            query = named + (2).to_bytes(4, "big") + asked
            for kind, body in (yield from self._ask(n.SET_CONTEXTS, query)) or ():
                number, context = _context(kind, body)
                contexts[number] = context
        query = named + struct.pack(">HH", 1, n.ABOUT_BLOCKS)
        about = yield from self._ask(n.GO, query)
        if about is None:
            self.offered = yield from self._old_way(encoded, structured, contexts, bool(short))
        else:
            self.offered = _judged(_about(about), structured, contexts)

    def _ask(
        self, option: int, data: bytes
    ) -> Generator[int, bytes, list[tuple[int, bytes]] | None]:
        """Send an option; returns the answers before the final one, None if it is not known."""
        self._out += n.OPTION.pack(n.OPTION_MAGIC, option, len(data)) + data
        answers: list[tuple[int, bytes]] = []
        while len(answers) <= _MOST_ANSWERS:
            magic, about, kind, length = n.REPLY.unpack((yield n.REPLY.size))
            if magic != n.REPLY_MAGIC or about != option or length > n.MOST_OPTION:
                text = f"magic {magic:#x}, option {about}, {length} bytes"
                raise ProtocolError(f"NBD answer to option {option}: {text} cannot be")
            body = (yield length) if length else b""
            if kind == n.ACK:
                return answers
            if kind & (1 << 31):
                _refused(option, kind, body)
                return None
            answers.append((kind, body))
        raise ProtocolError(f"NBD answer to option {option}: does not end")

    def _old_way(
        self, name: bytes, structured: bool, contexts: dict[int, str], short: bool
    ) -> Generator[int, bytes, Offered]:
        self._out += n.OPTION.pack(n.OPTION_MAGIC, n.EXPORT_NAME, len(name)) + name
        size, flags = struct.unpack(">QH", (yield 10))
        if not short:
            yield _TRAILER
        return _judged((size, flags, None), structured, contexts)


_Blocks = tuple[int, int, int]


def _refused(option: int, kind: int, body: bytes) -> None:
    """Raise for a refusal that ends it all; return where the option is just not known."""
    text = body[:200].decode(errors="replace")
    because = f": {text}" if text else ""
    if kind == n.TLS_REQUIRED:
        raise AccessDenied(f"the NBD server wants encryption: use nbds://{because}")
    if kind == n.UNKNOWN and option == n.GO:
        raise RemoteError(f"the NBD server has no such export{because}")
    if option == n.GO and kind != n.UNSUPPORTED:
        raise RemoteError(f"the NBD server refuses the export, code {kind & 0xFFFF}{because}")


def _context(kind: int, body: bytes) -> tuple[int, str]:
    name = body[4:].decode(errors="replace")
    if kind != n.CONTEXT or len(body) < 4 or name not in (ALLOCATION, DEPTH):
        raise ProtocolError(f"NBD metadata context: {name!r} was not asked for")
    return int.from_bytes(body[:4], "big"), name


def _about(answers: list[tuple[int, bytes]]) -> tuple[int, int, _Blocks | None]:
    """Size, flags and block sizes out of the answers to GO."""
    found: tuple[int, int] | None = None
    blocks: _Blocks | None = None
    for kind, body in answers:
        if kind != n.INFORMATION or len(body) < 2:
            raise ProtocolError(f"NBD answer to GO: type {kind} was not asked for")
        about = int.from_bytes(body[:2], "big")
        if about == n.ABOUT_EXPORT:
            if len(body) != 12:
                raise ProtocolError(f"NBD export: described in {len(body)} bytes, not 12")
            size, flags = struct.unpack(">QH", body[2:])
            found = size, flags
        elif about == n.ABOUT_BLOCKS:
            if len(body) != 14:
                raise ProtocolError(f"NBD block sizes: {len(body)} bytes, not 14")
            least, preferred, most = struct.unpack(">III", body[2:])
            blocks = least, preferred, most
    if found is None:
        raise ProtocolError("NBD answer to GO: the export's size did not come")
    return *found, blocks


def _judged(
    about: tuple[int, int, _Blocks | None], structured: bool, contexts: dict[int, str]
) -> Offered:
    size, flags, blocks = about
    if size > _MOST_SIZE:
        raise ProtocolError(f"NBD export: a size of {size} bytes cannot be")
    if not size:
        raise RemoteError("the NBD export has no bytes")
    if not flags & HAS_FLAGS:
        flags = 0
    if blocks is None:
        return Offered(size, flags, structured, contexts)
    least, preferred, most = blocks
    powers = not least & (least - 1) and not preferred & (preferred - 1)
    if not (powers and 0 < least <= 1 << 16 and least <= preferred <= most):
        raise ProtocolError(f"NBD block sizes: {least}, {preferred} and {most} bytes cannot be")
    # Sizes up to the largest are allowed to any client; more than that we never ask for.
    return Offered(size, flags, structured, contexts, least, preferred, min(most, MOST_PAYLOAD))
