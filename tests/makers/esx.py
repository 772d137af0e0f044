# SPDX-License-Identifier: Apache-2.0
"""ESX kinds: raw flat data, COWD redo logs, SESparse deltas (extents only, no descriptor)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from .common import SECTOR, Grains, ceil_div, check_grains, file_order, round_up

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

COWD_GTES = 4096
COWD_FIRST_FREE = 4

SE_GRAIN = 8
SE_TABLE_SECTORS = 64
SE_GTES = 4096
SE_REGION = 2048
SE_UNMAPPED = 1 << 60
SE_ZERO = 2 << 60
SE_TABLE_PRESENT = 0x1000_0000 << 32


def flat(path: Path, data: bytes) -> None:
    """Write raw disk bytes, as for FLAT and VMFS extents."""
    path.write_bytes(data)


def cowd(
    path: Path,
    capacity_sectors: int,
    grains: Grains,
    *,
    grain_sectors: int = 1,
    order: Sequence[int] | None = None,
    zero_as_entry: bool = False,
    unclean: bool = False,
) -> None:
    """Write a ``-delta`` extent; tables appear in front of the first grain that needs them.

    The kind has no agreed zero entry, so a "zero" grain becomes a grain of zero bytes, or with
    ``zero_as_entry`` an entry of 1, which readers disagree on.
    """
    check_grains(capacity_sectors, grains, grain_sectors, ["zero"])
    zero = bytes(grain_sectors * SECTOR)
    as_entry = [i for i, c in grains.items() if c == "zero" and zero_as_entry]
    stored = {
        i: zero if isinstance(c, str) else c for i, c in grains.items() if i not in set(as_entry)
    }

    directory = ceil_div(capacity_sectors, COWD_GTES * grain_sectors)
    gd = np.zeros(directory, dtype="<u4")
    tables: dict[int, np.ndarray[tuple[int], np.dtype[np.uint32]]] = {}
    free = COWD_FIRST_FREE + ceil_div(directory * 4, SECTOR)
    with path.open("wb") as f:
        for index in [*file_order(list(stored), order), *as_entry]:
            number, slot = divmod(index, COWD_GTES)
            if number not in tables:
                tables[number] = np.zeros(COWD_GTES, dtype="<u4")
                gd[number] = free
                free += COWD_GTES * 4 // SECTOR
            if index not in stored:
                tables[number][slot] = 1
                continue
            tables[number][slot] = free
            f.seek(free * SECTOR)
            f.write(stored[index])
            free += grain_sectors
        for number, table in tables.items():
            f.seek(int(gd[number]) * SECTOR)
            f.write(table.tobytes())
        f.seek(COWD_FIRST_FREE * SECTOR)
        f.write(gd.tobytes())
        # Redo logs are whole 4 KiB blocks; the free pointer need not be.
        f.truncate(round_up(free * SECTOR, 4096))
        head = bytearray(COWD_FIRST_FREE * SECTOR)
        struct.pack_into(
            "<4s7I",
            head,
            0,
            b"COWD",
            1,
            3,
            capacity_sectors,
            grain_sectors,
            COWD_FIRST_FREE,
            directory,
            free,
        )
        struct.pack_into("<I", head, 1648, unclean)
        f.seek(0)
        f.write(head)


def sesparse_regions(capacity_sectors: int) -> dict[str, tuple[int, int]]:
    """Offset and size in sectors of each region, in the order of the constant header."""
    grain_count = ceil_div(capacity_sectors, SE_GRAIN)
    tables = ceil_div(grain_count, SE_GTES)
    regions = {"volatile": (1, 1), "journal header": (2, 2), "journal": (SE_REGION, SE_REGION)}
    sizes = {
        "directory": ceil_div(tables * 8, SECTOR),
        "tables": tables * SE_TABLE_SECTORS,
        "bitmap": ceil_div(grain_count, 8 * SECTOR),
        "back map": ceil_div(grain_count * 8, SECTOR),
        "grains": grain_count * SE_GRAIN,
    }
    at = 2 * SE_REGION
    for name, size in sizes.items():
        regions[name] = (at, round_up(size, SE_REGION))
        at += regions[name][1]
    return regions


def sesparse_entry(grain: int) -> int:
    """Table entry of the allocated grain number ``grain`` of the grain region."""
    return 3 << 60 | (grain & 0xFFF) << 48 | grain >> 12


def sesparse(
    path: Path,
    capacity_sectors: int,
    grains: Grains,
    *,
    order: Sequence[int] | None = None,
    replay_journal: int = 0,
) -> None:
    """Write a ``-sesparse`` extent with holes; grains are 4 KiB.

    Tables and grains are numbered in the order in which they are first needed, so with ``order``
    neither number follows from the address.
    """
    check_grains(capacity_sectors, grains, SE_GRAIN, ["zero", "unmapped"])
    regions = sesparse_regions(capacity_sectors)
    directory_at, tables_at, bitmap_at, back_at, grains_at = (
        regions[name][0] * SECTOR
        for name in ("directory", "tables", "bitmap", "back map", "grains")
    )
    stored = {i: c for i, c in grains.items() if not isinstance(c, str)}
    words = sorted(i for i, c in grains.items() if isinstance(c, str))

    # Directory index -> (table number, entries); both start at 0 and grow with use.
    tables: dict[int, tuple[int, np.ndarray[tuple[int], np.dtype[np.uint64]]]] = {}
    owners: list[int] = []
    with path.open("wb") as f:
        for index in [*file_order(list(stored), order), *words]:
            number, slot = divmod(index, SE_GTES)
            if number not in tables:
                tables[number] = (len(tables), np.zeros(SE_GTES, dtype="<u8"))
            table_number, table = tables[number]
            if index not in stored:
                table[slot] = SE_ZERO if grains[index] == "zero" else SE_UNMAPPED
                continue
            table[slot] = sesparse_entry(len(owners))
            f.seek(grains_at + len(owners) * SE_GRAIN * SECTOR)
            f.write(stored[index])
            owners.append(table_number)

        for number, (table_number, table) in tables.items():
            f.seek(directory_at + number * 8)
            f.write(struct.pack("<Q", SE_TABLE_PRESENT | table_number))
            f.seek(tables_at + table_number * SE_TABLE_SECTORS * SECTOR)
            f.write(table.tobytes())
        f.seek(bitmap_at)
        f.write(np.packbits(np.ones(len(owners), dtype=np.uint8), bitorder="little").tobytes())
        f.seek(back_at)
        f.write(np.asarray(owners, dtype="<u8").tobytes())

        f.seek(0)
        head = [0xCAFEBABE, 0x2_0000_0001, capacity_sectors, SE_GRAIN, SE_TABLE_SECTORS, 0]
        places = [field for region in regions.values() for field in region]
        f.write(struct.pack("<26Q", *head, 0, 0, 0, 0, *places).ljust(SECTOR, b"\0"))
        f.write(struct.pack("<4Q", 0xCAFECAFE, len(tables), 0, replay_journal).ljust(SECTOR, b"\0"))
        # The file grows by one table's worth of grains at a time, but not past the last region.
        room = min(len(tables) * SE_GTES * SE_GRAIN, regions["grains"][1])
        f.truncate(grains_at + room * SECTOR)
