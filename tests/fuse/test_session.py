# SPDX-License-Identifier: Apache-2.0
"""Every request gets exactly one answer, whatever it says and whatever fails. Without a kernel."""

from __future__ import annotations

import errno
import os
import random
import socket
import stat
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from diskkit.errors import FormatError, OutOfRange, StorageError, UsageError
from diskkit.fuse import wire
from diskkit.fuse.session import Session
from diskkit.fuse.tree import OpenFile, Tree
from diskkit.fuse.wire import ROOT, Attributes, Op
from diskkit.fuse.worker import Turns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

TIMEOUT = 20
CONTENT = bytes(range(256)) * 64
FLAGS = 0xFFFFFFFF


class File(OpenFile):
    size = len(CONTENT)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        part = CONTENT[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        return len(part)


class Small(Tree):
    """A folder with a file."""

    size = 1 << 20

    def stat(self, node: int) -> Attributes:
        if node == ROOT:
            return Attributes(ROOT, stat.S_IFDIR | 0o755, 0, 0)
        if node == 2:
            return Attributes(2, stat.S_IFREG | 0o444, len(CONTENT), 32)
        raise OSError(errno.ENOENT, "no such node")

    def lookup(self, node: int, name: bytes) -> Attributes | None:
        return self.stat(2) if (node, name) == (ROOT, b"file") else None

    def entries(self, node: int) -> Iterator[tuple[bytes, Attributes]]:
        yield b"file", self.stat(2)

    def open(self, node: int, *, writing: bool) -> OpenFile:
        return File()

    def xattrs(self, node: int) -> dict[bytes, bytes]:
        return {b"user.a": b"value"}


class Device:
    """The kernel's side of a session: a socket that keeps messages apart."""

    def __init__(self, tree: Tree, *, warn: object = None, threads: int = 1) -> None:
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.settimeout(TIMEOUT)
        self.said: list[str] = []
        tell = warn or self.said.append
        self.session = Session(theirs.detach(), tree, threads=threads, warn=tell)  # type: ignore[arg-type]
        self.unique = 0

    def __enter__(self) -> Self:
        self.send(Op.INIT, struct.pack("<IIII", 7, 45, 1 << 17, FLAGS))
        self.session.start()
        self.greeting = self.answer(self.unique)
        return self

    def __exit__(self, *_: object) -> None:
        self.ours.shutdown(socket.SHUT_WR)
        self.session.join()
        self.ours.setblocking(False)
        with pytest.raises((BlockingIOError, ConnectionError)):
            raise AssertionError(self.ours.recv(100) or ConnectionError())
        self.ours.close()
        self.session.close()

    def send(self, opcode: int, body: bytes = b"", node: int = ROOT) -> int:
        self.unique += 2
        length = wire.IN.size + len(body)
        self.ours.send(wire.IN.pack(length, opcode, self.unique, node, 0, 0, 0, 0) + body)
        return self.unique

    def answer(self, unique: int) -> bytes:
        """The body, or an `OSError`, as the kernel would understand it."""
        try:
            raw = self.ours.recv(1 << 18)
        except TimeoutError:
            pytest.fail("no answer")
        length, error, number = wire.OUT.unpack_from(raw)
        assert (length, number) == (len(raw), unique)
        assert -512 < error <= 0, "the kernel would go on waiting"
        if error:
            assert len(raw) == wire.OUT.size
            raise OSError(-error, os.strerror(-error))
        return raw[wire.OUT.size :]

    def ask(self, opcode: int, body: bytes = b"", node: int = ROOT) -> bytes:
        return self.answer(self.send(opcode, body, node))


def transfer(handle: int, offset: int, size: int) -> bytes:
    return struct.pack("<QQIIQII", handle, offset, size, 0, 0, 0, 0)


def test_a_session() -> None:
    with Device(Small(), threads=2) as kernel:
        major, minor, _, flags, _, _, most, _, pages = struct.unpack_from(
            "<IIIIHHIIH", kernel.greeting
        )
        assert (major, minor, flags, most, pages) == (7, 31, wire.WANTED, 1 << 20, 256)
        assert kernel.ask(Op.LOOKUP, b"file\0")[:8] == struct.pack("<Q", 2)
        assert kernel.ask(Op.LOOKUP, b"none\0")[:8] == bytes(8)
        handle, how, _ = struct.unpack("<QII", kernel.ask(Op.OPEN, bytes(8), 2))
        assert how & wire.KEEP_CACHE
        assert kernel.ask(Op.READ, transfer(handle, 100, 4096), 2) == CONTENT[100:4196]
        assert kernel.ask(Op.READ, transfer(handle, 1 << 60, 4096), 2) == b""
        found = kernel.ask(Op.GETXATTR, struct.pack("<II", 99, 0) + b"user.a\0", 2)
        assert found == b"value"
        assert kernel.ask(Op.LISTXATTR, struct.pack("<II", 0, 0), 2) == struct.pack("<II", 7, 0)
        assert kernel.ask(Op.RELEASE, struct.pack("<QII", handle, 0, 0), 2) == b""
        for opcode, body, number in (
            (Op.READ, transfer(handle, 0, 10), errno.EBADF),
            (Op.READ, transfer(handle, 0, 2 << 20), errno.EINVAL),
            (Op.GETXATTR, struct.pack("<II", 2, 0) + b"user.a\0", errno.ERANGE),
            (Op.GETXATTR, struct.pack("<II", 2, 0) + b"user.b\0", errno.ENODATA),
            (Op.READLINK, b"", errno.EINVAL),
            (8, b"mknod", errno.ENOSYS),
            (4096, b"CUSE", errno.ENOSYS),
        ):
            with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is judged
                kernel.ask(opcode, body, 2)
            assert caught.value.errno == number
        assert kernel.ask(Op.DESTROY) == b""


def test_what_is_written_arrives_once_and_failures_are_told() -> None:
    came: list[tuple[int, bytes]] = []

    class Taking(File):
        def write(self, offset: int, data: memoryview) -> int:
            if offset == 7:
                raise OSError(errno.ENOSPC, "full")
            came.append((offset, bytes(data)))
            return len(data) - 1

    class Tree1(Small):
        def open(self, node: int, *, writing: bool) -> OpenFile:
            return Taking()

    with Device(Tree1()) as kernel:
        (handle,) = struct.unpack_from("<Q", kernel.ask(Op.OPEN, bytes(8), 2))
        for offset, data in ((0, b"abc"), (1 << 40, b"\xff" * 70_000)):
            taken = kernel.ask(Op.WRITE, transfer(handle, offset, len(data)) + data, 2)
            assert taken == struct.pack("<II", len(data) - 1, 0)
            assert came.pop() == (offset, data)
        for body, number in (
            (transfer(handle, 7, 3) + b"abc", errno.ENOSPC),
            (transfer(handle + 1, 0, 3) + b"abc", errno.EBADF),
            (transfer(handle, 0, 3) + b"ab", errno.EIO),
            (transfer(handle, 0, 3) + b"abcd", errno.EIO),
            (transfer(handle, 0, 3), errno.EIO),
        ):
            with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is judged
                kernel.ask(Op.WRITE, body, 2)
            assert caught.value.errno == number
        assert not came


@pytest.mark.parametrize("plus", [False, True])
def test_folders_come_in_as_many_pieces_as_it_takes(plus: bool) -> None:
    head, opcode = (152, Op.READDIRPLUS) if plus else (24, Op.READDIR)
    names = [b"."] + [b".."] + [b"%d" % n * (n % 9 + 1) for n in range(100)]

    class Many(Small):
        def entries(self, node: int) -> Iterator[tuple[bytes, Attributes]]:
            for number, name in enumerate(names[2:]):
                yield name, Attributes(number + 5, stat.S_IFREG, 0, 0)

    with Device(Many()) as kernel:
        (handle,) = struct.unpack_from("<Q", kernel.ask(Op.OPENDIR, bytes(8)))
        for room in (head + 24, 500, 4096, 65536):
            found, offset = [], 0
            while raw := kernel.ask(opcode, transfer(handle, offset, room)):
                assert len(raw) <= room
                while raw:
                    number, offset, length, kind = struct.unpack_from("<QQII", raw, head - 24)
                    name = raw[head : head + length]
                    if plus and name not in (b".", b".."):
                        assert struct.unpack_from("<Q", raw)[0] == number  # who is remembered
                    elif plus:
                        assert struct.unpack_from("<Q", raw)[0] == 0
                    assert kind == (4 if name in (b".", b"..") else 8)
                    found.append(name)
                    raw = raw[head + length + -length % 8 :]
            assert found == names
        # From the middle, as seekdir(3) does.
        again = kernel.ask(opcode, transfer(handle, 50, 4096))
        assert again[head : head + 3] == names[50][:3]


def test_no_answers_where_none_are_wanted() -> None:
    with Device(Small()) as kernel:
        for opcode in wire.SILENT:
            kernel.send(opcode, bytes(16))
        # The next answer is that of the next request.
        assert len(kernel.ask(Op.GETATTR, bytes(16))) == 104


FAILURES: list[tuple[BaseException, int]] = [
    (KeyError("x"), errno.EIO),
    (MemoryError(), errno.EIO),
    (RecursionError(), errno.EIO),
    (SystemExit(1), errno.EIO),
    (KeyboardInterrupt(), errno.EIO),
    (StopIteration(), errno.EIO),
    (wire.Malformed("x"), errno.EIO),
    (FormatError("broken"), errno.EIO),
    (StorageError("f", "gone", errno=errno.EIO), errno.EIO),
    (StorageError("f", "full", errno=errno.ENOSPC), errno.ENOSPC),
    (StorageError("f", "full", errno=errno.EDQUOT), errno.ENOSPC),
    (OutOfRange("x"), errno.EINVAL),
    (UsageError("x"), errno.EROFS),
    (OSError(errno.ENOTDIR, "x"), errno.ENOTDIR),
    (OSError("without a number"), errno.EIO),
    (OSError(0, "zero"), errno.EIO),
    (OSError(-5, "negative"), errno.EIO),
    (OSError(512, "ERESTARTSYS"), errno.EIO),
    (OSError(1 << 40, "huge"), errno.EIO),
]


class Failing(Small):
    """Raises what it is told to."""

    error: BaseException = KeyError()

    def stat(self, node: int) -> Attributes:
        raise self.error

    def entries(self, node: int) -> Iterator[tuple[bytes, Attributes]]:
        raise self.error

    def lookup(self, node: int, name: bytes) -> Attributes | None:
        raise self.error

    def open(self, node: int, *, writing: bool) -> OpenFile:
        raise self.error

    def xattrs(self, node: int) -> dict[bytes, bytes]:
        raise self.error

    def readlink(self, node: int) -> bytes:
        raise self.error


def test_whatever_a_tree_raises_is_an_answer() -> None:
    tree = Failing()
    with Device(tree) as kernel:
        for error, number in FAILURES:
            tree.error = error
            for opcode, body in (
                (Op.GETATTR, bytes(16)),
                (Op.LOOKUP, b"x\0"),
                (Op.OPEN, bytes(8)),
                (Op.READLINK, b""),
                (Op.LISTXATTR, bytes(8)),
                (Op.SETATTR, bytes(88)),
            ):
                with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is judged
                    kernel.ask(opcode, body)
                assert caught.value.errno == number, repr(error)
    assert any("KeyError" in text for text in kernel.said)


def test_a_terminal_that_is_gone_ends_no_thread() -> None:
    def warn(text: str) -> None:
        raise BrokenPipeError(text)

    tree = Failing()
    with Device(tree, warn=warn) as kernel:
        for _ in range(3):
            with pytest.raises(OSError, match="Input/output"):
                kernel.ask(Op.GETATTR, bytes(16))


def test_any_bytes_get_one_answer() -> None:
    chance = random.Random(2)
    known = [*Op, 6, 8, 9, 24, 39, 40, 47, 50, 4096, FLAGS]
    with Device(Small(), threads=1) as kernel:
        for opcode in (Op.OPEN, Op.OPENDIR):
            kernel.ask(opcode, bytes(8), 2)
        for _ in range(4000):
            opcode = chance.choice(known)
            kind = chance.randrange(3)
            if kind == 0:
                body = chance.randbytes(chance.choice([0, 1, 7, 8, 16, 40, 41, 88, 200]))
            elif kind == 1:
                size = chance.choice([0, 1, 100, 4096, 1 << 20, FLAGS])
                body = transfer(chance.randrange(5), chance.choice([0, 1, 3, 1 << 63]), size)
                body += bytes(chance.choice([0, 1, 100, size % 5000]))
            else:
                body = chance.randbytes(8) + b"user.a\0"
            unique = kernel.send(opcode, body, chance.choice([0, 1, 2, 3, 1 << 63]))
            if opcode in wire.SILENT:
                continue
            with suppress(OSError):
                kernel.answer(unique)


def test_what_is_no_message_is_passed_over_or_refused() -> None:
    chance = random.Random(3)
    with Device(Small()) as kernel:
        for length in range(1, wire.IN.size):
            kernel.ours.send(chance.randbytes(length))
        for said in (0, 39, 41, FLAGS):
            kernel.unique += 2
            head = wire.IN.pack(said, Op.GETATTR, kernel.unique, 1, 0, 0, 0, 0)
            kernel.ours.send(head)
            with pytest.raises(OSError, match="Input/output"):
                kernel.answer(kernel.unique)
        assert len(kernel.ask(Op.GETATTR, bytes(16))) == 104
    assert len(kernel.said) == wire.IN.size - 1 + 4


def test_greetings() -> None:
    for major, minor in ((7, 12), (6, 40)):
        kernel = Device(Small())
        kernel.send(Op.INIT, struct.pack("<IIII", major, minor, 0, FLAGS))
        with pytest.raises(StorageError, match=f"{major}.{minor} is too old"):
            kernel.session.start()
        with pytest.raises(OSError, match="Protocol error"):
            kernel.answer(kernel.unique)
        kernel.session.close()
        kernel.ours.close()


def test_a_broken_device_is_told() -> None:
    down, up = os.pipe()
    os.close(down)
    session = Session(up, Small(), threads=1)
    session._turns, session._working = Turns(up), 1
    thread = threading.Thread(target=session._work)
    thread.start()
    with pytest.raises(StorageError, match="/dev/fuse: Bad file descriptor"):
        session.join()
    session.close()
    thread.join(TIMEOUT)
