# SPDX-License-Identifier: Apache-2.0
"""Redo logs and seSparse extents that lie: rows 30 and 31."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from diskkit import FormatError, UnsupportedFeature, open_disk
from hostile.images import (
    COWD_GRAINS,
    ESX_CAPACITY,
    SECTOR,
    Warnings,
    content,
    cowd_chain,
    policy,
    refusal,
    says,
    se_chain,
    text_of,
    truncate,
    u32,
)
from makers import (
    cowd,
    poke,
    sesparse,
    sesparse_entry,
    sesparse_regions,
    text_replace,
    write_descriptor,
)

if TYPE_CHECKING:
    from pathlib import Path

    from diskkit import DiskkitError

ALL_ONES = (1 << 64) - 1


def read_error(disk: Path, sector: int) -> str:
    """What reading one sector of a disk that opens ends in; the map says the same."""
    with open_disk(disk, policy=policy()) as opened:
        with pytest.raises(FormatError) as caught:
            opened.read(sector * SECTOR, SECTOR)
        with pytest.raises(FormatError) as mapped:
            list(opened.runs(sector * SECTOR, SECTOR))
        assert str(mapped.value) == str(caught.value)
        error: DiskkitError = caught.value
        return text_of(error)


def sector_of(disk: Path, sector: int) -> bytes:
    with open_disk(disk, policy=policy()) as opened:
        return opened.read(sector * SECTOR, SECTOR)


def base_sector(number: int) -> bytes:
    return (b"sector %d " % number * 64)[:SECTOR]


# --- row 30: COWD --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "at", "value", "why"),
    [
        ("magic", 0, int.from_bytes(b"COWX", "little"), "is not b'COWD'"),
        ("version", 4, 0, "only version 1"),
        ("version", 4, 2, "only version 1"),
        ("numSectors", 12, 0, "no sectors"),
        ("numSectors", 12, ESX_CAPACITY - 1, "extent line says 4096"),
        ("grainSize", 16, 0, "power of two"),
        ("grainSize", 16, 3, "power of two"),
        ("grainSize", 16, 4096, "1 to 2048"),
        ("grainSize", 16, 0xFFFFFFFF, "1 to 2048"),
        ("gdOffset", 20, 0, "overlaps the header"),
        ("gdOffset", 20, 3, "overlaps the header"),
        ("gdOffset", 20, 0xFFFFFFFF, "the directory ends beyond the file's"),
        ("numGDEntries", 24, 0, "needs 1"),
        ("numGDEntries", 24, 2, "needs 1"),
        ("numGDEntries", 24, 0xFFFFFFFF, "needs 1"),
        ("freeSector", 28, 0, "before the end of the directory"),
        ("freeSector", 28, 4, "before the end of the directory"),
        ("freeSector", 28, 0xFFFFFFFF, "lies beyond the file's"),
    ],
)
def test_redo_log_header(tmp_path: Path, field: str, at: int, value: int, why: str) -> None:
    disk = cowd_chain(tmp_path)
    extent = tmp_path / "child-delta.vmdk"
    poke(extent, at, "<I", value)
    shown = repr(struct.pack("<I", value)) if field == "magic" else value
    says(refusal(disk), f"{extent}: COWD header: {field} at byte {at} is {shown}", why)


def test_redo_log_that_ends_inside_its_header(tmp_path: Path) -> None:
    disk = cowd_chain(tmp_path)
    for size in (0, 4, 2047):
        truncate(tmp_path / "child-delta.vmdk", size)
        says(refusal(disk), f"COWD header: size is {size}", "2048 bytes")


def test_redo_log_larger_than_its_line(tmp_path: Path) -> None:
    disk = cowd_chain(tmp_path)
    poke(tmp_path / "child-delta.vmdk", 12, "<I", ESX_CAPACITY + 1)
    poke(tmp_path / "child-delta.vmdk", 24, "<I", 2)
    says(refusal(disk), "numSectors at byte 12 is 4097", "extent line says 4096")


def test_redo_log_unclean_is_a_warning(tmp_path: Path) -> None:
    warnings = Warnings()
    assert content(cowd_chain(tmp_path, unclean=True), warnings)
    assert warnings.has("child-delta.vmdk", "uncleanShutdown is set")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (1, "inside the header or the directory"),
        (4, "inside the header or the directory"),
        (0xFFFFFFFF, "beyond what is allocated (freeSector) or beyond the end of the file"),
    ],
)
def test_redo_log_directory_entry(tmp_path: Path, value: int, why: str) -> None:
    disk = cowd_chain(tmp_path)
    poke(tmp_path / "child-delta.vmdk", 4 * SECTOR, "<I", value)
    place = f"grain directory: entry 0 at byte 2048 is {value}"
    says(read_error(disk, 3), tmp_path / "child-delta.vmdk", place, why)


def test_redo_log_tables_shared(tmp_path: Path) -> None:
    from makers import flat

    flat(tmp_path / "base-flat.vmdk", bytes(8192 * SECTOR))
    extent = tmp_path / "disk-delta.vmdk"
    cowd(extent, 8192, {0: b"a" * SECTOR, 4096: b"b" * SECTOR})
    disk = tmp_path / "disk.vmdk"
    write_descriptor(disk, "vmfsSparse", ['RW 8192 VMFSSPARSE "disk-delta.vmdk"'])
    assert sector_of(disk, 4096) == b"b" * SECTOR
    poke(extent, 2052, "<I", u32(extent, 2048))
    why = "another directory entry names the same table"
    says(read_error(disk, 4096), "grain directory: entry 1 at byte 2052", why)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (2, "inside the header or the directory"),
        (3, "inside the header or the directory"),
        (4, "inside the header or the directory"),
        (0xFFFFFFFF, "beyond what is allocated (freeSector) or beyond the end of the file"),
    ],
)
def test_redo_log_table_entry(tmp_path: Path, value: int, why: str) -> None:
    disk = cowd_chain(tmp_path)
    extent = tmp_path / "child-delta.vmdk"
    at = u32(extent, 4 * SECTOR) * SECTOR + 4 * 100
    poke(extent, at, "<I", value)
    says(read_error(disk, 100), f"{extent}: grain table: entry 100 at byte {at} is {value}", why)
    assert sector_of(disk, 3) == COWD_GRAINS[3]
    assert sector_of(disk, 101) == base_sector(101)


def test_redo_log_grain_beyond_free_sector(tmp_path: Path) -> None:
    disk = cowd_chain(tmp_path)
    extent = tmp_path / "child-delta.vmdk"
    free = u32(extent, 28)
    poke(extent, 28, "<I", free - 1)
    says(read_error(disk, 4095), "entry 4095 at byte", f"is {free - 1}", "freeSector")
    assert sector_of(disk, 100) == COWD_GRAINS[100]


def test_redo_log_entry_of_one_is_zeros(tmp_path: Path) -> None:
    disk = cowd_chain(tmp_path)
    extent = tmp_path / "child-delta.vmdk"
    poke(extent, u32(extent, 4 * SECTOR) * SECTOR + 4 * 100, "<I", 1)
    assert sector_of(disk, 100) == bytes(SECTOR)


def test_redo_log_cut_short(tmp_path: Path) -> None:
    disk = cowd_chain(tmp_path)
    whole = content(disk)
    extent = tmp_path / "child-delta.vmdk"
    truncate(extent, u32(extent, 28) * SECTOR - SECTOR - 100)  # the last grain, and some
    says(refusal(disk), f"{extent}: COWD header: freeSector at byte 28", "lies beyond the file's")
    warnings = Warnings()
    found = content(disk, warnings, allow_truncated=True)
    assert warnings.has(str(extent), "cut short")
    assert found[: 100 * SECTOR] == whole[: 100 * SECTOR]
    assert found[100 * SECTOR : 101 * SECTOR] == b"b" * (SECTOR - 100) + bytes(100)
    assert found[101 * SECTOR : -SECTOR] == whole[101 * SECTOR : -SECTOR]
    assert found[-SECTOR:] == bytes(SECTOR)


# --- row 31: seSparse ----------------------------------------------------------------------------

HEADER = "seSparse header"


@pytest.mark.parametrize(
    ("field", "at", "value", "why"),
    [
        ("magic", 0, 0xCAFEBABF, "must be 0xcafebabe"),
        ("version", 8, 1, "must be 0x200000001"),
        ("version", 8, 0x300000001, "must be 0x200000001"),
        ("grainSize", 24, 16, "must be 0x8"),
        ("grainSize", 24, 0, "must be 0x8"),
        ("grainTableSize", 32, 32, "must be 0x40"),
        ("flags", 40, 1, "must be 0x0"),
        ("reserved", 48, 1, "must be 0x0"),
        ("reserved", 72, ALL_ONES, "must be 0x0"),
    ],
)
def test_sesparse_constants(tmp_path: Path, field: str, at: int, value: int, why: str) -> None:
    disk = se_chain(tmp_path)
    extent = tmp_path / "child-sesparse.vmdk"
    poke(extent, at, "<Q", value)
    says(refusal(disk), f"{extent}: {HEADER}: {field} at byte {at} is {value:#x}", why)


@pytest.mark.parametrize(
    ("field", "at", "value", "why"),
    [
        ("capacity", 16, 0, "no sectors"),
        ("capacity", 16, ESX_CAPACITY + 8, "extent line says 4096"),
        ("capacity", 16, 1 << 53, "grain tables, more than"),
        ("capacity", 16, ALL_ONES, "grain tables, more than"),
        ("volatileHeader offset", 80, 0, "overlaps what lies before it"),
        ("volatileHeader offset", 80, 1 << 40, "lies beyond the file's"),
        ("volatileHeader size", 88, 0, "no room for the header"),
        ("volatileHeader size", 88, ALL_ONES, "ends beyond the file's"),
        ("journalHeader offset", 96, 1, "overlaps what lies before it"),
        ("journal offset", 112, 2, "overlaps what lies before it"),
        ("grainDirectory offset", 128, 2048, "overlaps what lies before it"),
        ("grainDirectory offset", 128, ALL_ONES, "lies beyond the file's"),
        ("grainTables offset", 144, 1, "out of order"),
        ("grainTables size", 152, 1 << 50, "ends beyond the file's"),
        ("freeBitmap offset", 160, 1, "out of order"),
        ("backMap size", 184, ALL_ONES, "ends beyond the file's"),
        ("grains offset", 192, 1, "out of order"),
        ("grains offset", 192, 1 << 55, "lies beyond the file's"),
        ("grains offset", 192, ALL_ONES, "lies beyond the file's"),
        ("grains size", 200, 1 << 54, "ends beyond"),
        ("grains size", 200, ALL_ONES, "ends beyond"),
    ],
)
def test_sesparse_regions(tmp_path: Path, field: str, at: int, value: int, why: str) -> None:
    disk = se_chain(tmp_path)
    extent = tmp_path / "child-sesparse.vmdk"
    poke(extent, at, "<Q", value)
    says(refusal(disk), f"{extent}: {HEADER}: {field} at byte {at} is {value}", why)


def test_sesparse_directory_too_small_for_the_capacity(tmp_path: Path) -> None:
    disk = se_chain(tmp_path)
    poke(tmp_path / "child-sesparse.vmdk", 136, "<Q", 0)
    says(refusal(disk), HEADER, "grainDirectory size at byte 136 is 0", "too small for the 1")


@pytest.mark.parametrize(("at", "structure"), [(208, HEADER), (511, HEADER)])
def test_sesparse_padding(tmp_path: Path, at: int, structure: str) -> None:
    disk = se_chain(tmp_path)
    poke(tmp_path / "child-sesparse.vmdk", at, "<B", 1)
    says(refusal(disk), f"{structure}: padding at byte 208", "is not all zeros")


@pytest.mark.parametrize(
    ("at", "fmt", "value", "place"),
    [
        (0, "<Q", 0xCAFEBABE, "magic at byte 512 is 0xcafebabe: must be 0xcafecafe"),
        (0, "<Q", 0, "magic at byte 512 is 0x0"),
        (32, "<B", 1, "padding at byte 544: is not all zeros"),
        (511, "<B", 1, "padding at byte 544"),
    ],
)
def test_sesparse_volatile_header(
    tmp_path: Path, at: int, fmt: str, value: int, place: str
) -> None:
    disk = se_chain(tmp_path)
    poke(tmp_path / "child-sesparse.vmdk", SECTOR + at, fmt, value)
    says(refusal(disk), f"seSparse volatile header: {place}")


@pytest.mark.parametrize("replay", [1, 7, ALL_ONES])
def test_sesparse_with_a_journal_to_replay(tmp_path: Path, replay: int) -> None:
    disk = se_chain(tmp_path, replay_journal=replay)
    place = f"seSparse volatile header: replayJournal at byte 536 is {replay}"
    says(refusal(disk, UnsupportedFeature), place, "journal holds changes", "ESXi")


def test_sesparse_that_ends_inside_its_headers(tmp_path: Path) -> None:
    disk = se_chain(tmp_path)
    for size in (0, 8, 511):
        truncate(tmp_path / "child-sesparse.vmdk", size)
        says(refusal(disk), f"{HEADER}: size is {size}")


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (1, "the high half must be 0x10000000"),
        (0x2000000000000000, "the high half must be 0x10000000"),
        (0x1000000100000000, "the high half must be 0x10000000"),
        (ALL_ONES, "the high half must be 0x10000000"),
        (0x10000000FFFFFFFF, "the table index lies beyond the grain tables"),
        (0x1000000000000020, "the table index lies beyond the grain tables"),
    ],
)
def test_sesparse_directory_entry(tmp_path: Path, entry: int, why: str) -> None:
    disk = se_chain(tmp_path)
    at = sesparse_regions(ESX_CAPACITY)["directory"][0] * SECTOR
    poke(tmp_path / "child-sesparse.vmdk", at, "<Q", entry)
    says(read_error(disk, 0), f"grain directory: entry 0 at byte {at} is {entry:#018x}", why)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (1, "type 0 must be all zeros"),
        (0x0FFFFFFFFFFFFFFF, "type 0 must be all zeros"),
        (0x4000000000000000, "types above 3 are not known"),
        (ALL_ONES, "types above 3 are not known"),
        (sesparse_entry(512), "beyond the grain area or the end of the file"),
        (sesparse_entry(4096), "beyond the grain area or the end of the file"),
        (0x3FFFFFFFFFFFFFFF, "beyond the grain area or the end of the file"),
        (0x3000FFFFFFFFFFFF, "beyond the grain area or the end of the file"),
        (0x3000080000000000, "beyond the grain area or the end of the file"),
    ],
)
def test_sesparse_table_entry(tmp_path: Path, entry: int, why: str) -> None:
    disk = se_chain(tmp_path)
    extent = tmp_path / "child-sesparse.vmdk"
    at = sesparse_regions(ESX_CAPACITY)["tables"][0] * SECTOR + 8 * 100
    poke(extent, at, "<Q", entry)
    text = read_error(disk, 800)
    says(text, f"{extent}: grain table: entry 100 at byte {at} is {entry:#018x}", why)
    assert sector_of(disk, 24) == b"a" * SECTOR
    assert sector_of(disk, 808) == base_sector(808)


def test_sesparse_grain_area_claimed_far_beyond_the_file(tmp_path: Path) -> None:
    """Positions of the last grains that entries can name must not wrap around."""
    disk = se_chain(tmp_path)
    extent = tmp_path / "child-sesparse.vmdk"
    poke(extent, 200, "<Q", (1 << 53) - (1 << 20))
    at = sesparse_regions(ESX_CAPACITY)["tables"][0] * SECTOR + 8 * 100
    for index in ((1 << 50) - (1 << 18), 1 << 49, (1 << 51), (1 << 52), (1 << 59), (1 << 60) - 1):
        poke(extent, at, "<Q", sesparse_entry(index))
        text = read_error(disk, 800)
        says(text, f"entry 100 at byte {at}", "beyond the grain area or the end of the file")


def test_sesparse_tables_shared(tmp_path: Path) -> None:
    extent = tmp_path / "disk-sesparse.vmdk"
    capacity = 2 * 4096 * 8
    sesparse(extent, capacity, {0: b"a" * 4096, 4096: b"b" * 4096})
    disk = tmp_path / "disk.vmdk"
    write_descriptor(disk, "seSparse", [f'RW {capacity} SESPARSE "{extent.name}"'])
    at = sesparse_regions(capacity)["directory"][0] * SECTOR
    assert sector_of(disk, 4096 * 8) == b"b" * SECTOR
    poke(extent, at + 8, "<Q", 0x1000000000000000)
    why = "another directory entry names the same table"
    says(read_error(disk, 0), f"grain directory: entry 0 at byte {at}", why)
    says(read_error(disk, 4096 * 8), f"grain directory: entry 1 at byte {at + 8}", why)


def test_sesparse_cut_inside_its_grains(tmp_path: Path) -> None:
    disk = se_chain(tmp_path)
    whole = content(disk)
    extent = tmp_path / "child-sesparse.vmdk"
    grains = sesparse_regions(ESX_CAPACITY)["grains"][0] * SECTOR
    truncate(extent, grains + 4096 + 1000)  # 1000 bytes of grain 100
    says(read_error(disk, 800), "grain table: entry 100", "the end of the file")
    assert sector_of(disk, 24) == b"a" * SECTOR
    found = content(disk, allow_truncated=True)
    assert found[: 800 * SECTOR + 1000] == whole[: 800 * SECTOR + 1000]
    assert found[800 * SECTOR + 1000 : 808 * SECTOR] == bytes(4096 - 1000)
    assert found[808 * SECTOR :] == whole[808 * SECTOR :]


def test_sesparse_capacity_and_line_differ(tmp_path: Path) -> None:
    disk = se_chain(tmp_path)
    text_replace(disk, f"RW {ESX_CAPACITY} SESPARSE", f"RW {ESX_CAPACITY - 8} SESPARSE")
    says(refusal(disk), f"{HEADER}: capacity at byte 16 is 4096", "extent line says 4088")
