# SPDX-License-Identifier: Apache-2.0
"""The example programs of examples/c: each option does on real disks what it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from makers.peers import qemu_img, qemu_raw, requires

if TYPE_CHECKING:
    from .conftest import Native

EXAMPLES = Path(__file__).parents[2] / "examples" / "c"
MIB = 1 << 20
OLD_WARNING = (
    "warning: connection parameters that the program declares itself are deprecated: use"
    " AllocateConnectParams; these have no QueryAllocatedBlocks and no first-class disks"
    " (unless the configuration file says diskkit.connectParams.allowOld=1)\n"
)


@pytest.fixture(scope="session")
def programs(native: Native, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where make put the programs, told by pkg-config where the library is."""
    make = requires("make")
    requires("pkg-config")
    out = tmp_path_factory.mktemp("examples")
    done = subprocess.run(
        [make, "-C", str(EXAMPLES), f"OUT={out}", "CFLAGS=-O1 -Wall -Wextra -Werror"],
        env={**os.environ, "PKG_CONFIG_PATH": str(native.lib64 / "pkgconfig")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return out


class Example:
    """`vixdisk`, run in a folder of its own."""

    def __init__(self, native: Native, programs: Path, folder: Path) -> None:
        self.native = native
        self.programs = programs
        self.folder = folder

    def __call__(self, *arguments: str, expect: int = 0) -> str:
        done = self.native.run(self.programs / "vixdisk", *arguments, cwd=self.folder)
        assert done.returncode == expect, done.stderr
        if expect:
            assert done.stdout == ""
            return done.stderr
        assert done.stderr == ""
        return done.stdout

    def raw(self, name: str = "d.vmdk") -> bytes:
        return qemu_raw(self.folder / name)


@pytest.fixture
def vixdisk(native: Native, programs: Path, tmp_path: Path) -> Example:
    return Example(native, programs, tmp_path)


def blocks(text: str) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in (line.split() for line in text.splitlines())]


def mapped(path: Path, chunk: int) -> list[tuple[int, int]]:
    """What `diskkit map` says, in chunks; the part that is no whole chunk counts as allocated."""
    done = subprocess.run(
        [sys.executable, "-m", "diskkit", "map", "--json", str(path)],
        capture_output=True,
        check=True,
        timeout=60,
    )
    told = json.loads(done.stdout)
    size = told["capacity"]
    used = set(range(size // chunk, -(-size // chunk)))
    for run in told["runs"]:
        if run["state"] != "hole":
            end = run["offset"] + run["length"]
            used.update(range(run["offset"] // chunk, -(-end // chunk)))
    found: list[tuple[int, int]] = []
    for n in sorted(used):
        start, end = n * chunk, min(size, (n + 1) * chunk)
        if found and sum(found[-1]) == start:
            found[-1] = (found[-1][0], end - found[-1][0])
        else:
            found.append((start, end - start))
    return [(start // 512, length // 512) for start, length in found]


@pytest.mark.parametrize(("adapter", "name"), [(None, "buslogic"), ("ide", "ide")])
def test_create_and_info(vixdisk: Example, adapter: str | None, name: str) -> None:
    vixdisk("-create", "-cap", "3", *(["-adapter", adapter] if adapter else []), "d.vmdk")
    seen = json.loads(qemu_img("info", "--output=json", vixdisk.folder / "d.vmdk").stdout)
    assert (seen["format"], seen["virtual-size"]) == ("vmdk", 3 * MIB)
    told = vixdisk("-info", "d.vmdk").splitlines()
    assert told[:3] == ["capacity: 6144 sectors", "links: 1", f"adapter: {name}"]
    assert re.fullmatch(r"BIOS geometry: \d+ cylinders, \d+ heads, \d+ sectors", told[3])
    assert re.fullmatch(r"physical geometry: \d+ cylinders, \d+ heads, \d+ sectors", told[4])
    assert told[5:] == [
        "sector sizes: 512 logical, 512 physical",
        "parent: none",
        "transport modes: file",
        "transport mode in use: file",
    ]


def test_create_makes_100_megabytes_unless_told(vixdisk: Example) -> None:
    vixdisk("-create", "d.vmdk")
    assert vixdisk("-info", "d.vmdk").startswith("capacity: 204800 sectors\n")
    assert "error 12:" in vixdisk("-create", "d.vmdk", expect=1)


def test_fill_and_dump(vixdisk: Example) -> None:
    vixdisk("-create", "-cap", "1", "d.vmdk")
    vixdisk("-fill", "-start", "130", "-count", "3", "-val", "0x41", "d.vmdk")
    vixdisk("-fill", "d.vmdk")
    content = bytearray(MIB)
    content[:512] = b"\xff" * 512
    content[130 * 512 : 133 * 512] = b"A" * 3 * 512
    assert vixdisk.raw() == content
    lines = vixdisk("-dump", "-start", "132", "-count", "2", "d.vmdk").splitlines()
    assert len(lines) == 64
    assert lines[0] == f"00010800 {' 41' * 16}  {'A' * 16}"
    assert lines[32] == f"00010a00 {' 00' * 16}  {'.' * 16}"
    assert vixdisk("-dump", "d.vmdk").splitlines()[0] == f"00000000 {' ff' * 16}  {'.' * 16}"
    assert "error 16007:" in vixdisk("-fill", "-start", "2048", "d.vmdk", expect=1)


def test_redo_and_single(vixdisk: Example) -> None:
    vixdisk("-create", "-cap", "1", "d.vmdk")
    vixdisk("-fill", "-count", "2", "-val", "1", "d.vmdk")
    vixdisk("-redo", "d.vmdk", "c.vmdk")
    vixdisk("-fill", "-start", "1", "-val", "2", "c.vmdk")
    content = b"\1" * 512 + b"\2" * 512 + bytes(MIB - 1024)
    assert vixdisk.raw("c.vmdk") == content
    told = vixdisk("-info", "c.vmdk")
    assert "links: 2\n" in told
    assert "parent: d.vmdk\n" in told
    assert "links: 1\n" in vixdisk("-info", "-single", "c.vmdk")


def test_metadata(vixdisk: Example) -> None:
    vixdisk("-create", "-cap", "1", "d.vmdk")
    vixdisk("-wmeta", "note", "a value", "d.vmdk")
    assert vixdisk("-rmeta", "note", "d.vmdk") == "note = a value\n"
    told = dict(line.split(" = ") for line in vixdisk("-meta", "d.vmdk").splitlines())
    assert told["note"] == "a value"
    assert told["adapterType"] == "buslogic"
    assert "error 16052:" in vixdisk("-rmeta", "none", "d.vmdk", expect=1)
    assert 'ddb.note = "a value"' in (vixdisk.folder / "d.vmdk").read_bytes().decode("latin-1")


def test_clone(vixdisk: Example) -> None:
    vixdisk("-create", "-cap", "2", "d.vmdk")
    vixdisk("-fill", "-start", "300", "-count", "200", "-val", "7", "d.vmdk")
    vixdisk("-redo", "d.vmdk", "c.vmdk")
    vixdisk("-fill", "-start", "0", "-val", "8", "c.vmdk")
    vixdisk("-clone", "c.vmdk", "-adapter", "ide", "n.vmdk")
    done = qemu_img("compare", vixdisk.folder / "c.vmdk", vixdisk.folder / "n.vmdk")
    assert (done.returncode, done.stdout) == (0, "Images are identical.\n")
    told = vixdisk("-info", "n.vmdk")
    assert "links: 1\n" in told
    assert "adapter: ide\n" in told
    assert "error 12:" in vixdisk("-clone", "c.vmdk", "n.vmdk", expect=1)


def test_allocated_blocks_are_those_of_the_map(vixdisk: Example) -> None:
    vixdisk("-create", "-cap", "5", "d.vmdk")
    for start, count in (("130", "1"), ("256", "300"), ("5000", "1")):
        vixdisk("-fill", "-start", start, "-count", count, "d.vmdk")
    path = vixdisk.folder / "d.vmdk"
    assert blocks(vixdisk("-getallocatedblocks", "d.vmdk")) == mapped(path, 65536)
    found = blocks(vixdisk("-getallocatedblocks", "-chunksize", "384", "d.vmdk"))
    assert found == mapped(path, 384 * 512)
    assert found[-1] == (9984, 256)  # what no chunk covers
    for chunk in ("127", "131073"):
        assert "error 3:" in vixdisk("-getallocatedblocks", "-chunksize", chunk, "d.vmdk", expect=1)


def test_check(vixdisk: Example) -> None:
    vixdisk("-create", "-cap", "1", "d.vmdk")
    vixdisk("-fill", "d.vmdk")
    assert vixdisk("-check", "0", "d.vmdk") == "d.vmdk is consistent\n"
    path = vixdisk.folder / "d.vmdk"
    raw = bytearray(path.read_bytes())
    directory = int.from_bytes(raw[56:64], "little") * 512
    raw[directory : directory + 4] = b"\xff\xff\xff\x7f"
    path.write_bytes(raw)
    assert "error 16006:" in vixdisk("-check", "0", "d.vmdk", expect=1)
    done = vixdisk.native.run(
        vixdisk.programs / "vixdisk", "-check", "1", "d.vmdk", cwd=vixdisk.folder
    )
    assert (done.returncode, done.stdout) == (0, "d.vmdk is consistent\n")
    assert vixdisk.raw()[:1024] == b"\xff" * 512 + bytes(512)
    assert "error 3:" in vixdisk("-check", "2", "d.vmdk", expect=1)


@pytest.mark.parametrize("how", ["", "async"])
@pytest.mark.parametrize("block", ["1", "129", "4096"])
def test_benches(vixdisk: Example, how: str, block: str) -> None:
    vixdisk("-create", "-cap", "1", "d.vmdk")
    told = vixdisk(f"-write{how}bench", block, "-val", "90", "d.vmdk")
    assert re.fullmatch(r"wrote 2048 sectors in \d+\.\d+ s, \d+ MiB/s\n", told)
    assert vixdisk.raw() == b"Z" * MIB
    told = vixdisk(f"-read{how}bench", block, "d.vmdk")
    assert re.fullmatch(r"read 2048 sectors in \d+\.\d+ s, \d+ MiB/s\n", told)


def test_wrong_blocks_of_benches(vixdisk: Example) -> None:
    vixdisk("-create", "-cap", "1", "d.vmdk")
    for block in ("0", "x", "65537"):
        assert "error 3:" in vixdisk("-readbench", block, "d.vmdk", expect=1)


def test_multithread(vixdisk: Example) -> None:
    vixdisk("-create", "-cap", "4", "d.vmdk")
    vixdisk("-fill", "-start", "1000", "-count", "3000", "-val", "3", "d.vmdk")
    assert vixdisk("-multithread", "3", "d.vmdk") == "3 threads made a copy each\n"
    for n in range(3):
        copy = vixdisk.folder / f"d.vmdk-thread{n}.vmdk"
        done = qemu_img("compare", vixdisk.folder / "d.vmdk", copy)
        assert done.returncode == 0, done.stdout
    assert "error 12:" in vixdisk("-multithread", "2", "d.vmdk", expect=1)
    assert "error 3:" in vixdisk("-multithread", "0", "d.vmdk", expect=1)


def test_options_that_change_nothing_here(vixdisk: Example) -> None:
    vixdisk("-create", "-cap", "1", "d.vmdk")
    (vixdisk.folder / "conf").write_text("unknown = 1\n")
    plain = vixdisk("-dump", "d.vmdk")
    for options in (
        ("-compress", "zlib"),
        ("-compress", "fastlz"),
        ("-compress", "skipz"),
        ("-mode", "nbdssl:file"),
        ("-libdir", "/nowhere"),
        ("-initex", "conf"),
    ):
        assert vixdisk("-dump", *options, "d.vmdk") == plain
    assert "error 4:" in vixdisk("-dump", "-initex", "none", "d.vmdk", expect=1)
    assert "error 3:" in vixdisk("-dump", "-mode", "pigeon", "d.vmdk", expect=1)


REMOTE = ("-host", "h.example", "-user", "u", "-password", "p")


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("-cookie", "c", "-vm", "moref=1", "-ssmoref", "snapshot-1", "-thumb", "AA:BB"),
        ("-port", "444", "-nfchostport", "903", "-vimapiver", "6.7"),
        ("-fcdid", "i", "-fcdds", "datastore-1", "-fcdssid", "s"),
    ],
)
def test_remote_options_reach_the_library(vixdisk: Example, more: tuple[str, ...]) -> None:
    told = vixdisk("-info", *REMOTE, *more, "[ds] d.vmdk", expect=1)
    assert "connecting to h.example: error 6:" in told
    assert "deprecated" not in told


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("-info",),
        ("-info", "-dump", "d.vmdk"),
        ("-nothing", "d.vmdk"),
        ("-wmeta", "key", "d.vmdk"),
        ("-create", "-cap", "d.vmdk"),
        ("-create", "-cap", "-1", "d.vmdk"),
        ("-fill", "-val", "256", "d.vmdk"),
        ("-create", "-adapter", "sata", "d.vmdk"),
        ("-dump", "-compress", "lzma", "d.vmdk"),
        ("-dump", "-host", "h", "d.vmdk"),
    ],
)
def test_arguments_that_make_no_sense(vixdisk: Example, arguments: tuple[str, ...]) -> None:
    told = vixdisk(*arguments, expect=2)
    assert "usage: vixdisk COMMAND" in told
    assert not (vixdisk.folder / "d.vmdk").exists()


@pytest.fixture
def small(vixdisk: Example) -> Example:
    vixdisk("-create", "-cap", "1", "d.vmdk")
    vixdisk("-fill", "-start", "256", "-count", "200", "d.vmdk")
    return vixdisk


def test_old_way_to_connect(small: Example) -> None:
    done = small.native.run(small.programs / "connect_old", "d.vmdk", cwd=small.folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        OLD_WARNING + "connect: 0\n"
        "disconnect: 0\n"
        "connect again: 0\n"
        "open: 0\n"
        "read: 0\n"
        "warning: VixDiskLib_QueryAllocatedBlocks: not with connection parameters that the program"
        " declared itself: use AllocateConnectParams, or diskkit.connectParams.allowOld=1 in the"
        " configuration file\n"
        "allocated blocks: 6\n"
        "close: 0\n"
        "disconnect: 0\n"
    )


def test_new_way_to_connect(small: Example) -> None:
    done = small.native.run(small.programs / "connect_new", "d.vmdk", cwd=small.folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "connect: 0\n"
        "open: 0\n"
        "read: 0\n"
        "allocated blocks: 0\n"
        "  from 256, 256 sectors\n"
        "close: 0\n"
        "disconnect: 0\n"
    )
