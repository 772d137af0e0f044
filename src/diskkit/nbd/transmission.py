# SPDX-License-Identifier: Apache-2.0
"""The requests of one client of the NBD server, answered until it leaves.

One thread, two buffers. All requests that have come in are answered before anything is sent, so
many small ones cost one system call each way. Data goes from the disk into the buffer that is sent,
and from the buffer that was received to the disk; long transfers go through in pieces, so that no
client makes the server take more memory than that.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from diskkit.errors import DiskkitError, ProtocolError, StorageError, UsageError
from diskkit.nbd import protocol as p
from diskkit.nbd.negotiation import CONTEXTS

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from diskkit.disk import Disk

_INBOX = 512 << 10
_OUTBOX = 512 << 10
PIECE = 1 << 20
"""Bytes of a long transfer that are under way at once."""
_MOST_CACHED = 32 << 20


class Left(Exception):
    """The client has gone."""


class Transmission:
    """The requests of one client for one disk."""

    def __init__(
        self,
        connection: socket.socket,
        disk: Disk,
        structured: bool,
        contexts: tuple[int, ...],
        warn: Callable[[str], None],
    ) -> None:
        self._socket, self._disk = connection, disk
        self._structured, self._contexts = structured, contexts
        self._warn = warn
        self._in = memoryview(bytearray(_INBOX))
        self._begin = self._end = 0
        self._out = memoryview(bytearray(_OUTBOX))
        self._used = 0
        self._long: memoryview | None = None
        self._link_of: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None

    def run(self, rest: bytes) -> None:
        """Answer requests until the client says goodbye. Raises `Left`, `ProtocolError`."""
        # What came with the handshake is at most what one read of it brought.
        self._in[: len(rest)] = rest
        self._end = len(rest)
        try:
            while self._answer_all():
                self._send()
                self._receive()
        finally:
            with suppress(OSError):
                self._send()

    # --- bytes in and out ---------------------------------------------------------------------

    def _receive(self) -> None:
        """Wait for more, behind what is there."""
        waiting = self._end - self._begin
        if self._begin:
            self._in[:waiting] = self._in[self._begin : self._end]
            self._begin, self._end = 0, waiting
        n = self._socket.recv_into(self._in[waiting:])
        if not n:
            raise Left
        self._end += n

    def _send(self) -> None:
        if self._used:
            used, self._used = self._used, 0
            self._socket.sendall(self._out[:used])

    def _put(self, data: bytes) -> None:
        """Add an answer to what is sent next."""
        if self._used + len(data) > len(self._out):
            self._send()
        if len(data) > len(self._out):
            self._socket.sendall(data)
            return
        self._out[self._used : self._used + len(data)] = data
        self._used += len(data)

    def _piece(self) -> memoryview:
        if self._long is None:
            self._long = memoryview(bytearray(PIECE))
        return self._long

    # --- requests -----------------------------------------------------------------------------

    def _answer_all(self) -> bool:
        """Answer every request that is there whole; False once the client said goodbye."""
        size, head = p.REQUEST.size, p.DATA_CHUNK.size
        unpack, read_into = p.REQUEST.unpack_from, self._disk.read_into
        inbox, out, room = self._in, self._out, len(self._out)
        capacity, structured = self._disk.size, self._structured
        while self._end - self._begin >= size:
            magic, flags, command, handle, offset, length = unpack(inbox, self._begin)
            # The one kind of request whose cost is ours alone, without detours.
            if (
                command == p.READ
                and magic == p.REQUEST_MAGIC
                and not flags
                and 0 < length <= room - head
                and offset + length <= capacity
            ):
                self._begin += size
                if self._used + head + length > room:
                    self._send()
                at = self._used + (head if structured else p.SIMPLE.size)
                try:
                    read_into(offset, out[at : at + length])
                except Exception as error:
                    self._fail(handle, error)
                    continue
                self._read_head(at, handle, offset, length)
                self._used = at + length
                continue
            request = p.unpack_request(inbox, self._begin)
            self._begin += size
            if request.command == p.DISC:
                return False
            self._answer(request)
        return True

    def _read_head(self, at: int, handle: int, offset: int, length: int) -> None:
        """Write the head of an answer before its data, which begins at `at` of the outbox."""
        if self._structured:
            fields = (p.CHUNK_MAGIC, p.DONE, p.OFFSET_DATA, handle, length + 8, offset)
            p.DATA_CHUNK.pack_into(self._out, at - p.DATA_CHUNK.size, *fields)
        else:
            p.SIMPLE.pack_into(self._out, at - p.SIMPLE.size, p.SIMPLE_MAGIC, 0, handle)

    def _answer(self, request: p.Request) -> None:
        """Any request, the slow way."""
        if request.command == p.WRITE and request.length > p.MOST_PAYLOAD:
            raise ProtocolError(f"NBD write: {request.length} bytes, more than {p.MOST_PAYLOAD}")
        disk = self._disk
        wrong = p.refusal(request, disk.size, writable=disk.writable)
        if request.command == p.BLOCK_STATUS and not self._contexts:
            wrong = p.EINVAL
        if request.command == p.WRITE:
            self._take(request, wrong)
            return
        if wrong:
            text = f"{_name(request.command)} of {request.length} bytes at {request.offset}"
            self._refuse(request.handle, wrong, f"{text}: {p.ERROR_NAMES[wrong]}")
            return
        if request.command == p.READ:
            self._read(request)
            return
        try:
            answers = self._status(request) if request.command == p.BLOCK_STATUS else []
            wrong = 0 if answers else self._change(request)
        except Exception as error:
            self._fail(request.handle, error)
            return
        if wrong:
            self._refuse(request.handle, wrong, p.ERROR_NAMES[wrong])
        elif answers:
            for answer in answers:
                self._put(answer)
        else:
            self._done(request.handle)

    def _change(self, request: p.Request) -> int:
        """What moves no data of the client's; returns 0 or an error."""
        flags, command, _, offset, length = request
        disk = self._disk
        if command == p.CACHE:
            self._warm(offset, min(length, _MOST_CACHED))
            return 0
        if command == p.TRIM:
            disk.discard(offset, length)
        elif command == p.WRITE_ZEROES:
            if flags & p.FAST_ZERO and not disk.zeroes_quickly(offset, length):
                return p.ENOTSUP
            if flags & p.NO_HOLE:
                disk.zero(offset, length)
            else:
                disk.discard(offset, length)
        if disk.writable and (command == p.FLUSH or flags & p.FUA):
            disk.flush()
        return 0

    def _warm(self, offset: int, length: int) -> None:
        """Read what is soon asked for, so that it is near then; a hint, so only so much of it."""
        piece = self._piece()
        while length:
            n = min(length, len(piece))
            self._disk.read_into(offset, piece[:n])
            offset, length = offset + n, length - n

    def _take(self, request: p.Request, wrong: int) -> None:
        """A write: its data follows, and is taken in whatever happens."""
        flags, _, handle, offset, left = request
        failed: Exception | None = None
        while left:
            part = self._payload(left)
            left -= len(part)
            if failed is None and not wrong:
                try:
                    self._disk.write(offset, part)
                except Exception as error:
                    failed = error
                offset += len(part)
        if wrong:
            self._refuse(handle, wrong, p.ERROR_NAMES[wrong])
            return
        try:
            if failed is None and flags & p.FUA:
                self._disk.flush()
        except Exception as error:
            failed = error
        if failed is not None:
            self._fail(handle, failed)
        else:
            self._done(handle)

    def _payload(self, left: int) -> memoryview:
        """The next part of a payload, from what is there if all of it is, else in long pieces."""
        here = self._end - self._begin
        if here >= left:
            part = self._in[self._begin : self._begin + left]
            self._begin += left
            return part
        # It may take a while to come: what is answered is sent meanwhile.
        self._send()
        piece = self._piece()
        wanted = min(left, len(piece))
        have = min(here, wanted)
        piece[:have] = self._in[self._begin : self._begin + have]
        self._begin += have
        while have < wanted:
            n = self._socket.recv_into(piece[have:wanted])
            if not n:
                raise Left
            have += n
        return piece[:wanted]

    def _read(self, request: p.Request) -> None:
        """A read that is long, or odd."""
        flags, _, handle, offset, length = request
        if not length:
            # The protocol leaves open what that means; a chunk of data cannot be empty.
            if self._structured:
                self._put(p.chunk(handle, p.NONE, b"", done=True))
            else:
                self._done(handle)
            return
        self._send()
        piece = self._piece()
        alone = not self._structured or bool(flags & p.DF)
        begun = False
        while length:
            n = min(length, len(piece))
            try:
                self._disk.read_into(offset, piece[:n])
            except Exception as error:
                if begun and alone:
                    # The answer has begun as a success: only hanging up can take that back.
                    self._warn(f"reading failed: {error}")
                    raise Left from error
                self._fail(handle, error)
                return
            if not self._structured:
                head = b"" if begun else p.simple_reply(handle)
            elif alone:
                fields = (p.CHUNK_MAGIC, p.DONE, p.OFFSET_DATA, handle, length + 8, offset)
                head = b"" if begun else p.DATA_CHUNK.pack(*fields)
            else:
                done = p.DONE if n == length else 0
                fields = (p.CHUNK_MAGIC, done, p.OFFSET_DATA, handle, n + 8, offset)
                head = p.DATA_CHUNK.pack(*fields)
            if head:
                self._socket.sendall(head)
            self._socket.sendall(piece[:n])
            begun = True
            offset, length = offset + n, length - n

    def _status(self, request: p.Request) -> list[bytes]:
        answers = []
        table = next(self._disk.stored(request.offset, request.length))
        most = 1 if request.flags & p.REQ_ONE else p.MOST_EXTENTS
        last = self._contexts[-1]
        for context in self._contexts:
            if context == CONTEXTS[p.ALLOCATION]:
                flags = p.allocation_flags(table)
            else:
                if self._link_of is None:
                    self._link_of = np.array([s.link for s in self._disk.sources], np.int64)
                flags = p.depth_flags(table, self._link_of)
            body = p.pack_status(context, table, flags, most)
            answers.append(p.chunk(request.handle, p.STATUS, body, done=context == last))
        return answers

    # --- short answers ------------------------------------------------------------------------

    def _done(self, handle: int) -> None:
        self._put(p.simple_reply(handle))

    def _refuse(self, handle: int, error: int, text: str) -> None:
        self._put(self._refusal(handle, error, text))

    def _fail(self, handle: int, error: Exception) -> None:
        self._put(self._failure(handle, error))

    def _refusal(self, handle: int, error: int, text: str) -> bytes:
        if self._structured:
            return p.error_chunk(handle, error, text)
        return p.simple_reply(handle, error)

    def _failure(self, handle: int, error: Exception) -> bytes:
        """The answer to a request that the disk could not fulfil."""
        text = str(error)
        if not isinstance(error, DiskkitError):
            text = f"internal error: {type(error).__name__}: {error}"
        self._warn(text)
        return self._refusal(handle, _number(error), text)


def _number(error: Exception) -> int:
    """The protocol's number for a failure of the disk."""
    if isinstance(error, StorageError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return p.ENOSPC
    if isinstance(error, StorageError) and error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
        return p.EPERM
    if isinstance(error, UsageError):
        return p.EPERM
    return p.ENOMEM if isinstance(error, MemoryError) else p.EIO


def _name(command: int) -> str:
    return p.COMMANDS[command] if command < len(p.COMMANDS) else f"command {command}"
