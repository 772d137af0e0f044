# SPDX-License-Identifier: Apache-2.0
"""The binary structures of ESX's own extents, COWD and seSparse: unpack and validate. Pure.

As in layout.py, every field is checked before any other code computes with it. The structures are
described in docs/formats/ (cowd, sesparse). Little-endian throughout.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from diskkit.errors import UnsupportedFeature
from diskkit.formats.vmdk.layout import MAGIC_COWD, MAX_SECTORS, Rules, check_tables
from diskkit.units import SECTOR, align_up, ceil_div


class CowdHeader(NamedTuple):
    """Header of an ESX redo log. Offsets and sizes in bytes."""

    capacity: int
    grain: int
    directory_offset: int
    tables: int
    free: int
    """End of what is allocated."""
    unclean: int


COWD_TABLE_ENTRIES = 4096
_COWD = struct.Struct("<4s7I")
_COWD_SIZE = 2048


def parse_cowd_header(data: bytes, size: int, path: str, *, truncated: bool = False) -> CowdHeader:
    """Unpack and check a COWD header of a file of `size` bytes, which `truncated` may be cut."""
    rules = Rules("COWD header", path)
    if len(data) < _COWD_SIZE:
        rules.fail("size", None, len(data), "the file ends inside the 2048 bytes of the header")
    magic, version, _flags, sectors, grain, gd, tables, free = _COWD.unpack_from(data)
    (unclean,) = struct.unpack_from("<I", data, 1648)
    if magic != MAGIC_COWD:
        rules.fail("magic", 0, magic, f"is not {MAGIC_COWD!r}")
    if version != 1:
        rules.fail("version", 4, version, "only version 1 is known")
    if not sectors:
        rules.fail("numSectors", 12, sectors, "an extent of no sectors")
    if not 1 <= grain <= 2048 or grain & (grain - 1):
        rules.fail("grainSize", 16, grain, "must be a power of two from 1 to 2048 sectors")
    if gd < 4:
        rules.fail("gdOffset", 20, gd, "overlaps the header")
    wanted = ceil_div(sectors, COWD_TABLE_ENTRIES * grain)
    if tables != wanted:
        text = f"the capacity of {sectors} sectors needs {wanted}"
        rules.fail("numGDEntries", 24, tables, text)
    end = gd * SECTOR + align_up(tables * 4, SECTOR)
    if end > size:
        rules.fail("gdOffset", 20, gd, f"the directory ends beyond the file's {size} bytes")
    if free * SECTOR < end:
        rules.fail("freeSector", 28, free, "lies before the end of the directory")
    if free * SECTOR > align_up(size, SECTOR) and not truncated:
        rules.fail("freeSector", 28, free, f"lies beyond the file's {size} bytes")
    return CowdHeader(sectors * SECTOR, grain * SECTOR, gd * SECTOR, tables, free * SECTOR, unclean)


class Region(NamedTuple):
    """A region of an seSparse file, in bytes."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.offset + self.size


class SeSparseHeader(NamedTuple):
    """Both headers of an seSparse extent. Offsets and sizes in bytes."""

    capacity: int
    volatile: Region
    directory: Region
    tables: Region
    bitmap: Region
    back_map: Region
    grains: Region


SE_GRAIN = 8 * SECTOR
SE_TABLE_SIZE = 64 * SECTOR
SE_TABLE_ENTRIES = SE_TABLE_SIZE // 8
_SE_VERSION = 0x0000000200000001
_SE_VOLATILE = 0xCAFECAFE
_SE_REGIONS = (
    "volatileHeader",
    "journalHeader",
    "journal",
    "grainDirectory",
    "grainTables",
    "freeBitmap",
    "backMap",
    "grains",
)


def parse_sesparse_header(data: bytes, size: int, path: str) -> SeSparseHeader:
    """Unpack and check the constant header (the first 512 bytes) of a file of `size` bytes."""
    rules = Rules("seSparse header", path)
    if len(data) < SECTOR:
        rules.fail("size", None, len(data), "the file ends inside the 512 bytes of the header")
    words = struct.unpack_from("<26Q", data)
    expected = (
        ("magic", 0xCAFEBABE),
        ("version", _SE_VERSION),
        ("capacity", None),
        ("grainSize", 8),
        ("grainTableSize", 64),
        ("flags", 0),
        *(("reserved", 0),) * 4,
    )
    for index, (field, value) in enumerate(expected):
        if value is not None and words[index] != value:
            rules.fail(field, index * 8, f"{words[index]:#x}", f"must be {value:#x}")
    if any(data[208:SECTOR]):
        rules.fail("padding", 208, None, "is not all zeros")
    capacity = words[2]
    if not capacity:
        rules.fail("capacity", 16, capacity, "an extent of no sectors")
    tables = check_tables(rules, 16, capacity, SE_TABLE_ENTRIES * SE_GRAIN // SECTOR)
    regions = _sesparse_regions(rules, words[10:], size)
    if regions["grainDirectory"].size < tables * 8:
        text = f"too small for the {tables} tables that the capacity needs"
        rules.fail("grainDirectory size", 136, regions["grainDirectory"].size // SECTOR, text)
    return SeSparseHeader(
        capacity * SECTOR,
        regions["volatileHeader"],
        regions["grainDirectory"],
        regions["grainTables"],
        regions["freeBitmap"],
        regions["backMap"],
        regions["grains"],
    )


def _sesparse_regions(rules: Rules, words: tuple[int, ...], size: int) -> dict[str, Region]:
    regions = {}
    end = SECTOR
    for index, name in enumerate(_SE_REGIONS):
        at = 80 + index * 16
        region = Region(words[2 * index] * SECTOR, words[2 * index + 1] * SECTOR)
        if region.offset < end:
            text = "overlaps what lies before it, or is out of order"
            rules.fail(f"{name} offset", at, words[2 * index], text)
        if region.offset > size:
            text = f"lies beyond the file's {size} bytes"
            rules.fail(f"{name} offset", at, words[2 * index], text)
        # The grain area may be longer than the file, which grows as grains are used.
        if region.end > (size if name != "grains" else MAX_SECTORS * SECTOR // 2):
            text = f"ends beyond the file's {size} bytes"
            rules.fail(f"{name} size", at + 8, words[2 * index + 1], text)
        if name == "volatileHeader" and not region.size:
            rules.fail(f"{name} size", at + 8, 0, "no room for the header")
        regions[name] = region
        end = region.end
    return regions


def parse_sesparse_volatile(data: bytes, at: int, path: str) -> int:
    """Check the volatile header, found at byte `at`; returns its replayJournal."""
    rules = Rules("seSparse volatile header", path, at)
    magic, _free, _sequence, replay = struct.unpack_from("<4Q", data)
    if magic != _SE_VOLATILE:
        rules.fail("magic", 0, f"{magic:#x}", f"must be {_SE_VOLATILE:#x}")
    if any(data[32:SECTOR]):
        rules.fail("padding", 32, None, "is not all zeros")
    return int(replay)


def sesparse_replay_error(path: str, at: int, replay: int) -> UnsupportedFeature:
    """Why a disk with changes left in its journal is refused."""
    return UnsupportedFeature(
        "the journal holds changes that were not applied; its format is not public",
        path=path,
        structure="seSparse volatile header",
        field="replayJournal",
        offset=at + 24,
        value=replay,
        advice="let ESXi open the disk once, or copy the snapshot there",
    )
