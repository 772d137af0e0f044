# SPDX-License-Identifier: Apache-2.0
"""NBD URIs, as the NBD project's doc/uri.md has them; nbds is encrypted. Pure.

nbd://host[:port]/export    nbd+unix:///export?socket=PATH    …?tls-certificates=FOLDER
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from diskkit.errors import UsageError
from diskkit.nbd.protocol import PORT

SCHEMES = ("nbd", "nbds", "nbd+unix", "nbds+unix")
_QUERY = ("socket", "tls-certificates", "tls-hostname")


class Address(NamedTuple):
    """Where an export is."""

    host: str
    port: int
    socket: str | None
    """Path of a Unix socket, instead of host and port."""
    export: str
    tls: bool
    certificates: str | None
    """Folder with ca-cert.pem and, for servers that ask, client-cert.pem and client-key.pem."""
    hostname: str
    """What the server's certificate must be for."""


def parse(uri: str) -> Address:
    """The parts of a URI. Raises `UsageError`."""
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{uri}: is no NBD URI: {error}") from error
    if parts.scheme not in SCHEMES:
        raise UsageError(f"{uri}: is no NBD URI: its scheme is none of {', '.join(SCHEMES)}")
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"{uri}: NBD knows no users and passwords")
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    query = dict(pairs)
    odd = [key for key in query if key not in _QUERY]
    if odd or len(query) != len(pairs):
        raise UsageError(f"{uri}: its query may hold each of {', '.join(_QUERY)} once")
    unix = parts.scheme.endswith("+unix")
    path = query.get("socket")
    if unix != bool(path):
        raise UsageError(f"{uri}: ?socket=PATH goes with nbd+unix and nbds+unix, and only there")
    if unix and parts.netloc:
        raise UsageError(f"{uri}: a Unix socket has no host: write {parts.scheme}:///")
    if not unix and not parts.hostname:
        raise UsageError(f"{uri}: names no host")
    host = unquote(parts.hostname or "")
    return Address(
        host=host,
        port=PORT if port is None else port,
        socket=path,
        export=unquote(parts.path.removeprefix("/")),
        tls=parts.scheme.startswith("nbds"),
        certificates=query.get("tls-certificates"),
        hostname=query.get("tls-hostname") or host or "localhost",
    )
