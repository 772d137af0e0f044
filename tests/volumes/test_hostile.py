# SPDX-License-Identifier: Apache-2.0
"""Whatever the bytes: a result or one error, few bytes read, no volume outside of its disk."""

from __future__ import annotations

import random
from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from diskkit import DiskkitError
from diskkit.volumes import find_volumes
from volumes.tables import (
    AREA,
    PE_START,
    GptPartition,
    Memory,
    Part,
    lvm_text,
    put_gpt,
    put_mbr,
    put_pv,
)

SIZE = 2 << 20
BOUND = 40 << 20
"""Bytes that looking may read: texts are read once an area, labels a few sectors."""


@cache
def template(name: str) -> bytes:
    disk = bytearray(SIZE)
    if name == "mbr":
        put_mbr(disk, [(0x83, 63, 100)], (200, 2000), [(0x83, 201, 9), (0x83, 300, 9)])
    elif name in ("gpt", "gpt4k"):
        put_gpt(disk, [GptPartition(40, 99), GptPartition(100, 110)], 4096 if name[3:] else 512)
    elif name == "lvm":
        text = lvm_text({"x": [Part(0, 1, [(0, 1)]), Part(1, 2, [(0, 3), (0, 5)], 8)]})
        put_pv(disk, 0, SIZE, 0, text)
    elif name == "ntfs":
        disk[:512] = b"\xeb\x52\x90NTFS    \0\x02\x08".ljust(510, b"\0") + b"\x55\xaa"
        disk[48], disk[64] = 4, 0xF6
        disk[16384 + 3072 : 16384 + 3080] = b"FILE\x30\0\x03\0"
    elif name == "fat":
        boot = b"\xeb\x3c\x90MSDOS5.0\0\x02\x04\x01\0\x02\x40\0\0\x10\xf8\x04\0"
        disk[:512] = boot.ljust(38, b"\0") + b"\x29" + bytes(471) + b"\x55\xaa"
    return bytes(disk)


PLACES = {
    "mbr": [(446, 66), (200 * 512 + 446, 66)],
    "gpt": [(446, 66), (512, 92), (1024, 256), (SIZE - 512, 92)],
    "gpt4k": [(4096, 92), (8192, 256), (SIZE - 4096, 92)],
    "lvm": [(512, 140), (AREA[0], 80), (AREA[0] + 512, 1400)],
    "ntfs": [(0, 90), (16384 + 3072, 200)],
    "fat": [(0, 90), (4608, 64)],
}


def look(disk: bytes | bytearray) -> None:
    memory = Memory(disk)
    try:
        table = find_volumes(memory)
    except DiskkitError:
        return
    assert memory.asked < BOUND
    assert len(table.volumes) < 5000
    for volume in table.volumes:
        assert volume.length >= 0
        if volume.problem is None and volume.size:
            for offset in {0, volume.size - 1, volume.size // 2}:
                assert len(volume.read(offset, 1)) == 1
    table.as_dict()


def put_crc_right(disk: bytearray, name: str) -> None:
    """Half of the lies are told under a checksum that fits, as an attacker would."""
    from struct import pack_into
    from zlib import crc32

    from diskkit.volumes.lvm import crc

    if name.startswith("gpt"):
        sector = 4096 if name == "gpt4k" else 512
        rows = bytes(disk[2 * sector : 2 * sector + 128 * 128])
        pack_into("<I", disk, sector + 88, crc32(rows))
        pack_into("<I", disk, sector + 16, 0)
        pack_into("<I", disk, sector + 16, crc32(disk[sector : sector + 92]))
    elif name == "lvm":
        at = AREA[0]
        length = int.from_bytes(disk[at + 48 : at + 56], "little")
        place = int.from_bytes(disk[at + 40 : at + 48], "little")
        if length < PE_START * 512:
            text = bytes(disk[at + place : at + place + length])
            pack_into("<I", disk, at + 56, crc(text))
        pack_into("<I", disk, at, crc(bytes(disk[at + 4 : at + 512])))
        pack_into("<I", disk, 512 + 16, crc(bytes(disk[512 + 20 : 1024])))


@given(st.sampled_from(sorted(PLACES)), st.integers(0, 2**32), st.booleans())
def test_changed_bytes_give_a_result_or_an_error(name: str, seed: int, right: bool) -> None:
    chance = random.Random(seed)
    disk = bytearray(template(name))
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        begin, length = chance.choice(PLACES[name])
        at = begin + chance.randrange(length)
        value = chance.choice((b"\0", b"\xff", b"\x7f", b"\x80\xff\xff\xff", chance.randbytes(8)))
        disk[at : at + len(value)] = value
    if right:
        put_crc_right(disk, name)
    look(disk)


@given(st.binary(max_size=4096), st.integers(0, 4))
def test_random_disks_give_a_result_or_an_error(start: bytes, tail: int) -> None:
    disk = bytearray(start + bytes(tail * 33_333))
    if len(disk) >= 512:
        disk[510:512] = b"\x55\xaa"
    look(disk)


@given(st.sampled_from(sorted(PLACES)), st.integers(0, SIZE))
def test_cut_disks_give_a_result_or_an_error(name: str, cut: int) -> None:
    look(template(name)[:cut])
