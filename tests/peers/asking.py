# SPDX-License-Identifier: Apache-2.0
"""What qemu and libvmdk say of a disk, in our terms."""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import diskkit
from diskkit import State
from diskkit.testing import check_runs
from makers.peers import SKIP_PREFIX, qemu_img, requires

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SUBFORMATS = (
    "monolithicSparse",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
)
"""Those that qemu can both create and write to anywhere."""

_PIECE = 4 << 20


class Stretch(NamedTuple):
    """A run as both sides can say it."""

    offset: int
    length: int
    kind: str
    link: int | None
    """None for a hole: qemu names another link than we do."""
    place: int | None


def joined(stretches: Iterable[Stretch]) -> list[Stretch]:
    """Neighbours that say the same as one; qemu splits where its own buffers end."""
    found: list[Stretch] = []
    for new in stretches:
        if found:
            old = found[-1]
            follows = old.place is None or old.place + old.length == new.place
            if old[2:4] == new[2:4] and (old.place is None) == (new.place is None) and follows:
                found[-1] = old._replace(length=old.length + new.length)
                continue
        found.append(new)
    return found


def our_map(disk: diskkit.Disk) -> list[Stretch]:
    """Our map as qemu says it: a flat extent is data throughout, holes of its file included."""
    found = []
    for run in disk.runs():
        if run.state != State.HOLE:
            found.append(Stretch(run.offset, run.length, str(run.state), run.link, run.file_offset))
            continue
        for extent in disk.chain.links[-1].extents:
            begin = max(run.offset, extent.start)
            length = min(run.offset + run.length, extent.start + extent.line.length) - begin
            if length > 0 and extent.line.kind in ("FLAT", "VMFS"):
                place = extent.line.offset + begin - extent.start
                found.append(Stretch(begin, length, "data", run.link, place))
            elif length > 0:
                found.append(Stretch(begin, length, "hole", None, None))
    return joined(found)


def qemu_map(path: Path, fmt: str = "vmdk") -> list[Stretch]:
    done = qemu_img("map", "--output=json", "-f", fmt, path)
    assert done.returncode == 0, done.stderr
    found = []
    for entry in json.loads(done.stdout):
        kind = "data" if entry["data"] else "zero" if entry["present"] else "hole"
        link = None if kind == "hole" else entry["depth"]
        place = entry.get("offset") if kind == "data" else None
        found.append(Stretch(entry["start"], entry["length"], kind, link, place))
    return joined(found)


def qemu_create(
    path: Path,
    size: int,
    subformat: str = "monolithicSparse",
    parent: Path | None = None,
    **more: str,
) -> None:
    options = ",".join([f"subformat={subformat}", *(f"{k}={v}" for k, v in more.items())])
    backing = ("-b", parent, "-F", "vmdk") if parent else ()
    done = qemu_img("create", "-q", "-f", "vmdk", "-o", options, *backing, path, str(size))
    assert done.returncode == 0, done.stderr


def qemu_io(path: Path, commands: Sequence[str], fmt: str = "vmdk") -> str:
    """Run qemu-io commands; fails the test if one of them fails."""
    words = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(
        [requires("qemu-io"), "-f", fmt, *words, path],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "failed" not in output, output
    return output


def random_writes(size: int, seed: int, count: int = 12) -> list[str]:
    """Writes, writes of zeros and discards, of any length, near edges and anywhere."""
    dice = random.Random(seed)
    edges = [e for e in (0, 65536, 32 << 20, 2 << 30, size) if e <= size]
    commands = []
    for _ in range(count):
        length = dice.choice((512, 1024, 4096, 65536, 65536 + 512, 200 * 1024))
        length = min(length, size)
        if dice.random() < 0.5:
            begin = dice.choice(edges) + dice.choice((-65536, -512, 0, 512))
        else:
            begin = dice.randrange(size)
        begin = max(0, min(begin, size - length)) // 512 * 512
        pattern = dice.randrange(1, 256)
        commands.append(
            dice.choice(
                (
                    f"write -q -P {pattern} {begin} {length}",
                    f"write -q -P {pattern} {begin} {length}",
                    f"write -q -z {begin} {length}",
                    f"discard -q {begin} {length}",
                )
            )
        )
    return commands


def agree(path: Path, *, whole_map: bool = True) -> None:
    """Our bytes and our map of `path` are qemu's."""
    with diskkit.open_disk(path) as disk, tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "disk.raw"
        done = qemu_img("convert", "-f", "vmdk", "-O", "raw", path, raw)
        assert done.returncode == 0, done.stderr
        assert_same(disk, raw)
        runs = list(disk.runs())
        check_runs(runs, 0, disk.size)
        if whole_map:
            assert our_map(disk) == qemu_map(path)


def assert_same(disk: diskkit.Disk, raw: Path) -> None:
    """The bytes of `disk` are those of the raw file; what both call empty is not read."""
    assert disk.size == raw.stat().st_size
    with raw.open("rb") as file, diskkit.open_disk(raw, format="raw") as other:
        edges = {run.offset for run in (*disk.runs(), *other.runs())}
        for begin, end in pairwise(sorted({*edges, disk.size})):
            states = {next(d.runs(begin, 1)).state for d in (disk, other)}
            if State.DATA not in states:
                continue
            for at in range(begin, end, _PIECE):
                n = min(_PIECE, end - at)
                file.seek(at)
                assert disk.read(at, n) == file.read(n), (at, n)


def libvmdk_raw(path: Path) -> bytes:
    """Guest bytes as libvmdk reads them; skips when it is missing. One link only."""
    pyvmdk = pytest.importorskip("pyvmdk", reason=f"{SKIP_PREFIX} pyvmdk")
    handle = pyvmdk.handle()
    handle.open(str(path))
    handle.open_extent_data_files()
    try:
        data: bytes = handle.read_buffer_at_offset(handle.get_media_size(), 0)
    finally:
        handle.close()
    return data
