# SPDX-License-Identifier: Apache-2.0
"""Our client against servers that lie, stop, or know little; and what it asks of good ones."""

from __future__ import annotations

import random
import socket
import struct
import tempfile
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import diskkit
from diskkit.errors import ConnectionLost, ProtocolError, RemoteError
from diskkit.nbd import negotiation as n
from diskkit.nbd import protocol as p
from diskkit.nbd.uri import parse
from diskkit.runs import State
from nbd.memory import MemoryDisk
from nbd.serving import serving, uri

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from diskkit.disk import Disk

SIZE = 1 << 20


class Fake:
    """A server that agrees on anything, and answers requests as a test says."""

    def __init__(
        self,
        answer: Callable[[p.Request, bytes], bytes | None],
        flags: int = p.HAS_FLAGS | p.SEND_FLUSH,
        least: int = 1,
        most: int = p.MOST_PAYLOAD,
        leaves: bool = False,
    ) -> None:
        self.answer, self.leaves = answer, leaves
        self.export = n.Export(SIZE, flags, "", least, max(least, 4096), most)
        self.asked: list[p.Request] = []

    def run(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            # The client may have seen enough in the middle of it.
            with connection, suppress(ConnectionError, struct.error):
                self.talk(connection)

    def talk(self, connection: socket.socket) -> None:
        talk = n.ServerNegotiation({"": self.export})
        connection.sendall(talk.greeting)
        while talk.agreed is None:
            connection.sendall(talk.feed(connection.recv(4096)))
        reader = connection.makefile("rb")
        with reader:
            while True:
                request = p.unpack_request(reader.read(p.REQUEST.size))
                if request.command == p.DISC:
                    return
                self.asked.append(request)
                data = reader.read(request.length) if request.command == p.WRITE else b""
                answer = self.answer(request, data)
                if answer is None:
                    return
                connection.sendall(answer)
                if self.leaves:
                    return


@contextmanager
def fake(server: Fake, *, writable: bool = False) -> Iterator[Disk]:
    """A disk that this server offers."""
    with tempfile.TemporaryDirectory(prefix="nbd") as folder, socket.socket(socket.AF_UNIX) as at:
        at.bind(f"{folder}/s")
        at.listen()
        thread = Thread(target=server.run, args=(at,))
        thread.start()
        try:
            with diskkit.open_disk(uri(f"{folder}/s"), writable=writable) as disk:
                yield disk
        finally:
            at.shutdown(socket.SHUT_RDWR)
            thread.join(30)
            assert not thread.is_alive()


def data(request: p.Request, offset: int, content: bytes, *, done: bool = True) -> bytes:
    return p.chunk(request.handle, p.OFFSET_DATA, offset.to_bytes(8, "big") + content, done=done)


def hole(request: p.Request, offset: int, length: int, *, done: bool = True) -> bytes:
    return p.chunk(request.handle, p.OFFSET_HOLE, struct.pack(">QI", offset, length), done=done)


def status(request: p.Request, context: int, *extents: int, done: bool = True) -> bytes:
    body = struct.pack(f">{1 + len(extents)}I", context, *extents)
    return p.chunk(request.handle, p.STATUS, body, done=done)


# --- answers that are right -----------------------------------------------------------------------


def test_a_read_in_chunks_of_any_order() -> None:
    def answer(r: p.Request, _: bytes) -> bytes:
        return (
            data(r, r.offset + 60, b"d" * 40, done=False)
            + hole(r, r.offset + 10, 50, done=False)
            + data(r, r.offset, b"a" * 10, done=False)
            + p.chunk(r.handle, p.NONE, b"", done=True)
        )

    with fake(Fake(answer)) as disk:
        assert disk.read(1000, 100) == b"a" * 10 + bytes(50) + b"d" * 40


def test_long_transfers_are_cut_to_what_the_server_takes() -> None:
    content = bytearray(random.Random(1).randbytes(SIZE))

    def answer(r: p.Request, sent: bytes) -> bytes:
        if r.command == p.WRITE:
            content[r.offset : r.offset + r.length] = sent
            return p.simple_reply(r.handle)
        if r.command == p.FLUSH:
            return p.simple_reply(r.handle)
        return data(r, r.offset, bytes(content[r.offset : r.offset + r.length]))

    server = Fake(answer, most=65536)
    with fake(server, writable=True) as disk:
        assert disk.read(5, 400_000) == content[5:400_005]
        disk.write(3, b"n" * 200_000)
        assert content[3:200_003] == b"n" * 200_000
    assert max(r.length for r in server.asked) == 65536
    assert server.asked[-1].command == p.FLUSH, "closing makes what was written durable"


def test_a_server_of_whole_blocks() -> None:
    """Parts of blocks are read and written with what is around them."""
    content = bytearray(random.Random(1).randbytes(SIZE))
    expected = bytearray(content)

    def answer(r: p.Request, sent: bytes) -> bytes:
        assert r.offset % 4096 == 0
        assert r.length % 4096 == 0
        if r.command == p.READ:
            return data(r, r.offset, bytes(content[r.offset : r.offset + r.length]))
        if r.command != p.FLUSH:
            content[r.offset : r.offset + r.length] = sent or bytes(r.length)
        return p.simple_reply(r.handle)

    server = Fake(answer, p.HAS_FLAGS | p.SEND_FLUSH | p.SEND_WRITE_ZEROES, least=4096)
    dice = random.Random(2)
    with fake(server, writable=True) as disk:
        for length in (1, 4096, 5000, 70_000, 600_000):
            offset = dice.randrange(SIZE - length)
            assert disk.read(offset, length) == expected[offset : offset + length]
            sent = dice.randbytes(length)
            disk.write(offset, sent)
            expected[offset : offset + length] = sent
            disk.zero(offset + length // 3, length // 2)
            expected[offset + length // 3 :][: length // 2] = b""
            begin = offset + length // 3
            expected[begin : begin + length // 2] = bytes(length // 2)
        assert disk.read(0, SIZE) == expected
    assert content == expected
    assert any(r.command == p.WRITE_ZEROES for r in server.asked)


def test_zeros_go_as_data_where_the_server_knows_no_other_way() -> None:
    content = bytearray(b"x" * SIZE)

    def answer(r: p.Request, sent: bytes) -> bytes:
        assert r.command in (p.WRITE, p.FLUSH)
        content[r.offset : r.offset + r.length] = sent
        return p.simple_reply(r.handle)

    with fake(Fake(answer), writable=True) as disk:
        disk.discard(100, 700_000)
    assert content == b"x" * 100 + bytes(700_000) + b"x" * (SIZE - 700_100)


def test_a_server_without_a_map() -> None:
    class Plain(Fake):
        def talk(self, connection: socket.socket) -> None:
            connection.sendall(n.ServerNegotiation.greeting)
            connection.recv(4)
            for _ in range(2):
                head = connection.recv(n.OPTION.size, socket.MSG_WAITALL)
                _, kind, length = n.OPTION.unpack(head)
                connection.recv(length, socket.MSG_WAITALL)
                if kind == n.GO:
                    about = struct.pack(">HQH", 0, SIZE, 1)
                    connection.sendall(
                        n.REPLY.pack(n.REPLY_MAGIC, kind, n.INFORMATION, len(about)) + about
                    )
                    connection.sendall(n.REPLY.pack(n.REPLY_MAGIC, kind, n.ACK, 0))
                else:
                    connection.sendall(n.REPLY.pack(n.REPLY_MAGIC, kind, n.UNSUPPORTED, 0))
            request = p.unpack_request(connection.recv(p.REQUEST.size, socket.MSG_WAITALL))
            connection.sendall(p.simple_reply(request.handle) + b"simple")

    with fake(Plain(lambda r, s: None)) as disk:
        assert [tuple(run[:3]) for run in disk.runs()] == [(0, SIZE, State.DATA)]
        assert disk.read(9, 6) == b"simple"


def test_a_map_in_small_pieces() -> None:
    """A server may answer for less than was asked: then it is asked on."""

    def answer(r: p.Request, _: bytes) -> bytes:
        number = r.offset // 100_000
        flags = (0, 3, 2)[number % 3]
        length = min(100_000 - r.offset % 100_000, r.length)
        return status(r, 1, length, flags, done=False) + status(r, 2, SIZE, 0 if flags == 3 else 1)

    with fake(Fake(answer)) as disk:
        found = [(run.offset, run.state) for run in disk.runs()]
    states = (State.DATA, State.HOLE, State.ZERO)
    assert found == [(k * 100_000, states[k % 3]) for k in range(11)]


# --- answers that are wrong -----------------------------------------------------------------------

WRONG: dict[str, Callable[[p.Request, bytes], bytes | None]] = {
    "too little": lambda r, _: data(r, r.offset, bytes(r.length - 1)),
    "too much": lambda r, _: data(r, r.offset, bytes(r.length + 1)),
    "elsewhere": lambda r, _: data(r, r.offset + 1, bytes(r.length)),
    "before": lambda r, _: data(r, r.offset - 1, bytes(r.length)),
    "twice": lambda r, _: data(r, r.offset, bytes(60), done=False) * 2,
    "nothing": lambda r, _: p.chunk(r.handle, p.NONE, b"", done=True),
    "a hole too long": lambda r, _: hole(r, r.offset, 0xFFFFFFFF),
    "another handle": lambda r, _: data(r._replace(handle=99), r.offset, bytes(r.length)),
    "a simple reply": lambda r, _: p.simple_reply(r.handle) + bytes(r.length),
    "a status": lambda r, _: status(r, 1, r.length, 0),
    "an odd chunk": lambda r, _: p.chunk(r.handle, 9, b"", done=True),
    "no error": lambda r, _: p.chunk(r.handle, p.ERROR, bytes(6), done=True),
    "no reply at all": lambda r, _: b"HTTP/1.1 200 OK\r\n\r\n",
}


@pytest.mark.parametrize("kind", WRONG)
def test_reads_that_are_answered_wrongly(kind: str) -> None:
    with fake(Fake(WRONG[kind])) as disk:
        with pytest.raises(ProtocolError, match="nbd"):
            disk.read(1000, 100)
        with pytest.raises(ConnectionLost, match="has ended"):
            disk.read(0, 1)


@pytest.mark.parametrize(
    "answer",
    [
        lambda r, _: status(r, 9, r.length, 0),
        lambda r, _: status(r, 1, r.length, 0),
        lambda r, _: status(r, 1, r.length, 0, done=False) + status(r, 1, r.length, 0),
        lambda r, _: status(r, 1, 0, 0),
        lambda r, _: p.simple_reply(r.handle),
        lambda r, _: data(r, r.offset, b"x"),
    ],
)
def test_maps_that_are_answered_wrongly(answer: Callable[[p.Request, bytes], bytes]) -> None:
    with fake(Fake(answer)) as disk, pytest.raises(ProtocolError, match="NBD"):
        list(disk.runs())


def test_a_server_that_leaves() -> None:
    with fake(Fake(lambda r, s: None)) as disk, pytest.raises(ConnectionLost, match="hung up"):
        disk.read(0, 1)
    with (
        fake(Fake(lambda r, s: data(r, 0, b"x" * 100)[:50])) as disk,
        pytest.raises(ProtocolError, match="were not asked for"),
    ):
        disk.read(0, 1)


def test_errors_say_what_failed_and_why() -> None:
    with fake(Fake(lambda r, _: p.error_chunk(r.handle, p.EIO, "bad disk\n"))) as disk:
        with pytest.raises(
            RemoteError, match="read of 7 bytes at byte 5 failed: input/output"
        ) as e:
            disk.read(5, 7)
        assert "bad disk\\n" in str(e.value), "what a server says cannot steer a terminal"
        # The connection is as good as before.
        with pytest.raises(RemoteError, match="block-status"):
            list(disk.runs())


def test_an_error_after_some_data_is_an_error() -> None:
    def answer(r: p.Request, _: bytes) -> bytes:
        return data(r, r.offset, bytes(10), done=False) + p.error_chunk(r.handle, p.EIO, "")

    with fake(Fake(answer)) as disk, pytest.raises(RemoteError, match="failed"):
        disk.read(0, 100)


def test_another_export_all_of_a_sudden() -> None:
    """Connections that are made later must lead to the same thing."""
    disks = [MemoryDisk(bytes(SIZE)), MemoryDisk(bytes(2 * SIZE))]
    with serving({"": disks[0]}) as path, diskkit.open_disk(uri(path)) as disk:
        first = disk._offered  # type: ignore[attr-defined]
        disk._offered = first._replace(size=SIZE + 1)  # type: ignore[attr-defined]
        with disk._taken(), pytest.raises(ProtocolError, match="another export"), disk._taken():  # type: ignore[attr-defined]
            pass


@given(st.binary(max_size=120), st.booleans())
def test_any_answer_is_taken_or_refused(answer: bytes, likely: bool) -> None:
    def said(r: p.Request, _: bytes) -> bytes:
        if not likely or len(answer) < 4:
            return answer
        kind, flags = answer[0] % 7, answer[1] % 2
        return p.CHUNK.pack(p.CHUNK_MAGIC, flags, kind, r.handle, len(answer)) + answer

    with fake(Fake(said, leaves=True)) as disk:
        try:
            found = disk.read(0, 8)
        except RemoteError:
            return
    assert len(found) == 8


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nbd://host", ("host", 10809, None, "", False, None, "host")),
        ("nbd://host:1/a%20b", ("host", 1, None, "a b", False, None, "host")),
        ("nbd://[::1]:2//x", ("::1", 2, None, "/x", False, None, "::1")),
        ("nbds://h/e", ("h", 10809, None, "e", True, None, "h")),
        ("nbds://h/?tls-certificates=/c&tls-hostname=x", ("h", 10809, None, "", True, "/c", "x")),
        ("nbd+unix:///?socket=s", ("", 10809, "s", "", False, None, "localhost")),
        ("NBD+UNIX:///e?socket=%2fs", ("", 10809, "/s", "e", False, None, "localhost")),
    ],
)
def test_uris(text: str, expected: tuple[object, ...]) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "nbd://",
        "nbd:///x",
        "nbd://host:99999/",
        "nbd://host:x/",
        "nbd://user@host/",
        "nbd://user:word@host/",
        "nbd://host/?socket=s",
        "nbd+unix:///x",
        "nbd+unix://host/?socket=s",
        "nbd+unix:///?socket=s&socket=t",
        "nbd://host/?color=red",
        "http://host/",
    ],
)
def test_uris_that_are_none(text: str) -> None:
    with pytest.raises(diskkit.UsageError, match=r"^(nbd|http)"):
        parse(text)


def test_no_server() -> None:
    with pytest.raises(ConnectionLost, match="cannot connect: No such file"):
        diskkit.open_disk("nbd+unix:///?socket=/nowhere/s")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(ConnectionLost, match="cannot connect: Connection refused"):
            diskkit.open_disk(f"nbd://127.0.0.1:{port}/")


def test_options_that_do_not_go_with_a_uri() -> None:
    with pytest.raises(diskkit.UsageError, match="no format"):
        diskkit.open_disk("nbd://host/", format="raw")
    with pytest.raises(diskkit.UsageError, match="not made of files"):
        diskkit.read_metadata("nbd://host/")


def test_an_export_for_reading_is_not_opened_for_writing() -> None:
    disk = MemoryDisk(bytes(SIZE))
    disk.writable = False
    with serving({"": disk}) as path:
        with pytest.raises(diskkit.UsageError, match="lets nobody write"):
            diskkit.open_disk(uri(path), writable=True)
        with diskkit.open_disk(uri(path)) as export, pytest.raises(diskkit.UsageError):
            export.write(0, b"x")
