# SPDX-License-Identifier: Apache-2.0
"""Hosted sparse extents: one file, split, and very big ones made of tables only."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np

from .common import SECTOR, Grains, ceil_div, check_grains, file_order, round_up
from .text import descriptor as make_text
from .text import pad_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

GD_AT_END = 0xFFFF_FFFF_FFFF_FFFF
FLAG_NEWLINES = 0x1
FLAG_REDUNDANT = 0x2
FLAG_ZEROED = 0x4
ZEROED_GTE = 1


def hosted_header(
    *,
    version: int,
    flags: int,
    capacity: int,
    grain_sectors: int,
    descriptor_offset: int,
    descriptor_sectors: int,
    gtes: int,
    rgd: int,
    gd: int,
    overhead: int,
    unclean: bool = False,
    compression: int = 0,
    magic: bytes = b"KDMV",
) -> bytes:
    """Sector 0 of a hosted sparse extent."""
    fields = struct.pack(
        "<4sIIQQQQIQQQB4sH",
        magic,
        version,
        flags,
        capacity,
        grain_sectors,
        descriptor_offset,
        descriptor_sectors,
        gtes,
        rgd,
        gd,
        overhead,
        unclean,
        b"\n \r\n",
        compression,
    )
    return fields.ljust(SECTOR, b"\0")


@dataclass(frozen=True)
class Layout:
    """Where metadata lies, in sectors. ``rgd`` is 0 without a redundant set."""

    gd_sectors: int
    gt_sectors: int
    rgd: int
    gd: int
    end: int

    @classmethod
    def plan(cls, start: int, directory: int, tables: int, gtes: int, redundant: bool) -> Layout:
        """Put one or two sets of directory and ``tables`` grain tables at ``start``."""
        gd_sectors = ceil_div(directory * 4, SECTOR)
        gt_sectors = ceil_div(gtes * 4, SECTOR)
        one_set = gd_sectors + gt_sectors * tables
        gd = start + one_set if redundant else start
        return cls(gd_sectors, gt_sectors, start if redundant else 0, gd, gd + one_set)

    def directories(self) -> list[int]:
        """Sector of each directory, the redundant one first."""
        return [self.rgd, self.gd] if self.rgd else [self.gd]

    def table(self, directory: int, slot: int) -> int:
        """Sector of the ``slot``-th table of the set that starts at ``directory``."""
        return directory + self.gd_sectors + self.gt_sectors * slot


def write_tables(
    f: BinaryIO,
    layout: Layout,
    directory: int,
    slots: Sequence[int],
    entries: dict[int, int],
    gtes: int,
) -> None:
    """Write directories and tables; tables without entries stay holes that read as zeros.

    ``slots`` lists the directory indexes that own a table, in file order.
    """
    tables: dict[int, np.ndarray[tuple[int], np.dtype[np.uint32]]] = {}
    for grain, value in entries.items():
        if value > 0xFFFF_FFFF:
            raise ValueError(f"grain {grain} would lie beyond what a 32-bit entry can address")
        table = tables.setdefault(grain // gtes, np.zeros(gtes, dtype="<u4"))
        table[grain % gtes] = value
    index = np.asarray(slots, dtype=np.int64)
    for at in layout.directories():
        gd = np.zeros(directory, dtype="<u4")
        gd[index] = at + layout.gd_sectors + layout.gt_sectors * np.arange(len(slots))
        f.seek(at * SECTOR)
        f.write(gd.tobytes())
        for slot, number in enumerate(slots):
            if number in tables:
                f.seek(layout.table(at, slot) * SECTOR)
                f.write(tables[number].tobytes())


def hosted_sparse(
    path: Path,
    capacity_sectors: int,
    grains: Grains,
    *,
    grain_sectors: int = 128,
    gtes: int = 512,
    descriptor: str | None = "auto",
    descriptor_sectors: int = 20,
    redundant: bool = True,
    zeroed_flag: bool | None = None,
    version: int | None = None,
    order: Sequence[int] | None = None,
    lazy_tables: bool = False,
    unclean: bool = False,
    short_tail: bool = False,
    parent_cid: str = "ffffffff",
    parent_hint: str | None = None,
    cid: str = "12345678",
) -> None:
    """Write a monolithicSparse file, or with ``descriptor=None`` one part of a split disk.

    ``zeroed_flag`` None sets the flag when a "zero" grain is there; ``version`` None is 2 with
    the flag and 1 without. ``lazy_tables`` leaves a directory entry 0 where a table would be
    empty. ``short_tail`` ends the file with the disk when the partial last grain is last in it.
    """
    check_grains(capacity_sectors, grains, grain_sectors, ["zero"])
    if zeroed_flag is None:
        zeroed_flag = "zero" in grains.values()
    if version is None:
        version = 2 if zeroed_flag else 1
    if descriptor == "auto":
        descriptor = make_text(
            "monolithicSparse",
            [f'RW {capacity_sectors} SPARSE "{path.name}"'],
            cid=cid,
            parent_cid=parent_cid,
            hint=parent_hint,
        )
    text_area = 0 if descriptor is None else descriptor_sectors

    directory = ceil_div(capacity_sectors, gtes * grain_sectors)
    used = {index // gtes for index in grains}
    slots = sorted(used) if lazy_tables else range(directory)
    layout = Layout.plan(1 + text_area, directory, len(slots), gtes, redundant)
    overhead = round_up(layout.end, grain_sectors)

    entries = {i: ZEROED_GTE for i, content in grains.items() if content == "zero"}
    stored = {i: content for i, content in grains.items() if not isinstance(content, str)}
    flags = FLAG_NEWLINES | redundant * FLAG_REDUNDANT | zeroed_flag * FLAG_ZEROED
    end = overhead * SECTOR
    with path.open("wb") as f:
        f.write(
            hosted_header(
                version=version,
                flags=flags,
                capacity=capacity_sectors,
                grain_sectors=grain_sectors,
                descriptor_offset=1 if text_area else 0,
                descriptor_sectors=text_area,
                gtes=gtes,
                rgd=layout.rgd,
                gd=layout.gd,
                overhead=overhead,
                unclean=unclean,
            )
        )
        if descriptor is not None:
            f.write(pad_text(descriptor, text_area))
        f.seek(end)
        for index in file_order(list(stored), order):
            entries[index] = f.tell() // SECTOR
            f.write(stored[index])
            end = f.tell()
            if short_tail:
                over = (index + 1) * grain_sectors - capacity_sectors
                end -= max(over, 0) * SECTOR
        write_tables(f, layout, directory, slots, entries, gtes)
        f.truncate(end)


def split_sparse(
    path: Path,
    capacity_sectors: int,
    grains: Grains,
    part_sectors: int,
    *,
    grain_sectors: int = 128,
    gtes: int = 512,
    redundant: bool = True,
    zeroed_flag: bool | None = None,
    version: int | None = None,
    lazy_tables: bool = False,
    unclean: bool = False,
    parent_cid: str = "ffffffff",
    parent_hint: str | None = None,
    cid: str = "12345678",
    create_type: str = "twoGbMaxExtentSparse",
) -> list[Path]:
    """Write a descriptor file and its sparse parts; return the parts in disk order."""
    if part_sectors % grain_sectors:
        raise ValueError("a part must be whole grains, or grain indexes would not line up")
    check_grains(capacity_sectors, grains, grain_sectors, ["zero"])
    per_part = part_sectors // grain_sectors
    parts: list[Path] = []
    lines: list[str] = []
    for number in range(ceil_div(capacity_sectors, part_sectors)):
        part = path.with_name(f"{path.stem}-s{number + 1:03d}.vmdk")
        sectors = min(part_sectors, capacity_sectors - number * part_sectors)
        first = number * per_part
        hosted_sparse(
            part,
            sectors,
            {i - first: g for i, g in grains.items() if first <= i < first + per_part},
            grain_sectors=grain_sectors,
            gtes=gtes,
            descriptor=None,
            redundant=redundant,
            zeroed_flag=zeroed_flag,
            version=version,
            lazy_tables=lazy_tables,
            unclean=unclean,
        )
        parts.append(part)
        lines.append(f'RW {sectors} SPARSE "{part.name}"')
    text = make_text(create_type, lines, cid=cid, parent_cid=parent_cid, hint=parent_hint)
    path.write_text(text, encoding="utf-8", newline="")
    return parts


def big_sparse(
    path: Path,
    capacity_sectors: int,
    pattern: Literal["every-other", "empty", "full"] = "every-other",
    *,
    grain_sectors: int = 128,
    redundant: bool = True,
    cid: str = "12345678",
) -> None:
    """Write a monolithicSparse file whose tables are real and whose grains are one hole.

    ``every-other`` allocates the even grains, in ascending order. Every allocated grain reads as
    zeros; the file has its full logical length, but only its tables take room.
    """
    gtes = 512
    text_area = 20
    count = ceil_div(capacity_sectors, grain_sectors)
    directory = ceil_div(count, gtes)
    layout = Layout.plan(1 + text_area, directory, directory, gtes, redundant)
    overhead = round_up(layout.end, grain_sectors)
    step = {"every-other": 2, "full": 1, "empty": 0}[pattern]
    allocated = ceil_div(count, step) if step else 0
    if overhead + max(allocated - 1, 0) * grain_sectors > 0xFFFF_FFFF:
        raise ValueError("grains would lie beyond what a 32-bit entry can address")

    text = make_text("monolithicSparse", [f'RW {capacity_sectors} SPARSE "{path.name}"'], cid=cid)
    with path.open("wb", buffering=0) as f:
        f.truncate((overhead + allocated * grain_sectors) * SECTOR)
        f.write(
            hosted_header(
                version=1,
                flags=FLAG_NEWLINES | redundant * FLAG_REDUNDANT,
                capacity=capacity_sectors,
                grain_sectors=grain_sectors,
                descriptor_offset=1,
                descriptor_sectors=text_area,
                gtes=gtes,
                rgd=layout.rgd,
                gd=layout.gd,
                overhead=overhead,
            )
        )
        f.write(pad_text(text, text_area))
        for at in layout.directories():
            first = layout.table(at, 0)
            gd = first + layout.gt_sectors * np.arange(directory, dtype=np.int64)
            _write_all(f, at * SECTOR, gd.astype("<u4").tobytes())
        # A multiple of every step, so that each chunk starts on an allocated grain.
        chunk = 1 << 22
        for start in range(0, allocated * step, chunk):
            length = min(chunk, directory * gtes - start)
            order = np.arange(start // step, min((start + length) // step, allocated))
            table = np.zeros(length, dtype="<u4")
            table[::step][: len(order)] = overhead + order * grain_sectors
            for at in layout.directories():
                _write_all(f, layout.table(at, 0) * SECTOR + start * 4, table.tobytes())


def _write_all(f: BinaryIO, offset: int, data: bytes) -> None:
    f.seek(offset)
    view = memoryview(data)
    while view:
        view = view[f.write(view) :]
