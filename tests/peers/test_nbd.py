# SPDX-License-Identifier: Apache-2.0
"""NBD with programs that others wrote: theirs as clients of our server, and as servers of ours."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.nbd.listening import listen_tcp, listen_unix
from diskkit.nbd.server import Served, Server, server_context
from diskkit.testing import cut_runs
from makers.peers import SKIP_PREFIX, qemu_img, qemu_raw, requires
from nbd.serving import SECONDS, certificates, serving, uri
from nbd.test_disks import anonymous

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SIZE = 8 << 20
GRAIN = 1 << 16


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Grains of data, of zeros, and holes, over a parent that has some, too."""
    dice = random.Random(7)
    base, path = tmp_path / "base.vmdk", tmp_path / "disk.vmdk"
    diskkit.create_disk(base, SIZE, "monolithicSparse")
    with diskkit.open_disk(base, writable=True) as disk:
        for grain in (1, 2, 3, 20, 21, 50, 127):
            disk.write(grain * GRAIN, dice.randbytes(GRAIN))
    diskkit.create_child(base, path)
    with diskkit.open_disk(path, writable=True) as disk:
        for grain in (3, 4, 60, 61, 62):
            disk.write(grain * GRAIN, dice.randbytes(GRAIN))
        disk.discard(20 * GRAIN, GRAIN)
    return path


def content_of(path: Path) -> bytes:
    with diskkit.open_disk(path) as disk:
        return disk.read(0, disk.size)


def run(*words: str | Path) -> str:
    """What a program that must succeed prints."""
    done = subprocess.run(
        [requires(str(words[0])), *map(str, words[1:])],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        # Our test modules shall not stand in for those of others.
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"LC_ALL": "C"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def served(path: Path, *, writable: bool = False) -> Iterator[str]:
    with diskkit.open_disk(path, writable=writable) as disk, serving({"": disk}) as socket:
        yield uri(socket)


# --- their clients --------------------------------------------------------------------------------


def test_nbdinfo(image: Path) -> None:
    with served(image) as name:
        (export,) = json.loads(run("nbdinfo", "--json", name))["exports"]
        assert export["export-size"] == SIZE
        assert export["is_read_only"]
        assert export["can_multi_conn"]
        assert export["can_df"]
        assert export["contexts"] == ["base:allocation", "qemu:allocation-depth"]
        run("nbdinfo", "--list", name)
        extents = json.loads(run("nbdinfo", "--map", "--json", name))
        depths = json.loads(run("nbdinfo", "--map=qemu:allocation-depth", "--json", name))
    with diskkit.open_disk(image) as disk:
        for extent in extents:
            runs = cut_runs(list(disk.runs()), extent["offset"], extent["length"])
            assert {r.state == diskkit.State.DATA for r in runs} == {extent["type"] == 0}
        for extent in depths:
            runs = cut_runs(list(disk.runs()), extent["offset"], extent["length"])
            links = {0 if r.state == diskkit.State.HOLE else r.link + 1 for r in runs}
            assert links == {extent["type"]}
        assert {d["type"] for d in depths} == {0, 1, 2}
    with served(image, writable=True) as name:
        (export,) = json.loads(run("nbdinfo", "--json", name))["exports"]
        for can in ("flush", "fua", "trim", "zero", "fast_zero", "cache", "multi_conn"):
            assert export[f"can_{can}"], can
        assert not export["is_read_only"]


@pytest.mark.parametrize("options", [(), ("--connections=4", "--requests=64"), ("--synchronous",)])
def test_nbdcopy_reads(image: Path, tmp_path: Path, options: Sequence[str]) -> None:
    out = tmp_path / "out.raw"
    with served(image) as name:
        run("nbdcopy", *options, name, out)
    assert out.read_bytes() == content_of(image)


def test_nbdcopy_writes(tmp_path: Path) -> None:
    source, target = tmp_path / "in.raw", tmp_path / "new.vmdk"
    source.write_bytes(random.Random(3).randbytes(3 << 20) + bytes(5 << 20))
    diskkit.create_disk(target, SIZE, "monolithicSparse")
    with served(target, writable=True) as name:
        run("nbdcopy", "--flush", "--connections=4", source, name)
    assert content_of(target) == source.read_bytes()
    assert qemu_raw(target) == source.read_bytes()
    with diskkit.open_disk(target) as disk:
        assert [tuple(r) for r in disk.allocated()] == [(0, 3 << 20)]


def test_qemu_img(image: Path, tmp_path: Path) -> None:
    with served(image) as name:
        assert qemu_img("compare", "-f", "raw", "-F", "vmdk", name, image).returncode == 0
        info = json.loads(qemu_img("info", "--output=json", "-f", "raw", name).stdout)
        assert info["virtual-size"] == SIZE
        ours = json.loads(qemu_img("map", "--output=json", "-f", "raw", name).stdout)
        done = qemu_img("convert", "-n", "-f", "raw", "-O", "raw", name, tmp_path / "out.raw")
        assert done.returncode, "-n wants a target that is there"
        done = qemu_img("convert", "-f", "raw", "-O", "raw", name, tmp_path / "out.raw")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.raw").read_bytes() == content_of(image)
    theirs = json.loads(qemu_img("map", "--output=json", "-f", "vmdk", image).stdout)
    assert data_of(ours) == data_of(theirs)


def data_of(entries: list[dict[str, int]]) -> list[tuple[int, int]]:
    """Where data is, neighbours joined."""
    found: list[tuple[int, int]] = []
    for entry in entries:
        begin, end = entry["start"], entry["start"] + entry["length"]
        if entry["data"] and found and found[-1][1] == begin:
            found[-1] = found[-1][0], end
        elif entry["data"]:
            found.append((begin, end))
    return found


def test_qemu_io(tmp_path: Path) -> None:
    """Its writes, zeros, discards and flushes, against the same on a raw file."""
    target, twin = tmp_path / "new.vmdk", tmp_path / "twin.raw"
    diskkit.create_disk(target, SIZE, "monolithicSparse")
    twin.write_bytes(bytes(SIZE))
    dice = random.Random(9)
    commands = []
    for _ in range(60):
        length = dice.choice((512, 4096, GRAIN, 3 * GRAIN, 100_352))
        offset = dice.randrange((SIZE - length) // 512) * 512
        pattern = dice.randrange(1, 256)
        commands.append(
            dice.choice(
                (
                    f"write -q -P {pattern} {offset} {length}",
                    f"write -q -f -P {pattern} {offset} {length}",
                    f"aio_write -q -P {pattern} {offset} {length}",
                    f"write -q -z {offset} {length}",
                    f"write -q -z -u {offset} {length}",
                    "flush",
                )
            )
        )
        commands.append("aio_flush")
    words = [word for command in commands for word in ("-c", command)]
    with served(target, writable=True) as name:
        run("qemu-io", "-f", "raw", *words, name)
        run("qemu-io", "-f", "raw", *words, twin)
        run("qemu-io", "-f", "raw", "-c", f"discard -q 0 {GRAIN}", name)
    with twin.open("r+b") as file:
        file.write(bytes(GRAIN))
    assert content_of(target) == twin.read_bytes()
    assert diskkit.check(target).ok


_LIBNBD = """
import random, sys
import nbd
assert hasattr(nbd, "NBD"), nbd.__file__
size = 8 << 20
handles = []
for _ in range(4):
    h = nbd.NBD()
    h.add_meta_context("base:allocation")
    h.add_meta_context("qemu:allocation-depth")
    h.connect_uri(sys.argv[1])
    handles.append(h)
assert handles[0].get_structured_replies_negotiated()
model = bytearray(handles[0].pread(size, 0))
dice = random.Random(5)
for number in range(600):
    h = dice.choice(handles)
    length = dice.choice((1, 512, 4096, 65536, 70000))
    offset = dice.randrange(size - length)
    if dice.random() < 0.3:
        length, offset = 65536, dice.randrange(size // 65536) * 65536
    what = dice.randrange(8)
    if what < 2:
        assert h.pread(length, offset) == model[offset:offset + length], (number, offset, length)
        continue
    if what < 4:
        data = dice.randbytes(length)
        h.pwrite(data, offset, dice.choice((0, nbd.CMD_FLAG_FUA)))
    elif what == 4:
        data = bytes(length)
        h.zero(length, offset, dice.choice((0, nbd.CMD_FLAG_NO_HOLE)))
    elif what == 5:
        try:
            h.zero(length, offset, nbd.CMD_FLAG_FAST_ZERO)
        except nbd.Error as error:
            assert error.errno in ("ENOTSUP", "EOPNOTSUPP"), error.errno
            assert offset % 65536 or length % 65536
            continue
        data = bytes(length)
    elif what == 6:
        data = bytes(length)
        h.trim(length, offset)
    else:
        h.cache(length, offset)
        h.flush()
        continue
    model[offset:offset + length] = data
# Many requests under way, over all connections.
pending = []
buffers = {}
for number in range(256):
    offset = dice.randrange(size - 5000)
    buffer = nbd.Buffer(5000)
    h = handles[number % 4]
    pending.append((h, h.aio_pread(buffer, offset), buffer, offset))
for h, cookie, buffer, offset in pending:
    while not h.aio_command_completed(cookie):
        h.poll(-1)
    assert buffer.to_bytearray() == model[offset:offset + 5000]
# The map covers the disk, and what it calls zeros is zeros.
seen = {}
def extents(context, offset, entries, error):
    at = offset
    for length, flags in zip(entries[::2], entries[1::2]):
        seen.setdefault(context, []).append((at, length, flags))
        at += length
    return 0
offset = 0
while offset < size:
    handles[0].block_status(size - offset, offset, extents)
    offset = min(sum(seen[c][-1][:2]) for c in seen)
for at, length, flags in seen["base:allocation"]:
    if flags & 2:
        assert not any(model[at:at + length])
assert set(seen) == {"base:allocation", "qemu:allocation-depth"}
for h in handles:
    h.shutdown()
print("all good")
"""


def test_libnbd(image: Path) -> None:
    python = "/usr/bin/python3"
    if subprocess.run([python, "-c", "import nbd; nbd.NBD"], capture_output=True, check=False,
                      env={"PATH": os.environ["PATH"]}).returncode:  # fmt: skip
        pytest.skip(f"{SKIP_PREFIX} python3-libnbd")
    with served(image, writable=True) as name:
        assert run(python, "-c", _LIBNBD, name) == "all good\n"
    assert diskkit.check(image).ok


def test_nbdkit_as_a_proxy(image: Path, tmp_path: Path) -> None:
    with served(image) as name, nbdkit("nbd", f"uri={name}", "shared=true") as proxy:
        run("nbdcopy", proxy, tmp_path / "out.raw")
        with diskkit.open_disk(proxy) as disk:
            assert disk.read(0, SIZE) == content_of(image)
    assert (tmp_path / "out.raw").read_bytes() == content_of(image)


def test_encrypted(image: Path, tmp_path: Path) -> None:
    folder = certificates(tmp_path / "certs")
    with (
        diskkit.open_disk(image) as disk,
        Server({"": Served(disk)}, listen_tcp("localhost", 0),
               tls=server_context(str(folder))) as server,
    ):  # fmt: skip
        port = server._listeners[0].getsockname()[1]
        thread = Thread(target=server.serve)
        thread.start()
        try:
            name = f"nbds://localhost:{port}/?tls-certificates={folder}"
            out = run("nbdinfo", "--json", name)
            assert json.loads(out)["TLS"]
            run("nbdcopy", name, tmp_path / "out.raw")
        finally:
            server.stop()
            thread.join(SECONDS)
    assert (tmp_path / "out.raw").read_bytes() == content_of(image)


# --- their servers --------------------------------------------------------------------------------


# A listening socket is handed over, so clients can come before the server has begun.
_ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.environ.pop("PYTHONPATH", None)
os.execv(sys.argv[2], sys.argv[2:])
"""


@contextmanager
def server(program: str, *words: str | Path) -> Iterator[str]:
    """A server of others on a Unix socket, as a URI."""
    command = [requires(program), *map(str, words)]
    with tempfile.TemporaryDirectory(prefix="nbd") as folder:
        path = f"{folder}/s"
        with listen_unix(path) as listener:
            number = listener.fileno()
            run = subprocess.Popen(
                [sys.executable, "-c", _ACTIVATE, str(number), *command], pass_fds=(number,)
            )
        try:
            yield uri(path)
        finally:
            run.terminate()
            try:
                run.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                run.kill()
                run.communicate()
                raise


@contextmanager
def nbdkit(*words: str | Path) -> Iterator[str]:
    with server("nbdkit", "-f", *words) as name:
        yield name


@contextmanager
def qemu_nbd(*words: str | Path) -> Iterator[str]:
    with server("qemu-nbd", "-t", "--shared=8", *words) as name:
        yield name


@pytest.mark.parametrize("depth", [False, True])
def test_reading_from_qemu_nbd(image: Path, tmp_path: Path, depth: bool) -> None:
    words = ["-A"] if depth else []
    with (
        qemu_nbd("-r", "-f", "vmdk", *words, image) as name,
        diskkit.open_disk(name) as export,
        diskkit.open_disk(image) as disk,
    ):
        assert diskkit.compare(export, disk).identical
        if depth:
            assert list(export.runs()) == anonymous(disk)
        assert [r[:2] for r in export.runs() if r.state == diskkit.State.DATA] == [
            r[:2] for r in anonymous(disk) if r.state == diskkit.State.DATA
        ]
        diskkit.clone(export, tmp_path / "copy.vmdk", "streamOptimized")
    assert qemu_raw(tmp_path / "copy.vmdk") == content_of(image)


def test_writing_to_qemu_nbd(tmp_path: Path) -> None:
    image = tmp_path / "new.qcow2"
    assert qemu_img("create", "-q", "-f", "qcow2", image, str(SIZE)).returncode == 0
    with qemu_nbd("-f", "qcow2", "--discard=unmap", image) as name:
        expected = write_all_sorts(name)
    assert qemu_raw(image, "qcow2") == expected


def write_all_sorts(name: str) -> bytes:
    """Writes of every sort to an export, held against a model; returns what is there then."""
    dice = random.Random(13)
    with diskkit.open_disk(name, writable=True) as disk:
        expected = bytearray(disk.read(0, disk.size))
        for number in range(80):
            length = dice.choice((1, 512, 5000, GRAIN, 1_000_000))
            offset = dice.randrange(disk.size - length)
            if number % 4 == 0:
                disk.zero(offset, length)
                expected[offset : offset + length] = bytes(length)
            elif number % 4 == 1:
                disk.discard(offset, length)
                expected[offset : offset + length] = bytes(length)
            else:
                data = dice.randbytes(length)
                disk.write(offset, data)
                expected[offset : offset + length] = data
            begin = max(0, offset - 1000)
            assert disk.read(begin, length) == expected[begin : begin + length]
            if number % 20 == 0:
                disk.flush()
        for run in disk.runs():
            if run.state != diskkit.State.DATA:
                assert not any(expected[run.offset : run.offset + run.length])
        assert disk.read(0, disk.size) == expected
    return bytes(expected)


@pytest.mark.parametrize(
    "words",
    [
        ("memory", str(SIZE)),
        ("memory", str(SIZE), "--filter=blocksize-policy", "blocksize-minimum=4096",
         "blocksize-preferred=4096", "blocksize-error-policy=error"),
        ("memory", str(SIZE), "--filter=nozero"),
        ("memory", str(SIZE), "--filter=noextents"),
        ("--no-sr", "memory", str(SIZE)),
        ("memory", str(SIZE), "--filter=multi-conn", "multi-conn-mode=disable"),
    ],
    ids=["plain", "whole-blocks", "no-zeroes", "no-map", "no-structured-replies", "one-connection"],
)  # fmt: skip
def test_writing_to_nbdkit(words: Sequence[str]) -> None:
    with nbdkit(*words) as name:
        expected = write_all_sorts(name)
        with diskkit.open_disk(name) as disk:
            assert disk.read(0, SIZE) == expected


def test_errors_of_nbdkit() -> None:
    words = ("memory", "8M", "--filter=error", "error-pread=ENOSPC", "error-pread-rate=100%")
    with (
        nbdkit(*words) as name,
        diskkit.open_disk(name) as disk,
        pytest.raises(diskkit.DiskkitError, match="no space left"),
    ):
        disk.read(0, 512)


def test_a_large_sparse_export(tmp_path: Path) -> None:
    """Nothing is as large as the server says it is."""
    with nbdkit("memory", "7E") as name, diskkit.open_disk(name) as disk:
        assert disk.size == 7 << 60
        assert next(disk.runs(0, 1 << 40)).state == diskkit.State.HOLE
        assert disk.read(disk.size - 512, 512) == bytes(512)
    if shutil.which("qemu-nbd"):
        (tmp_path / "big.raw").touch()
        os.truncate(tmp_path / "big.raw", 8 << 40)
        with qemu_nbd("-f", "raw", tmp_path / "big.raw") as name, diskkit.open_disk(name) as disk:
            assert [run.length for run in disk.runs()] == [8 << 40]


def test_our_client_and_our_server_behind_theirs(image: Path) -> None:
    """Through qemu-nbd as a client of ours: what is told of the map is right all the way."""
    with (
        served(image) as name,
        qemu_nbd("-r", "-f", "raw", name) as again,
        diskkit.open_disk(again) as export,
        diskkit.open_disk(image) as disk,
    ):
        assert diskkit.compare(export, disk).identical
        assert [r[:2] for r in export.runs() if r.state == diskkit.State.DATA] == [
            r[:2] for r in anonymous(disk) if r.state == diskkit.State.DATA
        ]
