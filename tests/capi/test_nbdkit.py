# SPDX-License-Identifier: Apache-2.0
"""nbdkit's own vddk plugin, unmodified, on our library: the client that matters most.

`scripts/setup --peers` gets it; DISKKIT_VDDK_PLUGIN says where another one is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit import vixdisklib as vix
from diskkit.interfaces import OpenPolicy
from makers.peers import SKIP_PREFIX, qemu_img, requires

if TYPE_CHECKING:
    from capi.conftest import Native

CHUNK = 65536
SIZE = 40 * CHUNK
KINDS = {
    "monolithicFlat": 2,
    "twoGbMaxExtentFlat": 4,
    "monolithicSparse": 1,
    "twoGbMaxExtentSparse": 3,
    "vmfsThin": 7,
}


@pytest.fixture(scope="session")
def plugin() -> str:
    path = os.environ.get("DISKKIT_VDDK_PLUGIN") or f"{sys.prefix}/peers/nbdkit-vddk-plugin.so"
    if not Path(path).is_file():
        pytest.skip(f"{SKIP_PREFIX} nbdkit-vddk-plugin")
    requires("nbdkit")
    requires("nbdinfo")
    requires("nbdcopy")
    return path


class Server:
    """nbdkit with the plugin on our library."""

    def __init__(self, native: Native, plugin: str, folder: Path) -> None:
        self.native = native
        self.plugin = plugin
        self.folder = folder

    def run(
        self, disk: str | Path, script: str, *options: str, flags: tuple[str, ...] = ("-r",)
    ) -> subprocess.CompletedProcess[str]:
        """Serve `disk` while a shell runs `script`, which knows $uri."""
        command = [requires("nbdkit"), "-f", *flags, "-U", "-", "-D", "vddk.datapath=0"]
        command += [self.plugin, f"libdir={self.native.folder}", f"file={disk}", *options]
        return subprocess.run(
            [*command, "--run", f"set -e; {script}"],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.folder,
            env={**os.environ, "LC_ALL": "C"},
        )

    def out(self, disk: str | Path, script: str, *options: str, writing: bool = False) -> str:
        """What `script` printed, when all went well."""
        done = self.run(disk, script, *options, flags=() if writing else ("-r",))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def map(self, disk: Path, *options: str) -> list[tuple[int, int, int]]:
        found = json.loads(self.out(disk, 'timeout 60 nbdinfo --map --json "$uri"', *options))
        return [(e["offset"], e["length"], e["type"]) for e in found]

    def content(self, disk: Path, *options: str) -> bytes:
        self.out(disk, 'timeout 60 nbdcopy "$uri" out.raw', *options)
        return (self.folder / "out.raw").read_bytes()


@pytest.fixture
def server(native: Native, plugin: str, tmp_path: Path) -> Server:
    return Server(native, plugin, tmp_path)


def guest(seed: int = 1, size: int = SIZE) -> bytes:
    """Data in some chunks, none in others, and in the last bytes."""
    content = bytearray(size)
    for chunk in (1, 2, 7, 8, 9, 30):
        for at in range(chunk * CHUNK, chunk * CHUNK + CHUNK, 512):
            content[at : at + 8] = (at * seed + 1).to_bytes(8, "little")
    content[-512:] = bytes([seed]) * 512
    return bytes(content)


def expected(disk: Path, size: int, *, single: bool = False) -> list[tuple[int, int, int]]:
    """The map that nbdkit makes of our answers: 64 KiB chunks, an odd tail is data."""
    with diskkit.open_disk(disk, single_link=single) as opened:
        allocated = list(opened.allocated(0, size - size % CHUNK, CHUNK))
    marks = bytearray(b"h" * (size // CHUNK)) + (b"d" if size % CHUNK else b"")
    for offset, length in allocated:
        for chunk in range(offset // CHUNK, (offset + length) // CHUNK):
            marks[chunk : chunk + 1] = b"d"
    # NBD: 1 is a hole, 2 reads as zeros.
    hole = 1 if single else 3
    found: list[tuple[int, int, int]] = []
    for number, mark in enumerate(marks):
        kind = 0 if mark == ord("d") else hole
        begin, end = number * CHUNK, min((number + 1) * CHUNK, size)
        if found and found[-1][2] == kind:
            found[-1] = (found[-1][0], end - found[-1][0], kind)
        else:
            found.append((begin, end - begin, kind))
    return found


def made(folder: Path, kind: str, content: bytes) -> Path:
    raw, disk = folder / "in.raw", folder / f"{kind}.vmdk"
    raw.write_bytes(content)
    with diskkit.open_disk(raw) as opened:
        diskkit.clone(opened, disk, kind)
    return disk


@pytest.mark.parametrize("kind", [*KINDS, "streamOptimized"])
@pytest.mark.parametrize("size", [SIZE, SIZE + 3 * 512])
def test_bytes_and_extents_are_ours(server: Server, kind: str, size: int) -> None:
    content = guest(size=size)
    disk = made(server.folder, kind, content)
    assert server.content(disk) == content
    assert server.map(disk) == expected(disk, size)


@pytest.mark.parametrize(
    ("base_kind", "kind"),
    [
        ("monolithicSparse", "monolithicSparse"),
        ("twoGbMaxExtentFlat", "twoGbMaxExtentSparse"),
        ("vmfs", "vmfsSparse"),
        ("vmfs", "seSparse"),
    ],
)
def test_a_chain_and_its_leaf_alone(server: Server, base_kind: str, kind: str) -> None:
    base = made(server.folder, base_kind, guest())
    child, content = server.folder / "child.vmdk", bytearray(guest())
    diskkit.create_child(base, child, kind, experimental=True)
    policy = OpenPolicy(writable=True, experimental=True)
    with diskkit.open_disk(child, policy=policy) as disk:
        disk.write(5 * CHUNK, b"c" * CHUNK)
        disk.write(30 * CHUNK, bytes(CHUNK))
    content[5 * CHUNK : 6 * CHUNK] = b"c" * CHUNK
    content[30 * CHUNK : 31 * CHUNK] = bytes(CHUNK)
    assert server.content(child) == content
    assert server.map(child) == expected(child, SIZE)
    assert server.map(child, "single-link=true") == expected(child, SIZE, single=True)


@pytest.mark.parametrize("kind", KINDS)
def test_writes(server: Server, kind: str) -> None:
    disk = made(server.folder, kind, bytes(SIZE))
    (server.folder / "new.raw").write_bytes(guest(7))
    server.out(disk, 'timeout 60 nbdcopy --flush new.raw "$uri"', writing=True)
    with diskkit.open_disk(disk) as opened:
        assert opened.read(0, SIZE) == guest(7)
    compared = qemu_img("compare", "-f", "raw", "-F", "vmdk", server.folder / "new.raw", disk)
    if kind != "vmfsThin":  # qemu does not know its create type as one to compare strictly
        assert compared.returncode == 0, compared.stdout + compared.stderr


def test_create(server: Server) -> None:
    disk = server.folder / "new.vmdk"
    (server.folder / "new.raw").write_bytes(guest(3))
    script = 'timeout 60 nbdcopy --flush new.raw "$uri"'
    options = ("create=true", f"create-size={SIZE}", "create-type=split-sparse")
    server.out(disk, script, *options, writing=True)
    with diskkit.open_disk(disk) as opened:
        assert opened.info.create_type == "twoGbMaxExtentSparse"
        assert opened.read(0, SIZE) == guest(3)
    assert qemu_img("check", "-f", "vmdk", disk).returncode in (0, 63)
    again = server.run(disk, 'timeout 60 nbdinfo "$uri"', *options, flags=())
    assert again.returncode != 0
    assert "exists already" in again.stderr


def test_fua_and_flush(server: Server) -> None:
    disk = made(server.folder, "monolithicSparse", bytes(SIZE))
    program = (
        "h.pwrite(b'f' * 65536, 65536, nbd.CMD_FLAG_FUA); h.pwrite(b'n' * 512, 512); h.flush();"
        "print(h.can_fua(), h.can_flush())"
    )
    shell = "PATH=/usr/bin:$PATH timeout 60 nbdsh -u"
    assert server.out(disk, f'{shell} "$uri" -c "{program}"', writing=True) == "True True\n"
    with diskkit.open_disk(disk) as opened:
        assert opened.read(65536, 65536) == b"f" * 65536
        assert opened.read(512, 512) == b"n" * 512


def test_several_connections_at_once(server: Server) -> None:
    disk = made(server.folder, "monolithicSparse", guest())
    script = (
        'for n in 1 2 3 4; do timeout 60 nbdcopy "$uri" out$n.raw & done; wait;'
        'for n in 1 2 3 4; do cmp out$n.raw in.raw; done; timeout 60 nbdinfo --size "$uri"'
    )
    assert server.out(disk, script) == f"{SIZE}\n"


def test_dump_plugin_names_every_function(native: Native, plugin: str) -> None:
    command = [requires("nbdkit"), plugin, "--dump-plugin", f"libdir={native.folder}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    assert found["vddk_library_version"] == "8"
    assert found["vddk_transport_modes"] == vix.ListTransportModes()
    assert Path(found["vddk_dll"]).samefile(native.library)
    names = {name for name in found if name.startswith("VixDiskLib_")}
    assert {found[name] for name in names} == {"1"}
    assert {"VixDiskLib_QueryAllocatedBlocks", "VixDiskLib_AllocateConnectParams"} <= names
    assert len(names) == 23


def test_a_disk_smaller_than_a_chunk_has_extents(server: Server) -> None:
    disk = made(server.folder, "monolithicSparse", bytes(512) + b"x" * 512)
    assert server.content(disk) == bytes(512) + b"x" * 512
    assert server.map(disk) == [(0, 1024, 0)]


def test_the_unaligned_tail(server: Server) -> None:
    size = 4 * CHUNK + 3 * 512
    disk = made(server.folder, "monolithicSparse", b"r" * 3 * CHUNK + bytes(CHUNK + 1536))
    assert server.map(disk) == [
        (0, 3 * CHUNK, 0),
        (3 * CHUNK, CHUNK, 3),
        (4 * CHUNK, size - 4 * CHUNK, 0),
    ]


def test_a_missing_disk_is_said_plainly(server: Server) -> None:
    done = server.run("/images/missing.vmdk", 'timeout 60 nbdinfo "$uri"')
    assert done.returncode != 0
    assert "/images/missing.vmdk: No such file or directory" in done.stderr


def test_allocator_checks(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is handed out is freed by the allocator it came from."""
    monkeypatch.setenv("LD_PRELOAD", "libc_malloc_debug.so.0")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1:glibc.malloc.perturb=77")
    disk = made(server.folder, "monolithicSparse", guest())
    script = 'unset LD_PRELOAD; timeout 60 nbdcopy "$uri" out.raw'
    server.out(disk, script)
    assert (server.folder / "out.raw").read_bytes() == guest()
