# SPDX-License-Identifier: Apache-2.0
"""LVM2: linear, striped, several segments and physical volumes; metadata that lies."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from diskkit import DiskkitError, FormatError, UnsupportedFeature
from diskkit.volumes import find_volumes
from diskkit.volumes.lvm import crc
from diskkit.volumes.lvmtext import parse
from makers.peers import SKIP_PREFIX, requires
from volumes.tables import (
    AREA,
    PE_START,
    Memory,
    Part,
    lvm_crc,
    lvm_text,
    put_mbr,
    put_pv,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXTENT = 128 * 512
START = PE_START * 512
SIZE = START + 100 * EXTENT


def noise(seed: int) -> bytearray:
    disk = bytearray(random.Random(seed).randbytes(SIZE))
    disk[:START] = bytes(START)
    return disk


def extents(disk: bytes | bytearray, first: int, count: int = 1) -> bytes:
    return bytes(disk[START + first * EXTENT : START + (first + count) * EXTENT])


def striped(parts: list[bytes], unit: int) -> bytes:
    return b"".join(part[at : at + unit] for at in range(0, len(parts[0]), unit) for part in parts)


@pytest.mark.parametrize("wrap", [False, True])
def test_segments_in_any_order_are_one_volume(wrap: bool) -> None:
    disk = noise(1)
    parts = [Part(0, 3, [(0, 50)]), Part(3, 2, [(0, 7)]), Part(5, 1, [(0, 99)])]
    put_pv(disk, 0, SIZE, 0, lvm_text({"root": parts}), wrap=wrap)
    table = find_volumes(Memory(disk))
    assert table.warnings == []
    pv, root = table.volumes
    assert pv.content is not None
    assert (pv.content.filesystem, pv.content.uuid) == (
        "lvm2",
        "PVPV00-0000-0000-0000-0000-0000-000000",
    )
    assert (root.number, root.name, root.type, root.offset) == (2, "vg0/root", "lvm", None)
    wanted = extents(disk, 50, 3) + extents(disk, 7, 2) + extents(disk, 99)
    assert root.read(0, root.size) == wanted
    # Across the border of two segments, from the middle of one.
    assert root.read(3 * EXTENT - 5, 11) == wanted[3 * EXTENT - 5 : 3 * EXTENT + 6]


def test_stripes_are_taken_in_turns() -> None:
    disk = noise(2)
    parts = [Part(0, 6, [(0, 10), (0, 40), (0, 70)], 16), Part(6, 1, [(0, 0)])]
    put_pv(disk, 0, SIZE, 0, lvm_text({"data": parts}))
    data = find_volumes(Memory(disk)).volume("vg0/data")
    wanted = striped([extents(disk, n, 2) for n in (10, 40, 70)], 16 * 512) + extents(disk, 0)
    assert data.read(0, data.size) == wanted
    assert data.read(8191, 8194) == wanted[8191 : 8191 + 8194]


def test_group_over_two_disks_needs_both() -> None:
    one, two = noise(3), noise(4)
    text = lvm_text({"a": [Part(0, 2, [(0, 1), (1, 5)])], "b": [Part(0, 1, [(0, 0)])]}, (0, 1))
    put_pv(one, 0, SIZE, 0, text)
    put_pv(two, 0, SIZE, 1, None)
    alone = find_volumes(Memory(one))
    assert alone.volume("vg0/b").read(0, EXTENT) == extents(one, 0)
    assert alone.volume("vg0/a").size == 2 * EXTENT
    with pytest.raises(UnsupportedFeature, match=r"physical volume pv1 .* is not here"):
        alone.volume("vg0/a").read(0, 1)
    both = find_volumes(Memory(one), Memory(two)).volume("vg0/a")
    assert both.read(0, both.size) == striped([extents(one, 1), extents(two, 5)], 65536)


def test_newest_text_counts() -> None:
    one, two = noise(5), noise(6)
    put_pv(one, 0, SIZE, 0, lvm_text({"x": [Part(0, 1, [(0, 0)])]}, (0, 1), seqno=3))
    put_pv(two, 0, SIZE, 1, lvm_text({"x": [Part(0, 1, [(0, 9)])]}, (0, 1), seqno=4))
    volume = find_volumes(Memory(one), Memory(two)).volume("vg0/x")
    assert volume.read(0, EXTENT) == extents(one, 9)


def test_physical_volume_in_a_partition() -> None:
    disk = bytearray(1 << 20) + noise(7)
    put_mbr(disk, [(0x8E, 2048, SIZE // 512)])
    put_pv(disk, 1 << 20, SIZE, 0, lvm_text({"x": [Part(0, 1, [(0, 3)])]}))
    table = find_volumes(Memory(disk))
    assert [v.name for v in table.volumes] == ["p1", "vg0/x"]
    assert table.volumes[1].read(0, EXTENT) == extents(disk[1 << 20 :], 3)


def test_other_kinds_of_segments_are_named() -> None:
    disk = noise(8)
    text = lvm_text({"t": [Part(0, 1, [(0, 3)], kind="thin-pool")]})
    put_pv(disk, 0, SIZE, 0, text)
    volume = find_volumes(Memory(disk)).volume("vg0/t")
    with pytest.raises(UnsupportedFeature, match="type is thin-pool: only linear and striped"):
        volume.read(0, 1)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("start_extent = 2", "start_extent = 1", "leaves a gap or overlaps"),
        ("start_extent = 2", "start_extent = 3", "leaves a gap or overlaps"),
        ('["pv0", 5]', '["pv0", 100]', "beyond the end"),
        ('["pv0", 5]', '["pv0", -1]', "names no physical volume"),
        ('["pv0", 5]', '["pv9", 5]', "names no physical volume"),
        ('["pv0", 5]', "[]", "not a list of pairs"),
        ("extent_count = 2", "extent_count = 9223372036854775807", "beyond the end"),
        ("extent_count = 2", "extent_count = 0", "not positive"),
        ("extent_count = 2", "extent_count = two", "a value was expected"),
        ("extent_size = 128", "extent_size = 0", "extent_size"),
        ("vg0 {", "../../etc {", "not a name that lvm2 gives"),
    ],
)
def test_lies_in_the_text_are_named(old: str, new: str, word: str) -> None:
    disk = noise(9)
    text = lvm_text({"x": [Part(0, 2, [(0, 1)]), Part(2, 1, [(0, 5)])]})
    text = text.replace("[ ", "[").replace(" ]", "]")
    assert old in text
    put_pv(disk, 0, SIZE, 0, text.replace(old, new))
    table = find_volumes(Memory(disk))
    said = [*table.warnings, *(str(v.problem) for v in table.volumes)]
    assert any(word in line for line in said), said


def test_damaged_metadata_is_told_and_keeps_the_rest() -> None:
    for place, word in (
        (600, "label has another"),
        (AREA[0] + 40, "header has another"),
        (AREA[0] + 512 + 90, "LVM metadata text: CRC"),
    ):
        disk = noise(10)
        put_pv(disk, 0, SIZE, 0, lvm_text({"x": [Part(0, 1, [(0, 1)])]}))
        disk[place] ^= 1
        table = find_volumes(Memory(disk))
        assert [v.name for v in table.volumes] == ["whole"]
        assert word in table.warnings[0]


def test_claimed_text_size_is_not_believed() -> None:
    disk = noise(11)
    put_pv(disk, 0, SIZE, 0, lvm_text({"x": [Part(0, 1, [(0, 1)])]}))
    at = AREA[0]
    struct.pack_into("<Q", disk, at + 48, 1 << 62)
    struct.pack_into("<I", disk, at, lvm_crc(bytes(disk[at + 4 : at + 512])))
    memory = Memory(disk)
    assert "text" in find_volumes(memory).warnings[0]
    assert memory.asked < 3 << 20


def test_checksum_is_that_of_the_documentation() -> None:
    for data in (b"", b"a", bytes(508), random.Random(1).randbytes(999)):
        assert crc(data) == lvm_crc(data)


@pytest.mark.parametrize(
    "text",
    ["a {", "a = ", "a = [1", "= 1", "a = {", 'a = "x', "a 1", "\x00", "}", "a{" * 50, "a = [[1]]"],
)
def test_text_that_breaks_off_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        parse(text)


def test_text_has_strings_numbers_lists_and_comments() -> None:
    found = parse('a = 1 # {\nb = "x\\"#\\\\"\nc { d = ["p", -2, "q"]\ne = [] f = 1.5 }')
    assert found == {"a": 1, "b": 'x"#\\', "c": {"d": ["p", -2, "q"], "e": [], "f": "1.5"}}


@contextlib.contextmanager
def loop_devices(paths: list[Path]) -> Iterator[list[str]]:
    losetup = requires("losetup")
    if os.geteuid() != 0:
        pytest.skip(f"{SKIP_PREFIX} loop devices need root")
    devices: list[str] = []
    try:
        for path in paths:
            done = subprocess.run(
                [losetup, "-f", "--show", path],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            if done.returncode:
                pytest.skip(f"{SKIP_PREFIX} loop devices: {done.stderr.strip()}")
            devices.append(done.stdout.strip())
        yield devices
    finally:
        for device in devices:
            subprocess.run([losetup, "-d", device], timeout=30, check=False)


def lvm(verb: str, devices: list[str], *words: str) -> str:
    names = ", ".join(f'"a|^{d}$|"' for d in devices)
    config = f'devices {{ filter = [ {names}, "r|.*|" ] use_devicesfile = 0 scan_lvs = 0 }}'
    config += " backup { backup = 0 archive = 0 } global { locking_type = 1 }"
    done = subprocess.run(
        [requires("lvm"), verb, "--driverloaded", "n", "--config", config, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "DM_DISABLE_UDEV": "1", "LC_ALL": "C"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_groups_made_by_lvm2_are_mapped_as_it_says(tmp_path: Path) -> None:
    requires("lvm")
    size = 48 << 20
    paths = [tmp_path / f"pv{n}" for n in range(2)]
    for path in paths:
        path.write_bytes(bytes(size))
    with loop_devices(paths) as devices:
        lvm("vgcreate", devices, "-s", "1M", "vgx", *devices)
        quiet = ("-an", "-Zn", "-Wn")
        lvm("lvcreate", devices, *quiet, "-n", "s", "-i", "2", "-I", "64k", "-l", "10", "vgx")
        lvm("lvcreate", devices, *quiet, "-n", "l", "-l", "60", "vgx")
        fields = "lv_name,seg_start_pe,seg_size_pe,segtype,stripe_size,seg_pe_ranges"
        said = lvm(
            "lvs",
            devices,
            "--noheadings",
            "--separator",
            "|",
            "--segments",
            "--units",
            "b",
            "-o",
            fields,
            "vgx",
        )
        number_of = {device: n for n, device in enumerate(devices)}
    disks = []
    for n, path in enumerate(paths):
        raw = bytearray(path.read_bytes())
        raw[1 << 20 :] = random.Random(n).randbytes(size - (1 << 20))
        disks.append(raw)
    table = find_volumes(*map(Memory, disks))
    assert table.warnings == []
    lines = said.split("\n")
    seen = 0
    for line in filter(None, map(str.strip, lines)):
        name, start, count, _, unit, ranges = line.split("|")
        parts = []
        for part in ranges.split():
            device, _, span = part.rpartition(":")
            first, last = map(int, span.split("-"))
            parts.append(bytes(disks[number_of[device]][(1 + first) << 20 : (2 + last) << 20]))
        step = int(unit.rstrip("B")) or len(parts[0])
        volume = table.volume(f"vgx/{name}")
        got = volume.read(int(start) << 20, int(count) << 20)
        assert got == striped(parts, step)
        seen += 1
    assert seen >= 3


def test_every_cut_of_a_physical_volume_is_survived() -> None:
    disk = noise(12)
    put_pv(disk, 0, SIZE, 0, lvm_text({"x": [Part(0, 1, [(0, 1)])]}))
    for cut in (0, 511, 512, 900, 1024, 4096, 4700, 5000, START, START + EXTENT):
        with contextlib.suppress(DiskkitError):
            find_volumes(Memory(disk[:cut]))
