# SPDX-License-Identifier: Apache-2.0
"""The master boot record and its chain of extended boot records.

Rule: the disk's id at byte 440, four entries of 16 bytes at byte 446, 55 AA at byte 510. An
extended partition (05, 0F, 85) begins with another such sector: its first entry is a logical
partition, counted from that sector; its second leads to the next one, counted from the start of the
extended partition. Logical partitions are numbered from 5, as Linux does.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable

PROTECTIVE = 0xEE
EXTENDED = frozenset({0x05, 0x0F, 0x85})
MAX_LOGICAL = 256
"""Logical partitions believed; Linux stops at 60, Windows at 26 letters."""

_ENTRY = struct.Struct("<B3xB3xII")

TYPE_NAMES = {
    0x01: "FAT12",
    0x04: "FAT16 below 32 MiB",
    0x05: "extended",
    0x06: "FAT16",
    0x07: "NTFS or exFAT",
    0x0B: "FAT32",
    0x0C: "FAT32 (LBA)",
    0x0E: "FAT16 (LBA)",
    0x0F: "extended (LBA)",
    0x27: "Windows recovery",
    0x42: "Windows dynamic (LDM)",
    0x82: "Linux swap",
    0x83: "Linux",
    0x85: "Linux extended",
    0x8E: "Linux LVM",
    0xA5: "FreeBSD",
    0xAF: "HFS+",
    0xEE: "GPT protective",
    0xEF: "EFI system",
    0xFB: "VMFS",
    0xFD: "Linux RAID",
}


class Entry(NamedTuple):
    """One partition; bytes."""

    number: int
    kind: int
    offset: int
    length: int
    active: bool


def has_signature(sector: bytes) -> bool:
    """Whether a sector ends as a boot record does."""
    return len(sector) >= 512 and sector[510:512] == b"\x55\xaa"


def disk_id(sector: bytes) -> int:
    """What tells a disk from others: systems wrote a random number at byte 440, or 0."""
    return int.from_bytes(sector[440:444], "little")


def entries(sector: bytes, sector_size: int = 512) -> list[Entry]:
    """The used entries of one record, numbered by their place in it; nothing is judged."""
    found = []
    for slot in range(4):
        flag, kind, start_sectors, count_sectors = _ENTRY.unpack_from(sector, 446 + 16 * slot)
        if kind and count_sectors:
            begin, length = start_sectors * sector_size, count_sectors * sector_size
            found.append(Entry(slot + 1, kind, begin, length, flag == 0x80))
    return found


def is_plausible(sector: bytes) -> bool:
    """Whether the record holds a table: boot code of filesystems ends in 55 AA, too.

    Each flag is 00 or 80, at least one entry is used, and none begins in the record itself.
    """
    if not has_signature(sector) or any(sector[446 + 16 * n] not in (0, 0x80) for n in range(4)):
        return False
    used = entries(sector)
    return bool(used) and all(entry.offset > 0 for entry in used)


def logical(
    read_sector: Callable[[int], bytes], extended: Entry, warn: Callable[[str], None]
) -> list[Entry]:
    """The logical partitions of an extended one, first of the chain first.

    `read_sector` gives the 512 bytes at a byte offset; it may raise `FormatError` for one that is
    outside of the disk. A chain that breaks, loops or leaves its partition ends with a warning:
    what came before is right all the same.
    """
    found: list[Entry] = []
    seen: set[int] = set()
    place = extended.offset
    while len(found) < MAX_LOGICAL:
        if place in seen:
            warn(f"extended boot record at byte {place}: the chain comes back to it")
            return found
        seen.add(place)
        try:
            sector = read_sector(place)
        except FormatError as error:
            warn(str(error))
            return found
        if not has_signature(sector):
            warn(f"extended boot record at byte {place + 510}: no signature 55 AA")
            return found
        used = entries(sector)
        data = next((e for e in used if e.kind not in EXTENDED), None)
        link = next((e for e in used if e.kind in EXTENDED), None)
        if data is not None:
            number = 5 + len(found)
            found.append(data._replace(number=number, offset=place + data.offset))
        if link is None:
            return found
        place = extended.offset + link.offset
        if link.offset >= extended.length:
            warn(
                f"extended boot record: link to byte {place}, "
                f"outside of the extended partition's {extended.length} bytes"
            )
            return found
        if len(seen) > 2 * MAX_LOGICAL:
            break
    warn(f"more than {MAX_LOGICAL} logical partitions: the rest is not listed")
    return found
