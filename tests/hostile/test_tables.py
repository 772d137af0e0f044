# SPDX-License-Identifier: Apache-2.0
"""Directories and tables of hosted sparse extents that lie: rows 11 to 13.

Opening always succeeds: one bad entry must not cost the rest of the disk. What it covers raises
an error that names it; everything else still reads right. A redundant copy heals, with a warning.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from diskkit import FormatError, State, open_disk
from hostile.images import (
    CAPACITY,
    GRAIN,
    GRAIN_BYTES,
    GRAINS,
    SECTOR,
    Warnings,
    content,
    get,
    hosted_chain,
    mono,
    mono_bytes,
    policy,
    refusal,
    says,
    table_entry,
    text_of,
    truncate,
    u32,
)
from makers import expected, hosted_sparse, poke, sample_grain

if TYPE_CHECKING:
    from pathlib import Path

    from makers import Grains

PER_TABLE = 128
MANY = 3 * PER_TABLE * GRAIN
"""Sectors of a disk with three grain tables."""
SPREAD: Grains = {1: sample_grain(1), 129: sample_grain(2), 260: sample_grain(3)}


def spread(folder: Path, **options: object) -> Path:
    """A disk of three tables with one grain in each."""
    path = folder / "disk.vmdk"
    hosted_sparse(path, MANY, SPREAD, gtes=PER_TABLE, **options)  # type: ignore[arg-type]
    return path


def grain_at(path: Path, index: int, warnings: Warnings | None = None, **changes: object) -> bytes:
    """One grain of a disk."""
    with open_disk(path, policy=policy(warnings, **changes)) as disk:
        return disk.read(index * GRAIN_BYTES, min(GRAIN_BYTES, disk.size - index * GRAIN_BYTES))


def grain_error(path: Path, index: int) -> str:
    """What reading one grain of a disk that opens ends in; its map says the same."""
    with open_disk(path, policy=policy()) as disk:
        with pytest.raises(FormatError) as caught:
            disk.read(index * GRAIN_BYTES, SECTOR)
        with pytest.raises(FormatError) as mapped:
            list(disk.runs(index * GRAIN_BYTES, SECTOR))
        assert str(mapped.value) == str(caught.value)
        return text_of(caught.value)


# --- row 11: the directory -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (0xFFFFFFFF, "the table lies beyond the end of the file"),
        (0x80000000, "the table lies beyond the end of the file"),
        (1, "overlaps the header, the descriptor or a directory"),
        (20, "overlaps the header, the descriptor or a directory"),
        (18, "overlaps the header, the descriptor or a directory"),
        (21, "overlaps the header, the descriptor or a directory"),
    ],
)
def test_directory_entry_that_cannot_be_right(tmp_path: Path, value: int, why: str) -> None:
    disk = spread(tmp_path, redundant=False)
    at = get(disk, "gdOffset") * SECTOR + 4
    poke(disk, at, "<I", value)
    says(grain_error(disk, 129), disk, f"grain directory: entry 1 at byte {at} is {value}", why)
    assert grain_at(disk, 1) == SPREAD[1]
    assert grain_at(disk, 260) == SPREAD[260]


def test_directory_entry_that_points_at_the_file_end(tmp_path: Path) -> None:
    disk = spread(tmp_path, redundant=False)
    at = get(disk, "gdOffset") * SECTOR + 4
    value = disk.stat().st_size // SECTOR
    poke(disk, at, "<I", value)
    with disk.open("ab") as f:
        f.write(bytes(SECTOR - 1))  # all of the table but its last byte
    says(grain_error(disk, 129), f"entry 1 at byte {at} is {value}", "beyond the end of the file")


def test_two_directory_entries_for_one_table(tmp_path: Path) -> None:
    disk = spread(tmp_path, redundant=False)
    at = get(disk, "gdOffset") * SECTOR
    value = u32(disk, at)
    poke(disk, at + 4, "<I", value)
    for index, entry in ((1, 0), (129, 1)):
        place = f"grain directory: entry {entry} at byte {at + 4 * entry} is {value}"
        says(grain_error(disk, index), place, "another directory entry names the same table")
    assert grain_at(disk, 260) == SPREAD[260]


# --- row 12: table entries -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (1, "1 means zeros, but flag bit 2 does not allow it"),
        (2, "before the first grain (overHead)"),
        (127, "before the first grain (overHead)"),
        (0xFFFFFFFF, "beyond the end of the file"),
        (0x7FFFFFFF, "beyond the end of the file"),
        (0x80000000, "beyond the end of the file"),
    ],
)
def test_table_entry_that_cannot_be_right(tmp_path: Path, value: int, why: str) -> None:
    disk = mono(tmp_path, redundant=False)
    at = table_entry(disk, 2)
    poke(disk, at, "<I", value)
    says(grain_error(disk, 2), disk, f"grain table: entry 2 at byte {at} is {value}", why)
    for index in (0, 1, 3, 9):
        assert grain_at(disk, index) == GRAINS.get(index, bytes(GRAIN_BYTES))


def test_entry_numbers_count_through_all_tables(tmp_path: Path) -> None:
    disk = spread(tmp_path, redundant=False)
    at = u32(disk, get(disk, "gdOffset") * SECTOR + 8) * SECTOR + 4 * (260 - 256)
    poke(disk, at, "<I", 0xFFFFFFF0)
    says(grain_error(disk, 260), f"grain table: entry 260 at byte {at} is {0xFFFFFFF0}")
    assert grain_at(disk, 129) == SPREAD[129]


def test_error_of_a_hole_beside_a_bad_entry_is_none(tmp_path: Path) -> None:
    disk = mono(tmp_path, redundant=False)
    poke(disk, table_entry(disk, 2), "<I", 0xFFFFFFFF)
    with open_disk(disk, policy=policy()) as opened:
        runs = list(opened.runs(3 * GRAIN_BYTES, 6 * GRAIN_BYTES))
    assert [(r.state, r.length) for r in runs] == [(State.HOLE, 6 * GRAIN_BYTES)]


def test_zeroed_entry_with_its_flag_is_zeros(tmp_path: Path) -> None:
    disk = mono(tmp_path, redundant=False, zeroed_flag=True)
    poke(disk, table_entry(disk, 2), "<I", 1)
    assert grain_at(disk, 2) == bytes(GRAIN_BYTES)
    with open_disk(disk, policy=policy()) as opened:
        assert [r.state for r in opened.runs(2 * GRAIN_BYTES, 512)] == [State.ZERO]


def test_bad_entry_hides_the_parent(tmp_path: Path) -> None:
    child = hosted_chain(tmp_path)
    for directory in ("gdOffset", "rgdOffset"):
        poke(child, table_entry(child, 9, directory), "<I", 0xFFFFFFFF)
    says(grain_error(child, 9), child, "grain table: entry 9")
    # Had the damage been taken for a hole, the parent's older data would shine through.
    assert GRAINS[9] == grain_at(tmp_path / "parent.vmdk", 9)


# --- redundant copies ----------------------------------------------------------------------------


def test_damage_in_the_primary_directory_is_healed(tmp_path: Path) -> None:
    disk = spread(tmp_path)
    poke(disk, get(disk, "gdOffset") * SECTOR + 4, "<I", 0xFFFFFFFF)
    warnings = Warnings()
    assert grain_at(disk, 129, warnings) == SPREAD[129]
    assert warnings.has(str(disk), "1 damaged grain table", "number 1", "redundant copy")
    assert content(disk) == expected(MANY, SPREAD, GRAIN)


def test_primary_directory_entry_that_was_zeroed_is_healed(tmp_path: Path) -> None:
    """Else the disk would be emptier than it is, and nobody would notice."""
    disk = spread(tmp_path)
    poke(disk, get(disk, "gdOffset") * SECTOR + 4, "<I", 0)
    warnings = Warnings()
    assert content(disk, warnings) == expected(MANY, SPREAD, GRAIN)
    assert warnings.has("number 1", "redundant copy")
    redundant = u32(disk, get(disk, "rgdOffset") * SECTOR + 4) * SECTOR
    poke(disk, redundant, "<I", 3)
    says(grain_error(disk, 128), f"grain table: entry 128 at byte {redundant} is 3", "overHead")
    assert grain_at(disk, 129) == SPREAD[129]


def test_tables_that_neither_copy_has_yet_are_holes(tmp_path: Path) -> None:
    disk = spread(tmp_path, lazy_tables=True)
    gd, rgd = get(disk, "gdOffset") * SECTOR, get(disk, "rgdOffset") * SECTOR
    warnings = Warnings()
    assert content(disk, warnings) == expected(MANY, SPREAD, GRAIN)
    for at in (gd, rgd):
        poke(disk, at + 4, "<I", 0)
    assert grain_at(disk, 129, warnings) == bytes(GRAIN_BYTES)
    assert not warnings


def test_damage_in_a_primary_table_is_healed(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    poke(disk, table_entry(disk, 2), "<I", 0xFFFFFFFF)
    warnings = Warnings()
    assert content(disk, warnings) == mono_bytes()
    assert warnings.has(str(disk), "1 damaged grain table", "number 0", "redundant copy")


def test_one_table_named_twice_is_healed(tmp_path: Path) -> None:
    disk = spread(tmp_path)
    at = get(disk, "gdOffset") * SECTOR
    poke(disk, at + 4, "<I", u32(disk, at))
    warnings = Warnings()
    assert content(disk, warnings) == expected(MANY, SPREAD, GRAIN)
    assert warnings.has("redundant copy")


def test_whole_primary_directory_and_its_tables_overwritten(tmp_path: Path) -> None:
    disk = spread(tmp_path)
    begin = get(disk, "gdOffset") * SECTOR
    end = get(disk, "overHead") * SECTOR
    poke(disk, begin, f"<{end - begin}s", b"\xff" * (end - begin))
    warnings = Warnings()
    assert content(disk, warnings) == expected(MANY, SPREAD, GRAIN)
    assert warnings.has("3 damaged grain tables")


def test_damage_in_the_redundant_copy_alone_is_not_met_while_reading(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    poke(disk, get(disk, "rgdOffset") * SECTOR, "<I", 0xFFFFFFFF)
    warnings = Warnings()
    assert content(disk, warnings) == mono_bytes()
    assert not warnings


def test_damage_in_both_directories(tmp_path: Path) -> None:
    disk = spread(tmp_path)
    at = get(disk, "gdOffset") * SECTOR + 4
    for directory in ("gdOffset", "rgdOffset"):
        poke(disk, get(disk, directory) * SECTOR + 4, "<I", 0xFFFFFFFF)
    says(grain_error(disk, 129), f"grain directory: entry 1 at byte {at} is {0xFFFFFFFF}")
    assert grain_at(disk, 1) == SPREAD[1]
    assert grain_at(disk, 260) == SPREAD[260]


def test_damage_in_both_tables(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    at = table_entry(disk, 2)
    for directory in ("gdOffset", "rgdOffset"):
        poke(disk, table_entry(disk, 2, directory), "<I", 5)
    says(grain_error(disk, 2), f"grain table: entry 2 at byte {at} is 5", "overHead")
    assert grain_at(disk, 0) == GRAINS[0]
    assert grain_at(disk, 9) == GRAINS[9]


def test_damage_in_different_places_of_both_copies(tmp_path: Path) -> None:
    disk = spread(tmp_path)
    poke(disk, get(disk, "gdOffset") * SECTOR, "<I", 0xFFFFFFFF)
    redundant = u32(disk, get(disk, "rgdOffset") * SECTOR)
    poke(disk, redundant * SECTOR + 4 * 7, "<I", 3)
    # The good rest of the redundant table must not be lost with its one bad entry.
    assert grain_at(disk, 1) == SPREAD[1]
    assert grain_at(disk, 129) == SPREAD[129]
    says(grain_error(disk, 7), disk, "entry")


# --- row 13: the file ends inside a grain --------------------------------------------------------


def test_last_grain_cut_short(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    truncate(disk, -1000)
    at = table_entry(disk, 9)
    text = grain_error(disk, 9)
    says(text, f"grain table: entry 9 at byte {at}", "beyond the end of the file")
    whole = GRAINS[9]
    assert isinstance(whole, bytes)
    assert grain_at(disk, 9, allow_truncated=True) == whole[:-1000] + bytes(1000)
    assert grain_at(disk, 2) == GRAINS[2]


def test_file_cut_before_its_grains(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    truncate(disk, 128 * SECTOR + GRAIN_BYTES)
    says(refusal(disk, opens=True), "grain table: entry 2", "beyond the end of the file")
    assert content(disk, allow_truncated=True) == expected(CAPACITY, {0: GRAINS[0]}, GRAIN)


def test_short_tail_of_a_partial_last_grain_is_allowed(tmp_path: Path) -> None:
    disk = tmp_path / "disk.vmdk"
    grains = {0: sample_grain(1), 9: sample_grain(2)}
    hosted_sparse(disk, CAPACITY - 100, grains, short_tail=True)
    assert content(disk) == expected(CAPACITY - 100, grains, GRAIN)
    truncate(disk, -1)
    says(refusal(disk, opens=True), "grain table: entry 9", "beyond the end of the file")


def test_file_cut_inside_its_tables(tmp_path: Path) -> None:
    disk = spread(tmp_path)
    truncate(disk, (get(disk, "gdOffset") + 1 + 1) * SECTOR)
    says(refusal(disk), "overHead at byte 64", "beyond the file's")


def test_entry_values_at_every_edge_never_crash(tmp_path: Path) -> None:
    disk = mono(tmp_path, redundant=False, zeroed_flag=True)
    at = table_entry(disk, 0)
    edges = [n for p in range(33) for n in ((1 << p) - 1, 1 << p, (1 << p) + 1) if n < 1 << 32]
    poke(disk, at, f"<{4 * len(edges)}s", struct.pack(f"<{len(edges)}I", *edges))
    with open_disk(disk, policy=policy()) as opened:
        for index, value in enumerate(edges[:10]):
            try:
                opened.read(index * GRAIN_BYTES, GRAIN_BYTES)
            except FormatError as error:
                says(str(error), f"entry {index} at byte {at + 4 * index} is {value}")
            else:
                assert value in (0, 1)
