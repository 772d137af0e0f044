# SPDX-License-Identifier: Apache-2.0
"""Small good images of every kind, and the ways in which a test asks what became of a bad one."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from diskkit import Disk, DiskkitError, FormatError, OpenPolicy, open_disk
from makers import (
    cowd,
    expected,
    flat,
    hosted_sparse,
    poke,
    sample_grain,
    sesparse,
    split_sparse,
    stream,
    write_descriptor,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from makers import Grains, Variant

SECTOR = 512
PIECE = 64 << 10
GRAIN = 128
"""Sectors per grain of the hosted samples."""
GRAIN_BYTES = GRAIN * SECTOR
CAPACITY = 10 * GRAIN
"""Sectors of the hosted samples."""
GRAINS: Grains = {0: sample_grain(1), 2: sample_grain(2), 9: sample_grain(3)}
ESX_CAPACITY = 4096
VARIANTS: tuple[Variant, ...] = ("A", "B", "C", "D", "E", "F", "G")


class Warnings(list[str]):
    """Collects what an `OpenPolicy` warns of."""

    def has(self, *parts: str) -> bool:
        """Whether one warning holds all of `parts`."""
        return any(all(part in text for part in parts) for text in self)


def policy(warnings: Warnings | None = None, **changes: object) -> OpenPolicy:
    """A policy whose warnings are collected, or dropped."""
    sink: list[str] = Warnings() if warnings is None else warnings
    return OpenPolicy(warn=sink.append, **changes)  # type: ignore[arg-type]


def read_all(disk: Disk, limit: int = 64 << 20) -> bytes:
    """Every byte, in pieces; of a very big disk the first, the middle and the last piece."""
    if disk.size <= limit:
        offsets: Iterator[int] = iter(range(0, disk.size, PIECE))
    else:
        offsets = iter((0, disk.size // 2, disk.size - PIECE))
    return b"".join(disk.read(at, min(PIECE, disk.size - at)) for at in offsets)


def content(path: Path, warnings: Warnings | None = None, **changes: object) -> bytes:
    """All the guest bytes of a disk."""
    with open_disk(path, policy=policy(warnings, **changes)) as disk:
        return read_all(disk)


def error_of(action: Callable[[], object]) -> DiskkitError | None:
    """The error that `action` ends in, if it does."""
    try:
        action()
    except DiskkitError as error:
        return error
    return None


def refusal(
    path: Path, kind: type[DiskkitError] = FormatError, *, opens: bool = False, **changes: object
) -> str:
    """The text of the error that opening, mapping or reading `path` ends in.

    `opens` demands that opening succeeds, so that it is the map or the data that is refused.
    """
    try:
        disk = open_disk(path, policy=policy(None, **changes))
    except DiskkitError as error:
        refused = error
    else:
        opens = False
        with disk:
            read = error_of(lambda: read_all(disk))
            mapped = error_of(lambda: list(disk.runs()))
        assert read is not None, "the bad image was read without complaint"
        # The map says the same. Only compressed data is not judged before it is read.
        assert str(mapped) == str(read) or "grain marker" in str(read)
        refused = read
    assert not opens, f"did not even open: {refused}"
    return text_of(refused, kind)


def text_of(error: DiskkitError, kind: type[DiskkitError] = FormatError) -> str:
    """The message of an error of exactly the class `kind`: one printable line."""
    assert type(error) is kind, f"{type(error).__name__}: {error}"
    text = str(error)
    assert text.isprintable()
    return text


def says(text: str, *parts: object) -> None:
    """Every part is in the message."""
    missing = [str(part) for part in parts if str(part) not in text]
    assert not missing, f"{text!r} does not say {missing}"


def mono(folder: Path, **options: object) -> Path:
    """A small monolithicSparse disk."""
    path = folder / "disk.vmdk"
    hosted_sparse(path, CAPACITY, GRAINS, **options)  # type: ignore[arg-type]
    return path


def mono_bytes(grains: Grains = GRAINS) -> bytes:
    """What `mono` holds."""
    return expected(CAPACITY, grains, GRAIN)


def packed(folder: Path, variant: Variant = "A", **options: object) -> Path:
    """A small stream."""
    path = folder / f"stream-{variant}.vmdk"
    stream(path, CAPACITY, GRAINS, variant=variant, **options)  # type: ignore[arg-type]
    return path


def base(folder: Path, cid: str = "aaaaaaaa", name: str = "base") -> Path:
    """A VMFS base disk for ESX deltas; every sector tells its number."""
    data = b"".join((b"sector %d " % i * 64)[:SECTOR] for i in range(ESX_CAPACITY))
    flat(folder / f"{name}-flat.vmdk", data)
    path = folder / f"{name}.vmdk"
    write_descriptor(path, "vmfs", [f'RW {ESX_CAPACITY} VMFS "{name}-flat.vmdk"'], cid=cid)
    return path


COWD_GRAINS: Grains = {3: b"a" * SECTOR, 100: b"b" * SECTOR, 4095: b"c" * SECTOR}
SE_GRAINS: Grains = {3: b"a" * 4096, 100: b"b" * 4096, 200: "zero", 300: "unmapped"}


def cowd_chain(folder: Path, grains: Grains = COWD_GRAINS, **options: object) -> Path:
    """A redo log over a flat base; the extent is child-delta.vmdk."""
    base(folder)
    cowd(folder / "child-delta.vmdk", ESX_CAPACITY, grains, **options)  # type: ignore[arg-type]
    path = folder / "child.vmdk"
    line = f'RW {ESX_CAPACITY} VMFSSPARSE "child-delta.vmdk"'
    write_descriptor(path, "vmfsSparse", [line], parent_cid="aaaaaaaa", hint="base.vmdk")
    return path


def se_chain(folder: Path, grains: Grains = SE_GRAINS, **options: object) -> Path:
    """An seSparse delta over a flat base; the extent is child-sesparse.vmdk."""
    base(folder)
    sesparse(folder / "child-sesparse.vmdk", ESX_CAPACITY, grains, **options)  # type: ignore[arg-type]
    path = folder / "child.vmdk"
    line = f'RW {ESX_CAPACITY} SESPARSE "child-sesparse.vmdk"'
    write_descriptor(path, "seSparse", [line], parent_cid="aaaaaaaa", hint="base.vmdk")
    return path


def flat_disk(folder: Path, *lines: str, create_type: str = "monolithicFlat") -> Path:
    """A descriptor with the extent lines given, beside an 8-sector flat file "flat.bin"."""
    flat(folder / "flat.bin", b"".join(bytes([65 + i]) * SECTOR for i in range(8)))
    path = folder / "disk.vmdk"
    write_descriptor(path, create_type, list(lines) or ['RW 8 FLAT "flat.bin" 0'])
    return path


def hosted_chain(folder: Path) -> Path:
    """A child over a parent, both hosted sparse."""
    hosted_sparse(folder / "parent.vmdk", CAPACITY, GRAINS, cid="aaaaaaaa")
    path = folder / "child.vmdk"
    hosted_sparse(
        path,
        CAPACITY,
        {1: sample_grain(7), 2: "zero"},
        parent_cid="aaaaaaaa",
        parent_hint="parent.vmdk",
    )
    return path


def split(folder: Path) -> Path:
    """Three sparse parts."""
    path = folder / "disk.vmdk"
    split_sparse(path, CAPACITY, GRAINS, 4 * GRAIN)
    return path


class Sample(NamedTuple):
    """One kind of image, for tests that damage every kind."""

    make: Callable[[Path], Path]
    """Writes it into a folder and returns the file to open."""


def _stream_sample(variant: Variant) -> Sample:
    return Sample(lambda folder: packed(folder, variant))


SAMPLES: dict[str, Sample] = {
    **{f"stream-{v}": _stream_sample(v) for v in VARIANTS},
    "sparse": Sample(mono),
    "split": Sample(split),
    "flat": Sample(flat_disk),
    "cowd": Sample(cowd_chain),
    "sesparse": Sample(se_chain),
    "chain": Sample(hosted_chain),
}

# Fields of the hosted sparse header: offset and struct format.
FIELDS = {
    "magic": (0, "<4s"),
    "version": (4, "<I"),
    "flags": (8, "<I"),
    "capacity": (12, "<Q"),
    "grainSize": (20, "<Q"),
    "descriptorOffset": (28, "<Q"),
    "descriptorSize": (36, "<Q"),
    "numGTEsPerGT": (44, "<I"),
    "rgdOffset": (48, "<Q"),
    "gdOffset": (56, "<Q"),
    "overHead": (64, "<Q"),
    "uncleanShutdown": (72, "<B"),
    "newline bytes": (73, "<4s"),
    "compressAlgorithm": (77, "<H"),
}


def put(path: Path, field: str, value: int | bytes, at: int = 0) -> None:
    """Set a field of the hosted sparse header, or of a footer that lies at byte `at`."""
    offset, fmt = FIELDS[field]
    poke(path, at + offset, fmt, value)


def get(path: Path, field: str, at: int = 0) -> int:
    """A number in the hosted sparse header, or in a footer that lies at byte `at`."""
    offset, fmt = FIELDS[field]
    return _number(path, at + offset, fmt)


def u32(path: Path, at: int) -> int:
    """The 32-bit number at byte `at`."""
    return _number(path, at, "<I")


def _number(path: Path, at: int, fmt: str) -> int:
    with path.open("rb") as f:  # it may be terabytes long
        f.seek(at)
        return int(struct.unpack(fmt, f.read(struct.calcsize(fmt)))[0])


def table_entry(path: Path, index: int, directory: str = "gdOffset") -> int:
    """Where the table entry of grain `index` lies, in bytes, for disks of one table."""
    return u32(path, get(path, directory) * SECTOR) * SECTOR + 4 * index


def open_files() -> int:
    """How many files this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def truncate(path: Path, size: int) -> None:
    """Cut the file, counted from its end where `size` is negative."""
    os.truncate(path, size if size >= 0 else path.stat().st_size + size)
