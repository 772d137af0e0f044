# SPDX-License-Identifier: Apache-2.0
"""What the server does with requests, good and bad."""

from __future__ import annotations

import random
import struct
from threading import Barrier, Thread
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.errors import StorageError
from diskkit.nbd import protocol as p
from nbd.memory import CONTENT, SIZE, MemoryDisk
from nbd.serving import serving
from nbd.wire import CONTEXTS, GO, STRUCTURED, wire

if TYPE_CHECKING:
    from pathlib import Path

    from diskkit.disk import Disk


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 1), (0, 512), (4095, 3), ((1 << 20) - 5, 10), (0, 600_000), (1, SIZE - 1), (0, SIZE)],
)
def test_simple_reads(path: str, offset: int, length: int) -> None:
    with wire(path, GO) as client:
        client.request(p.READ, offset, length)
        assert client.simple(length) == (0, CONTENT[offset : offset + length])


@pytest.mark.parametrize("flags", [0, p.DF])
@pytest.mark.parametrize(("offset", "length"), [(7, 1000), (0, 600_000), (5, SIZE - 9)])
def test_structured_reads(path: str, offset: int, length: int, flags: int) -> None:
    with wire(path, STRUCTURED, GO) as client:
        client.request(p.READ, offset, length, flags)
        found = client.chunks()
    assert {kind for kind, _ in found} == {p.OFFSET_DATA}
    assert len(found) == 1 or not flags
    reach = offset
    for _, payload in found:
        assert int.from_bytes(payload[:8], "big") == reach
        assert payload[8:] == CONTENT[reach : reach + len(payload) - 8]
        reach += len(payload) - 8
    assert reach == offset + length


def test_reads_of_nothing(path: str) -> None:
    with wire(path, GO) as client:
        client.request(p.READ, 5, 0)
        assert client.simple() == (0, b"")
    with wire(path, STRUCTURED, GO) as client:
        client.request(p.READ, 5, 0)
        assert client.chunks() == [(p.NONE, b"")]


def test_many_requests_at_once_are_all_answered(path: str) -> None:
    dice = random.Random(3)
    places = [(dice.randrange(SIZE - 70_000), dice.randrange(1, 70_000)) for _ in range(300)]
    with wire(path, GO) as client:
        packed = [p.Request(0, p.READ, n, *place).pack() for n, place in enumerate(places)]
        sender = Thread(target=client.send, args=packed)
        sender.start()
        missing = dict(enumerate(places))
        while missing:
            _, error, handle = p.SIMPLE.unpack(client.take(p.SIMPLE.size))
            at, count = missing.pop(handle)
            assert error == 0
            assert client.take(count) == CONTENT[at : at + count]
        sender.join()


def test_requests_that_come_byte_by_byte(path: str) -> None:
    with wire(path, GO) as client:
        for byte in p.Request(0, p.READ, 77, 9, 9).pack():
            client.send(bytes([byte]))
        assert client.simple(9) == (0, CONTENT[9:18])


def test_block_status(path: str) -> None:
    mib = 1 << 20
    with wire(path, STRUCTURED, CONTEXTS, GO) as client:
        client.request(p.BLOCK_STATUS, 0, SIZE)
        assert client.chunks() == [
            (p.STATUS, struct.pack(">7I", 1, mib, 0, mib, 3, mib, 0)),
            (p.STATUS, struct.pack(">7I", 2, mib, 1, mib, 0, mib, 1)),
        ]
        client.request(p.BLOCK_STATUS, mib - 512, 1024, p.REQ_ONE)
        assert client.chunks() == [
            (p.STATUS, struct.pack(">3I", 1, 512, 0)),
            (p.STATUS, struct.pack(">3I", 2, 512, 1)),
        ]
    with wire(path, STRUCTURED, GO) as client:
        client.request(p.BLOCK_STATUS, 0, SIZE)
        assert client.error()[0] == p.EINVAL


def test_cache_is_a_hint(path: str) -> None:
    with wire(path, GO) as client:
        client.request(p.CACHE, 0, SIZE)
        assert client.simple() == (0, b"")
        client.request(p.CACHE, SIZE, 1)
        assert client.simple()[0] == p.EINVAL


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "offset", "length", "flags", "error"),
    [
        (p.READ, SIZE, 1, 0, p.EINVAL),
        (p.READ, (1 << 64) - 1, 1, 0, p.EINVAL),
        (p.READ, 0, 0xFFFFFFFF, 0, p.EINVAL),
        (p.READ, 0, 1, p.FAST_ZERO, p.EINVAL),
        (p.TRIM, 0, 512, 0, p.EPERM),
        (p.WRITE_ZEROES, 0, 512, 0, p.EPERM),
        (p.FLUSH, 1, 1, 0, p.EINVAL),
        (p.BLOCK_STATUS, 0, 0, 0, p.EINVAL),
        (8, 0, 0, 0, p.EINVAL),
        (0xFFFF, 0, 0, 0, p.EINVAL),
    ],
)
def test_requests_that_are_refused(
    path: str, command: int, offset: int, length: int, flags: int, error: int
) -> None:
    for options in ((GO,), (STRUCTURED, CONTEXTS, GO)):
        with wire(path, *options) as client:
            client.request(command, offset, length, flags)
            if len(options) == 1:
                assert client.simple()[0] == error
            else:
                assert client.error()[0] == error
            # And the connection goes on.
            client.request(p.FLUSH)
            assert client.simple() == (0, b"")


def test_a_write_that_is_refused_is_taken_in(path: str) -> None:
    with wire(path, GO) as client:
        for length in (1, 3000, SIZE):
            client.request(p.WRITE, 0, length, data=bytes(length))
            assert client.simple()[0] == p.EPERM
        client.request(p.READ, 0, 100)
        assert client.simple(100) == (0, CONTENT[:100])


@pytest.mark.parametrize(
    "said",
    [
        b"x" * 28,
        p.Request(0, p.READ, 1, 0, 1).pack()[:-1] + b"\0" + b"y" * 28,
        p.Request(0, p.WRITE, 1, 0, p.MOST_PAYLOAD + 1).pack(),
    ],
)
def test_clients_that_make_no_sense_are_left(served_image: Path, said: bytes) -> None:
    warnings: list[str] = []
    with (
        diskkit.open_disk(served_image) as disk,
        serving({"": disk}, warnings=warnings) as path,
        wire(path, GO) as client,
    ):
        client.send(said)
        while not client.hung_up():
            pass
    assert len(warnings) == 1
    assert "a client was left: NBD" in warnings[0]


def test_disconnecting(path: str) -> None:
    with wire(path, GO) as client:
        client.request(p.READ, 0, 10)
        client.request(p.DISC)
        assert client.simple(10) == (0, CONTENT[:10])
        assert client.hung_up()


# --- writing --------------------------------------------------------------------------------------


def test_writes_of_any_length(changing: tuple[Disk, str, bytearray]) -> None:
    disk, path, content = changing
    dice = random.Random(5)
    with wire(path, GO) as client:
        for length in (1, 512, 4096, 65536, 300_000, 600_000, (1 << 20) + 7, 2_500_000):
            offset = dice.randrange(SIZE - length)
            data = dice.randbytes(length)
            client.request(p.WRITE, offset, length, data=data)
            assert client.simple() == (0, b"")
            content[offset : offset + length] = data
        client.request(p.READ, 0, SIZE)
        assert client.simple(SIZE) == (0, bytes(content))
    assert disk.read(0, SIZE) == content


def test_zeros_and_trims(changing: tuple[Disk, str, bytearray]) -> None:
    disk, path, content = changing
    content[:] = b"x" * SIZE
    disk.write(0, bytes(content))
    with wire(path, GO) as client:
        for command, offset, length, flags, error in (
            (p.WRITE_ZEROES, 0, 65536, 0, 0),
            (p.WRITE_ZEROES, 100, 65536, 0, 0),
            (p.WRITE_ZEROES, 1 << 20, 300_000, p.NO_HOLE, 0),
            (p.TRIM, 2 << 20, 1 << 19, 0, 0),
            (p.WRITE_ZEROES, SIZE - 65536, 65536, p.FAST_ZERO, 0),
            (p.WRITE_ZEROES, SIZE - 200_000, 65536, p.FAST_ZERO, p.ENOTSUP),
        ):
            client.request(command, offset, length, flags)
            assert client.simple()[0] == error, (command, offset, length, flags)
            if not error:
                content[offset : offset + length] = bytes(length)
    assert disk.read(0, SIZE) == content


@pytest.mark.parametrize("parallel", [1, 4])
def test_flushes_and_forced_writes(parallel: int) -> None:
    disk = MemoryDisk(bytes(SIZE))
    disk.parallel = parallel
    with serving({"": disk}) as path, wire(path, GO) as client:
        for command, length, flags, flushes in (
            (p.WRITE, 10, 0, 0),
            (p.WRITE, 10, p.FUA, 1),
            (p.TRIM, 10, 0, 1),
            (p.TRIM, 10, p.FUA, 2),
            (p.WRITE_ZEROES, 10, p.FUA, 3),
            (p.FLUSH, 0, 0, 4),
        ):
            client.request(command, 0, length, flags, bytes(length if command == p.WRITE else 0))
            assert client.simple() == (0, b"")
            assert disk.flushed == flushes


# --- disks that fail ------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [1, 4])
@pytest.mark.parametrize(
    ("error", "number", "text"),
    [
        (StorageError("disk", "is bad there", errno=5), p.EIO, "disk: is bad there"),
        (StorageError("disk", "is full", errno=28), p.ENOSPC, "disk: is full"),
        (diskkit.FormatError("is broken"), p.EIO, "is broken"),
        (diskkit.UsageError("not here"), p.EPERM, "not here"),
        (MemoryError(), p.ENOMEM, "internal error: MemoryError: "),
        (ZeroDivisionError("oops"), p.EIO, "internal error: ZeroDivisionError: oops"),
    ],
)
def test_errors_of_the_disk_are_answered(
    error: Exception, number: int, text: str, parallel: int
) -> None:
    disk = MemoryDisk(bytes(SIZE))
    disk.parallel = parallel
    disk.bad, disk.error = range(1000, 1001), error
    warnings: list[str] = []
    with (
        serving({"": disk}, warnings=warnings) as path,
        wire(path, STRUCTURED, CONTEXTS, GO) as client,
    ):
        for command in (p.READ, p.WRITE, p.TRIM, p.WRITE_ZEROES, p.CACHE, p.BLOCK_STATUS):
            client.request(command, 512, 1024, data=bytes(1024 if command == p.WRITE else 0))
            assert client.error() == (number, text)
        assert warnings == [text] * 6
        client.request(p.READ, 0, 10)
        assert client.chunks() == [(p.OFFSET_DATA, bytes(8 + 10))]


def test_a_long_read_that_fails_in_the_middle() -> None:
    disk = MemoryDisk(bytes(SIZE))
    disk.bad = range(2_500_000, 2_500_001)
    with serving({"": disk}) as path:
        with wire(path, STRUCTURED, GO) as client:
            client.request(p.READ, 0, SIZE)
            kinds = [kind for kind, _ in client.chunks()]
            assert kinds == [p.OFFSET_DATA, p.OFFSET_DATA, p.ERROR]
        # Where an answer began as a success, no bytes are made up: the server hangs up.
        for options, flags in ((GO,), 0), ((STRUCTURED, GO), p.DF):
            with wire(path, *options) as client:
                client.request(p.READ, 0, SIZE, flags)
                got = 0
                while part := client.socket.recv(1 << 20):
                    got += len(part)
                assert got < SIZE


def test_a_long_write_that_fails_in_the_middle() -> None:
    disk = MemoryDisk(bytes(SIZE))
    disk.bad = range(1_500_000, 1_500_001)
    with serving({"": disk}) as path, wire(path, GO) as client:
        client.request(p.WRITE, 0, SIZE, data=b"x" * SIZE)
        assert client.simple()[0] == p.EIO
        client.request(p.READ, 0, 10)
        assert client.simple(10) == (0, b"x" * 10)


def test_a_disk_that_is_far_away_is_asked_for_several_things_at_once() -> None:
    """Of one client's requests, as many as it has use for: here none is answered before."""
    disk = MemoryDisk(b"f" * SIZE)
    disk.parallel, disk.together = 4, Barrier(4)
    with serving({"": disk}) as path, wire(path, GO) as client:
        for _ in range(8):
            client.request(p.READ, 0, 10)
        for _ in range(8):
            assert client.simple(10) == (0, b"f" * 10)
