# SPDX-License-Identifier: Apache-2.0
"""Damage that reading cannot see, or overlooks on purpose; a check names it.

Two entries for one grain; tables that differ from their redundant copies, share a place with them,
or are there in one copy only; damage that the redundant copy heals; grains that are not aligned, or
that nothing points at; entries beyond the capacity; and every error of the other rows, in a report
instead of an exception.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from diskkit import OpenPolicy, check
from hostile.images import (
    CAPACITY,
    ESX_CAPACITY,
    GRAIN,
    GRAIN_BYTES,
    GRAINS,
    SAMPLES,
    SECTOR,
    cowd_chain,
    get,
    hosted_chain,
    mono,
    packed,
    put,
    says,
    se_chain,
    table_entry,
    u32,
)
from makers import poke, sesparse_entry, sesparse_regions, text_replace

if TYPE_CHECKING:
    from pathlib import Path

    from diskkit.problem import Problem
    from diskkit.tasks.check import Report


def report(path: Path, *, data: bool = False) -> Report:
    return check(path, policy=OpenPolicy(), data=data)


def found(path: Path, code: str, severity: str = "error", *, data: bool = False) -> Problem:
    """The one problem of that code; the report as a whole is as good as its severity says."""
    result = report(path, data=data)
    problems = [p for p in result.problems if p.code == code]
    assert len(problems) == 1, [str(p) for p in result.problems]
    assert problems[0].severity == severity
    assert result.ok == (
        severity == "warning" and all(p.severity != "error" for p in result.problems)
    )
    assert problems[0].message.isprintable()
    return problems[0]


@pytest.mark.parametrize("kind", sorted(SAMPLES))
def test_good_images_have_no_errors(kind: str, tmp_path: Path) -> None:
    result = report(SAMPLES[kind].make(tmp_path), data=True)
    assert result.ok, [str(p) for p in result.problems]
    # One maker of streams announces redundant tables that it never writes.
    assert bool(result.problems) == (kind == "stream-F"), [str(p) for p in result.problems]


# --- row 12: two entries, one grain --------------------------------------------------------------


def test_two_entries_for_one_grain(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    place = u32(disk, table_entry(disk, 2))
    for directory in ("gdOffset", "rgdOffset"):
        poke(disk, table_entry(disk, 5, directory), "<I", place)
    problem = found(disk, "grain-table.duplicate")
    says(problem.message, "grain table: entry 5", f"byte {place * SECTOR}", "another entry")
    assert problem.where == str(disk)


@pytest.mark.parametrize("shift", [-127, -1, 1, 64, 127])
def test_grains_that_overlap_in_part(tmp_path: Path, shift: int) -> None:
    disk = mono(tmp_path)
    place = u32(disk, table_entry(disk, 2)) + shift
    for directory in ("gdOffset", "rgdOffset"):
        poke(disk, table_entry(disk, 5, directory), "<I", place)
    codes = {p.code for p in report(disk).problems}
    # Before the first grain an entry cannot be right at all.
    assert codes & {"grain-table.duplicate", "grain-table.entry"}


def test_two_entries_for_one_grain_of_a_redo_log(tmp_path: Path) -> None:
    disk = cowd_chain(tmp_path)
    extent = tmp_path / "child-delta.vmdk"
    table = u32(extent, 2048) * SECTOR
    poke(extent, table + 4 * 200, "<I", u32(extent, table + 4 * 100))
    problem = found(disk, "grain-table.duplicate")
    says(problem.message, "entry 200")
    assert problem.where == str(extent)


def test_two_entries_for_one_grain_of_an_sesparse_extent(tmp_path: Path) -> None:
    disk = se_chain(tmp_path)
    table = sesparse_regions(ESX_CAPACITY)["tables"][0] * SECTOR
    poke(tmp_path / "child-sesparse.vmdk", table + 8 * 50, "<Q", sesparse_entry(1))
    # Grain 1 is entry 100's, which comes later.
    says(found(disk, "grain-table.duplicate").message, "entry 100")


def test_two_entries_for_one_grain_of_a_stream(tmp_path: Path) -> None:
    disk = packed(tmp_path, "B")
    poke(disk, table_entry(disk, 5), "<I", u32(disk, table_entry(disk, 2)))
    result = report(disk)
    assert {p.code for p in result.problems} >= {"grain-table.duplicate", "grain-marker.address"}


def test_grain_that_is_not_aligned_is_a_warning(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    with disk.open("ab") as f:
        f.write(bytes(GRAIN_BYTES))
    for directory in ("gdOffset", "rgdOffset"):
        at = table_entry(disk, 9, directory)
        poke(disk, at, "<I", u32(disk, at) + 1)
    says(found(disk, "grain-table.unaligned", "warning").message, "1 grains")


# --- row 9: redundant tables ---------------------------------------------------------------------


def test_table_that_differs_from_its_copy(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    poke(disk, table_entry(disk, 2, "rgdOffset"), "<I", 0)
    says(found(disk, "redundant-table.differs").message, "grain table 0", "redundant copy")


def test_directories_that_share_a_table(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    poke(disk, get(disk, "rgdOffset") * SECTOR, "<I", u32(disk, get(disk, "gdOffset") * SECTOR))
    says(found(disk, "redundant-directory.shared").message, "entry 0", "share a table")


def test_table_that_only_the_copy_has(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    poke(disk, get(disk, "gdOffset") * SECTOR, "<I", 0)
    says(found(disk, "redundant-directory.differs").message, "entry 0", "disagree")


def test_damage_in_the_copy_alone(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    poke(disk, get(disk, "rgdOffset") * SECTOR, "<I", 0xFFFFFFFF)
    says(found(disk, "redundant-directory.entry").message, "entry 0 cannot be right")


def test_damage_that_the_copy_heals_is_still_an_error(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    at = table_entry(disk, 2)
    poke(disk, at, "<I", 0xFFFFFFFF)
    problem = found(disk, "grain-table.entry")
    says(problem.message, f"entry 2 at byte {at} is {0xFFFFFFFF}", "beyond the end of the file")


# --- space that belongs to nothing ---------------------------------------------------------------


def test_leaked_grains_are_a_warning(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    with disk.open("ab") as f:
        f.write(bytes(4 * GRAIN_BYTES))
    says(found(disk, "leaked", "warning").message, "256 KiB", "belong to nothing")


def test_leaked_room_of_a_redo_log_is_a_warning(tmp_path: Path) -> None:
    disk = cowd_chain(tmp_path)
    extent = tmp_path / "child-delta.vmdk"
    with extent.open("ab") as f:
        f.write(bytes(64 * SECTOR))
    poke(extent, 28, "<I", u32(extent, 28) + 40)
    says(found(disk, "leaked", "warning").message, "20 KiB", "belong to nothing")


def test_table_in_a_grain(tmp_path: Path) -> None:
    disk = mono(tmp_path, redundant=False, gtes=4)
    grain = u32(disk, u32(disk, get(disk, "gdOffset") * SECTOR) * SECTOR)
    # Between the sectors' texts there is room for a table that says nothing.
    poke(disk, (grain + 3) * SECTOR, "<16s", bytes(16))
    poke(disk, get(disk, "gdOffset") * SECTOR + 4, "<I", grain + 3)
    problem = found(disk, "grain-directory.in-grain")
    says(problem.message, f"byte {(grain + 3) * SECTOR}", "lies in a grain")


def test_entries_beyond_the_capacity_are_a_warning(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    for directory in ("gdOffset", "rgdOffset"):
        poke(disk, table_entry(disk, 10, directory), "<I", u32(disk, table_entry(disk, 9)))
    says(found(disk, "grain-table.beyond-capacity", "warning").message, "1 entries beyond")


def test_bytes_behind_a_flat_extent_are_a_warning(tmp_path: Path) -> None:
    disk = SAMPLES["cowd"].make(tmp_path)
    with (tmp_path / "base-flat.vmdk").open("ab") as f:
        f.write(b"more")
    says(found(disk, "flat-extent.longer", "warning").message, "4 bytes follow")


# --- errors of the other rows, in a report -------------------------------------------------------


def test_header_that_cannot_be_opened(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    put(disk, "grainSize", 3)
    problem = found(disk, "sparse-header.grainSize")
    says(problem.message, "sparse header: grainSize at byte 20 is 3", "power of two")
    assert problem.where == str(disk)


def test_every_bad_entry_is_listed_up_to_ten(tmp_path: Path) -> None:
    disk = mono(tmp_path, redundant=False)
    for index in range(3):
        poke(disk, table_entry(disk, index), "<I", 5)
    messages = [p.message for p in report(disk).problems if p.code == "grain-table.entry"]
    assert [m.split(" at ")[0] for m in messages] == [f"grain table: entry {i}" for i in range(3)]
    for index in range(CAPACITY // GRAIN, 0, -1):
        poke(disk, table_entry(disk, index - 1), "<I", 5)
    assert [p.code for p in report(disk).problems] == ["grain-table.entry"] * 10 + ["leaked"]


def test_more_than_ten_findings_of_a_kind_are_counted(tmp_path: Path) -> None:
    disk = cowd_chain(tmp_path)
    extent = tmp_path / "child-delta.vmdk"
    table = u32(extent, 2048) * SECTOR
    poke(extent, table + 4 * 1000, "<2000s", b"\2\0\0\0" * 500)
    result = report(disk)
    assert not result.ok
    assert len(result.problems) == 11
    says(result.problems[-1].message, "490 more")


def test_bad_grain_is_found_when_data_is_read(tmp_path: Path) -> None:
    disk = packed(tmp_path, "B")
    at = u32(disk, table_entry(disk, 2)) * SECTOR
    poke(disk, at + 40, "<4s", b"\xff\xff\xff\xff")
    assert report(disk).ok
    says(found(disk, "grain-marker.data", data=True).message, f"byte {at + 12}", "zlib stream")


def test_chain_with_a_changed_parent(tmp_path: Path) -> None:
    disk = hosted_chain(tmp_path)
    text_replace(tmp_path / "parent.vmdk", "CID=aaaaaaaa", "CID=bbbbbbbb")
    says(found(disk, "descriptor.parentCID").message, "bbbbbbbb")


def test_missing_parent_does_not_hide_the_childs_problems(tmp_path: Path) -> None:
    disk = hosted_chain(tmp_path)
    (tmp_path / "parent.vmdk").unlink()
    for directory in ("gdOffset", "rgdOffset"):
        poke(disk, table_entry(disk, 1, directory), "<I", 7)
    codes = {p.code for p in report(disk).problems}
    assert codes >= {"descriptor.parentFileNameHint", "grain-table.entry"}


def test_two_bad_links_are_both_reported(tmp_path: Path) -> None:
    disk = hosted_chain(tmp_path)
    for path in (disk, tmp_path / "parent.vmdk"):
        for directory in ("gdOffset", "rgdOffset"):
            poke(path, table_entry(path, 4, directory), "<I", 7)
    assert {p.where for p in report(disk).problems} == {str(disk), str(tmp_path / "parent.vmdk")}
    assert GRAINS
