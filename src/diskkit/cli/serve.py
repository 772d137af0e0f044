# SPDX-License-Identifier: Apache-2.0
"""The verb serve: disks for other programs, over NBD."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diskkit.cli.failures import DONE, warn
from diskkit.cli.options import Common, Json, with_common
from diskkit.cli.part import KeyFile, VolumeName, open_part
from diskkit.errors import UsageError, printable_line
from diskkit.nbd.protocol import PORT

if TYPE_CHECKING:
    import socket


@with_common
def serve(
    disks: Annotated[list[str], typer.Argument(metavar="DISK", help="The disks to serve.")],
    common: Common,
    unix: Annotated[
        str | None, typer.Option("--socket", metavar="PATH", help="Listen on a Unix socket.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", min=0, max=65535, metavar="N", help=f"Listen on TCP port N, usually {PORT}."
        ),
    ] = None,
    bind: Annotated[
        str,
        typer.Option("--bind", metavar="HOST", help="Listen on this address only; '' for all."),
    ] = "localhost",
    names: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="NAME", help="Name of the export, one for each disk."),
    ] = None,
    writable: Annotated[
        bool, typer.Option("--writable", help="Let clients write to the disks.")
    ] = False,
    overlay: Annotated[
        str | None,
        typer.Option("--overlay", metavar="FILE", help="Keep what clients write in FILE."),
    ] = None,
    volume: VolumeName = None,
    key_file: KeyFile = None,
    certificates: Annotated[
        str | None,
        typer.Option(
            "--tls-certificates", metavar="DIR", help="Encrypt, with the certificates in DIR."
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--tls-verify-peer", help="Let in only clients with a certificate.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Serve disks over NBD, for reading unless told otherwise, until interrupted."""
    from diskkit.nbd.listening import close_all, remove_socket, uri_of
    from diskkit.nbd.server import Served, Server, server_context

    if writable and overlay is not None:
        raise UsageError("serve: --overlay and --writable: clients write to one of them")
    if overlay is not None and len(disks) > 1:
        raise UsageError("serve: --overlay takes what is written to one disk")
    if volume is None and key_file is not None:
        raise UsageError("serve: --key-file goes with --volume")
    if verify and certificates is None:
        raise UsageError("serve: --tls-verify-peer goes with --tls-certificates")
    tls = server_context(certificates, verify=verify) if certificates is not None else None
    with ExitStack() as stack:
        # A volume may lie on several disks, and is one export.
        groups = [disks] if volume is not None else [[disk] for disk in disks]
        opened = [
            stack.enter_context(
                open_part(common, group, volume, key_file, writable=writable, overlay=overlay)
            )
            for group in groups
        ]
        served = {
            name: Served(disk, Path(disk.path).name)
            for name, disk in zip(
                _names([group[0] for group in groups], names or []), opened, strict=True
            )
        }
        listeners = _listen(unix, port, bind)
        stack.callback(close_all, listeners)
        if unix is not None:
            stack.callback(remove_socket, unix)
        server = stack.enter_context(
            Server(served, listeners, tls=tls, warn=None if common.quiet else warn)
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: server.stop())
        where = [uri_of(at, name, tls=tls is not None) for at in listeners for name in served]
        _announce(where, common, as_json=as_json)
        server.serve()
    return DONE


def _names(disks: list[str], names: list[str]) -> list[str]:
    """Names of the exports: as said; else none for a single disk, and file names for several."""
    if names and len(names) != len(disks):
        raise UsageError(f"serve: {len(names)} names for {len(disks)} disks")
    found = names or ([""] if len(disks) == 1 else [Path(disk).name for disk in disks])
    if len(set(found)) < len(found):
        raise UsageError("serve: two disks would have one name: give each its own by --name")
    return found


def _listen(unix: str | None, port: int | None, bind: str) -> list[socket.socket]:
    from diskkit.nbd.listening import listen_tcp, listen_unix, passed_sockets

    passed = passed_sockets()
    if passed:
        if unix is not None or port is not None:
            raise UsageError("serve: whoever started it passed sockets: no --socket and no --port")
        return passed
    found = [listen_unix(unix)] if unix is not None else []
    if port is not None or unix is None:
        found += listen_tcp(bind, PORT if port is None else port)
    return found


def _announce(where: list[str], common: Common, *, as_json: bool) -> None:
    """Say that clients can come now."""
    if as_json:
        status = {"message_type": "status", "state": "serving", "pid": os.getpid(), "uris": where}
        print(json.dumps(status), flush=True)
    elif not common.quiet:
        for uri in where:
            print(printable_line(f"serving {uri}"), file=sys.stderr, flush=True)
