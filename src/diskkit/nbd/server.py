# SPDX-License-Identifier: Apache-2.0
"""The NBD server: listens, gives each client a thread, and ends without losing anything.

with Server({"": Served(disk)}, [listen_unix("disk.sock")]) as server:
    server.serve()      # until server.stop(), from a signal handler or another thread
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import ssl
import time
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING

from diskkit.errors import UsageError
from diskkit.interfaces import Closing
from diskkit.nbd.listening import close_all
from diskkit.nbd.negotiation import CONTEXTS
from diskkit.nbd.session import Served, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["CONTEXTS", "MOST_CLIENTS", "Served", "Server", "server_context"]

MOST_CLIENTS = 256
"""Clients at a time; more are turned away. Each may take two megabytes."""
_GRACE_SECONDS = 5
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_BREATH_SECONDS = 0.1
_MOST_NAME = 4096


class Server(Closing):
    """Serves disks to any number of clients. The disks stay the caller's."""

    def __init__(
        self,
        served: Mapping[str, Served],
        listeners: Sequence[socket.socket],
        *,
        tls: ssl.SSLContext | None = None,
        warn: Callable[[str], None] | None = None,
        most_clients: int = MOST_CLIENTS,
    ) -> None:
        """Takes over listening sockets. With `tls` clients must encrypt.

        `warn` gets a line for each request that failed and each client that broke the rules.
        """
        for name in served:
            if len(name.encode()) > _MOST_NAME or not name.isprintable():
                raise UsageError(f"export name {name[:80]!r}: at most 4096 printable bytes")
        self._served = dict(served)
        self._listeners = list(listeners)
        self._tls = tls
        self._warn = warn or (lambda text: None)
        self._most = most_clients
        self._sessions: dict[Session, Thread] = {}
        self._lock = Lock()
        """Guards `_sessions`."""
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_in, False)

    def stop(self) -> None:
        """Make `serve` return. From a signal handler or any thread; twice is fine."""
        with suppress(OSError):  # The pipe is full, or closed: then it has ended already.
            os.write(self._wake_in, b"x")

    def serve(self) -> None:
        """Accept clients until `stop`; then finish what they asked for, and let them go."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_out, selectors.EVENT_READ)
            for listener in self._listeners:
                listener.setblocking(False)
                selector.register(listener, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self._wake_out in ready:
                    break
                if not all(self._accept(sock) for sock in ready if isinstance(sock, socket.socket)):
                    # Out of descriptors: whoever waits can wait until a client leaves.
                    with selectors.DefaultSelector() as pause:
                        pause.register(self._wake_out, selectors.EVENT_READ)
                        pause.select(_BREATH_SECONDS)
        self._end()

    def _accept(self, listener: socket.socket) -> bool:
        """Take one client in; False if there is no descriptor for it."""
        try:
            connection, _ = listener.accept()
        except OSError as error:
            return error.errno not in _OUT_OF_FILES
        with self._lock:
            full = len(self._sessions) >= self._most
            if not full:
                session = Session(connection, self._served, self._tls, self._warn)
                thread = Thread(target=self._run, args=(session,), name="nbd-client", daemon=True)
                self._sessions[session] = thread
        if full:
            connection.close()
            self._warn(f"a client was turned away: there are {self._most}")
            return True
        thread.start()
        return True

    def _run(self, session: Session) -> None:
        try:
            session.run()
        finally:
            with self._lock:
                self._sessions.pop(session, None)

    def _end(self) -> None:
        close_all(self._listeners)
        with self._lock:
            sessions = list(self._sessions.items())
        for session, _ in sessions:
            session.stop()
        deadline = time.monotonic() + _GRACE_SECONDS
        for session, thread in sessions:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                session.stop(now=True)
                thread.join()

    def close(self) -> None:
        """Give back what is left."""
        close_all(self._listeners)
        for fd in (self._wake_out, self._wake_in):
            if fd >= 0:
                os.close(fd)
        self._wake_out = self._wake_in = -1


def server_context(folder: str, *, verify: bool = False) -> ssl.SSLContext:
    """Certificates of a server, in a folder as qemu and nbdkit have them.

    server-cert.pem and server-key.pem; with `verify` clients must show a certificate that
    ca-cert.pem signed.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    place = Path(folder)
    try:
        context.load_cert_chain(place / "server-cert.pem", place / "server-key.pem")
        if verify:
            context.load_verify_locations(place / "ca-cert.pem")
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{folder}: its certificates cannot be used: {error}") from error
    return context
