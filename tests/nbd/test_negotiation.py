# SPDX-License-Identifier: Apache-2.0
"""The handshake: the server's machine and the client's, option by option, and both together."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskkit.errors import AccessDenied, ProtocolError, RemoteError
from diskkit.nbd import negotiation as n
from diskkit.nbd import protocol as p
from diskkit.nbd.asking import ClientNegotiation

FLAGS = p.HAS_FLAGS | p.READ_ONLY
EXPORTS = {"": n.Export(1000, FLAGS, "the first"), "two": n.Export(2000, FLAGS)}
CLIENT = (n.FIXED_NEWSTYLE | n.NO_ZEROES).to_bytes(4, "big")


def option(kind: int, data: bytes = b"") -> bytes:
    return n.OPTION.pack(n.OPTION_MAGIC, kind, len(data)) + data


def string(text: str) -> bytes:
    return len(text.encode()).to_bytes(4, "big") + text.encode()


def go(name: str, *infos: int) -> bytes:
    return string(name) + struct.pack(f">H{len(infos)}H", len(infos), *infos)


def queries(name: str, *asked: str) -> bytes:
    return string(name) + len(asked).to_bytes(4, "big") + b"".join(map(string, asked))


def answers(data: bytes) -> list[tuple[int, int, bytes]]:
    """(option, type, body) of each."""
    found = []
    while data:
        magic, about, kind, length = n.REPLY.unpack_from(data)
        assert magic == n.REPLY_MAGIC
        found.append((about, kind, data[n.REPLY.size :][:length]))
        data = data[n.REPLY.size + length :]
    return found


def asked(
    *options: bytes, tls: bool = False
) -> tuple[n.ServerNegotiation, list[tuple[int, int, bytes]]]:
    talk = n.ServerNegotiation(EXPORTS, tls=tls)
    return talk, answers(talk.feed(CLIENT + b"".join(options)))


# --- the server -----------------------------------------------------------------------------------


def test_the_greeting() -> None:
    assert n.ServerNegotiation.greeting == b"NBDMAGICIHAVEOPT\0\3"


def test_an_export_by_name_alone() -> None:
    talk = n.ServerNegotiation(EXPORTS)
    answer = talk.feed(CLIENT + option(n.EXPORT_NAME, b"two") + b"rest")
    assert answer == struct.pack(">QH", 2000, FLAGS)
    assert talk.agreed == ("two", False, ())
    assert talk.rest == b"rest"


def test_zeros_follow_for_those_who_want_them() -> None:
    talk = n.ServerNegotiation(EXPORTS)
    answer = talk.feed((1).to_bytes(4, "big") + option(n.EXPORT_NAME, b""))
    assert answer == struct.pack(">QH", 1000, FLAGS) + bytes(124)


def test_an_export_that_is_not_there() -> None:
    with pytest.raises(ProtocolError, match="no export 'three'"):
        n.ServerNegotiation(EXPORTS).feed(CLIENT + option(n.EXPORT_NAME, b"three"))


def test_a_list_of_exports() -> None:
    _, found = asked(option(n.LIST))
    assert found == [
        (n.LIST, n.SERVER, string("") + b"the first"),
        (n.LIST, n.SERVER, string("two")),
        (n.LIST, n.ACK, b""),
    ]


@pytest.mark.parametrize("kind", [n.INFO, n.GO])
def test_go_tells_what_is_asked_for(kind: int) -> None:
    talk, found = asked(option(kind, go("", n.ABOUT_NAME, n.ABOUT_TEXT, n.ABOUT_BLOCKS, 99)))
    assert found == [
        (kind, n.INFORMATION, struct.pack(">HQH", 0, 1000, FLAGS)),
        (kind, n.INFORMATION, b"\0\1"),
        (kind, n.INFORMATION, b"\0\2the first"),
        (kind, n.INFORMATION, struct.pack(">HIII", 3, 1, 4096, 32 << 20)),
        (kind, n.ACK, b""),
    ]
    assert (talk.agreed is not None) == (kind == n.GO)


@pytest.mark.parametrize(
    ("kind", "data", "error"),
    [
        (n.GO, go("three"), n.UNKNOWN),
        (n.INFO, go("three"), n.UNKNOWN),
        (n.GO, b"", n.INVALID),
        (n.GO, go("")[:-1], n.INVALID),
        (n.GO, go("") + b"x", n.INVALID),
        (n.GO, b"\xff\xff\xff\xff\0\0", n.INVALID),
        (n.GO, b"\0\0\0\0\xff\xff", n.INVALID),
        (n.LIST, b"x", n.INVALID),
        (n.STRUCTURED, b"x", n.INVALID),
        (n.STARTTLS, b"", n.POLICY),
        (n.STARTTLS, b"x", n.INVALID),
        (n.SET_CONTEXTS, queries("", "base:allocation"), n.INVALID),
        (4, b"", n.UNSUPPORTED),
        (11, b"", n.UNSUPPORTED),
        (0xFFFFFFFF, b"any", n.UNSUPPORTED),
    ],
)
def test_options_that_are_refused(kind: int, data: bytes, error: int) -> None:
    talk, found = asked(option(kind, data))
    assert [(a, k) for a, k, _ in found] == [(kind, error)]
    # And the talk goes on.
    assert answers(talk.feed(option(n.GO, go("two"))))[-1][1] == n.ACK
    assert talk.agreed == ("two", False, ())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), ["base:allocation", "qemu:allocation-depth"]),
        (("base:",), ["base:allocation"]),
        (("qemu:",), ["qemu:allocation-depth"]),
        (("base:allocation", "x:y"), ["base:allocation"]),
        (("x:",), []),
    ],
)
def test_contexts_are_listed(words: tuple[str, ...], expected: list[str]) -> None:
    _, found = asked(option(n.STRUCTURED), option(n.LIST_CONTEXTS, queries("", *words)))
    assert [body for _, kind, body in found if kind == n.CONTEXT] == [
        bytes(4) + c.encode() for c in expected
    ]


def test_contexts_are_set_for_one_export() -> None:
    choose = option(n.SET_CONTEXTS, queries("", "qemu:allocation-depth", "base:", "x:y"))
    talk, found = asked(option(n.STRUCTURED), choose, option(n.GO, go("")))
    assert (n.SET_CONTEXTS, n.CONTEXT, b"\0\0\0\2qemu:allocation-depth") in found
    assert talk.agreed == ("", True, (2,))
    talk, _ = asked(option(n.STRUCTURED), choose, option(n.GO, go("two")))
    assert talk.agreed == ("two", True, ())


@pytest.mark.parametrize("again", [queries("three", "base:allocation"), queries(""), b"?"])
def test_setting_contexts_again_forgets_the_first(again: bytes) -> None:
    choose = option(n.SET_CONTEXTS, queries("", "base:allocation"))
    again = option(n.SET_CONTEXTS, again)
    talk, _ = asked(option(n.STRUCTURED), choose, again, option(n.GO, go("")))
    assert talk.agreed == ("", True, ())


def test_more_queries_than_there_are_bytes() -> None:
    data = string("") + b"\xff\xff\xff\xff"
    _, found = asked(option(n.STRUCTURED), option(n.SET_CONTEXTS, data))
    assert found[-1][1] == n.INVALID


def test_abort() -> None:
    talk, found = asked(option(n.ABORT))
    assert talk.ended
    assert found == [(n.ABORT, n.ACK, b"")]


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\4",
        CLIENT + b"x" * 16,
        CLIENT + n.OPTION.pack(n.OPTION_MAGIC, n.GO, n.MOST_OPTION + 1),
        CLIENT + option(99) * (n.MOST_OPTIONS + 1),
    ],
)
def test_clients_that_are_left(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        n.ServerNegotiation(EXPORTS).feed(data)


def test_nothing_is_told_before_encryption() -> None:
    talk, found = asked(
        option(n.LIST), option(n.GO, go("")), option(n.STRUCTURED), option(n.STARTTLS), tls=True
    )
    assert [k for _, k, _ in found] == [n.TLS_REQUIRED] * 3 + [n.ACK]
    assert talk.wants_tls
    talk.secured()
    found = answers(talk.feed(option(n.STARTTLS) + option(n.GO, go(""))))
    assert [k for _, k, _ in found] == [n.INVALID, n.INFORMATION, n.INFORMATION, n.ACK]
    assert talk.agreed == ("", False, ())
    with pytest.raises(ProtocolError, match="without encryption"):
        asked(option(n.EXPORT_NAME, b""), tls=True)


def test_what_was_said_in_the_clear_does_not_count_as_encrypted() -> None:
    with pytest.raises(ProtocolError, match="did not wait"):
        asked(option(n.STARTTLS), option(n.GO, go("")), tls=True)


# --- both -----------------------------------------------------------------------------------------


def meet(client: ClientNegotiation, server: n.ServerNegotiation, step: int) -> None:
    """Let them talk, a few bytes at a time, until both are done or one raises."""
    to_client, to_server = bytearray(server.greeting), bytearray()
    while client.offered is None or to_server:
        if client.wants_tls and server.wants_tls:
            server.secured()
            to_server += client.secured()
        elif to_server:
            part, to_server = to_server[:step], to_server[step:]
            to_client += server.feed(bytes(part))
        else:
            assert to_client, "both wait"
            part = to_client[: min(step, client.missing)]
            del to_client[: len(part)]
            to_server += client.feed(bytes(part))
    assert not to_client


@pytest.mark.parametrize("step", [1, 7, 4096])
@pytest.mark.parametrize("tls", [False, True])
def test_they_agree(step: int, tls: bool) -> None:
    client, server = ClientNegotiation("two", tls=tls), n.ServerNegotiation(EXPORTS, tls=tls)
    meet(client, server, step)
    assert server.agreed == ("two", True, (1, 2))
    assert client.offered == (
        2000, FLAGS, True, {1: p.ALLOCATION, 2: p.DEPTH}, 1, 4096, p.MOST_PAYLOAD
    )  # fmt: skip


def test_they_do_not_agree() -> None:
    with pytest.raises(RemoteError, match="no such export"):
        meet(ClientNegotiation("three"), n.ServerNegotiation(EXPORTS), 9)
    with pytest.raises(AccessDenied, match="nbds://"):
        meet(ClientNegotiation("two"), n.ServerNegotiation(EXPORTS, tls=True), 9)
    with pytest.raises(AccessDenied, match="does not offer encryption"):
        meet(ClientNegotiation("two", tls=True), n.ServerNegotiation(EXPORTS), 9)


def said(*parts: bytes) -> ClientNegotiation:
    """A client that was told this."""
    client = ClientNegotiation("")
    for part in (n.ServerNegotiation.greeting, *parts):
        client.feed(part)
    return client


def reply(about: int, kind: int, body: bytes = b"") -> bytes:
    return n.REPLY.pack(n.REPLY_MAGIC, about, kind, len(body)) + body


UNKNOWN_STRUCTURED = reply(n.STRUCTURED, n.UNSUPPORTED)
ABOUT = reply(n.GO, n.INFORMATION, struct.pack(">HQH", 0, 512, FLAGS))


def test_a_server_that_knows_little() -> None:
    client = said(UNKNOWN_STRUCTURED, ABOUT, reply(n.GO, n.ACK))
    assert client.offered is not None
    assert client.offered[:4] == (512, FLAGS, False, {})


def test_a_server_that_knows_the_old_way_only() -> None:
    client = said(UNKNOWN_STRUCTURED)
    assert client.feed(reply(n.GO, n.UNSUPPORTED)) == option(n.EXPORT_NAME)
    client.feed(struct.pack(">QH", 512, FLAGS))
    assert client.offered is not None
    assert client.offered.size == 512


def blocks(*sizes: int) -> bytes:
    return reply(n.GO, n.INFORMATION, struct.pack(">HIII", 3, *sizes))


@pytest.mark.parametrize(
    "parts",
    [
        (reply(n.LIST, n.ACK),),
        (n.REPLY.pack(1, n.STRUCTURED, n.ACK, 0),),
        (n.REPLY.pack(n.REPLY_MAGIC, n.STRUCTURED, n.ACK, n.MOST_OPTION + 1),),
        (reply(n.STRUCTURED, n.INFORMATION) * 100,),
        (reply(n.STRUCTURED, n.ACK), reply(n.SET_CONTEXTS, n.CONTEXT, b"\0\0\0\1other"),
         reply(n.SET_CONTEXTS, n.ACK)),
        (reply(n.STRUCTURED, n.ACK), reply(n.SET_CONTEXTS, n.CONTEXT, b""),
         reply(n.SET_CONTEXTS, n.ACK)),
        (UNKNOWN_STRUCTURED, reply(n.GO, n.ACK)),
        (UNKNOWN_STRUCTURED, reply(n.GO, n.INFORMATION, b"\0\0x"), reply(n.GO, n.ACK)),
        (UNKNOWN_STRUCTURED, reply(n.GO, n.SERVER, b"\0\0x"), reply(n.GO, n.ACK)),
        (UNKNOWN_STRUCTURED, reply(n.GO, n.INFORMATION, struct.pack(">HQH", 0, 1 << 63, 1)),
         reply(n.GO, n.ACK)),
        (UNKNOWN_STRUCTURED, ABOUT, blocks(0, 4096, 65536), reply(n.GO, n.ACK)),
        (UNKNOWN_STRUCTURED, ABOUT, blocks(3, 4096, 65536), reply(n.GO, n.ACK)),
        (UNKNOWN_STRUCTURED, ABOUT, blocks(8192, 4096, 65536), reply(n.GO, n.ACK)),
        (UNKNOWN_STRUCTURED, ABOUT, blocks(1 << 20, 1 << 20, 1 << 21), reply(n.GO, n.ACK)),
        (UNKNOWN_STRUCTURED, ABOUT, blocks(512, 4096, 1024), reply(n.GO, n.ACK)),
    ],
)  # fmt: skip
def test_servers_that_are_not_believed(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(ProtocolError):
        said(*parts)


@pytest.mark.parametrize(
    "greeting",
    [
        b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\0\0",
        b"NBDMAGICIHAVEOPT\0\0",
        b"HTTP/1.1 400 Bad R",
        b"NBDMAGICIHAVEOPS\0\3",
    ],
)
def test_greetings_that_are_none(greeting: bytes) -> None:
    with pytest.raises(ProtocolError):
        ClientNegotiation("").feed(greeting)


@given(st.lists(st.tuples(st.integers(0, 12), st.binary(max_size=30)), max_size=8), st.booleans())
def test_any_options_are_answered_or_refused(said: list[tuple[int, bytes]], tls: bool) -> None:
    talk = n.ServerNegotiation(EXPORTS, tls=tls)
    talk.feed(CLIENT)
    for kind, data in said:
        if talk.agreed or talk.ended or talk.wants_tls:
            break
        try:
            found = talk.feed(option(kind, data))
        except ProtocolError:
            break
        assert found


@given(st.binary(max_size=200))
def test_any_bytes_are_answered_or_refused_by_the_server(data: bytes) -> None:
    try:
        n.ServerNegotiation(EXPORTS).feed(data)
    except ProtocolError:
        return


@given(
    st.lists(
        st.tuples(
            st.sampled_from([n.STRUCTURED, n.SET_CONTEXTS, n.GO]),
            st.sampled_from([n.ACK, n.INFORMATION, n.CONTEXT, n.UNSUPPORTED, n.UNKNOWN]),
            st.binary(max_size=20),
        ),
        max_size=10,
    )
)
def test_any_answers_are_taken_or_refused_by_the_client(
    said_: list[tuple[int, int, bytes]],
) -> None:
    client = said()
    for about, kind, body in said_:
        if client.offered:
            break
        try:
            client.feed(reply(about, kind, body))
        except RemoteError:
            break
