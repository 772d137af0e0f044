# SPDX-License-Identifier: Apache-2.0
"""NBD's fixed newstyle handshake, the server's side, as a machine that takes and gives bytes. Pure.

Rules: the NBD project's doc/proto.md, "Handshake phase" and "Option types". Whoever owns the
connection feeds what comes in and sends what is given back, until `agreed` says what was agreed on,
`wants_tls` asks for encryption to begin, or `ended` says that the client has left.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import ProtocolError
from diskkit.nbd.protocol import ALLOCATION, DEPTH, MOST_PAYLOAD

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVER_MAGIC, OPTION_MAGIC = 0x4E42444D41474943, 0x49484156454F5054
REPLY_MAGIC = 0x3E889045565A9
GREETING = struct.Struct(">QQH")
OPTION = struct.Struct(">QII")
REPLY = struct.Struct(">QIII")
FIXED_NEWSTYLE, NO_ZEROES = 1, 2

EXPORT_NAME, ABORT, LIST = 1, 2, 3
STARTTLS, INFO, GO, STRUCTURED = 5, 6, 7, 8
LIST_CONTEXTS, SET_CONTEXTS = 9, 10
ACK, SERVER, INFORMATION, CONTEXT = 1, 2, 3, 4
_FAILED = 1 << 31
UNSUPPORTED, POLICY, INVALID = _FAILED | 1, _FAILED | 2, _FAILED | 3
TLS_REQUIRED, UNKNOWN = _FAILED | 5, _FAILED | 6
TOO_BIG = _FAILED | 9
ABOUT_EXPORT, ABOUT_NAME, ABOUT_TEXT, ABOUT_BLOCKS = range(4)

MOST_OPTION = 1 << 16
"""Bytes of an option, or of an answer to one: strings have 4096, and nothing needs more."""
MOST_OPTIONS = 256
"""Options that a client may send before it has an export; a list asks for no more."""
_PADDING = bytes(124)
CONTEXTS = {ALLOCATION: 1, DEPTH: 2}
"""By name: the number that block status carries."""


class Export(NamedTuple):
    """What a client is told of a disk before it has it. Sizes are bytes."""

    size: int
    flags: int
    """Transmission flags."""
    text: str = ""
    least: int = 1
    """Smallest block that requests may be made of."""
    preferred: int = 4096
    most: int = MOST_PAYLOAD


class Agreed(NamedTuple):
    """How transmission begins."""

    name: str
    structured: bool
    contexts: tuple[int, ...]
    """Numbers of the metadata contexts that block status answers for."""


class ServerNegotiation:
    """The server's half of one handshake."""

    greeting = GREETING.pack(SERVER_MAGIC, OPTION_MAGIC, FIXED_NEWSTYLE | NO_ZEROES)
    """What the server says first, unasked."""

    def __init__(self, exports: Mapping[str, Export], *, tls: bool = False) -> None:
        """With `tls` nothing is told to a client before it asks for encryption."""
        self._exports = exports
        self._tls_missing = self._tls = tls
        self._data = bytearray()
        self._flags: int | None = None
        self._options = 0
        self._structured = False
        self._contexts: tuple[str, tuple[int, ...]] = ("", ())
        self.agreed: Agreed | None = None
        self.wants_tls = False
        self.ended = False

    @property
    def rest(self) -> bytes:
        """What came after the handshake: the first requests."""
        return bytes(self._data)

    def secured(self) -> None:
        """Encryption has begun: what was agreed on before is void."""
        self.wants_tls = self._tls_missing = self._structured = False
        self._contexts = ("", ())

    def feed(self, data: bytes | memoryview) -> bytes:
        """Take what came in; returns what to send. Raises `ProtocolError` to hang up."""
        self._data += data
        answers = []
        while not (self.agreed or self.ended or self.wants_tls):
            answer = self._step()
            if answer is None:
                break
            answers.append(answer)
        if self.wants_tls and self._data:
            # Whatever was sent in the clear must not count as said under encryption.
            raise ProtocolError("NBD handshake: the client did not wait for encryption to begin")
        return b"".join(answers)

    def _step(self) -> bytes | None:
        """Deal with one message, if all of it is there."""
        if self._flags is None:
            if len(self._data) < 4:
                return None
            self._flags = int.from_bytes(self._take(4), "big")
            if self._flags & ~(FIXED_NEWSTYLE | NO_ZEROES):
                raise ProtocolError(f"NBD handshake: client flags are {self._flags:#x}")
            return b""
        if len(self._data) < OPTION.size:
            return None
        magic, option, length = OPTION.unpack_from(self._data)
        if magic != OPTION_MAGIC:
            raise ProtocolError(f"NBD option: magic is {magic:#x}, not {OPTION_MAGIC:#x}")
        if length > MOST_OPTION:
            raise ProtocolError(f"NBD option {option}: has {length} bytes, more than {MOST_OPTION}")
        if len(self._data) < OPTION.size + length:
            return None
        self._options += 1
        if self._options > MOST_OPTIONS:
            raise ProtocolError(f"NBD handshake: more than {MOST_OPTIONS} options")
        return self._answer(option, self._take(OPTION.size + length)[OPTION.size :])

    def _take(self, count: int) -> bytes:
        taken = bytes(self._data[:count])
        del self._data[:count]
        return taken

    def _answer(self, option: int, data: bytes) -> bytes:
        if option == ABORT:
            self.ended = True
            return _reply(option, ACK)
        if option == STARTTLS:
            return self._start_tls(data)
        if self._tls_missing:
            if option == EXPORT_NAME:
                raise ProtocolError("NBD handshake: the client wants an export without encryption")
            return _reply(option, TLS_REQUIRED, b"this server wants encryption first")
        if option == EXPORT_NAME:
            return self._export_name(data)
        if option == LIST:
            return self._list(data)
        if option in (INFO, GO):
            return self._go(option, data)
        if option == STRUCTURED:
            if data:
                return _reply(option, INVALID, b"this option has no data")
            self._structured = True
            return _reply(option, ACK)
        if option in (LIST_CONTEXTS, SET_CONTEXTS):
            return self._meta(option, data)
        return _reply(option, UNSUPPORTED)

    def _start_tls(self, data: bytes) -> bytes:
        if data:
            return _reply(STARTTLS, INVALID, b"this option has no data")
        if not self._tls:
            return _reply(STARTTLS, POLICY, b"this server has no certificate")
        if not self._tls_missing:
            return _reply(STARTTLS, INVALID, b"encryption has begun already")
        self.wants_tls = True
        return _reply(STARTTLS, ACK)

    def _export_name(self, data: bytes) -> bytes:
        name = data.decode(errors="replace")
        export = self._exports.get(name)
        if export is None:
            raise ProtocolError(f"NBD handshake: there is no export {name!r}")
        assert self._flags is not None
        self._agree(name)
        answer = struct.pack(">QH", export.size, export.flags)
        return answer if self._flags & NO_ZEROES else answer + _PADDING

    def _agree(self, name: str) -> None:
        chosen, contexts = self._contexts
        # Contexts were asked for by the name of one export, and hold for no other.
        held = contexts if chosen == name and self._structured else ()
        self.agreed = Agreed(name, self._structured, held)

    def _list(self, data: bytes) -> bytes:
        if data:
            return _reply(LIST, INVALID, b"this option has no data")
        answers = []
        for name, export in self._exports.items():
            encoded = name.encode()
            body = len(encoded).to_bytes(4, "big") + encoded + export.text.encode()[:4096]
            answers.append(_reply(LIST, SERVER, body))
        return b"".join(answers) + _reply(LIST, ACK)

    def _go(self, option: int, data: bytes) -> bytes:
        fields = _Fields(data)
        name = fields.string()
        wanted = fields.shorts()
        if name is None or wanted is None or not fields.at_end:
            return _reply(option, INVALID, b"its lengths do not fit")
        export = self._exports.get(name)
        if export is None:
            return _reply(option, UNKNOWN, b"there is no such export")
        about = [struct.pack(">HQH", ABOUT_EXPORT, export.size, export.flags)]
        if ABOUT_NAME in wanted:
            about.append(ABOUT_NAME.to_bytes(2, "big") + name.encode())
        if ABOUT_TEXT in wanted and export.text:
            about.append(ABOUT_TEXT.to_bytes(2, "big") + export.text.encode()[:4096])
        blocks = (ABOUT_BLOCKS, export.least, export.preferred, export.most)
        about.append(struct.pack(">HIII", *blocks))
        if option == GO:
            self._agree(name)
        return b"".join(_reply(option, INFORMATION, a) for a in about) + _reply(option, ACK)

    def _meta(self, option: int, data: bytes) -> bytes:
        setting = option == SET_CONTEXTS
        if setting:
            self._contexts = ("", ())
        fields = _Fields(data)
        name = fields.string()
        queries = fields.strings()
        if name is None or queries is None or not fields.at_end:
            return _reply(option, INVALID, b"its lengths do not fit")
        if not self._structured:
            return _reply(option, INVALID, b"structured replies come first")
        if name not in self._exports:
            return _reply(option, UNKNOWN, b"there is no such export")
        found = [c for c in CONTEXTS if c in queries]
        if not setting:
            # Only a list may ask for all there is, or for all of a namespace.
            asked = [c for c in CONTEXTS if f"{c.partition(':')[0]}:" in queries]
            found = [c for c in CONTEXTS if c in found or c in asked or not queries]
        if setting:
            self._contexts = (name, tuple(CONTEXTS[c] for c in found))
        answers = [
            _reply(option, CONTEXT, (CONTEXTS[c] * setting).to_bytes(4, "big") + c.encode())
            for c in found
        ]
        return b"".join(answers) + _reply(option, ACK)


def _reply(option: int, kind: int, data: bytes = b"") -> bytes:
    return REPLY.pack(REPLY_MAGIC, option, kind, len(data)) + data


class _Fields:
    """Reads the fields of an option; None where they do not fit."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._data)

    def _number(self, size: int) -> int | None:
        part = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(part, "big") if len(part) == size else None

    def string(self) -> str | None:
        length = self._number(4)
        if length is None or self._at + length > len(self._data):
            return None
        part = self._data[self._at : self._at + length]
        self._at += length
        return part.decode(errors="replace")

    def strings(self) -> list[str] | None:
        count = self._number(4)
        if count is None or count * 4 > len(self._data) - self._at:
            return None
        found = [self.string() for _ in range(count)]
        return [s for s in found if s is not None] if None not in found else None

    def shorts(self) -> list[int] | None:
        count = self._number(2)
        if count is None or self._at + count * 2 > len(self._data):
            return None
        return [n for n in (self._number(2) for _ in range(count)) if n is not None]
