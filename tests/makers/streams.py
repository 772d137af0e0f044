# SPDX-License-Identifier: Apache-2.0
"""Compressed streams in the seven shapes that known writers give them."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeAlias

import numpy as np

from .common import SECTOR, Grains, ceil_div, check_grains, file_order, round_up
from .hosted import GD_AT_END, Layout, hosted_header, write_tables
from .text import DEFAULT_DDB, pad_text
from .text import descriptor as make_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Variant: TypeAlias = Literal["A", "B", "C", "D", "E", "F", "G"]

MARK_EOS, MARK_TABLE, MARK_DIRECTORY, MARK_FOOTER = range(4)


@dataclass(frozen=True)
class Shape:
    """What sets one writer apart from the others.

    tables: "front" reserves them all before the grains; "mixed" puts each one right after its
    last grain; "end" puts them all after the last grain. ``text_sectors`` 0 = as needed and ten
    spare ones. ``header_gd``: the header gives the directory's true place although it is behind.
    ``spare_set``: a second directory and its tables follow the first set; the tables stay empty
    and neither header field nor flag speaks of them.
    """

    maker: str
    tables: Literal["front", "mixed", "end"]
    text_sectors: int
    flags: int = 0x30001
    redundant: bool = False
    spare_set: bool = False
    aligned: bool = True
    header_gd: bool = False
    marker_lengths: bool = True
    eos: bool = True
    grain_tail: bool = False
    access: str = "RDONLY"


SHAPES: dict[Variant, Shape] = {
    "A": Shape("ESXi NFC export", "mixed", 1),
    "B": Shape("VDDK local file", "front", 20, spare_set=True, access="RW"),
    "C": Shape("open-vmdk", "front", 20, aligned=False),
    "D": Shape(
        "qemu", "front", 20, 0x30003, redundant=True, eos=False, grain_tail=True, access="RW"
    ),
    "E": Shape("VirtualBox", "end", 2),
    "F": Shape("Xen Orchestra", "end", 0, 0x30003, marker_lengths=False),
    "G": Shape("VMDKstream", "end", 1, header_gd=True),
}


def stream(
    path: Path,
    capacity_sectors: int,
    grains: Grains,
    *,
    variant: Variant = "A",
    level: int = 6,
    grain_sectors: int = 128,
    gtes: int = 512,
    descriptor: str = "auto",
    order: Sequence[int] | None = None,
    trailing: int = 0,
    short_tail: bool = False,
    unfinished: bool = False,
    cid: str = "12345678",
) -> None:
    """Write a streamOptimized file as the maker named by ``variant`` would lay it out.

    A "zero" grain is left out, as streams do; zero *bytes* are compressed like any others.
    ``trailing`` appends that many NULs. ``short_tail`` compresses only the part of the last grain
    that the disk has. ``unfinished`` leaves the lower-case magic of an interrupted open-vmdk run.
    """
    check_grains(capacity_sectors, grains, grain_sectors, ["zero"])
    shape = SHAPES[variant]
    text = _text(variant, path.name, capacity_sectors, cid) if descriptor == "auto" else descriptor
    text_area = shape.text_sectors or ceil_div(len(text.encode()), SECTOR) + 10

    directory = ceil_div(capacity_sectors, gtes * grain_sectors)
    front = shape.tables == "front"
    layout = Layout.plan(1 + text_area, directory, directory, gtes, shape.redundant)
    spare = Layout.plan(layout.end, directory, directory, gtes, redundant=False)
    overhead = 1 + text_area
    if front:
        overhead = spare.end if shape.spare_set else layout.end
    if shape.aligned:
        overhead = round_up(overhead, grain_sectors)

    stored = {i: content for i, content in grains.items() if not isinstance(content, str)}
    entries: dict[int, int] = {}
    placed = np.zeros(directory, dtype="<u4")
    left = Counter(index // gtes for index in stored)

    def header(gd: int) -> bytes:
        return hosted_header(
            version=3,
            flags=shape.flags,
            capacity=capacity_sectors,
            grain_sectors=grain_sectors,
            descriptor_offset=1,
            descriptor_sectors=text_area,
            gtes=gtes,
            rgd=layout.rgd if front else 0,
            gd=gd,
            overhead=overhead,
            compression=1,
            magic=b"kdmv" if unfinished else b"KDMV",
        )

    def put_table(f: BinaryIO, number: int) -> None:
        table = np.zeros(gtes, dtype="<u4")
        for slot in range(gtes):
            table[slot] = entries.get(number * gtes + slot, 0)
        _put_marker(f, MARK_TABLE, layout.gt_sectors if shape.marker_lengths else 0)
        placed[number] = f.tell() // SECTOR
        _put_padded(f, table.tobytes())

    with path.open("wb") as f:
        f.seek(overhead * SECTOR)
        for index in file_order(list(stored), order):
            content = stored[index]
            if short_tail:
                content = content[: (capacity_sectors - index * grain_sectors) * SECTOR]
            data = zlib.compress(content, level)
            entries[index] = f.tell() // SECTOR
            _put_padded(f, struct.pack("<QI", index * grain_sectors, len(data)) + data)
            left[index // gtes] -= 1
            if shape.tables == "mixed" and not left[index // gtes]:
                put_table(f, index // gtes)
        end = f.tell()

        gd = layout.gd
        if front:
            write_tables(f, layout, directory, range(directory), entries, gtes)
            if shape.spare_set:
                write_tables(f, spare, directory, range(directory), {}, gtes)
            f.seek(end)
        else:
            if shape.tables == "end":
                for number in sorted(left):
                    put_table(f, number)
            _put_marker(f, MARK_DIRECTORY, layout.gd_sectors if shape.marker_lengths else 0)
            gd = f.tell() // SECTOR
            _put_padded(f, placed.tobytes())
            _put_marker(f, MARK_FOOTER, 1 if shape.marker_lengths else 0)
            f.write(header(gd))
        if shape.eos:
            _put_marker(f, MARK_EOS, 0)
        end = f.tell()
        if shape.grain_tail and entries:
            # The writer reserves a whole grain and only then learns how little it needs.
            end = max(end, (max(entries.values()) + grain_sectors) * SECTOR)
        f.truncate(end + trailing)

        f.seek(0)
        f.write(header(gd if front or shape.header_gd else GD_AT_END))
        f.write(pad_text(text, text_area))


def _put_padded(f: BinaryIO, data: bytes) -> None:
    f.write(data.ljust(round_up(len(data), SECTOR), b"\0"))


def _put_marker(f: BinaryIO, kind: int, sectors: int) -> None:
    f.write(struct.pack("<QII", sectors, 0, kind).ljust(SECTOR, b"\0"))


def _text(variant: Variant, name: str, capacity: int, cid: str) -> str:
    """Descriptor with the habits of the maker that a reader may trip over."""
    shape = SHAPES[variant]
    if variant == "A":
        name = "generated-stream.vmdk"
    elif variant == "G":
        name = "call-me-stream.vmdk"
    ddb = dict(DEFAULT_DDB)
    if variant == "B":
        ddb["encoding"] = "UTF-8"
    elif variant == "E":
        ddb["uuid.image"] = "6d1fb3ab-6b7a-4b4d-9d0c-0e7f5a9c2d11"
        ddb["uuid.parent"] = "00000000-0000-0000-0000-000000000000"
    text = make_text(
        "streamOptimized",
        [f'{shape.access} {capacity} SPARSE "{name}"'],
        cid=cid,
        ddb=ddb,
        encoding=None,
        header=['isNativeSnapshot="no"'] if variant == "B" else [],
        first_line=(
            "# Description file created by VMDK stream converter"
            if variant == "G"
            else "# Disk DescriptorFile"
        ),
    )
    if variant == "A":
        for line in ("version=1", f"CID={cid}", "parentCID=ffffffff"):
            text = text.replace(f"\n{line}\n", f"\n{line} \n")
    return text
