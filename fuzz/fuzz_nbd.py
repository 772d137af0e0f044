# SPDX-License-Identifier: Apache-2.0
# Invariant: whatever comes in, a machine keeps no more of it than one option has, what is agreed on
# can be, a read is complete or refused, a map covers what it says; all else is a printable error.
"""NBD as both sides hear it: handshakes, requests, replies, block status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from running import search, tolerate

from diskkit.nbd import negotiation, protocol
from diskkit.nbd.asking import ClientNegotiation

if TYPE_CHECKING:
    from collections.abc import Callable

EXPORTS = {"": negotiation.Export(1 << 20, protocol.HAS_FLAGS, "an export")}
MOST_KEPT = negotiation.MOST_OPTION + 64


def one_input(data: bytes) -> None:
    """What to feed (1 byte), and the bytes."""
    kind, data = data[:1], data[1:]
    tolerate({b"\0": _server, b"\1": _client, b"\2": _status}.get(kind, _messages)(data))


def _server(data: bytes) -> Callable[[], None]:
    def run() -> None:
        talk = negotiation.ServerNegotiation(EXPORTS, tls=len(data) % 2 == 1)
        for at in range(0, len(data), 64):
            talk.feed(data[at : at + 64])
            if talk.agreed or talk.ended or talk.wants_tls:
                break
            assert len(talk.rest) <= MOST_KEPT
        if talk.agreed is not None:
            assert talk.agreed.name in EXPORTS
            assert set(talk.agreed.contexts) <= set(negotiation.CONTEXTS.values())

    return run


def _client(data: bytes) -> Callable[[], None]:
    def run() -> None:
        talk, rest = ClientNegotiation(""), data
        while rest and talk.missing:
            assert talk.missing <= MOST_KEPT
            part, rest = rest[: talk.missing], rest[talk.missing :]
            talk.feed(part)
        if talk.offered is not None:
            assert 0 < talk.offered.size < 1 << 63
            assert 1 <= talk.offered.least <= talk.offered.most <= protocol.MOST_PAYLOAD

    return run


def _status(data: bytes) -> Callable[[], None]:
    def run() -> None:
        length = 1 + int.from_bytes(data[:3], "big")
        payload = data[3:]
        if len(payload) < 12 or len(payload) % 8 != 4:
            return
        _, ends, flags = protocol.unpack_status(payload, length)
        table = protocol.combine(7, (ends, flags), (ends[::-1][:1], flags[:1]))
        assert table.offset == 7
        assert 7 < table.end <= 7 + length
        assert (table.lengths > 0).all()

    return run


def _messages(data: bytes) -> Callable[[], None]:
    def run() -> None:
        cover = protocol.Cover(0, 4096)
        filled = bytearray(4096)
        rest = data
        while len(rest) >= protocol.CHUNK.size:
            reply = protocol.unpack_reply(rest[: protocol.CHUNK.size], True)
            assert reply is not None
            assert reply.length <= protocol.MOST_PAYLOAD + 8
            body, rest = rest[20 : 20 + reply.length], rest[20 + reply.length :]
            if reply.kind == protocol.OFFSET_DATA and len(body) == reply.length:
                at = cover.place(int.from_bytes(body[:8], "big"), len(body) - 8)
                filled[at : at + len(body) - 8] = b"x" * (len(body) - 8)
        cover.finish()
        assert filled == b"x" * 4096
        assert len(filled) == 4096

    return run


if __name__ == "__main__":
    search(one_input)
