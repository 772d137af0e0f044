# SPDX-License-Identifier: Apache-2.0
"""Hosted sparse headers that lie: rows 1 to 10 of the list of bad inputs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from diskkit import UnsupportedFeature, open_disk
from hostile.images import (
    CAPACITY,
    SECTOR,
    Warnings,
    content,
    get,
    mono,
    mono_bytes,
    packed,
    put,
    refusal,
    says,
    truncate,
)
from makers import poke

if TYPE_CHECKING:
    from pathlib import Path

OFFSETS = {
    "version": 4,
    "flags": 8,
    "capacity": 12,
    "grainSize": 20,
    "descriptorOffset": 28,
    "descriptorSize": 36,
    "numGTEsPerGT": 44,
    "rgdOffset": 48,
    "gdOffset": 56,
    "overHead": 64,
    "uncleanShutdown": 72,
    "compressAlgorithm": 77,
}
ALL_ONES = (1 << 64) - 1


# --- row 1: too short, wrong magic ---------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 79, 511])
def test_file_that_ends_inside_the_header(tmp_path: Path, size: int) -> None:
    disk = mono(tmp_path)
    truncate(disk, size)
    says(refusal(disk), disk, "sparse header", f"size is {size}", "512 bytes of the header")


@pytest.mark.parametrize("data", [b"", b"KDM", b"\0" * 4096, b"QFI\xfb" + bytes(600), b"\x7fELF"])
def test_file_of_another_kind(tmp_path: Path, data: bytes) -> None:
    disk = tmp_path / "disk.vmdk"
    disk.write_bytes(data)
    shown = f"begins with {data[:8]!r}" if data else "is empty"
    says(refusal(disk), disk, "is not a VMDK", shown, "--format raw")


@pytest.mark.parametrize(
    ("magic", "why"),
    [
        (b"VMDK", "big-endian"),
        (b"kdmv", "unfinished stream"),
        (b"vmdk", "unfinished stream"),
    ],
)
def test_magic_in_the_wrong_order_or_case(tmp_path: Path, magic: bytes, why: str) -> None:
    disk = mono(tmp_path)
    put(disk, "magic", magic)
    says(refusal(disk), disk, "sparse header", f"magic at byte 0 is {magic!r}", why)


def test_unfinished_stream(tmp_path: Path) -> None:
    says(
        refusal(packed(tmp_path, "C", unfinished=True)), "unfinished stream", "make the file again"
    )


@pytest.mark.parametrize(
    ("head", "why"),
    [(b"COWD", "a redo log"), (b"\xbe\xba\xfe\xca\0\0\0\0", "an seSparse extent")],
)
def test_extent_opened_in_place_of_its_descriptor(tmp_path: Path, head: bytes, why: str) -> None:
    disk = tmp_path / "disk-delta.vmdk"
    disk.write_bytes(head.ljust(4096, b"\0"))
    says(refusal(disk), disk, why, "without its descriptor", "open the descriptor file beside it")


def test_part_opened_in_place_of_its_descriptor(tmp_path: Path) -> None:
    part = mono(tmp_path, descriptor=None)
    says(refusal(part), part, "holds no descriptor", "open the descriptor file beside it")


@pytest.mark.parametrize(
    ("name", "sibling"),
    [
        ("web-flat.vmdk", "web.vmdk"),
        ("web-000001-delta.vmdk", "web-000001.vmdk"),
        ("web-000001-sesparse.vmdk", "web-000001.vmdk"),
        ("web-s001.vmdk", "web.vmdk"),
        ("web-f1000.vmdk", "web.vmdk"),
    ],
)
def test_an_extent_opened_for_its_descriptor_names_it(
    tmp_path: Path, name: str, sibling: str
) -> None:
    extent = tmp_path / name
    for data in (b"guest bytes" * 1000, b"COWD" + bytes(4092)):
        extent.write_bytes(data)
        says(refusal(extent), extent, f"open the descriptor file beside it, {sibling}")


@pytest.mark.parametrize("name", ["web-server.vmdk", "-flat.vmdk", "web-s1.vmdk", "web-flat"])
def test_other_names_are_not_taken_for_extents(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"guest bytes" * 1000)
    says(refusal(tmp_path / name), "is not a VMDK: it begins with")


# --- rows 2 to 10: fields ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        # row 2
        ("version", 0, "1, 2 and 3"),
        ("version", 4, "1, 2 and 3"),
        ("version", 0xFFFFFFFF, "1, 2 and 3"),
        ("compressAlgorithm", 2, "only 0 (none) and 1 (deflate)"),
        ("compressAlgorithm", 0xFFFF, "only 0 (none) and 1 (deflate)"),
        # row 4
        ("grainSize", 0, "power of two"),
        ("grainSize", 127, "power of two"),
        ("grainSize", 1 << 22, "2097152"),
        ("grainSize", 1 << 55, "2097152"),
        ("grainSize", ALL_ONES, "power of two"),
        # row 5
        ("numGTEsPerGT", 0, "power of two"),
        ("numGTEsPerGT", 500, "power of two"),
        ("numGTEsPerGT", 1024, "1 to 512"),
        ("numGTEsPerGT", 0xFFFFFFFF, "1 to 512"),
        # row 6
        ("capacity", 0, "no sectors"),
        ("capacity", 2233785398448881665, "grain tables, more than 33554432"),
        ("capacity", ALL_ONES, "grain tables, more than 33554432"),
        # row 7
        ("gdOffset", 0, "overlaps the header"),
        ("gdOffset", 1, "overlaps the region of descriptorOffset"),
        ("gdOffset", 1 << 32, "ends beyond the file's"),
        ("gdOffset", 1 << 55, "ends beyond the file's"),
        ("gdOffset", ALL_ONES - 1, "ends beyond the file's"),
        ("rgdOffset", 2, "overlaps the region of descriptorOffset"),
        ("rgdOffset", 26, "overlaps the region of"),
        ("rgdOffset", 1 << 40, "ends beyond the file's"),
        ("rgdOffset", ALL_ONES, "ends beyond the file's"),
        ("descriptorOffset", 1 << 60, "ends beyond the file's"),
        ("descriptorOffset", ALL_ONES, "ends beyond the file's"),
        ("descriptorSize", 20481, "more than 20480"),
        ("descriptorSize", ALL_ONES, "more than 20480"),
        # row 8
        ("overHead", 0, "no room"),
        ("overHead", 10, "lies inside the region of descriptorOffset"),
        ("overHead", 1, "lies before the region of"),
        ("overHead", 22, "lies before the region of gdOffset"),
        ("overHead", 1 << 41, "beyond the file's"),
        ("overHead", ALL_ONES, "beyond the file's"),
        # row 10
        ("uncleanShutdown", 2, "0 or 1"),
        ("uncleanShutdown", 255, "0 or 1"),
    ],
)
def test_header_field_out_of_bounds(tmp_path: Path, field: str, value: int, why: str) -> None:
    disk = mono(tmp_path)
    put(disk, field, value)
    place = f"{field} at byte {OFFSETS[field]} is {value}"
    says(refusal(disk), disk, "sparse header", place, why)


def test_descriptor_area_that_overlaps_a_directory(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    put(disk, "descriptorSize", 100)
    says(refusal(disk), "rgdOffset at byte 48 is 21", "overlaps the region of descriptorOffset")


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (0x40003, "unknown incompatible flags 0x40000"),
        (0x80000003, "unknown incompatible flags 0x80000000"),
        (0x20003, "markers (bit 17) without compression (bit 16)"),
    ],
)
def test_flags_that_change_the_meaning(tmp_path: Path, flags: int, why: str) -> None:
    disk = mono(tmp_path)
    put(disk, "flags", flags)
    says(refusal(disk), "sparse header", f"flags at byte 8 is {flags:#x}", why)


def test_unknown_compatible_flags_are_ignored(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    put(disk, "flags", 0xFF3B & ~0x4)
    warnings = Warnings()
    assert content(disk, warnings) == mono_bytes()
    assert not warnings


def test_compressed_without_an_algorithm(tmp_path: Path) -> None:
    disk = packed(tmp_path, "B")
    put(disk, "compressAlgorithm", 0)
    says(refusal(disk), "compressAlgorithm at byte 77 is 0", "no algorithm is named")


def test_algorithm_without_compression_is_a_warning(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    put(disk, "compressAlgorithm", 1)
    warnings = Warnings()
    assert content(disk, warnings) == mono_bytes()
    assert warnings.has(str(disk), "compressAlgorithm is 1")


@pytest.mark.parametrize("bad", [b"\n \n\n", b"\r\n \r", b"\r \r\n", b"\0\0\0\0"])
def test_newline_bytes_altered_by_a_text_transfer(tmp_path: Path, bad: bytes) -> None:
    disk = mono(tmp_path)
    put(disk, "newline bytes", bad)
    place = f"newline bytes at byte 73 is {bad!r}"
    says(refusal(disk), place, "text-mode transfer", "copy it again in binary mode")


def test_newline_bytes_count_only_where_the_flag_says_so(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    put(disk, "newline bytes", bytes(4))
    put(disk, "flags", 0x2)
    assert content(disk) == mono_bytes()


def test_compressed_grains_must_fit_in_memory(tmp_path: Path) -> None:
    disk = packed(tmp_path, "B")
    put(disk, "grainSize", 1 << 16)
    says(refusal(disk), "grainSize at byte 20 is 65536", "compressed", "32768")


def test_capacity_that_needs_more_tables_than_the_file_has_room_for(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    put(disk, "capacity", 1 << 32)
    # The directory of 65536 entries would now reach over the tables and beyond the file.
    says(refusal(disk), "sparse header", "with 262144 bytes it ends beyond the file's")


def test_capacity_of_more_bytes_than_a_disk_can_have(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    put(disk, "grainSize", 1 << 21)
    put(disk, "capacity", 1 << 54)
    text = refusal(disk)
    says(text, f"capacity at byte 12 is {1 << 54}", "more than 2^63 bytes")
    assert "33554432" not in text


def test_capacity_bomb_made_by_a_fuzzer(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    put(disk, "capacity", 2233785398448881665)
    put(disk, "numGTEsPerGT", 506)
    put(disk, "overHead", 0)
    says(refusal(disk), "numGTEsPerGT at byte 44 is 506")


def test_more_than_2_tib_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from makers import big_sparse

    disk = tmp_path / "big.vmdk"
    big_sparse(disk, (1 << 32) + 128, "empty")
    with caplog.at_level(logging.WARNING, "diskkit"), open_disk(disk) as opened:
        assert opened.size == (1 << 41) + 65536
    assert "larger than 2 TiB" in caplog.text


def test_header_without_descriptor_area_wraps_nothing(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    put(disk, "capacity", 0)
    put(disk, "descriptorOffset", 0)
    says(refusal(disk), "capacity at byte 12 is 0", "no sectors")


def test_descriptor_inside_a_sparse_file_that_names_others(tmp_path: Path) -> None:
    from makers import descriptor

    for lines in (
        ['RW 1280 FLAT "flat.bin" 0'],
        ['RW 640 SPARSE "a.vmdk"', 'RW 640 SPARSE "b.vmdk"'],
    ):
        disk = mono(tmp_path, descriptor=descriptor("custom", lines))
        kinds = ", ".join(line.split()[2] for line in lines)
        says(refusal(disk), f"descriptor: extents is {kinds}", "must describe that extent alone")


# --- row 9: redundant tables ---------------------------------------------------------------------


def test_redundant_tables_announced_but_absent_are_a_warning(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    put(disk, "rgdOffset", 0)
    warnings = Warnings()
    assert content(disk, warnings) == mono_bytes()
    assert warnings.has(str(disk), "redundant tables are announced, but rgdOffset is 0")


def test_redundant_directory_without_its_flag_is_not_looked_at(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    put(disk, "flags", 0x1)
    put(disk, "rgdOffset", ALL_ONES)
    assert content(disk) == mono_bytes()


# --- row 10: unclean -----------------------------------------------------------------------------


def test_unclean_shutdown_is_a_warning(tmp_path: Path) -> None:
    disk = mono(tmp_path, unclean=True)
    warnings = Warnings()
    assert content(disk, warnings) == mono_bytes()
    assert warnings.has(str(disk), "uncleanShutdown is set")


# --- padding and areas ---------------------------------------------------------------------------


def test_descriptor_area_of_nuls_only_counts_as_none(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    poke(disk, SECTOR, f"<{20 * SECTOR}s", bytes(20 * SECTOR))
    says(refusal(disk), "holds no descriptor")


def test_large_descriptor_area_with_a_short_text(tmp_path: Path) -> None:
    disk = mono(tmp_path, descriptor_sectors=4096)
    assert content(disk) == mono_bytes()


def test_large_descriptor_area_full_of_text(tmp_path: Path) -> None:
    from makers import descriptor

    text = descriptor("monolithicSparse", [f'RW {CAPACITY} SPARSE "disk.vmdk"'])
    disk = mono(tmp_path, descriptor=text + "#" * (1 << 20), descriptor_sectors=4096)
    says(refusal(disk), "descriptor", "more than 1048576 bytes")


def test_array_snapshot(tmp_path: Path) -> None:
    from makers import descriptor

    line = f'RW {CAPACITY} SPARSE "disk.vmdk"'
    text = descriptor("monolithicSparse", [line], header=['isNativeSnapshot="yes"'])
    disk = mono(tmp_path, descriptor=text)
    assert get(disk, "capacity") == CAPACITY
    says(refusal(disk, UnsupportedFeature), "isNativeSnapshot is yes", "storage array")
