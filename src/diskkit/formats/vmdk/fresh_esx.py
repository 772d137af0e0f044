# SPDX-License-Identifier: Apache-2.0
"""New empty extents of ESX's own kinds, COWD and seSparse, as holes but for their headers.

Layouts: docs/formats/cowd.md and sesparse.md. Not verified against VMware.
"""

from __future__ import annotations

import os
import struct

from diskkit.formats.vmdk import esx
from diskkit.formats.vmdk.layout import MAGIC_COWD, MAGIC_SESPARSE
from diskkit.storage.writing import write_all
from diskkit.units import SECTOR, align_up, ceil_div

MOST_COWD = (1 << 32) * SECTOR - SECTOR
"""Largest capacity, bytes: entries are 32-bit sector numbers."""
MOST_SESPARSE = 64 << 40
"""Largest capacity, bytes: beyond what any VMware product calls a disk."""
SESPARSE_SUFFIX = "-sesparse"
"""Of the extent's file, between the descriptor's name and ".vmdk"."""
_COWD_HEADER = 4 * SECTOR
_COWD_UNIT = 4096
"""Files seen are multiples of this many bytes."""
_COWD_FLAGS = 3
_REGION = 1 << 20
"""Regions of an seSparse file, from the journal on, begin and end at multiples of this."""
_VERSION = 0x0000000200000001
_VOLATILE = struct.pack("<Q", 0xCAFECAFE)


def write_empty_cowd(fd: int, capacity: int) -> None:
    """An empty redo log for `capacity` bytes, into a new file."""
    sectors = capacity // SECTOR
    tables = ceil_div(sectors, esx.COWD_TABLE_ENTRIES)
    end = _COWD_HEADER + align_up(tables * 4, SECTOR)
    fields = (1, _COWD_FLAGS, sectors, 1, _COWD_HEADER // SECTOR, tables, end // SECTOR)
    os.ftruncate(fd, align_up(end, _COWD_UNIT))
    write_all(fd, struct.pack("<4s7I", MAGIC_COWD, *fields).ljust(_COWD_HEADER, b"\0"), 0)


def write_empty_sesparse(fd: int, capacity: int) -> None:
    """An empty seSparse extent for `capacity` bytes, into a new file."""
    grains = ceil_div(capacity, esx.SE_GRAIN)
    tables = ceil_div(grains, esx.SE_TABLE_ENTRIES)
    places = [1, 1, 2, 2, _REGION // SECTOR, _REGION // SECTOR]
    at = 2 * _REGION
    sizes = (tables * 8, tables * esx.SE_TABLE_SIZE, ceil_div(grains, 8), grains * 8)
    for size in (*sizes, grains * esx.SE_GRAIN):
        size_of_region = align_up(size, _REGION)
        places += [at // SECTOR, size_of_region // SECTOR]
        at += size_of_region
    # The grains' region is there from its first grain on.
    os.ftruncate(fd, places[-2] * SECTOR)
    unit, table = esx.SE_GRAIN // SECTOR, esx.SE_TABLE_SIZE // SECTOR
    words = (_VERSION, capacity // SECTOR, unit, table, 0, 0, 0, 0, 0, *places)
    head = MAGIC_SESPARSE + struct.pack(f"<{len(words)}Q", *words)
    write_all(fd, head.ljust(SECTOR, b"\0") + _VOLATILE.ljust(SECTOR, b"\0"), 0)
