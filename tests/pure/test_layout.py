# SPDX-License-Identifier: Apache-2.0
"""Binary headers that must be accepted, and what is read from them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from diskkit.errors import FormatError
from diskkit.formats.vmdk import esx, layout
from makers import cowd, hosted_header, hosted_sparse, sesparse, sesparse_regions, stream

if TYPE_CHECKING:
    from pathlib import Path

    from makers import Variant

SECTOR = 512
GIB = 1 << 21
"""Sectors."""


def header(**changes: int) -> bytes:
    """The header of a real file of 10 MiB, with fields changed."""
    fields: dict[str, int] = {
        "version": 1,
        "flags": 3,
        "capacity": 20480,
        "grain_sectors": 128,
        "descriptor_offset": 1,
        "descriptor_sectors": 20,
        "gtes": 512,
        "rgd": 21,
        "gd": 26,
        "overhead": 128,
        "compression": 0,
        **changes,
    }
    return hosted_header(**fields)  # type: ignore[arg-type]


def parsed(**changes: int) -> layout.SparseHeader:
    return layout.parse_sparse_header(header(**changes), "disk.vmdk")


def test_every_field_of_a_hosted_header() -> None:
    found = parsed()
    assert found == layout.SparseHeader(
        version=1,
        flags=3,
        capacity=20480 * SECTOR,
        grain=65536,
        descriptor_offset=SECTOR,
        descriptor_size=20 * SECTOR,
        table_entries=512,
        redundant_offset=21 * SECTOR,
        directory_offset=26 * SECTOR,
        overhead=128 * SECTOR,
        unclean=0,
        compression=0,
    )
    assert not found.at_end
    assert not found.compressed
    assert not found.markers


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 1},
        {"version": 2, "flags": 7},
        {"version": 3},
        {"version": 3, "flags": 0x30001, "compression": 1, "rgd": 0},
        {"version": 3, "flags": 0x30003, "compression": 1},
        {"version": 1, "flags": 0x10001, "compression": 1},
        {"flags": 0},
        {"flags": 0xFFFF},
        *({"grain_sectors": 1 << p} for p in range(22)),
        *({"gtes": 1 << p} for p in range(10)),
        {"capacity": 1},
        {"capacity": 200},
        {"capacity": 62 * 1024 * GIB},
        {"unclean": 1},
    ],
)
def test_legal_values(changes: dict[str, int]) -> None:
    found = parsed(**changes)
    assert found.capacity == changes.get("capacity", 20480) * SECTOR
    assert found.grain == changes.get("grain_sectors", 128) * SECTOR


@pytest.mark.parametrize(
    ("capacity", "grain", "gtes", "tables", "size"),
    [
        (20480, 128, 512, 1, 512),
        (65536, 128, 512, 1, 512),
        (65537, 128, 512, 2, 512),
        (8323072, 128, 512, 127, 512),
        (40 * GIB, 128, 512, 1280, 5120),
        (5 * GIB, 128, 512, 160, 1024),
        (1 << 32, 128, 512, 65536, 262144),
        (200, 128, 512, 1, 512),
        (129, 1, 1, 129, 1024),
    ],
)
def test_size_of_the_directory(
    capacity: int, grain: int, gtes: int, tables: int, size: int
) -> None:
    found = parsed(capacity=capacity, grain_sectors=grain, gtes=gtes)
    assert (found.tables, found.directory_size) == (tables, size)


def test_redundant_directory_counts_only_with_its_flag() -> None:
    assert parsed(flags=1).redundant_offset == 0
    assert parsed(flags=3).redundant_offset == 21 * SECTOR


def test_directory_at_the_end() -> None:
    found = parsed(gd=layout.GD_AT_END, flags=0x30001, compression=1, rgd=0)
    assert found.at_end
    assert layout.check_sparse_layout(found, 1 << 20, "disk.vmdk") == []


@pytest.mark.parametrize(
    ("capacity", "embedded", "rgd", "gd", "overhead"),
    [
        (20480, True, 21, 26, 128),
        (20480, False, 1, 6, 128),
        (8323072, False, 1, 510, 1024),
        (40 * GIB, True, 21, 5151, 10368),
        (5 * GIB, True, 21, 663, 1408),
    ],
)
def test_layouts_measured_on_real_files(
    capacity: int, embedded: bool, rgd: int, gd: int, overhead: int
) -> None:
    text = {} if embedded else {"descriptor_offset": 0, "descriptor_sectors": 0}
    found = parsed(capacity=capacity, rgd=rgd, gd=gd, overhead=overhead, **text)
    assert layout.check_sparse_layout(found, overhead * SECTOR, "disk.vmdk") == []
    with pytest.raises(FormatError, match="overHead"):
        layout.check_sparse_layout(found, overhead * SECTOR - 1, "disk.vmdk")


@pytest.mark.parametrize("variant", ["A", "B", "C", "D", "E", "F", "G"])
def test_headers_of_every_maker_of_streams(tmp_path: Path, variant: Variant) -> None:
    path = tmp_path / "disk.vmdk"
    stream(path, 1280, {0: b"x" * 65536}, variant=variant)
    data = path.read_bytes()
    found = layout.parse_sparse_header(data, "disk.vmdk")
    assert found.compressed
    assert found.markers
    warnings = layout.check_sparse_layout(found, len(data), "disk.vmdk")
    assert bool(warnings) == (variant == "F")


def test_structures_that_touch_do_not_overlap(tmp_path: Path) -> None:
    path = tmp_path / "disk.vmdk"
    hosted_sparse(path, 128 * 512 * 128, {}, gtes=512)
    data = path.read_bytes()
    found = layout.parse_sparse_header(data, "disk.vmdk")
    assert found.descriptor_offset + found.descriptor_size == found.redundant_offset
    assert layout.check_sparse_layout(found, len(data), "disk.vmdk") == []


@pytest.mark.parametrize(
    ("data", "marker"),
    [
        (struct.pack("<QII", 256, 700, 0x9C78), layout.Marker(256, 700, 0x9C78)),
        (struct.pack("<QII", 4, 0, 1), layout.Marker(4, 0, layout.MARKER_GT)),
        (bytes(16), layout.Marker(0, 0, layout.MARKER_EOS)),
        (b"\xff" * 16, layout.Marker((1 << 64) - 1, (1 << 32) - 1, (1 << 32) - 1)),
    ],
)
def test_markers(data: bytes, marker: layout.Marker) -> None:
    assert layout.parse_marker(data) == marker
    assert layout.parse_marker(b"skip" + data, 4) == marker


def test_footer_repeats_the_header() -> None:
    head = parsed(gd=layout.GD_AT_END, flags=0x30001, compression=1, rgd=0)
    foot = parsed(gd=1000, flags=0x30001, compression=1, rgd=0)
    layout.compare_footer(head, foot, "disk.vmdk", 4096)
    with pytest.raises(FormatError, match="footer: gdOffset at byte 4152"):
        layout.compare_footer(head, head, "disk.vmdk", 4096)


# --- COWD -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("grain", [1, 2, 8, 128, 2048])
@pytest.mark.parametrize("capacity", [1, 4096, 4097, 1 << 24])
def test_redo_log_headers(tmp_path: Path, capacity: int, grain: int) -> None:
    path = tmp_path / "disk-delta.vmdk"
    cowd(path, capacity, {0: b"x" * grain * SECTOR}, grain_sectors=grain)
    data = path.read_bytes()
    found = esx.parse_cowd_header(data, len(data), "disk-delta.vmdk")
    assert found.capacity == capacity * SECTOR
    assert found.grain == grain * SECTOR
    assert found.directory_offset == 2048
    assert found.tables == -(-capacity // (4096 * grain))
    assert found.free <= len(data)
    assert found.unclean == 0


def test_redo_log_that_was_not_closed(tmp_path: Path) -> None:
    path = tmp_path / "disk-delta.vmdk"
    cowd(path, 4096, {}, unclean=True)
    assert esx.parse_cowd_header(path.read_bytes(), path.stat().st_size, "").unclean == 1


# --- seSparse -------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [8, 204800, 32768, 32769, 1 << 32])
def test_sesparse_headers(tmp_path: Path, capacity: int) -> None:
    path = tmp_path / "disk-sesparse.vmdk"
    sesparse(path, capacity, {})
    with path.open("rb") as f:
        constant, volatile = f.read(SECTOR), f.read(SECTOR)
    found = esx.parse_sesparse_header(constant, path.stat().st_size, "")
    regions = sesparse_regions(capacity)
    for region, name in (
        (found.volatile, "volatile"),
        (found.directory, "directory"),
        (found.tables, "tables"),
        (found.bitmap, "bitmap"),
        (found.back_map, "back map"),
        (found.grains, "grains"),
    ):
        assert (region.offset // SECTOR, region.size // SECTOR) == regions[name]
    assert found.capacity == capacity * SECTOR
    assert esx.parse_sesparse_volatile(volatile, SECTOR, "") == 0


def test_sesparse_places_logged_by_a_real_host() -> None:
    """A disk of 100 MiB: every region from the journal on begins on, and has, whole MiB."""
    assert list(sesparse_regions(204800).values()) == [
        *((1, 1), (2, 2), (2048, 2048), (4096, 2048), (6144, 2048)),
        *((8192, 2048), (10240, 2048), (12288, 204800)),
    ]
