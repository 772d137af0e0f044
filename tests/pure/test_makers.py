# SPDX-License-Identifier: Apache-2.0
"""The makers against numbers that were read off real files, and against each other."""

from __future__ import annotations

import struct
import typing
import zlib
from typing import TYPE_CHECKING, Literal

import pytest

from makers import (
    Grains,
    Variant,
    big_sparse,
    cowd,
    descriptor,
    expected,
    hosted_sparse,
    poke,
    sample_grain,
    sesparse,
    sesparse_entry,
    sesparse_regions,
    split_sparse,
    stream,
    text_replace,
)

if TYPE_CHECKING:
    from pathlib import Path

SECTOR = 512


def sectors(path: Path) -> int:
    return path.stat().st_size // SECTOR


def places(path: Path) -> tuple[int, int, int]:
    """Redundant directory, directory and first grain, as the header gives them."""
    with path.open("rb") as f:
        rgd, gd, overhead = struct.unpack_from("<QQQ", f.read(SECTOR), 48)
    return rgd, gd, overhead


@pytest.mark.parametrize(
    ("capacity", "embedded", "rgd", "gd", "overhead"),
    [
        (20480, True, 21, 26, 128),
        (20480, False, 1, 6, 128),
        (8323072, False, 1, 510, 1024),
        (40 << 21, True, 21, 5151, 10368),
        (5 << 21, True, 21, 663, 1408),
    ],
)
def test_hosted_layout_is_that_of_real_files(
    tmp_path: Path, capacity: int, embedded: bool, rgd: int, gd: int, overhead: int
) -> None:
    disk = tmp_path / "disk.vmdk"
    hosted_sparse(disk, capacity, {}, descriptor="auto" if embedded else None)
    assert places(disk) == (rgd, gd, overhead)
    assert sectors(disk) == overhead


def test_zeroed_grains_set_flag_and_version(tmp_path: Path) -> None:
    disk = tmp_path / "disk.vmdk"
    hosted_sparse(disk, 20480, {0: "zero"})
    assert struct.unpack_from("<II", disk.read_bytes(), 4) == (2, 0x7)
    hosted_sparse(disk, 20480, {0: "zero"}, zeroed_flag=False)
    assert struct.unpack_from("<II", disk.read_bytes(), 4) == (1, 0x3)


@pytest.mark.parametrize("pattern", ["every-other", "full", "empty"])
@pytest.mark.parametrize("capacity", [128, 65536 * 2, 65536 * 2 + 128 * 3 + 5])
def test_big_sparse_is_hosted_sparse_with_zero_bytes(
    tmp_path: Path, capacity: int, pattern: Literal["every-other", "full", "empty"]
) -> None:
    step = {"every-other": 2, "full": 1, "empty": capacity}[pattern]
    count = -(-capacity // 128)
    grains = {} if pattern == "empty" else {i: bytes(65536) for i in range(0, count, step)}
    for folder in ("big", "small"):
        (tmp_path / folder).mkdir()
    big_sparse(tmp_path / "big/disk.vmdk", capacity, pattern)
    hosted_sparse(tmp_path / "small/disk.vmdk", capacity, grains)
    big, small = ((tmp_path / folder / "disk.vmdk").read_bytes() for folder in ("big", "small"))
    assert big == small


def test_big_sparse_stores_only_its_tables(tmp_path: Path) -> None:
    disk = tmp_path / "disk.vmdk"
    big_sparse(disk, 256 << 21)
    assert disk.stat().st_size > 128 << 30
    assert disk.stat().st_blocks * 512 < 36 << 20


def test_big_sparse_refuses_what_entries_cannot_address(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="32-bit"):
        big_sparse(tmp_path / "disk.vmdk", 1 << 32, "full")


def test_split_parts_add_up(tmp_path: Path) -> None:
    parts = split_sparse(tmp_path / "disk.vmdk", 20480 * 2 + 7, {}, 20480)
    capacities = [struct.unpack_from("<Q", part.read_bytes(), 12)[0] for part in parts]
    assert capacities == [20480, 20480, 7]


def test_sesparse_regions_are_those_of_a_100_mib_disk() -> None:
    assert sesparse_regions(204800) == {
        "volatile": (1, 1),
        "journal header": (2, 2),
        "journal": (2048, 2048),
        "directory": (4096, 2048),
        "tables": (6144, 2048),
        "bitmap": (8192, 2048),
        "back map": (10240, 2048),
        "grains": (12288, 204800),
    }


def test_sesparse_splits_the_grain_number() -> None:
    assert sesparse_entry(0x12345) == 0x3345000000000012


def test_sesparse_has_holes(tmp_path: Path) -> None:
    extent = tmp_path / "disk-sesparse.vmdk"
    sesparse(extent, 1 << 31, {1 << 27: sample_grain(1, 8)})
    assert extent.stat().st_size > 1 << 30
    assert extent.stat().st_blocks * 512 < 1 << 20


def test_sesparse_maps_point_back(tmp_path: Path) -> None:
    extent = tmp_path / "disk-sesparse.vmdk"
    grains: Grains = {0: sample_grain(0, 8), 4096: sample_grain(1, 8), 1: sample_grain(2, 8)}
    sesparse(extent, 65536, grains, order=[4096, 0, 1])
    data = extent.read_bytes()
    regions = sesparse_regions(65536)
    assert data[regions["bitmap"][0] * SECTOR] == 0b111
    assert struct.unpack_from("<3Q", data, regions["back map"][0] * SECTOR) == (0, 1, 1)
    directory = struct.unpack_from("<2Q", data, regions["directory"][0] * SECTOR)
    assert directory == (0x1000000000000001, 0x1000000000000000)
    assert struct.unpack_from("<4Q", data, SECTOR) == (0xCAFECAFE, 2, 0, 0)


def test_cowd_free_pointer_is_the_end_of_its_grains(tmp_path: Path) -> None:
    extent = tmp_path / "disk-delta.vmdk"
    cowd(extent, 4096 * 3, {0: sample_grain(0, 1), 9000: sample_grain(1, 1)})
    data = extent.read_bytes()
    magic, version, flags, capacity, grain, gd, count, free = struct.unpack_from("<4s7I", data)
    assert (magic, version, flags, capacity) == (b"COWD", 1, 3, 4096 * 3)
    assert (grain, gd, count) == (1, 4, 3)
    assert free == 4 + 1 + 2 * (32 + 1)
    assert struct.unpack_from("<3I", data, 4 * SECTOR) == (5, 0, 38)
    assert len(data) == -(-free * SECTOR // 4096) * 4096


@pytest.mark.parametrize(
    ("variant", "flags", "gd", "last_markers"),
    [
        ("A", 0x30001, -1, [3, 0]),
        ("B", 0x30001, 21, [0]),
        ("C", 0x30001, 21, [0]),
        ("D", 0x30003, 26, []),
        ("E", 0x30001, -1, [3, 0]),
        ("F", 0x30003, -1, [3, 0]),
        ("G", 0x30001, None, [3, 0]),
    ],
)
def test_stream_shapes(
    tmp_path: Path, variant: Variant, flags: int, gd: int | None, last_markers: list[int]
) -> None:
    disk = tmp_path / "disk.vmdk"
    stream(disk, 20480, {0: sample_grain(0), 100: sample_grain(1)}, variant=variant)
    data = disk.read_bytes()
    assert struct.unpack_from("<II", data, 4) == (3, flags)
    header_gd = struct.unpack_from("<q", data, 56)[0]
    markers = {1: [-512], 2: [-3 * 512, -512], 0: []}[len(last_markers)]
    assert [
        struct.unpack_from("<II", data, len(data) + at + 8)[1] for at in markers
    ] == last_markers
    if len(last_markers) == 2:
        footer = data[-1024:-512]
        assert footer[:56] + footer[64:] == data[:56] + data[64:512]
        footer_gd = struct.unpack_from("<Q", footer, 56)[0]
        marker = struct.unpack_from("<QII", data, (footer_gd - 1) * SECTOR)
        assert marker == (0 if variant == "F" else 1, 0, 2)
        gd = footer_gd if gd is None else gd
    assert header_gd == gd


def test_stream_grains_start_with_their_address(tmp_path: Path) -> None:
    disk = tmp_path / "disk.vmdk"
    stream(disk, 20480, {100: sample_grain(1)}, level=1)
    data = disk.read_bytes()
    address, size = struct.unpack_from("<QI", data, 128 * SECTOR)
    packed = data[128 * SECTOR + 12 :][:size]
    assert address == 12800
    assert packed[:2] == b"\x78\x01"
    assert zlib.decompress(packed) == sample_grain(1)


@pytest.mark.parametrize("variant", typing.get_args(Variant))
def test_stream_padding_follows_the_end(tmp_path: Path, variant: Variant) -> None:
    plain, padded = tmp_path / "plain.vmdk", tmp_path / "padded.vmdk"
    text = descriptor("streamOptimized", ['RW 200 SPARSE "x.vmdk"'])
    for path, trailing in ((plain, 0), (padded, 1000)):
        stream(path, 200, {1: sample_grain(1)}, variant=variant, descriptor=text, trailing=trailing)
    assert padded.read_bytes() == plain.read_bytes() + bytes(1000)


def test_expected_cuts_the_last_grain_and_pads_the_parent() -> None:
    grains: Grains = {0: "zero", 2: sample_grain(1, 2)}
    disk = expected(5, grains, 2, parent=b"p" * 1500)
    assert disk == bytes(1024) + b"p" * 476 + bytes(548) + sample_grain(1, 2)[:512]


@pytest.mark.parametrize(
    "grains", [{160: bytes(65536)}, {-1: bytes(65536)}, {0: b"short"}, {0: "unmapped"}]
)
def test_makers_refuse_grains_that_do_not_fit(tmp_path: Path, grains: Grains) -> None:
    with pytest.raises(ValueError, match="grain"):
        hosted_sparse(tmp_path / "disk.vmdk", 20480, grains)


def test_poke_changes_one_field(tmp_path: Path) -> None:
    disk = tmp_path / "disk.vmdk"
    hosted_sparse(disk, 20480, {})
    before = disk.read_bytes()
    poke(disk, 44, "<I", 0xFFFFFFFF)
    assert disk.read_bytes() == before[:44] + b"\xff" * 4 + before[48:]
    with pytest.raises(ValueError, match="lengthen"):
        poke(disk, len(before) - 1, "<I", 0)


def test_text_replace_keeps_the_embedded_area(tmp_path: Path) -> None:
    disk = tmp_path / "disk.vmdk"
    hosted_sparse(disk, 20480, {0: sample_grain(0)})
    before = disk.read_bytes()
    for new in ("deadbeef", "f"):
        text_replace(disk, "\nCID=12345678", f"\nCID={new}")
        after = disk.read_bytes()
        assert after[512 : 21 * 512].rstrip(b"\0").count(b"\0") == 0
        assert f"\nCID={new}\n".encode() in after
        assert after[21 * 512 :] == before[21 * 512 :]
        text_replace(disk, f"\nCID={new}\n", "\nCID=12345678\n")
    assert disk.read_bytes() == before
    with pytest.raises(ValueError, match="room"):
        text_replace(disk, "CID=", "C" * 10240)
    with pytest.raises(ValueError, match="not in"):
        text_replace(disk, "no such text", "")


def test_text_replace_resizes_a_descriptor_file(tmp_path: Path) -> None:
    disk = tmp_path / "disk.vmdk"
    split_sparse(disk, 20480, {}, 20480)
    before = disk.read_bytes()
    text_replace(disk, "twoGbMaxExtentSparse", "custom")
    assert disk.read_bytes() == before.replace(b"twoGbMaxExtentSparse", b"custom")
