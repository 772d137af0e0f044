# SPDX-License-Identifier: Apache-2.0
"""One client of the NBD server: the handshake, then requests until it leaves."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import ProtocolError
from diskkit.nbd import protocol as p
from diskkit.nbd.negotiation import Export, ServerNegotiation
from diskkit.nbd.pooled import PooledTransmission
from diskkit.nbd.transmission import Left, Transmission

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from diskkit.disk import Disk

_HANDSHAKE_SECONDS = 30
_READABLE = p.HAS_FLAGS | p.SEND_DF | p.CAN_MULTI_CONN | p.SEND_CACHE | p.SEND_FLUSH
_WRITABLE = p.SEND_FUA | p.SEND_TRIM | p.SEND_WRITE_ZEROES | p.SEND_FAST_ZERO
"""All connections share one disk, which is safe from many threads: a write is seen by all of them,
and a flush is everybody's. So several connections are always fine."""


class Served(NamedTuple):
    """A disk that is exported, for writing if it was opened for writing."""

    disk: Disk
    text: str = ""
    """What it is, for people."""

    @property
    def export(self) -> Export:
        """What clients are told of it."""
        flags = _READABLE | (_WRITABLE if self.disk.writable else p.READ_ONLY)
        preferred = min(max(4096, self.disk.granularity), 1 << 20)
        return Export(self.disk.size, flags, self.text, preferred=preferred)


class Session:
    """One connection."""

    def __init__(
        self,
        connection: socket.socket,
        served: Mapping[str, Served],
        tls: ssl.SSLContext | None,
        warn: Callable[[str], None],
    ) -> None:
        """Takes over the connection."""
        self._socket = connection
        self._served = served
        self._tls = tls
        self._warn = warn

    def run(self) -> None:
        """Serve the client until it leaves, breaks the rules, or `stop` is called."""
        try:
            self._socket.setblocking(True)
            if self._socket.family != socket.AF_UNIX:
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            found = self._handshake()
            if found is not None:
                transmission, rest = found
                transmission.run(rest)
        except ProtocolError as error:
            self._warn(f"a client was left: {error}")
        except (Left, OSError):
            pass  # It went away, or was sent away: nobody is there to be told.
        except Exception as error:
            self._warn(f"a client was left: internal error: {type(error).__name__}: {error}")
        finally:
            self._socket.close()

    def stop(self, *, now: bool = False) -> None:
        """End after what has come in already; `now` in the middle of it. From any thread."""
        how = socket.SHUT_RDWR if now else socket.SHUT_RD
        with suppress(OSError):  # It may have ended by itself.
            # Not the method of an encrypted socket, which would go on in the clear.
            socket.socket.shutdown(self._socket, how)

    def _handshake(self) -> tuple[Transmission, bytes] | None:
        exports = {name: served.export for name, served in self._served.items()}
        talk = ServerNegotiation(exports, tls=self._tls is not None)
        deadline = time.monotonic() + _HANDSHAKE_SECONDS
        self._socket.settimeout(_HANDSHAKE_SECONDS)
        self._socket.sendall(talk.greeting)
        while talk.agreed is None:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            data = self._socket.recv(65536)
            if not data or time.monotonic() > deadline:
                return None
            answer = talk.feed(data)
            if answer:
                self._socket.sendall(answer)
            if talk.ended:
                return None
            if talk.wants_tls:
                assert self._tls is not None
                self._socket = self._tls.wrap_socket(self._socket, server_side=True)
                talk.secured()
        self._socket.settimeout(None)
        served, agreed = self._served[talk.agreed.name], talk.agreed
        kind: type[Transmission] = Transmission
        # An encrypted connection cannot be written to by one thread while another reads from it.
        if served.disk.parallel > 1 and self._tls is None:
            kind = PooledTransmission
        run = kind(self._socket, served.disk, agreed.structured, agreed.contexts, self._warn)
        return run, talk.rest
