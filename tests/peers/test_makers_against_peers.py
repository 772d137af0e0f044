# SPDX-License-Identifier: Apache-2.0
"""The makers against programs that know the formats, so that other tests may lean on them."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from makers import (
    Grains,
    Variant,
    big_sparse,
    cowd,
    expected,
    flat,
    hosted_sparse,
    sample_grain,
    sesparse,
    split_sparse,
    stream,
    write_descriptor,
)
from makers.peers import dissect_raw, qemu_img, qemu_raw, qemu_refusal

Read = Callable[[Path], bytes]

VARIANTS: tuple[Variant, ...] = typing.get_args(Variant)

# Small grains keep the disks small and still fill more than two grain tables.
GRAIN = 16
TABLE = 512
CAPACITY = GRAIN * (2 * TABLE + 40)
PARTIAL = CAPACITY - 5

DATA: Grains = {
    0: sample_grain(1, GRAIN),
    3: sample_grain(2, GRAIN, noise=True),
    4: sample_grain(3, GRAIN),
    TABLE - 1: sample_grain(4, GRAIN),
    2 * TABLE: sample_grain(5, GRAIN, noise=True),
    2 * TABLE + 39: sample_grain(6, GRAIN),
}
WITH_ZEROS: Grains = {**DATA, 2: "zero", TABLE: "zero"}
SHUFFLED = [2 * TABLE, 4, 2 * TABLE + 39, 0, TABLE - 1, 3]


@pytest.fixture(params=["qemu", "dissect"])
def read(request: pytest.FixtureRequest) -> Read:
    return qemu_raw if request.param == "qemu" else dissect_raw


def base(folder: Path, capacity: int, create_type: str, line: str) -> bytes:
    """Write a parent without any zero sector; returns its bytes."""
    # 61 is prime, so that no two grains at the same place of their tables are alike.
    data = (sample_grain(99, 61) * (capacity // 61 + 1))[: capacity * 512]
    flat(folder / "base-flat.vmdk", data)
    line = line.format(capacity, "base-flat.vmdk")
    write_descriptor(folder / "base.vmdk", create_type, [line], cid="0badcafe")
    return data


def vmfs_base(folder: Path, capacity: int) -> bytes:
    return base(folder, capacity, "vmfs", 'RW {} VMFS "{}"')


def hosted_base(folder: Path, capacity: int) -> bytes:
    return base(folder, capacity, "monolithicFlat", 'RW {} FLAT "{}" 0')


@pytest.mark.parametrize("redundant", [True, False])
@pytest.mark.parametrize("lazy_tables", [True, False])
def test_hosted_sparse_reads_back(
    tmp_path: Path, read: Read, redundant: bool, lazy_tables: bool
) -> None:
    disk = tmp_path / "disk.vmdk"
    hosted_sparse(
        disk, CAPACITY, DATA, grain_sectors=GRAIN, redundant=redundant, lazy_tables=lazy_tables
    )
    assert read(disk) == expected(CAPACITY, DATA, GRAIN)


@pytest.mark.parametrize("gtes", [512, 128])
def test_hosted_sparse_in_any_file_order(tmp_path: Path, read: Read, gtes: int) -> None:
    disk = tmp_path / "disk.vmdk"
    hosted_sparse(disk, CAPACITY, DATA, grain_sectors=GRAIN, gtes=gtes, order=SHUFFLED)
    assert read(disk) == expected(CAPACITY, DATA, GRAIN)


def test_hosted_sparse_with_the_default_grain(tmp_path: Path, read: Read) -> None:
    disk = tmp_path / "disk.vmdk"
    grains: Grains = {1: sample_grain(7), 600: sample_grain(8, noise=True)}
    hosted_sparse(disk, 20480 * 4, grains)
    assert read(disk) == expected(20480 * 4, grains, 128)


@pytest.mark.parametrize("short_tail", [True, False])
def test_hosted_sparse_with_a_partial_last_grain(
    tmp_path: Path, read: Read, short_tail: bool
) -> None:
    disk = tmp_path / "disk.vmdk"
    hosted_sparse(disk, PARTIAL, DATA, grain_sectors=GRAIN, short_tail=short_tail)
    assert read(disk) == expected(PARTIAL, DATA, GRAIN)


def test_zeroed_grains_hide_the_parent(tmp_path: Path, read: Read) -> None:
    parent = hosted_base(tmp_path, CAPACITY)
    disk = tmp_path / "child.vmdk"
    hosted_sparse(
        disk,
        CAPACITY,
        WITH_ZEROS,
        grain_sectors=GRAIN,
        parent_cid="0badcafe",
        parent_hint="base.vmdk",
    )
    assert read(disk) == expected(CAPACITY, WITH_ZEROS, GRAIN, parent)


@pytest.mark.parametrize("capacity", [CAPACITY, PARTIAL])
def test_split_sparse_reads_back(tmp_path: Path, read: Read, capacity: int) -> None:
    disk = tmp_path / "disk.vmdk"
    parts = split_sparse(disk, capacity, DATA, GRAIN * 300, grain_sectors=GRAIN)
    assert [part.name for part in parts] == [f"disk-s00{n}.vmdk" for n in (1, 2, 3, 4)]
    assert read(disk) == expected(capacity, DATA, GRAIN)


def test_split_child_over_a_parent(tmp_path: Path, read: Read) -> None:
    parent = hosted_base(tmp_path, CAPACITY)
    disk = tmp_path / "child.vmdk"
    split_sparse(
        disk,
        CAPACITY,
        WITH_ZEROS,
        GRAIN * 300,
        grain_sectors=GRAIN,
        parent_cid="0badcafe",
        parent_hint="base.vmdk",
    )
    assert read(disk) == expected(CAPACITY, WITH_ZEROS, GRAIN, parent)


@pytest.mark.parametrize("variant", VARIANTS)
def test_stream_reads_back(tmp_path: Path, read: Read, variant: Variant) -> None:
    disk = tmp_path / "disk.vmdk"
    stream(disk, CAPACITY, DATA, variant=variant, grain_sectors=GRAIN)
    assert read(disk) == expected(CAPACITY, DATA, GRAIN)


@pytest.mark.parametrize("level", [0, 1, 9])
def test_stream_of_any_level(tmp_path: Path, read: Read, level: int) -> None:
    disk = tmp_path / "disk.vmdk"
    stream(disk, CAPACITY, DATA, level=level, grain_sectors=GRAIN)
    assert read(disk) == expected(CAPACITY, DATA, GRAIN)


@pytest.mark.parametrize("variant", VARIANTS)
def test_stream_with_the_default_grain(tmp_path: Path, variant: Variant) -> None:
    disk = tmp_path / "disk.vmdk"
    grains: Grains = {1: sample_grain(7), 511: sample_grain(8, noise=True), 600: sample_grain(9)}
    stream(disk, 80000, grains, variant=variant)
    assert qemu_raw(disk) == expected(80000, grains, 128)


def test_empty_streams_read_as_zeros(tmp_path: Path) -> None:
    for variant in VARIANTS:
        disk = tmp_path / f"{variant}.vmdk"
        stream(disk, CAPACITY, {}, variant=variant, grain_sectors=GRAIN)
        assert qemu_raw(disk) == bytes(CAPACITY * 512)


@pytest.mark.parametrize("short_tail", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_stream_with_a_partial_last_grain(
    tmp_path: Path, read: Read, variant: Variant, short_tail: bool
) -> None:
    disk = tmp_path / "disk.vmdk"
    stream(disk, PARTIAL, DATA, variant=variant, grain_sectors=GRAIN, short_tail=short_tail)
    assert read(disk) == expected(PARTIAL, DATA, GRAIN)


@pytest.mark.parametrize("variant", VARIANTS)
def test_stream_in_any_file_order(tmp_path: Path, variant: Variant) -> None:
    disk = tmp_path / "disk.vmdk"
    stream(disk, CAPACITY, DATA, variant=variant, grain_sectors=GRAIN, order=SHUFFLED)
    assert qemu_raw(disk) == expected(CAPACITY, DATA, GRAIN)


@pytest.mark.parametrize("variant", VARIANTS)
def test_stream_followed_by_padding(tmp_path: Path, variant: Variant) -> None:
    disk = tmp_path / "disk.vmdk"
    stream(disk, CAPACITY, DATA, variant=variant, grain_sectors=GRAIN, trailing=10240)
    if variant in "AEF":
        # The footer has to be in the last three sectors; G gets by as its header has the place.
        assert qemu_refusal(disk).endswith("Invalid footer")
    else:
        assert qemu_raw(disk) == expected(CAPACITY, DATA, GRAIN)


def test_stream_that_was_never_finished(tmp_path: Path) -> None:
    # qemu takes a file without a known magic for a text descriptor.
    disk = tmp_path / "disk.vmdk"
    stream(disk, CAPACITY, DATA, variant="C", grain_sectors=GRAIN, unfinished=True)
    assert qemu_refusal(disk).endswith("invalid VMDK image descriptor")


@pytest.mark.parametrize("grain_sectors", [1, 8])
def test_cowd_over_a_vmfs_parent(tmp_path: Path, read: Read, grain_sectors: int) -> None:
    capacity = 4096 * 2 * grain_sectors + 8
    grains: Grains = {
        index: sample_grain(index, grain_sectors) for index in (0, 1, 2, 4095, 4096, 8000, 8192)
    }
    grains = {**grains, 5: "zero"}
    parent = vmfs_base(tmp_path, capacity)
    cowd(
        tmp_path / "child-delta.vmdk",
        capacity,
        grains,
        grain_sectors=grain_sectors,
        order=[8192, 4095, 0, 2, 1, 8000, 4096, 5],
    )
    write_descriptor(
        tmp_path / "child.vmdk",
        "vmfsSparse",
        [f'RW {capacity} VMFSSPARSE "child-delta.vmdk"'],
        parent_cid="0badcafe",
        hint="base.vmdk",
    )
    assert read(tmp_path / "child.vmdk") == expected(capacity, grains, grain_sectors, parent)


def sesparse_child(folder: Path, capacity: int, grains: Grains) -> Path:
    """Write an seSparse child of base.vmdk whose grains and tables are out of order."""
    stored = sorted((i for i, c in grains.items() if not isinstance(c, str)), reverse=True)
    sesparse(folder / "child-sesparse.vmdk", capacity, grains, order=stored)
    write_descriptor(
        folder / "child.vmdk",
        "seSparse",
        [f'RW {capacity} SESPARSE "child-sesparse.vmdk"'],
        parent_cid="0badcafe",
        hint="base.vmdk",
    )
    return folder / "child.vmdk"


@pytest.mark.parametrize("capacity", [32768 * 2 + 64, 32768 * 2 + 61])
def test_sesparse_over_a_vmfs_parent(tmp_path: Path, read: Read, capacity: int) -> None:
    grains: Grains = {i: sample_grain(i, 8) for i in (0, 4095, 4096, 8191, 8199)}
    grains = {**grains, 1: "zero", 4097: "zero"}
    parent = vmfs_base(tmp_path, capacity)
    disk = sesparse_child(tmp_path, capacity, grains)
    assert read(disk) == expected(capacity, grains, 8, parent)


def test_unmapped_sesparse_grains_hide_the_parent(tmp_path: Path) -> None:
    # Only qemu: dissect is known to let the parent show through.
    grains: Grains = {0: sample_grain(0, 8), 1: "unmapped", 2: "zero", 4096: "unmapped"}
    parent = vmfs_base(tmp_path, 40000)
    disk = sesparse_child(tmp_path, 40000, grains)
    assert qemu_raw(disk) == expected(40000, grains, 8, parent)


def test_sesparse_numbers_grains_beyond_twelve_bits(tmp_path: Path, read: Read) -> None:
    # More than 4096 grains, so that both halves of the split grain number are in use.
    capacity = 32768 * 2
    grains: Grains = {index: sample_grain(index, 8) for index in range(0, 8192, 1) if index % 7}
    sesparse(tmp_path / "disk-sesparse.vmdk", capacity, grains)
    line = f'RW {capacity} SESPARSE "disk-sesparse.vmdk"'
    write_descriptor(tmp_path / "disk.vmdk", "seSparse", [line])
    assert read(tmp_path / "disk.vmdk") == expected(capacity, grains, 8)


def test_readers_disagree_on_a_cowd_entry_of_one(tmp_path: Path) -> None:
    parent = vmfs_base(tmp_path, 64)
    cowd(tmp_path / "child-delta.vmdk", 64, {7: "zero"}, zero_as_entry=True)
    write_descriptor(
        tmp_path / "child.vmdk",
        "vmfsSparse",
        ['RW 64 VMFSSPARSE "child-delta.vmdk"'],
        parent_cid="0badcafe",
        hint="base.vmdk",
    )
    as_zeros = expected(64, {7: "zero"}, 1, parent)
    header_sector = (tmp_path / "child-delta.vmdk").read_bytes()[512:1024]
    assert qemu_raw(tmp_path / "child.vmdk") == expected(64, {7: header_sector}, 1, parent)
    assert dissect_raw(tmp_path / "child.vmdk") == as_zeros


@pytest.mark.parametrize(("pattern", "allocated"), [("every-other", 1024), ("empty", 0)])
def test_big_sparse_maps_as_asked(
    tmp_path: Path, pattern: Literal["every-other", "empty"], allocated: int
) -> None:
    disk = tmp_path / "disk.vmdk"
    big_sparse(disk, 2048 * 128, pattern)
    done = qemu_img("map", "--output=json", "-f", "vmdk", disk)
    assert done.returncode == 0, done.stderr
    runs = [run for run in json.loads(done.stdout) if "offset" in run]
    assert [run["start"] for run in runs] == [2 * i * 65536 for i in range(allocated)]
    assert qemu_img("check", "-f", "vmdk", disk).returncode == 0
