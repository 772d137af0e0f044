# SPDX-License-Identifier: Apache-2.0
"""Many clients, clients that leave, and the end of a server."""

from __future__ import annotations

import random
import socket
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import diskkit
from diskkit.nbd import negotiation as n
from diskkit.nbd import protocol as p
from nbd.memory import CONTENT, SIZE, MemoryDisk
from nbd.serving import serving, uri
from nbd.wire import CONTEXTS, GO, HELLO, STRUCTURED, Wire, option, wire

if TYPE_CHECKING:
    from pathlib import Path

    from diskkit.disk import Disk


@pytest.mark.parametrize("parallel", [1, 4])
def test_leaving_at_every_byte_of_a_session(parallel: int) -> None:
    """Whatever is under way when a client goes, the server is there for the next one."""
    disk = MemoryDisk(bytes(SIZE))
    disk.parallel = parallel
    session = b"".join(
        (
            HELLO,
            STRUCTURED,
            CONTEXTS,
            GO,
            p.Request(0, p.READ, 1, 0, 100_000).pack(),
            p.Request(0, p.WRITE, 2, 0, 40).pack() + b"w" * 40,
            p.Request(0, p.BLOCK_STATUS, 3, 0, SIZE).pack(),
            p.Request(0, p.DISC, 4, 0, 0).pack(),
        )
    )
    warnings: list[str] = []
    with serving({"": disk}, warnings=warnings) as path:
        for count in range(len(session) + 1):
            client = Wire(path)
            client.send(session[:count])
            client.socket.close()
        with wire(path, GO) as client:
            # Beside what those who left may still be writing.
            client.request(p.WRITE, 9000, 40, data=b"n" * 40)
            assert client.simple() == (0, b"")
            client.request(p.READ, 9000, 40)
            assert client.simple(40) == (0, b"n" * 40)
    assert warnings == []


def test_sixty_four_clients_at_once(changing: tuple[Disk, str, bytearray]) -> None:
    disk, path, _ = changing
    share = SIZE // 64

    def work(number: int) -> None:
        dice = random.Random(number)
        expected = bytearray(share)
        with wire(path, GO) as client:
            for _ in range(40):
                length = dice.randrange(1, 5000)
                offset = dice.randrange(share - length)
                data = dice.randbytes(length)
                client.request(p.WRITE, number * share + offset, length, data=data)
                assert client.simple() == (0, b"")
                expected[offset : offset + length] = data
                client.request(p.READ, number * share, share)
                assert client.simple(share) == (0, bytes(expected))

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(work, range(64)))
    disk.flush()


def test_random_operations_over_several_connections(
    changing: tuple[Disk, str, bytearray],
) -> None:
    """One after the other, over any of them: each sees what all did."""
    disk, path, content = changing
    dice = random.Random(11)
    clients = [Wire(path) for _ in range(4)]
    for client in clients:
        client.send(HELLO)
        client.options(GO)
    for _ in range(400):
        client = dice.choice(clients)
        length = dice.choice((1, 511, 512, 4096, 65536, 65537, 200_000))
        offset = dice.choice((dice.randrange(SIZE - length), align(dice, length)))
        command = dice.choice((p.READ, p.READ, p.WRITE, p.WRITE, p.WRITE_ZEROES, p.TRIM, p.FLUSH))
        if command == p.FLUSH:
            offset = length = 0
        data = dice.randbytes(length) if command == p.WRITE else b""
        client.request(command, offset, length, data=data)
        if command == p.READ:
            assert client.simple(length) == (0, bytes(content[offset : offset + length]))
        else:
            assert client.simple() == (0, b"")
            if command != p.FLUSH:
                content[offset : offset + length] = data or bytes(length)
    for client in clients:
        client.socket.close()
    assert disk.read(0, SIZE) == content


def align(dice: random.Random, length: int) -> int:
    return dice.randrange((SIZE - length) // 65536 + 1) * 65536


def test_too_many_clients_are_turned_away(served_image: Path) -> None:
    with diskkit.open_disk(served_image) as disk, serving({"": disk}, most_clients=2) as path:
        one, two = Wire(path), Wire(path)
        three = socket.socket(socket.AF_UNIX)
        three.settimeout(30)
        with one.socket, two.socket, three:
            three.connect(path)
            assert three.recv(1) == b""


@given(st.binary(max_size=300))
def test_any_bytes_leave_the_server_whole(path: str, data: bytes) -> None:
    for options in ((), (STRUCTURED, CONTEXTS, GO)):
        with wire(path, *options) as client:
            client.socket.sendall(data)
            client.socket.shutdown(socket.SHUT_WR)
            while not client.hung_up():
                pass


@pytest.mark.parametrize("parallel", [1, 4])
def test_ending_answers_what_was_asked(parallel: int) -> None:
    """A request that is being worked on when the server ends is answered, not cut."""
    disk = MemoryDisk(b"z" * SIZE)
    disk.parallel = parallel
    disk.gate = Event()
    with serving({"": disk}) as path:
        client = Wire(path)
        client.send(HELLO)
        client.options(GO)
        client.request(p.WRITE, 0, 100, data=b"a" * 100)
        client.request(p.FLUSH)
        idle = Wire(path)
        gate = disk.gate

        def go_on() -> None:
            # The idle one is let go after the busy one was told.
            if idle.hung_up():
                gate.set()

        Thread(target=go_on).start()
    assert client.simple() == (0, b"")
    assert disk.content[:100] == b"a" * 100
    client.socket.close()
    idle.socket.close()


def test_ending_does_not_wait_for_a_client_that_takes_nothing_in(
    served_image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diskkit.nbd.server._GRACE_SECONDS", 0.05)
    with diskkit.open_disk(served_image) as disk, serving({"": disk}) as path:
        client = Wire(path)
        client.send(HELLO)
        client.options(GO)
        for _ in range(20):
            client.request(p.READ, 0, SIZE)
        # The first bytes of an answer that never fits into the socket.
        assert client.simple(1) == (0, CONTENT[:1])
    client.socket.close()


def test_several_exports(served_image: Path, tmp_path: Path) -> None:
    (tmp_path / "other.raw").write_bytes(b"other" * 1024)
    with (
        diskkit.open_disk(served_image) as one,
        diskkit.open_disk(tmp_path / "other.raw") as two,
        serving({"one": one, "zwei ü": two}) as path,
    ):
        with diskkit.open_disk(uri(path, "zwei ü")) as disk:
            assert disk.read(0, 10) == b"otherother"
        with diskkit.open_disk(uri(path, "one")) as disk:
            assert disk.size == SIZE
        with pytest.raises(diskkit.DiskkitError, match="no such export"):
            diskkit.open_disk(uri(path, "three"))
        with wire(path) as client:
            listed = client.options(option(n.LIST))
        assert [body for kind, body in listed if kind == n.SERVER] == [
            b"\0\0\0\3onedisk one",
            b"\0\0\0\7zwei \xc3\xbcdisk zwei \xc3\xbc",
        ]
