# SPDX-License-Identifier: Apache-2.0
"""Where clients come in: Unix sockets, TCP ports, and sockets handed over by whoever started us."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from diskkit.errors import LockedError, StorageError, UsageError

_BACKLOG = 128
_FIRST_PASSED = 3


def listen_unix(path: str) -> socket.socket:
    """Listen on a Unix socket. One that a killed server left behind is replaced.

    Raises `LockedError` if a server listens there, `StorageError` if anything else is there.
    """
    made = socket.socket(socket.AF_UNIX)
    try:
        try:
            made.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_dead(path)
            made.bind(path)
        made.listen(_BACKLOG)
    except (OSError, ValueError) as error:
        made.close()
        if isinstance(error, StorageError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(path, f"cannot listen there: {reason}") from error
    return made


def _remove_dead(path: str) -> None:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise StorageError(path, "is there already, and is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
            return
    raise LockedError(path, "another program listens there")


def listen_tcp(host: str, port: int) -> list[socket.socket]:
    """Listen on a port of every address that `host` stands for; port 0 takes a free one.

    Raises `UsageError` for a host that is not known, `StorageError` if listening fails.
    """
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"{host}: no such host: {error}") from error
    made: list[socket.socket] = []
    refused: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(found):
        name = address[0] if isinstance(address[0], str) else host
        if not port and made:
            # The free port that the first address got is asked for by name.
            address = (address[0], made[0].getsockname()[1], *address[2:])
        try:
            listener = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # a kernel without that family
            refused = error
            continue
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRNOTAVAIL:  # "localhost" without IPv6
                refused = error
                continue
            close_all(made)
            text = f"cannot listen there: {error.strerror}"
            raise StorageError(f"{name} port {port}", text) from error
        made.append(listener)
    if not made:
        why = refused.strerror if refused else "it has no address"
        raise StorageError(f"{host} port {port}", f"cannot listen there: {why}")
    return made


def passed_sockets() -> list[socket.socket]:
    """The listening sockets that whoever started this process handed over (sd_listen_fds(3))."""
    count, pid = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if not count or pid != str(os.getpid()):
        return []
    if not count.isascii() or not count.isdecimal() or not 1 <= int(count) <= 64:
        raise UsageError(f"LISTEN_FDS is {count!r}: not a number of sockets")
    made = []
    for fd in range(_FIRST_PASSED, _FIRST_PASSED + int(count)):
        try:
            os.set_inheritable(fd, False)
            made.append(socket.socket(fileno=fd))
            listens = made[-1].getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            close_all(made)
            raise UsageError(f"descriptor {fd} is no socket: {error.strerror}") from error
        if not listens:
            close_all(made)
            raise UsageError(f"descriptor {fd} is a socket that does not listen")
    return made


def close_all(listeners: list[socket.socket]) -> None:
    """Close them."""
    for listener in listeners:
        listener.close()


def remove_socket(path: str) -> None:
    """Remove the file of a Unix socket that is no longer served."""
    with suppress(FileNotFoundError):
        Path(path).unlink()


def uri_of(listener: socket.socket, name: str, *, tls: bool) -> str:
    """How clients call an export behind a listener."""
    scheme = "nbds" if tls else "nbd"
    export = quote(name, safe="")
    if listener.family == socket.AF_UNIX:
        where = quote(str(listener.getsockname()), safe="/")
        return f"{scheme}+unix:///{export}?socket={where}"
    host, port = listener.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}:{port}/{export}"
