# SPDX-License-Identifier: Apache-2.0
"""Our exports as files, by other programs: they are NBD clients on one side, FUSE on the other."""

from __future__ import annotations

import os
import random
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.fuse.mounting import rows
from makers.peers import SKIP_PREFIX, requires
from nbd.serving import SECONDS, process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
SIZE = 64 * MIB
PLACES = (0, 20 * MIB, SIZE - MIB)
"""Where there is a MiB of data."""


@pytest.fixture
def disk(tmp_path: Path) -> tuple[Path, bytes]:
    path, content = tmp_path / "disk.vmdk", bytearray(SIZE)
    diskkit.create_disk(path, SIZE, "monolithicSparse")
    with diskkit.open_disk(path, writable=True) as made:
        for place in PLACES:
            data = random.Random(place).randbytes(MIB)
            made.write(place, data)
            content[place : place + MIB] = data
    return path, bytes(content)


@contextmanager
def shown(where: Path, *command: str | Path) -> Iterator[None]:
    """Another program shows something at a place, until the block ends."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.geteuid():
        pytest.skip(f"{SKIP_PREFIX} /dev/fuse, as root")

    def is_there() -> bool:
        return any(row.folder == str(where) for row in rows())

    peer = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + SECONDS
        while not is_there():
            if peer.poll() is not None or time.monotonic() > until:
                pytest.fail(peer.communicate()[1].decode(errors="replace"))
            os.sched_yield()
        yield
    finally:
        peer.terminate()
        try:
            peer.communicate(timeout=SECONDS)
        finally:
            peer.kill()
            if is_there():
                subprocess.run(["umount", "-l", where], check=True, timeout=SECONDS)


def storage_daemon(socket: Path, file: Path, *, writable: bool) -> tuple[str, ...]:
    client = f"driver=nbd,node-name=disk,server.type=unix,server.path={socket}"
    export = f"type=fuse,id=export,node-name=disk,mountpoint={file}"
    return (
        requires("qemu-storage-daemon"),
        *("--blockdev", f"{client},read-only={'off' if writable else 'on'}"),
        *("--export", f"{export},writable={'on' if writable else 'off'}"),
    )


def test_qemu_storage_daemon_shows_our_export(tmp_path: Path, disk: tuple[Path, bytes]) -> None:
    path, content = disk
    socket, file = tmp_path / "s", tmp_path / "file"
    command = storage_daemon(socket, file, writable=False)
    file.touch()
    with process(path, "--socket", socket), shown(file, *command):
        assert file.read_bytes() == content
        fd = os.open(file, os.O_RDONLY)
        try:
            # Our map, all the way through NBD and its file.
            for place in PLACES[1:]:
                assert os.lseek(fd, place - MIB, os.SEEK_DATA) == place
            assert os.lseek(fd, PLACES[1], os.SEEK_HOLE) == PLACES[1] + MIB
        finally:
            os.close(fd)


def test_nbdfuse_shows_our_export(tmp_path: Path, disk: tuple[Path, bytes]) -> None:
    path, content = disk
    nbdfuse = requires("nbdfuse")
    socket, folder = tmp_path / "s", tmp_path / "folder"
    folder.mkdir()
    with (
        process(path, "--socket", socket),
        shown(folder, nbdfuse, "-r", folder / "file", f"nbd+unix:///?socket={socket}"),
    ):
        assert (folder / "file").read_bytes() == content


@pytest.mark.parametrize("peer", ["qemu-storage-daemon", "nbdfuse"])
def test_what_is_written_through_them_is_in_the_disk(
    tmp_path: Path, disk: tuple[Path, bytes], peer: str
) -> None:
    path, content = disk
    socket, where = tmp_path / "s", tmp_path / "where"
    if peer == "nbdfuse":
        where.mkdir()
        file = where / "file"
        command: tuple[str, ...] = (requires(peer), str(file), f"nbd+unix:///?socket={socket}")
    else:
        where.touch()
        file = where
        command = storage_daemon(socket, where, writable=True)
    model, dice = bytearray(content), random.Random(peer)
    with process(path, "--socket", socket, "--writable"), shown(where, *command):
        fd = os.open(file, os.O_RDWR)
        try:
            for _ in range(40):
                offset = dice.randrange(SIZE - 100_000)
                data = dice.randbytes(dice.choice((1, 512, 4096, 70_000)))
                assert os.pwrite(fd, data, offset) == len(data)
                model[offset : offset + len(data)] = data
            os.fsync(fd)
        finally:
            os.close(fd)
        assert file.read_bytes() == model
    with diskkit.open_disk(path) as written:
        assert written.read(0, SIZE) == model
    assert diskkit.check(path).ok
