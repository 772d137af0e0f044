# SPDX-License-Identifier: Apache-2.0
"""Disks that qemu made and wrote to: our bytes and our maps are those of qemu-img."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

import diskkit
from conformance.cases import CHAINS, SINGLES, Case
from diskkit import State
from makers import cowd, expected, hosted_sparse, poke, sample_grain, stream, write_descriptor
from makers.peers import qemu_img, qemu_raw, qemu_refusal
from peers.asking import (
    SUBFORMATS,
    agree,
    our_map,
    qemu_create,
    qemu_io,
    qemu_map,
    random_writes,
)

if TYPE_CHECKING:
    from pathlib import Path

    from makers import Grains

SPARSE = ("monolithicSparse", "twoGbMaxExtentSparse")
SIZES = (512, 1024, 65536 - 512, 65536, 65536 + 512, 3_000_320, 10 << 20, (33 << 20) + 512)
SECTOR = 512


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_random_writes(tmp_path: Path, subformat: str, size: int) -> None:
    disk = tmp_path / "disk.vmdk"
    qemu_create(disk, size, subformat)
    qemu_io(disk, random_writes(size, size))
    agree(disk)


@pytest.mark.parametrize("subformat", ["monolithicFlat", "twoGbMaxExtentSparse"])
def test_descriptor_files_that_qemu_padded_with_nuls(tmp_path: Path, subformat: str) -> None:
    disk = tmp_path / "disk.vmdk"
    qemu_create(disk, 1 << 20, subformat)
    qemu_io(disk, ["write -q -P 1 0 65536"])
    assert disk.read_bytes().endswith(b"\0" * 100)
    agree(disk)


def test_descriptor_files_whose_text_qemu_shortened(tmp_path: Path) -> None:
    # A content ID with fewer digits: the end of the longer text is left behind a NUL. As qemu 7.2
    # was seen to do, but that takes luck: it writes IDs at random.
    disk = tmp_path / "disk.vmdk"
    qemu_create(disk, 1 << 20, "monolithicFlat")
    text = disk.read_bytes()
    at = text.index(b"CID=") + 4
    shorter = text[:at] + b"1" + text[text.index(b"\n", at) :]
    stale = text[len(shorter) + 1 :]
    disk.write_bytes((shorter + b"\0" + stale).ljust(1024, b"\0"))
    agree(disk)


@pytest.mark.parametrize("subformat", SUBFORMATS)
def test_disks_that_were_never_written(tmp_path: Path, subformat: str) -> None:
    disk = tmp_path / "disk.vmdk"
    qemu_create(disk, 100 << 20, subformat)
    agree(disk)


@pytest.mark.parametrize("size", [65536 + 512, (33 << 20) + 512])
@pytest.mark.parametrize("subformat", SPARSE)
def test_zeroed_grains(tmp_path: Path, subformat: str, size: int) -> None:
    disk = tmp_path / "disk.vmdk"
    qemu_create(disk, size, subformat, zeroed_grain="on")
    writes = random_writes(size, size + 1, 20)
    qemu_io(disk, [*writes, "write -q -P 7 0 65536", "write -q -z 0 65536"])
    agree(disk)
    with diskkit.open_disk(disk) as found:
        assert next(found.runs()).state == State.ZERO


@pytest.mark.parametrize("subformat", ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_several_extents(tmp_path: Path, subformat: str) -> None:
    size = (5 << 30) + 512
    disk = tmp_path / "disk.vmdk"
    qemu_create(disk, size, subformat)
    edges = [f"write -q -P {n} {(n << 31) - 66048} 132096" for n in (1, 2)]
    qemu_io(disk, [*edges, *random_writes(size, 5, 20)])
    agree(disk)


@pytest.mark.parametrize("seed", range(3))
def test_streams(tmp_path: Path, seed: int) -> None:
    size = (3_000_320, (33 << 20) + 512, 65536)[seed]
    raw, disk = tmp_path / "disk.raw", tmp_path / "disk.vmdk"
    with raw.open("wb") as f:
        f.truncate(size)
    qemu_io(raw, random_writes(size, seed), "raw")
    done = qemu_img(
        "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, disk
    )
    assert done.returncode == 0, done.stderr
    agree(disk)


def test_a_stream_that_qemu_appended_to(tmp_path: Path) -> None:
    disk = tmp_path / "disk.vmdk"
    qemu_create(disk, 1 << 20, "streamOptimized")
    qemu_io(disk, [f"write -q -P {n + 1} {n * 131072} 65536" for n in range(8)])
    agree(disk)


@pytest.mark.parametrize("subformat", SUBFORMATS)
@pytest.mark.parametrize("zeroed", ["on", "off"])
def test_children_of_children(tmp_path: Path, subformat: str, zeroed: str) -> None:
    size = (33 << 20) + 512
    parent = tmp_path / "base.vmdk"
    qemu_create(parent, size, subformat)
    qemu_io(parent, random_writes(size, 1, 20))
    for number in range(3):
        child = tmp_path / f"child{number}.vmdk"
        kind = SPARSE[number % 2] if zeroed == "on" else SPARSE[0]
        qemu_create(child, size, kind, parent, zeroed_grain=zeroed)
        qemu_io(child, random_writes(size, 10 + number, 8))
        agree(child)
        parent = child


@pytest.mark.parametrize(
    "case",
    [
        c
        for c in (*SINGLES, *CHAINS)
        # qemu takes a COWD entry of 1 for data, and refuses or loses what is listed below.
        if "VMFSSPARSE" not in c.extents
        and "ZERO" not in c.extents
        and not c.name.startswith(
            ("raw", "vmfsT", "vmfsP", "vmfsE", "vmfs-offset", "sesparse-tech")
        )
        and "vmfsThin" not in c.name
        and "-whole" not in c.name
        and "gtes2" not in c.name
        and not any(word in c.name for word in ("old-name", "flat-split-offset", "full-device"))
    ],
    ids=str,
)
def test_what_the_makers_made(tmp_path: Path, case: Case) -> None:
    built = case.build(tmp_path)
    assert qemu_raw(built.path) == built.model.content
    with built.open() as disk:
        assert disk.read(0, disk.size) == built.model.content
        assert our_map(disk) == qemu_map(built.path)


def test_redo_logs_map_alike(tmp_path: Path) -> None:
    (tmp_path / "base-flat.vmdk").write_bytes(b"base" * 128 * 9000)
    line = 'RW 9000 VMFS "base-flat.vmdk"'
    write_descriptor(tmp_path / "base.vmdk", "vmfs", [line], cid="0badcafe")
    grains: Grains = {i: sample_grain(i, 1) for i in (0, 1, 7, 4095, 4096, 8999)}
    cowd(tmp_path / "child-delta.vmdk", 9000, grains)
    write_descriptor(
        tmp_path / "child.vmdk",
        "vmfsSparse",
        ['RW 9000 VMFSSPARSE "child-delta.vmdk"'],
        parent_cid="0badcafe",
        hint="base.vmdk",
    )
    agree(tmp_path / "child.vmdk")


# --- very large -----------------------------------------------------------------------------------


def known_writes(size: int) -> list[tuple[int, int, int]]:
    """(offset, length, pattern), in whole grains but for the last."""
    last = (size - 1) // 65536 * 65536
    middle = size // 3 // 65536 * 65536
    return [(0, 65536, 1), (middle, 131072, 2), (last, size - last, 3)]


@pytest.mark.parametrize(
    ("size", "subformat"),
    [
        (62 << 40, "monolithicSparse"),
        ((62 << 40) - 512, "monolithicSparse"),
        ((2 << 40) + 512, "monolithicSparse"),
        (1 << 40, "twoGbMaxExtentSparse"),
        (1 << 40, "twoGbMaxExtentFlat"),
        (15 << 40, "monolithicFlat"),
    ],
)
def test_huge_disks(tmp_path: Path, size: int, subformat: str) -> None:
    disk = tmp_path / "disk.vmdk"
    done = qemu_img("create", "-q", "-f", "vmdk", "-o", f"subformat={subformat}", disk, str(size))
    if "File too large" in done.stderr:
        pytest.skip(f"the filesystem has no files of {size} bytes")
    assert done.returncode == 0, done.stderr
    writes = known_writes(size)
    qemu_io(disk, [f"write -q -P {pattern} {at} {n}" for at, n, pattern in writes])
    with diskkit.open_disk(disk) as found:
        assert found.size == size
        data = [(r.offset, r.length) for r in found.runs() if r.state == State.DATA]
        # qemu touches the first block of a flat file when it makes it.
        data = [(at, n) for at, n in data if n != 4096 or at % (2 << 30)]
        assert data == [(at, n) for at, n, _ in writes]
        for at, n, pattern in writes:
            assert found.read(at, n) == bytes([pattern]) * n
            if at:
                assert found.read(at - 512, 1024) == bytes(512) + bytes([pattern]) * 512
        dice = random.Random(size)
        places = [dice.randrange(size // 512) * 512 for _ in range(20)]
        empty = [p for p in places if not any(at <= p < at + n for at, n, _ in writes)]
        for place in empty:
            assert found.read(place, 512) == bytes(512)
    qemu_io(disk, [f"read -q -P 0 {place} 512" for place in empty])


def test_the_map_of_a_disk_of_100_gib(tmp_path: Path) -> None:
    # qemu asks table by table: at 62 TiB its map takes minutes.
    size = 100 << 30
    disk = tmp_path / "disk.vmdk"
    qemu_create(disk, size)
    qemu_io(disk, random_writes(size, 3, 30))
    with diskkit.open_disk(disk) as found:
        assert our_map(found) == qemu_map(disk)


def test_thirty_links_read_right_and_fast(tmp_path: Path) -> None:
    size = 40 << 20
    model = bytearray(size)
    parent = None
    for number in range(30):
        path = tmp_path / f"link{number}.vmdk"
        qemu_create(path, size, parent=parent)
        writes = [(((number * 7 + k * 11) % 640) * 65536, number + k + 1) for k in range(4)]
        qemu_io(path, [f"write -q -P {pattern} {at} 65536" for at, pattern in writes])
        for at, pattern in writes:
            model[at : at + 65536] = bytes([pattern]) * 65536
        parent = path
    assert parent is not None
    begin = time.monotonic()
    with diskkit.open_disk(parent) as disk:
        assert len(disk.chain.links) == 30
        assert disk.read(0, size) == model
        assert len({run.link for run in disk.runs()}) > 20
    assert time.monotonic() - begin < 5
    with diskkit.open_disk(parent) as disk:
        assert our_map(disk) == qemu_map(parent)


# --- where qemu is wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["RW 64 ZERO", 'RDONLY 64 FLAT "flat.bin" 128'])
def test_lines_that_qemu_drops_are_part_of_our_disk(tmp_path: Path, line: str) -> None:
    data = sample_grain(1, 64) + bytes(32768) + sample_grain(2, 64)
    (tmp_path / "flat.bin").write_bytes(data[:32768] + bytes(32768) + data[65536:])
    lines = ['RW 64 FLAT "flat.bin" 0', line]
    write_descriptor(tmp_path / "disk.vmdk", "monolithicFlat", lines)
    first = data[:32768]
    assert qemu_raw(tmp_path / "disk.vmdk") == first
    with diskkit.open_disk(tmp_path / "disk.vmdk") as disk:
        assert disk.size == 65536
        want = bytes(32768) if "ZERO" in line else data[65536:]
        assert disk.read(0, 65536) == first + want


def test_noaccess_lines_that_qemu_drops_are_refused_by_us(tmp_path: Path) -> None:
    (tmp_path / "flat.bin").write_bytes(sample_grain(1, 128))
    lines = ['RW 64 FLAT "flat.bin" 0', 'NOACCESS 64 FLAT "flat.bin" 64']
    write_descriptor(tmp_path / "disk.vmdk", "monolithicFlat", lines)
    assert len(qemu_raw(tmp_path / "disk.vmdk")) == 32768
    with diskkit.open_disk(tmp_path / "disk.vmdk") as disk:
        assert disk.size == 65536
        with pytest.raises(diskkit.UnsupportedFeature):
            disk.read(32768, 1)


def test_redo_log_entry_of_one_that_qemu_reads_as_data_is_zeros_to_us(tmp_path: Path) -> None:
    (tmp_path / "base-flat.vmdk").write_bytes(b"base" * 128 * 64)
    write_descriptor(
        tmp_path / "base.vmdk", "vmfs", ['RW 64 VMFS "base-flat.vmdk"'], cid="0badcafe"
    )
    cowd(tmp_path / "child-delta.vmdk", 64, {7: "zero"}, zero_as_entry=True)
    # Sector 1 lies in the header, inside the parent's name.
    poke(tmp_path / "child-delta.vmdk", 600, "<B", 120)
    write_descriptor(
        tmp_path / "child.vmdk",
        "vmfsSparse",
        ['RW 64 VMFSSPARSE "child-delta.vmdk"'],
        parent_cid="0badcafe",
        hint="base.vmdk",
    )
    right = expected(64, {7: "zero"}, 1, b"base" * 128 * 64)
    assert qemu_raw(tmp_path / "child.vmdk") != right
    with diskkit.open_disk(tmp_path / "child.vmdk") as disk:
        assert disk.read(0, disk.size) == right


def test_short_flat_files_that_qemu_pads_are_refused_by_us(tmp_path: Path) -> None:
    (tmp_path / "flat.bin").write_bytes(sample_grain(1, 60))
    write_descriptor(tmp_path / "disk.vmdk", "monolithicFlat", ['RW 64 FLAT "flat.bin" 0'])
    padded = sample_grain(1, 60) + bytes(2048)
    assert qemu_raw(tmp_path / "disk.vmdk") == padded
    with pytest.raises(diskkit.FormatError, match=r"flat\.bin.*30720"):
        diskkit.open_disk(tmp_path / "disk.vmdk")
    warnings: list[str] = []
    with diskkit.open_disk(
        tmp_path / "disk.vmdk", allow_truncated=True, warn=warnings.append
    ) as disk:
        assert disk.read(0, disk.size) == padded
    assert warnings


@pytest.mark.parametrize(
    ("create_type", "line"),
    [
        ("vmfs", 'RW 64 VMFS "flat.bin" 0'),
        ("vmfsThin", 'RW 64 VMFS "flat.bin"'),
        ("custom", 'RW 64 FLAT "flat.bin" 0'),
        ("partitionedDevice", 'RW 64 FLAT "flat.bin" 0'),
    ],
)
def test_disks_that_qemu_refuses_are_read_by_us(
    tmp_path: Path, create_type: str, line: str
) -> None:
    (tmp_path / "flat.bin").write_bytes(sample_grain(1, 64))
    write_descriptor(tmp_path / "disk.vmdk", create_type, [line])
    assert qemu_refusal(tmp_path / "disk.vmdk")
    with diskkit.open_disk(tmp_path / "disk.vmdk") as disk:
        assert disk.read(0, disk.size) == sample_grain(1, 64)


def test_lower_case_lines_that_stop_qemu_are_read_by_us(tmp_path: Path) -> None:
    (tmp_path / "flat.bin").write_bytes(sample_grain(1, 64))
    write_descriptor(tmp_path / "disk.vmdk", "monolithicFlat", ['rw 64 flat "flat.bin" 0'])
    assert qemu_img("convert", "-O", "raw", tmp_path / "disk.vmdk", "/dev/null").returncode
    with diskkit.open_disk(tmp_path / "disk.vmdk") as disk:
        assert disk.read(0, disk.size) == sample_grain(1, 64)


def test_padded_streams_that_qemu_refuses_are_read_by_us(tmp_path: Path) -> None:
    grains: Grains = {1: sample_grain(1, 16)}
    stream(tmp_path / "disk.vmdk", 160, grains, grain_sectors=16, trailing=1024)
    assert qemu_refusal(tmp_path / "disk.vmdk").endswith("Invalid footer")
    with diskkit.open_disk(tmp_path / "disk.vmdk") as disk:
        assert disk.read(0, disk.size) == expected(160, grains, 16)


def test_changed_parents_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    # qemu notices at the first read that needs the parent.
    base, child = tmp_path / "base.vmdk", tmp_path / "child.vmdk"
    hosted_sparse(base, 1280, {0: sample_grain(1)}, cid="00000001")
    hosted_sparse(child, 1280, {}, parent_cid="00000002", parent_hint="base.vmdk")
    assert qemu_refusal(child)
    with pytest.raises(diskkit.ChainError, match=r"content ID is 00000001.*00000002"):
        diskkit.open_disk(child)
