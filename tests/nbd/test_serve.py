# SPDX-License-Identifier: Apache-2.0
"""`diskkit serve` as a process: how it starts, what it promises, how it ends, and encryption."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import ssl
import stat
import subprocess
import sys
from threading import Thread
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.cli import main
from diskkit.errors import ConnectionLost, RemoteError
from diskkit.nbd import protocol as p
from diskkit.nbd.listening import listen_tcp, listen_unix
from diskkit.nbd.server import server_context
from diskkit.testing import allocated_chunks
from nbd.serving import SECONDS, Process, certificates, process, serving, uri
from nbd.wire import GO, HELLO, STRUCTURED, Wire, option

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 4 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.vmdk"
    diskkit.create_disk(path, SIZE, "monolithicSparse")
    with diskkit.open_disk(path, writable=True) as disk:
        disk.write(1 << 20, random.Random(1).randbytes(2 << 16))
    return path


def diskkit_(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "diskkit", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def same(name: str, path: Path) -> bool:
    with diskkit.open_disk(name) as one, diskkit.open_disk(path) as two:
        return diskkit.compare(one, two).identical


def test_an_export_is_a_disk_for_every_verb_that_reads(image: Path, tmp_path: Path) -> None:
    with process(image, "--socket", tmp_path / "s") as server:
        (name,) = server.uris
        info = json.loads(diskkit_("info", name, "--json").stdout)
        assert (info["format"], info["capacity"], info["path"]) == ("nbd", SIZE, name)
        assert "nbd" in diskkit_("info", name).stdout
        runs = json.loads(diskkit_("map", name, "--json").stdout)["runs"]
        with diskkit.open_disk(image) as disk:
            assert [(r["offset"], r["length"], r["state"]) for r in runs] == [
                (r.offset, r.length, str(r.state)) for r in disk.runs()
            ]
        assert "data in link 0" in diskkit_("map", name).stdout
        for kind in ("raw", "monolithicSparse", "streamOptimized"):
            target = tmp_path / (f"{kind}.raw" if kind == "raw" else f"{kind}.vmdk")
            done = diskkit_("convert", name, target, "--type", kind, "--verify", "-q")
            assert (done.returncode, done.stderr) == (0, "")
            assert same(str(target), image)
        done = diskkit_("compare", name, image)
        assert (done.returncode, done.stdout) == (0, "identical\n")
        done = diskkit_("changed", image, name, "--json")
        assert json.loads(done.stdout)["runs"] == []


def test_clients_read_only_unless_told_otherwise(image: Path, tmp_path: Path) -> None:
    before = image.read_bytes()
    with process(image, "--socket", tmp_path / "s") as server:
        with pytest.raises(diskkit.UsageError, match="lets nobody write"):
            diskkit.open_disk(server.uris[0], writable=True)
        # Others may read the file meanwhile.
        with diskkit.open_disk(image) as disk:
            assert disk.size == SIZE
    assert image.read_bytes() == before
    with process(image, "--socket", tmp_path / "s", "--writable") as server:
        with diskkit.open_disk(server.uris[0], writable=True) as disk:
            disk.write(5, b"hello")
        with pytest.raises(diskkit.LockedError):
            diskkit.open_disk(image)
    with diskkit.open_disk(image) as disk:
        assert disk.read(5, 5) == b"hello"


def test_an_overlay_keeps_what_clients_write(image: Path, tmp_path: Path) -> None:
    before = image.read_bytes()
    scratch = tmp_path / "elsewhere" / "scratch.vmdk"
    scratch.parent.mkdir()
    for expected in (b"\0\0\0\0\0", b"first"):
        with (
            process(image, "--socket", tmp_path / "s", "--overlay", scratch) as server,
            diskkit.open_disk(server.uris[0], writable=True) as disk,
        ):
            assert disk.read(5, 5) == expected
            disk.write(5, b"first")
    assert image.read_bytes() == before


def test_the_socket_file(image: Path, tmp_path: Path) -> None:
    place = tmp_path / "s"
    with process(image, "--socket", place):
        assert stat.S_ISSOCK(place.stat().st_mode)
        done = diskkit_("serve", image, "--socket", place)
        assert done.returncode == 11
        assert done.stderr == f"diskkit: {place}: another program listens there\n"
    assert not place.exists()
    place.write_text("precious")
    done = diskkit_("serve", image, "--socket", place)
    assert done.returncode == 1
    assert "is no socket" in done.stderr
    assert place.read_text() == "precious"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_in_good_order(image: Path, tmp_path: Path, number: int) -> None:
    server = Process(image, "--socket", tmp_path / "s", "--writable")
    idle = Wire(str(tmp_path / "s"))
    disk = diskkit.open_disk(server.uris[0], writable=True)
    disk.write(0, b"not flushed by the client")
    assert server.end(number) == (0, "")
    with pytest.raises(ConnectionLost):
        disk.read(0, 1)
    assert idle.hung_up()
    idle.socket.close()
    with pytest.raises(ConnectionLost):
        disk.close()
    with diskkit.open_disk(image) as after:
        assert after.read(0, 25) == b"not flushed by the client"
    assert diskkit.check(image).ok


def test_killed_in_the_middle_of_writing(image: Path, tmp_path: Path) -> None:
    """What was flushed is there, nothing is broken, and a second start works."""
    place = tmp_path / "s"
    server = Process(image, "--socket", place, "--writable")
    disk = diskkit.open_disk(server.uris[0], writable=True)
    for n in range(16):
        disk.write(n * 200_000, bytes([n + 1]) * 150_000)
    disk.flush()

    def write_on() -> None:
        try:
            for n in range(100_000):
                disk.write(n * 4099 % (SIZE - 4096), bytes([n % 255 + 1]) * 4096)
        except ConnectionLost:
            return

    writer = Thread(target=write_on)
    disk.write(SIZE - 10, b"x")
    writer.start()
    with diskkit.open_disk(server.uris[0]) as other:
        while not any(other.read(150_000, 50_000)):
            pass
    assert server.end(signal.SIGKILL)[0] == -signal.SIGKILL
    writer.join(SECONDS)
    assert not writer.is_alive()
    with pytest.raises(ConnectionLost):
        disk.close()
    assert place.exists(), "nobody was there to remove it"
    assert not [x for x in diskkit.check(image).problems if x.severity == "error"]
    second = Process(image, "--socket", place, "--writable")
    with diskkit.open_disk(second.uris[0], writable=True) as again:
        for n in range(16):
            # As flushed, but for what was written over it later.
            assert again.read(n * 200_000, 150_000).count(0) == 0, n
        again.write(0, b"on we go")
        assert again.read(0, 8) == b"on we go"
    assert second.end()[0] == 0
    assert diskkit.check(image).ok


def test_ports(image: Path) -> None:
    with process(image, "--port", "0") as server:
        assert all(u.startswith(("nbd://127.0.0.1:", "nbd://[::1]:")) for u in server.uris)
        assert len({u.rpartition(":")[2] for u in server.uris}) == 1, "one port for all addresses"
        for name in server.uris:
            assert same(name, image)
        port = server.uris[0].rpartition(":")[2].rstrip("/")
        done = diskkit_("serve", image, "--port", port)
        assert done.returncode == 1
        assert "Address already in use" in done.stderr
    with process(image, "--port", "0", "--bind", "127.0.0.1") as server:
        assert len(server.uris) == 1


def test_several_disks_and_their_names(image: Path, tmp_path: Path) -> None:
    (tmp_path / "other.raw").write_bytes(b"o" * 1024)
    both = (image, tmp_path / "other.raw", "--socket", tmp_path / "s")
    with process(*both) as server:
        assert [u.partition("?")[0] for u in server.uris] == [
            "nbd+unix:///disk.vmdk",
            "nbd+unix:///other.raw",
        ]
        assert same(server.uris[0], image)
        with diskkit.open_disk(server.uris[1]) as disk:
            assert disk.read(0, 1024) == b"o" * 1024
    with process(*both, "--name", "a b", "--name", "") as server:
        assert server.uris[0].startswith("nbd+unix:///a%20b?")
        assert same(server.uris[0], image)


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("--writable", "--overlay", "x"), 2, "clients write to one of them"),
        (("--tls-verify-peer",), 2, "goes with --tls-certificates"),
        (("--tls-certificates", "/nowhere"), 2, "its certificates cannot be used"),
        (("--name", "a", "--name", "b"), 2, "2 names for 1 disks"),
        (("--name", "x" * 5000), 2, "at most 4096"),
        (("--socket", "/nowhere/s"), 1, "cannot listen there: No such file"),
        (("--socket", "x" * 200), 1, "cannot listen there"),
        (("--port", "0", "--bind", "no.such.host.invalid"), 2, "no such host"),
        (("/nowhere.vmdk",), 1, "No such file"),
    ],
)
def test_what_it_refuses(
    image: Path,
    capfd: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    status: int,
    text: str,
) -> None:
    assert main(["serve", str(image), *words]) == status
    _, said = capfd.readouterr()
    assert text in said
    assert said.count("\n") == 1


_ACTIVATE = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "diskkit", "serve", "--json", *sys.argv[2:]])
"""


def test_sockets_that_were_passed(image: Path, tmp_path: Path) -> None:
    place = str(tmp_path / "s")
    run = subprocess.Popen(
        [sys.executable, "-c", _ACTIVATE, place, str(image)], stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    try:
        (name,) = json.loads(run.stdout.readline())["uris"]
        assert same(name, image)
    finally:
        run.terminate()
        run.communicate(timeout=SECONDS)
    assert run.returncode == 0
    done = subprocess.run(
        [sys.executable, "-c", _ACTIVATE, str(tmp_path / "t"), str(image), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 2
    assert "passed sockets" in done.stderr


def test_variables_meant_for_another_process(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    with process(image, "--port", "0") as server:
        assert same(server.uris[0], image)


def test_listening_on_unix_sockets_and_ports(tmp_path: Path) -> None:
    dead = listen_unix(str(tmp_path / "s"))
    dead.close()  # and its file stays
    with listen_unix(str(tmp_path / "s")), pytest.raises(diskkit.LockedError):
        listen_unix(str(tmp_path / "s"))
    for listener in listen_tcp("", 0):
        assert listener.getsockname()[1] > 0
        listener.close()


def test_status_of_a_disk_served_follows_its_writes(image: Path, tmp_path: Path) -> None:
    with (
        process(image, "--socket", tmp_path / "s", "--writable") as server,
        diskkit.open_disk(server.uris[0], writable=True) as disk,
    ):
        disk.discard(0, SIZE)
        assert list(disk.allocated()) == []
        disk.write(1 << 16, b"x" * (1 << 16))
        assert list(disk.allocated()) == allocated_chunks(list(disk.runs()), 65536, SIZE)
        assert list(disk.allocated()) == [(1 << 16, 1 << 16)]


# --- encryption -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates(tmp_path_factory.mktemp("tls") / "certs", client=True)


def test_encrypted(image: Path, tmp_path: Path, folder: Path) -> None:
    place = tmp_path / "s"
    with process(
        image, "--socket", place, "--port", "0", "--writable", "--tls-certificates", folder
    ) as server:
        for name in server.uris:
            assert name.startswith("nbds")
            mark = "&" if "?" in name else "?"
            secure = f"{name}{mark}tls-certificates={folder}"
            with diskkit.open_disk(secure, writable=True) as disk:
                data = random.Random(2).randbytes(2 << 20)
                disk.write(1000, data)
                disk.flush()
                assert disk.read(1000, len(data)) == data
                assert list(disk.runs())
            # An authority that signed nothing of this.
            with pytest.raises(ConnectionLost, match="certificate"):
                diskkit.open_disk(name)
        # In the clear nothing is to be had.
        with pytest.raises(diskkit.DiskkitError, match="wants encryption"):
            diskkit.open_disk(uri(str(place)))


def test_a_certificate_for_another_host(image: Path, folder: Path) -> None:
    context = server_context(str(folder))
    with diskkit.open_disk(image) as disk, serving({"": disk}, tls=context) as path:
        good = uri(path, tls_certificates=str(folder))
        with diskkit.open_disk(good) as export:
            assert export.size == SIZE
        with pytest.raises(ConnectionLost, match="certificate"):
            diskkit.open_disk(good + "&tls-hostname=elsewhere.example")


def test_clients_must_show_a_certificate(image: Path, tmp_path: Path, folder: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "ca-cert.pem").write_bytes((folder / "ca-cert.pem").read_bytes())
    context = server_context(str(folder), verify=True)
    with diskkit.open_disk(image) as disk, serving({"": disk}, tls=context) as path:
        with diskkit.open_disk(uri(path, tls_certificates=str(folder))) as export:
            assert export.size == SIZE
        with pytest.raises(RemoteError):
            diskkit.open_disk(uri(path, tls_certificates=str(bare)))


def test_requests_in_the_clear_end_an_encrypted_session(image: Path, folder: Path) -> None:
    """What follows STARTTLS at once was not encrypted: nothing of it may count."""
    warnings: list[str] = []
    context = server_context(str(folder))
    with (
        diskkit.open_disk(image) as disk,
        serving({"": disk}, tls=context, warnings=warnings) as path,
    ):
        client = Wire(path)
        with client.socket:
            client.send(HELLO + option(5) + STRUCTURED + GO)
            while not client.hung_up():
                pass
    assert len(warnings) == 1
    assert "did not wait" in warnings[0]


def test_leaving_at_every_step_of_an_encrypted_session(image: Path, folder: Path) -> None:
    context = server_context(str(folder))
    trust = ssl.create_default_context(cafile=str(folder / "ca-cert.pem"))
    with diskkit.open_disk(image) as disk, serving({"": disk}, tls=context) as path:
        for steps in range(5):
            client = Wire(path)
            with client.socket:
                client.send(HELLO)
                if steps > 0:
                    client.options(option(5))
                if steps > 1:
                    client.socket = trust.wrap_socket(client.socket, server_hostname="localhost")
                if steps > 2:
                    client.options(GO)
                if steps > 3:
                    client.request(p.READ, 0, 1 << 20)
                client.socket.close()
        with diskkit.open_disk(uri(path, tls_certificates=str(folder))) as export:
            assert export.size == SIZE


def test_a_server_that_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diskkit.nbd.connection.SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        with pytest.raises(ConnectionLost, match="no answer"):
            diskkit.open_disk(uri(str(tmp_path / "s")))
