# SPDX-License-Identifier: Apache-2.0
"""Makes partition tables and LVM2 physical volumes, without any code of the package."""

from __future__ import annotations

import struct
import uuid
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

SECTOR = 512
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"


class Memory:
    """A disk in memory, which counts the bytes it is asked for."""

    def __init__(self, content: bytes | bytearray) -> None:
        self.content = content
        self.asked = 0

    @property
    def size(self) -> int:
        return len(self.content)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        assert 0 <= offset <= offset + len(buffer) <= len(self.content)
        self.asked += len(buffer)
        buffer[:] = self.content[offset : offset + len(buffer)]


def mbr_entry(kind: int, start: int, count: int, flag: int = 0) -> bytes:
    return struct.pack("<B3sB3sII", flag, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", start, count)


def record(entries: Sequence[bytes]) -> bytes:
    """A boot record of 512 bytes."""
    return bytes(446) + b"".join(entries).ljust(64, b"\0") + b"\x55\xaa"


def put_mbr(
    disk: bytearray,
    primary: Sequence[tuple[int, int, int]],
    extended: tuple[int, int] | None = None,
    logical: Sequence[tuple[int, int, int]] = (),
) -> None:
    """(kind, start, count) in sectors; a logical partition's record lies 1 sector before it."""
    rows = [mbr_entry(*p) for p in primary]
    if extended is not None:
        rows.append(mbr_entry(5, *extended))
    disk[:512] = record(rows)
    for number, (kind, start, count) in enumerate(logical):
        assert extended is not None
        here = extended[0] if number == 0 else start - 1
        rows = [mbr_entry(kind, start - here, count)]
        if number + 1 < len(logical):
            _, following, length = logical[number + 1]
            rows.append(mbr_entry(5, following - 1 - extended[0], length + 1))
        disk[here * SECTOR : here * SECTOR + 512] = record(rows)


class GptPartition(NamedTuple):
    first: int
    last: int
    name: str = ""
    kind: str = LINUX


def put_gpt(
    disk: bytearray,
    partitions: Sequence[GptPartition],
    sector: int = 512,
    count: int = 128,
    *,
    primary: bool = True,
    backup: bool = True,
) -> None:
    """Protective record, table, and backup at the end."""
    sectors = len(disk) // sector
    disk[:512] = record([mbr_entry(0xEE, 1, min(sectors - 1, 0xFFFFFFFF))])
    rows = b""
    for number, part in enumerate(partitions):
        rows += uuid.UUID(part.kind).bytes_le + uuid.UUID(int=1000 + number).bytes_le
        rows += struct.pack("<QQQ", part.first, part.last, 0)
        rows += part.name.encode("utf-16-le").ljust(72, b"\0")
    rows = rows.ljust(128 * count, b"\0")
    room = -(-len(rows) // sector)
    for own, other, array in (
        (1, sectors - 1, 2),
        (sectors - 1, 1, sectors - 1 - room),
    ):
        if not (primary if own == 1 else backup):
            continue
        head = gpt_header(rows, own, other, array, sectors, count)
        disk[own * sector : own * sector + len(head)] = head
        disk[array * sector : array * sector + len(rows)] = rows


def gpt_header(
    rows: bytes, own: int, other: int, array: int, sectors: int, count: int, each: int = 128
) -> bytes:
    def pack(crc: int) -> bytes:
        guid = uuid.UUID(int=77).bytes_le
        places = (own, other, 34, max(sectors - 34, 0))
        tail = (array, count, each, zlib.crc32(rows))
        return struct.pack(
            "<8sIIII4Q16sQIII", b"EFI PART", 0x10000, 92, crc, 0, *places, guid, *tail
        )

    return pack(zlib.crc32(pack(0)))


# --- LVM2 -------------------------------------------------------------------------------------

PE_START = 2048  # sectors
AREA = 4096, (PE_START * SECTOR) - 4096


def lvm_crc(data: bytes) -> int:
    """Bit by bit, as lvm2's documentation has it; slow, and owes nothing to zlib."""
    value = 0xF597A6CF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0xEDB88320 if value & 1 else 0)
    return value


def pv_id(number: int) -> str:
    return f"PVPV00{number:026d}"


def hyphened(name: str) -> str:
    cuts = (0, 6, 10, 14, 18, 22, 26, 32)
    return "-".join(name[a:b] for a, b in pairwise(cuts))


def put_pv(
    disk: bytearray, at: int, size: int, number: int, text: str | None, *, wrap: bool = False
) -> None:
    """A physical volume at byte `at`; `wrap` puts the text across the end of its ring."""
    begin, length = AREA
    areas = struct.pack("<QQ", begin, length) if text is not None else b""
    head = pv_id(number).encode() + struct.pack("<Q", size)
    head += struct.pack("<QQ", PE_START * SECTOR, 0) + bytes(16)
    head += areas + bytes(16)
    rest = struct.pack("<I8s", 32, b"LVM2 001") + head
    rest = rest.ljust(SECTOR - 20, b"\0")
    label = struct.pack("<8sQI", b"LABELONE", 1, lvm_crc(rest)) + rest
    disk[at + SECTOR : at + 2 * SECTOR] = label
    if text is None:
        return
    raw = text.encode() + b"\0"
    place = length - 100 if wrap else SECTOR
    row = struct.pack("<QQII", place, len(raw), lvm_crc(raw), 0)
    tail = struct.pack("<16sIQQ", b" LVM2 x[5A%r0N*>", 1, begin, length) + row
    tail = tail.ljust(SECTOR - 4, b"\0")
    disk[at + begin : at + begin + SECTOR] = struct.pack("<I", lvm_crc(tail)) + tail
    first = min(len(raw), length - place)
    disk[at + begin + place : at + begin + place + first] = raw[:first]
    disk[at + begin + SECTOR : at + begin + SECTOR + len(raw) - first] = raw[first:]


class Part(NamedTuple):
    """A segment: extents of the volume, and (pv number, first extent) of each stripe."""

    start: int
    extents: int
    stripes: Sequence[tuple[int, int]]
    stripe_sectors: int = 128
    kind: str = "striped"


def lvm_text(
    volumes: dict[str, Sequence[Part]],
    pvs: Sequence[int] = (0,),
    *,
    extent_sectors: int = 128,
    pe_count: int = 100,
    group: str = "vg0",
    seqno: int = 3,
) -> str:
    """Text as lvm2 writes it, comments included."""
    lines = [
        "# Generated by a test",
        'contents = "Text Format Volume Group"',
        "version = 1",
        'description = "made \\"here\\""',
        f"{group} {{",
        f'id = "{hyphened("VGVG00" + "0" * 26)}"',
        f"seqno = {seqno}",
        'format = "lvm2" # informational',
        'status = ["RESIZEABLE", "READ", "WRITE"]',
        "flags = []",
        f"extent_size = {extent_sectors}",
        "max_lv = 0",
        "max_pv = 0",
        "metadata_copies = 0",
        "physical_volumes {",
    ]
    for number in pvs:
        lines += [
            f"pv{number} {{",
            f'id = "{hyphened(pv_id(number))}"',
            f'device = "/dev/sd{"abcdefgh"[number % 8]}1"',
            'status = ["ALLOCATABLE"]',
            "flags = []",
            f"dev_size = {PE_START + pe_count * extent_sectors}",
            f"pe_start = {PE_START}",
            f"pe_count = {pe_count}",
            "}",
        ]
    lines += ["}", "logical_volumes {"]
    for index, (name, parts) in enumerate(volumes.items()):
        lines += [
            f"{name} {{",
            f'id = "{hyphened(f"LVLV00{index:026d}")}"',
            'status = ["READ", "WRITE", "VISIBLE"]',
            "flags = []",
            f"segment_count = {len(parts)}",
        ]
        for number, part in enumerate(parts):
            named = ", ".join(f'"pv{pv}", {first}' for pv, first in part.stripes)
            lines += [
                f"segment{number + 1} {{",
                f"start_extent = {part.start}",
                f"extent_count = {part.extents}",
                f'type = "{part.kind}"',
                f"stripe_count = {len(part.stripes)}",
                f"stripe_size = {part.stripe_sectors}" if len(part.stripes) > 1 else "",
                f"stripes = [ {named} ]",
                "}",
            ]
        lines.append("}")
    lines += ["}", "}", ""]
    return "\n".join(lines)
