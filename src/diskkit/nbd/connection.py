# SPDX-License-Identifier: Apache-2.0
"""One connection of the NBD client: several requests under way, one caller at a time.

Nothing a server says is believed before it is judged: lengths before room is made, places before
bytes are put there, and each byte of a read must come once. After an error of the protocol or the
connection nothing more is asked on it.
"""

from __future__ import annotations

import socket
import ssl
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from diskkit.errors import ConnectionLost, DiskkitError, ProtocolError, RemoteError, UsageError
from diskkit.nbd import protocol as p
from diskkit.nbd.asking import ClientNegotiation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from diskkit.nbd.asking import Offered
    from diskkit.nbd.uri import Address
    from diskkit.table import Int64

SECONDS = 60
"""How long a server may be silent while it owes an answer."""
_UNDER_WAY = 8
_MOST_CHUNKS = 1 << 16
"""Chunks of one answer: a block of data is at least 512 bytes in anything sane."""

Status = dict[str, "tuple[Int64, Int64]"]
"""By context: where extents end, from the request's offset, and their flags."""


class Connection:
    """One connection to one export."""

    def __init__(self, address: Address, name: str) -> None:
        """Connect and shake hands; `name` is what messages call the server.

        Raises `ConnectionLost`, `ProtocolError`, `AccessDenied`, `RemoteError`, `UsageError`.
        """
        self._name = name
        self._handle = 0
        self.broken = False
        self._socket = self._connect(address)
        try:
            self.offered = self._shake_hands(address)
        except OSError as error:
            self._socket.close()
            raise self._lost(error) from error
        except DiskkitError as error:
            self._socket.close()
            raise type(error)(f"{name}: {error}") from error
        except BaseException:
            self._socket.close()
            raise

    def _connect(self, address: Address) -> socket.socket:
        try:
            if address.socket is not None:
                made = socket.socket(socket.AF_UNIX)
                try:
                    made.settimeout(SECONDS)
                    made.connect(address.socket)
                except BaseException:
                    made.close()
                    raise
                return made
            made = socket.create_connection((address.host, address.port), SECONDS)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return made
        except OSError as error:
            raise ConnectionLost(f"{self._name}: cannot connect: {_why(error)}") from error
        except UnicodeError as error:
            raise UsageError(f"{self._name}: no such host: {error}") from error

    def _shake_hands(self, address: Address) -> Offered:
        talk = ClientNegotiation(address.export, tls=address.tls)
        while talk.offered is None:
            if talk.wants_tls:
                context = client_context(address.certificates)
                self._socket = context.wrap_socket(self._socket, server_hostname=address.hostname)
                self._socket.sendall(talk.secured())
                continue
            data = self._socket.recv(talk.missing)
            if not data:
                raise ConnectionLost("the server hung up during the handshake")
            answer = talk.feed(data)
            if answer:
                self._socket.sendall(answer)
        return talk.offered

    # --- requests -----------------------------------------------------------------------------

    def read(self, parts: Iterable[tuple[int, memoryview]]) -> None:
        """Fill each buffer from its offset; several requests are under way at once."""
        self._work((p.Request(0, p.READ, 0, at, len(b)), None, b, None) for at, b in parts)

    def write(self, parts: Iterable[tuple[int, memoryview]]) -> None:
        """Write each buffer to its offset."""
        self._work((p.Request(0, p.WRITE, 0, at, len(b)), b, None, None) for at, b in parts)

    def order(self, command: int, offset: int = 0, length: int = 0, flags: int = 0) -> None:
        """A request without data."""
        self._work([(p.Request(flags, command, 0, offset, length), None, None, None)])

    def status(self, offset: int, length: int) -> Status:
        """What the server's contexts say from `offset` on, at most `length` bytes far."""
        found: Status = {}
        self._work([(p.Request(0, p.BLOCK_STATUS, 0, offset, length), None, None, found)])
        missing = set(self.offered.contexts.values()) - set(found)
        if missing:
            raise ProtocolError(f"{self._name}: NBD block status: no answer for {missing.pop()}")
        return found

    def _work(
        self,
        jobs: Iterable[tuple[p.Request, memoryview | None, memoryview | None, Status | None]],
    ) -> None:
        if self.broken:
            raise ConnectionLost(f"{self._name}: the connection has ended")
        waiting: deque[_Waiting] = deque()
        failed: RemoteError | None = None
        try:
            for request, payload, buffer, status in jobs:
                self._handle += 1
                request = request._replace(handle=self._handle)
                if failed is not None:
                    break
                self._send(request, payload)
                waiting.append(_Waiting(request, buffer, status))
                # Answers to writes are short: those wait in the sockets' buffers meanwhile.
                if len(waiting) >= _UNDER_WAY:
                    failed = self._receive(waiting) or failed
            while waiting:
                failed = self._receive(waiting) or failed
        except OSError as error:
            self.broken = True
            raise self._lost(error) from error
        except ProtocolError as error:
            self.broken = True
            raise ProtocolError(f"{self._name}: {error}") from error
        except BaseException:
            self.broken = True
            raise
        if failed is not None:
            raise failed

    def _send(self, request: p.Request, payload: memoryview | None) -> None:
        head = request.pack()
        if payload is None:
            self._socket.sendall(head)
        elif len(payload) <= 1 << 16 or isinstance(self._socket, ssl.SSLSocket):
            self._socket.sendall(head + bytes(payload))
        else:
            self._socket.sendall(head)
            self._socket.sendall(payload)

    def _receive(self, waiting: deque[_Waiting]) -> RemoteError | None:
        """Take in one whole answer, or one chunk of one; returns what it says went wrong."""
        head = self._exactly(p.SIMPLE.size)
        reply = p.unpack_reply(head, self.offered.structured)
        if reply is None:
            head += self._exactly(p.CHUNK.size - p.SIMPLE.size)
            reply = p.unpack_reply(head, self.offered.structured)
            assert reply is not None
        one = next((w for w in waiting if w.request.handle == reply.handle), None)
        if one is None:
            raise ProtocolError(f"NBD reply: handle {reply.handle} is no request's")
        one.take(reply, self._exactly, self._into, self.offered)
        if reply.done:
            waiting.remove(one)
            one.finish()
        if reply.done and one.error:
            number, text = one.error
            what = f"{p.COMMANDS[one.request.command]} of {one.request.length} bytes"
            said = f": {text}" if text else ""
            why = p.ERROR_NAMES.get(number, f"error {number}")
            return RemoteError(
                f"{self._name}: {what} at byte {one.request.offset} failed: {why}{said}"
            )
        return None

    def _exactly(self, count: int) -> bytes:
        buffer = bytearray(count)
        self._into(memoryview(buffer))
        return bytes(buffer)

    def _into(self, view: memoryview) -> None:
        while view:
            n = self._socket.recv_into(view)
            if not n:
                raise ConnectionLost(f"{self._name}: the server hung up")
            view = view[n:]

    def _lost(self, error: OSError) -> DiskkitError:
        if isinstance(error, DiskkitError):
            return error
        return ConnectionLost(f"{self._name}: the connection broke: {_why(error)}")

    def close(self) -> None:
        """Say goodbye."""
        if not self.broken:
            self.broken = True
            with suppress(OSError):  # It may know already.
                self._socket.sendall(p.Request(0, p.DISC, 0, 0, 0).pack())
        self._socket.close()


class _Waiting:
    """A request that is not answered to the end."""

    def __init__(
        self, request: p.Request, buffer: memoryview | None, status: Status | None
    ) -> None:
        self.request, self._buffer, self._status = request, buffer, status
        self._cover = p.Cover(request.offset, request.length)
        self._chunks = 0
        self.error: tuple[int, str] | None = None

    def take(
        self,
        reply: p.Reply,
        exactly: Callable[[int], bytes],
        into: Callable[[memoryview], None],
        offered: Offered,
    ) -> None:
        """Take in what follows the head of a reply."""
        self._chunks += 1
        if self._chunks > _MOST_CHUNKS:
            raise ProtocolError("NBD structured reply: does not end")
        buffer, offset, length = self._buffer, self.request.offset, self.request.length
        if not reply.structured:
            if reply.error:
                self.error = self.error or (reply.error, "")
            elif buffer is not None and not offered.structured:
                into(buffer[self._cover.place(offset, length) :])
            elif buffer is not None or self._status is not None:
                raise ProtocolError("NBD reply: a simple one, where only a structured one can be")
            return
        if reply.kind & p.IS_ERROR:
            self.error = self.error or p.unpack_error(exactly(reply.length))
        elif reply.kind == p.OFFSET_DATA and buffer is not None:
            at = int.from_bytes(exactly(8), "big")
            begin = self._cover.place(at, reply.length - 8)
            into(buffer[begin : begin + reply.length - 8])
        elif reply.kind == p.OFFSET_HOLE and buffer is not None:
            body = exactly(12)
            n = int.from_bytes(body[8:], "big")
            begin = self._cover.place(int.from_bytes(body[:8], "big"), n)
            buffer[begin : begin + n] = bytes(n)
        elif reply.kind == p.STATUS and self._status is not None:
            number, ends, flags = p.unpack_status(exactly(reply.length), length)
            context = offered.contexts.get(number)
            if context is None or context in self._status:
                raise ProtocolError(f"NBD block status: context {number} was not expected")
            self._status[context] = ends, flags
        elif reply.kind != p.NONE:
            raise ProtocolError(
                f"NBD structured reply: type {reply.kind} does not answer a "
                f"{p.COMMANDS[self.request.command]}"
            )

    def finish(self) -> None:
        """Judge the answer as a whole."""
        if self._buffer is not None and self.error is None:
            self._cover.finish()


def client_context(certificates: str | None) -> ssl.SSLContext:
    """What a client trusts: the folder's ca-cert.pem, else the system's authorities."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if certificates is None:
            context.load_default_certs()
            return context
        folder = Path(certificates)
        context.load_verify_locations(folder / "ca-cert.pem")
        if (folder / "client-cert.pem").exists():
            context.load_cert_chain(folder / "client-cert.pem", folder / "client-key.pem")
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{certificates}: its certificates cannot be used: {error}") from error
    return context


def _why(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer for {SECONDS} seconds"
    return error.strerror or str(error)
