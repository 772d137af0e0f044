# SPDX-License-Identifier: Apache-2.0
"""MBR with logical partitions, GPT at both sector sizes and from its backup, no table."""

from __future__ import annotations

import json
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from diskkit import FormatError, OutOfRange, UsageError
from diskkit.volumes import find_volumes
from makers.peers import requires
from volumes.tables import GptPartition, Memory, mbr_entry, put_gpt, put_mbr, record

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


def rows(disk: bytes | bytearray) -> list[tuple[int, int | None, int]]:
    table = find_volumes(Memory(disk))
    return [(v.number, v.offset, v.length) for v in table.volumes]


def mbr_disk() -> bytearray:
    disk = bytearray(8 * MIB)
    put_mbr(
        disk,
        [(0x83, 2048, 2048), (0x07, 4096, 1024)],
        (6144, 8000),
        [(0x83, 6145, 999), (0x82, 8192, 100), (0x8E, 9000, 500)],
    )
    return disk


def test_mbr_lists_primary_and_logical_partitions() -> None:
    table = find_volumes(Memory(mbr_disk()))
    assert table.scheme == "mbr"
    assert table.warnings == []
    assert [(v.number, v.name, v.type, v.offset, v.length) for v in table.volumes] == [
        (1, "p1", "0x83", MIB, MIB),
        (2, "p2", "0x07", 2 * MIB, 1024 * 512),
        (5, "p5", "0x83", 6145 * 512, 999 * 512),
        (6, "p6", "0x82", 8192 * 512, 100 * 512),
        (7, "p7", "0x8e", 9000 * 512, 500 * 512),
    ]


def test_mbr_partitions_have_the_ids_that_linux_gives_them(tmp_path: Path) -> None:
    disk = mbr_disk()
    assert {v.part_uuid for v in find_volumes(Memory(disk)).volumes} == {None}
    disk[440:444] = bytes.fromhex("78563412")
    found = [(v.number, v.part_uuid) for v in find_volumes(Memory(disk)).volumes]
    assert found[1] == (2, "12345678-02")
    path = tmp_path / "disk.raw"
    path.write_bytes(disk)
    words = [requires("partx"), "--show", "--noheadings", "--output", "NR,UUID", str(path)]
    told = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
    # It lists the extended partition, too.
    theirs = {int(number): uuid for number, uuid in map(str.split, told.splitlines())}
    assert found == [(number, theirs[number]) for number, _ in found]


@pytest.mark.parametrize("sector", [512, 4096])
def test_gpt_is_read_at_both_sector_sizes(sector: int) -> None:
    disk = bytearray(16 * MIB)
    put_gpt(disk, [GptPartition(40, 99, "boot é"), GptPartition(100, 100)], sector)
    table = find_volumes(Memory(disk))
    assert (table.scheme, table.sector_size, table.warnings) == ("gpt", sector, [])
    one, two = table.volumes
    assert (one.offset, one.length, one.part_label) == (40 * sector, 60 * sector, "boot é")
    assert (two.number, two.offset, two.length) == (2, 100 * sector, sector)
    assert one.part_uuid == "00000000-0000-0000-0000-0000000003e8"
    assert one.type_name == "Linux"


@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("place", [0, 16, 300])
def test_damaged_gpt_is_read_from_its_backup(sector: int, place: int) -> None:
    disk = bytearray(16 * MIB)
    put_gpt(disk, [GptPartition(40, 99)], sector)
    # A byte of the signature, of the CRC, and of the entries.
    at = sector + place if place < 92 else 2 * sector + 33
    disk[at] ^= 1
    table = find_volumes(Memory(disk))
    assert [(v.offset, v.length) for v in table.volumes] == [(40 * sector, 60 * sector)]
    (warning,) = table.warnings
    assert "its backup was used" in warning


def test_missing_backup_is_a_warning() -> None:
    disk = bytearray(4 * MIB)
    put_gpt(disk, [GptPartition(40, 99)], backup=False)
    table = find_volumes(Memory(disk))
    assert len(table.volumes) == 1
    assert "backup of the partition table is not whole" in table.warnings[0]


def test_gpt_without_a_whole_copy_is_refused() -> None:
    disk = bytearray(4 * MIB)
    put_gpt(disk, [GptPartition(40, 99)], primary=False, backup=False)
    with pytest.raises(FormatError, match=r"GPT header: signature at byte 512"):
        find_volumes(Memory(disk))


def test_disk_without_a_table_is_one_volume() -> None:
    table = find_volumes(Memory(bytes(MIB)))
    assert table.scheme == "none"
    assert [(v.number, v.offset, v.length, v.content) for v in table.volumes] == [(1, 0, MIB, None)]
    assert find_volumes(Memory(b"")).volumes == []


def test_boot_code_is_not_taken_for_a_table() -> None:
    disk = bytearray(MIB)
    disk[:512] = bytes(range(256))[:254].ljust(510, b"\x90") + b"\x55\xaa"
    assert find_volumes(Memory(disk)).scheme == "none"


def test_partition_beyond_the_end_is_listed_and_not_read() -> None:
    disk = bytearray(4 * MIB)
    put_mbr(disk, [(0x83, 2048, 100), (0x83, 4096, 1 << 30)])
    good, bad = find_volumes(Memory(disk)).volumes
    assert good.problem is None
    with pytest.raises(FormatError, match=r"partition 2: length is .* beyond the disk's"):
        bad.read(0, 512)


def test_overlapping_partitions_are_told() -> None:
    disk = bytearray(4 * MIB)
    put_mbr(disk, [(0x83, 100, 1000), (0x83, 1099, 10), (0x83, 1109, 10)])
    assert find_volumes(Memory(disk)).warnings == ["partitions 1 and 2 overlap"]


def test_logical_chain_that_loops_ends() -> None:
    disk = mbr_disk()
    first = 6144 * 512
    disk[first : first + 512] = record([mbr_entry(0x83, 1, 10), mbr_entry(5, 0, 10)])
    table = find_volumes(Memory(disk))
    assert [v.number for v in table.volumes] == [1, 2, 5]
    assert "comes back" in table.warnings[0]


def test_long_logical_chain_is_bounded() -> None:
    disk = bytearray(8 * MIB)
    many = [(0x83, 101 + 4 * n, 1) for n in range(400)]
    put_mbr(disk, [], (100, 8000), many)
    table = find_volumes(Memory(disk))
    assert len(table.volumes) == 256
    assert "more than 256 logical partitions" in table.warnings[0]


@pytest.mark.parametrize(
    ("field", "fmt", "value", "word"),
    [
        (8 + 4, "<I", 91, "size"),
        (24, "<Q", 5, "own sector"),
        (72, "<Q", 1 << 60, "entries' sector"),
        (80, "<I", 0xFFFFFFFF, "number of entries"),
        (84, "<I", 0, "entry size"),
        (84, "<I", 1 << 31, "entry size"),
    ],
)
def test_hostile_gpt_fields_are_named(field: int, fmt: str, value: int, word: str) -> None:
    import zlib

    disk = bytearray(4 * MIB)
    put_gpt(disk, [GptPartition(40, 99)], backup=False)
    struct.pack_into(fmt, disk, 512 + field, value)
    struct.pack_into("<I", disk, 512 + 16, 0)
    struct.pack_into("<I", disk, 512 + 16, zlib.crc32(disk[512 : 512 + 92]))
    memory = Memory(disk)
    with pytest.raises(FormatError, match=word):
        find_volumes(memory)
    assert memory.asked < MIB


def test_bad_gpt_entry_leaves_the_others() -> None:
    disk = bytearray(4 * MIB)
    put_gpt(disk, [GptPartition(99, 40), GptPartition(100, 109)])
    table = find_volumes(Memory(disk))
    assert [v.number for v in table.volumes] == [2]
    assert "GPT entry 1" in table.warnings[0]


def test_volume_reads_its_own_bytes_only() -> None:
    disk = mbr_disk()
    disk[MIB : 2 * MIB] = bytes(range(256)) * 4096
    volume = find_volumes(Memory(disk)).volume(1)
    assert volume.read(255, 3) == b"\xff\x00\x01"
    assert volume.read(MIB - 1, 1) == b"\xff"
    for offset, length in ((MIB - 1, 2), (-1, 1), (0, -1)):
        with pytest.raises(OutOfRange):
            list(volume.pieces(offset, length))


def test_unknown_volume_names_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"no volume 4: there are 1 \(p1\), 2 \(p2\), 5"):
        find_volumes(Memory(mbr_disk())).volume("4")


def _sfdisk(path: Path) -> list[tuple[int, int]]:
    done = subprocess.run(
        [requires("sfdisk"), "--json", path], capture_output=True, timeout=60, check=True
    )
    found = json.loads(done.stdout)["partitiontable"]["partitions"]
    return [(p["start"] * 512, p["size"] * 512) for p in found if p["type"] not in ("5", "f")]


@pytest.mark.parametrize(
    "script",
    [
        "label: dos\n,1M,83\n,1M,7\n,4M,5\n,1M,83\n,1M,82\n,,8e\n",
        "label: gpt\n,1M,L\n,2M,U\nstart=10000,size=77,type=S\n",
    ],
)
def test_tables_made_by_sfdisk_are_read_alike(tmp_path: Path, script: str) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(16 * MIB))
    subprocess.run([requires("sfdisk"), "-q", path], input=script.encode(), timeout=60, check=True)
    assert [(o, n) for _, o, n in rows(path.read_bytes())] == _sfdisk(path)


def test_sgdisk_finds_nothing_wrong_with_the_makers(tmp_path: Path) -> None:
    disk = bytearray(4 * MIB)
    put_gpt(disk, [GptPartition(40, 99)])
    path = tmp_path / "disk.raw"
    path.write_bytes(disk)
    done = subprocess.run(
        [requires("sgdisk"), "-v", path], capture_output=True, text=True, timeout=60, check=True
    )
    assert "No problems found" in done.stdout
