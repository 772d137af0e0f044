# SPDX-License-Identifier: Apache-2.0
"""Servers to test with: one in this process, one as a process of its own, and certificates."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING
from urllib.parse import quote

from diskkit.nbd.listening import listen_unix
from diskkit.nbd.server import Served, Server
from makers.peers import requires

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from diskkit.disk import Disk

SECONDS = 60
"""No test waits longer for another process."""


@contextmanager
def serving(
    disks: Mapping[str, Disk],
    *,
    tls: ssl.SSLContext | None = None,
    warnings: list[str] | None = None,
    most_clients: int = 256,
) -> Iterator[str]:
    """Serve open disks from a thread; gives the path of the Unix socket. The disks stay open."""
    # Short, wherever the test's own folder is: the name of a socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="nbd") as folder:
        path = f"{folder}/s"
        note = warnings.append if warnings is not None else None
        served = {name: Served(disk, f"disk {name}") for name, disk in disks.items()}
        with Server(
            served, [listen_unix(path)], tls=tls, warn=note, most_clients=most_clients
        ) as server:
            thread = Thread(target=server.serve, name="nbd-server")
            thread.start()
            try:
                yield path
            finally:
                server.stop()
                thread.join(SECONDS)
                assert not thread.is_alive(), "the server does not end"


def uri(path: str, name: str = "", **query: str) -> str:
    """How to call an export behind a Unix socket."""
    more = "".join(f"&{key.replace('_', '-')}={quote(v)}" for key, v in query.items())
    scheme = "nbds+unix" if "tls_certificates" in query else "nbd+unix"
    return f"{scheme}:///{quote(name, safe='')}?socket={quote(path)}{more}"


class Process:
    """`diskkit serve` as a process of its own."""

    def __init__(self, *words: str | Path) -> None:
        self._run = subprocess.Popen(
            [sys.executable, "-m", "diskkit", "serve", "--json", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._run.stdout is not None
        line = self._run.stdout.readline()
        if not line:
            _, errors = self._run.communicate(timeout=SECONDS)
            raise AssertionError(f"status {self._run.returncode}: {errors}")
        status = json.loads(line)
        assert status["state"] == "serving"
        self.uris: list[str] = status["uris"]
        self.pid = self._run.pid
        assert status["pid"] == self.pid

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; returns the exit status and what was said on standard error."""
        os.kill(self.pid, number)
        _, errors = self._run.communicate(timeout=SECONDS)
        return self._run.returncode, errors


@contextmanager
def process(*words: str | Path) -> Iterator[Process]:
    """The same, ended when the block ends; it must end well, and say nothing."""
    server = Process(*words)
    try:
        yield server
    except BaseException:
        server.end(signal.SIGKILL)
        raise
    status, errors = server.end()
    assert (status, errors) == (0, "")


def certificates(folder: Path, *, client: bool = False) -> Path:
    """An authority and a server's certificate for localhost, and a client's if wanted."""
    openssl = requires("openssl")
    folder.mkdir()

    def run(*words: str | Path) -> None:
        subprocess.run(
            [openssl, *map(str, words)], check=True, capture_output=True, timeout=SECONDS
        )

    def new_key(name: str) -> Path:
        key = folder / f"{name}-key.pem"
        run("ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", key)
        return key

    authority = new_key("ca"), folder / "ca-cert.pem"
    run(
        *("req", "-x509", "-new", "-key", authority[0], "-out", authority[1], "-days", "2"),
        *("-subj", "/CN=test authority", "-addext", "keyUsage=critical,keyCertSign"),
    )
    for name in ("server", "client")[: 1 + client]:
        request, extra = folder / f"{name}.csr", folder / f"{name}.ext"
        key = new_key(name)
        extra.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1\n")
        run("req", "-new", "-key", key, "-out", request, "-subj", f"/CN={name}")
        run(
            *("x509", "-req", "-in", request, "-CA", authority[1], "-CAkey", authority[0]),
            *("-CAcreateserial", "-days", "2", "-extfile", extra),
            *("-out", folder / f"{name}-cert.pem"),
        )
    return folder
