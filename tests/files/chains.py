# SPDX-License-Identifier: Apache-2.0
"""A volume on every kind of disk: alone, and spread over a chain whose older links are wrong."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import diskkit
from diskkit.tasks.child import create_child
from diskkit.tasks.clone import clone
from files.guests import MIB
from volumes.tables import put_mbr

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 64 << 10


class Chain(NamedTuple):
    """The kinds of a base and of its children."""

    base: str
    child: str


CHAINS = [
    Chain("monolithicSparse", "monolithicSparse"),
    Chain("monolithicFlat", "twoGbMaxExtentSparse"),
    Chain("streamOptimized", "monolithicSparse"),
    Chain("vmfs", "vmfsSparse"),
    Chain("vmfsThin", "seSparse"),
]
REAL = ("encodings", "asyncio", "email", "pydoc_data")


def add_real_files(folder: Path, names: tuple[str, ...] = REAL, room: int = 2 * MIB) -> None:
    """What nobody made up: parts of Python, and up to `room` of the system's documentation."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for name in names:
        shutil.copytree(
            library / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
    for source in sorted(Path("/usr/share/doc").glob("*/copyright")):
        room -= source.stat().st_size
        if room < 0:
            return
        (folder / "doc" / source.parent.name).mkdir(parents=True)
        shutil.copy2(source, folder / "doc" / source.parent.name / "copyright")


def partitioned(volume: Path, path: Path, offset: int = MIB) -> Path:
    """A raw disk with the volume in its only partition."""
    size = volume.stat().st_size
    table = bytearray(512)
    put_mbr(table, [(0x83, offset // 512, size // 512)])
    with path.open("wb") as f:
        f.write(table)
        for at, chunk in data(volume):
            f.seek(offset + at)
            f.write(chunk)
        f.truncate(offset + size + MIB)
    return path


def data(path: Path) -> Iterator[tuple[int, bytes]]:
    """The chunks that are not all zeros."""
    with path.open("rb", buffering=0) as f:
        size = f.seek(0, os.SEEK_END)
        at = 0
        while at < size:
            try:
                at = os.lseek(f.fileno(), at, os.SEEK_DATA) // CHUNK * CHUNK
            except OSError:
                return
            f.seek(at)
            chunk = f.read(CHUNK)
            if chunk.count(0) < len(chunk):
                yield at, chunk
            at += len(chunk)


def as_kind(raw: Path, kind: str, path: Path) -> Path:
    """A copy of a raw disk."""
    with diskkit.open_disk(raw) as disk:
        clone(disk, path, kind, sync=False)
    return path


def as_chain(raw: Path, chain: Chain, folder: Path) -> Path:
    """The raw disk as a chain of three. Each chunk is right in one link; older ones hold rubbish.

    Some chunks that are zeros in the disk are not in its base: their zeros must be said above.
    """
    chunks = dict(data(raw))
    wanted = dict(enumerate(chunks.items()))
    empty = [at for at in range(0, raw.stat().st_size - CHUNK, 257 * CHUNK) if at not in chunks]
    rubbish = b"\xa5" * CHUNK
    spoiled = folder / "spoiled.raw"
    with spoiled.open("wb") as f:
        f.truncate(raw.stat().st_size)
        for at in empty:
            f.seek(at)
            f.write(rubbish)
        for number, (at, chunk) in wanted.items():
            f.seek(at)
            f.write(rubbish[: len(chunk)] if number % 3 else chunk)
    links = [as_kind(spoiled, chain.base, folder / "base.vmdk")]
    spoiled.unlink()
    for turn in (1, 2):
        links.append(folder / f"child{turn}.vmdk")
        create_child(links[-2], links[-1], chain.child, experimental=True, sync=False)
        with diskkit.open_disk(links[-1], writable=True, experimental=True) as disk:
            for number, (at, chunk) in wanted.items():
                if number % 3 == turn:
                    disk.write(at, chunk)
                elif turn == 1 and number % 3 == 2:
                    disk.write(at, rubbish[: len(chunk) // 2])
            for at in empty:
                disk.write(at, bytes(CHUNK) if turn == 2 else rubbish[: CHUNK // 2])
    return links[-1]
