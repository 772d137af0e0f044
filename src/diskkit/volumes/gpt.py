# SPDX-License-Identifier: Apache-2.0
"""The GUID partition table (UEFI specification, chapter 5), at sectors of 512 and 4096 bytes.

A header in sector 1 and its backup in the last sector, each with a CRC-32 of itself and one of the
array of entries. A copy counts only if both are right.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable

SECTOR_SIZES = (512, 4096)
SIGNATURE = b"EFI PART"
MAX_ENTRIES = 4096
"""Entries believed; 128 is what everybody makes."""
MAX_ENTRY_SIZE = 4096

_HEADER = struct.Struct("<8sIIII4Q16sQIII")

TYPE_NAMES = {
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "EFI system",
    "21686148-6449-6e6f-744e-656564454649": "BIOS boot",
    "e3c9e316-0b5c-4db8-817d-f92df00215ae": "Microsoft reserved",
    "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "Microsoft basic data",
    "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3": "Windows dynamic metadata (LDM)",
    "af9b60a0-1431-4f62-bc68-3311714a69ad": "Windows dynamic data (LDM)",
    "de94bba4-06d1-4d40-a16a-bfd50179d6ac": "Windows recovery",
    "e75caf8f-f680-4cee-afa3-b001e56efc2d": "Storage Spaces",
    "0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "Linux root (x86-64)",
    "b921b045-1df0-41c3-af44-4c6f280d3fae": "Linux root (ARM64)",
    "bc13c2ff-59e6-4262-a352-b275fd6f7172": "Linux boot",
    "933ac7e1-2eb4-4f13-b844-0e14e2aef915": "Linux home",
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
    "e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM",
    "a19d880f-05fc-4d3b-a006-743f0f84911e": "Linux RAID",
    "ca7d7ccb-63ed-4c53-861c-1742536059cc": "Linux LUKS",
    "aa31e02a-400f-11db-9590-000c2911d1b8": "VMFS",
    "48465300-0000-11aa-aa11-00306543ecac": "HFS+",
    "7c3457ef-0000-11aa-aa11-00306543ecac": "APFS",
}
LDM_TYPES = frozenset(g for g, name in TYPE_NAMES.items() if "(LDM)" in name)


class Entry(NamedTuple):
    """One partition; bytes."""

    number: int
    kind: str
    """Type GUID, lower case."""
    uuid: str
    offset: int
    length: int
    name: str


class Table(NamedTuple):
    """One good copy of the table."""

    sector_size: int
    uuid: str
    entries: list[Entry]
    bad: list[FormatError]
    """Entries that cannot be right."""
    backup_offset: int


def read_table(read: Callable[[int, int], bytes], size: int, offset: int, sector: int) -> Table:
    """The copy whose header is at byte `offset`, of a disk of `size` bytes.

    `read` gives (offset, length) of the disk, and is asked for what lies inside it only. Raises
    `FormatError` for a copy that is not whole.
    """

    def wrong(problem: str, field: str, value: object, at: int) -> FormatError:
        where = offset + at
        return FormatError(problem, structure="GPT header", field=field, offset=where, value=value)

    if offset < 0 or offset + sector > size:
        raise wrong("lies outside of the disk", "", None, 0)
    raw = read(offset, sector)
    fields = _HEADER.unpack_from(raw)
    signature, _, length, crc, _, own, other, _, _, guid, array, count, each, array_crc = fields
    if signature != SIGNATURE:
        raise wrong("not EFI PART", "signature", signature, 0)
    if not _HEADER.size <= length <= sector:
        raise wrong(f"not {_HEADER.size} to {sector}", "size", length, 12)
    if zlib.crc32(raw[:16] + bytes(4) + raw[20:length]) != crc:
        raise wrong("the header has another CRC", "CRC", f"{crc:08x}", 16)
    if own * sector != offset:
        raise wrong("the header is not there", "own sector", own, 24)
    if not 128 <= each <= MAX_ENTRY_SIZE or each & (each - 1):
        raise wrong(f"not a power of two from 128 to {MAX_ENTRY_SIZE}", "entry size", each, 84)
    if count > MAX_ENTRIES:
        raise wrong(f"more than {MAX_ENTRIES}", "number of entries", count, 80)
    if array < 1 or array * sector + count * each > size:
        raise wrong("the entries lie outside of the disk", "entries' sector", array, 72)
    rows = read(array * sector, count * each) if count else b""
    if zlib.crc32(rows) != array_crc:
        raise wrong("the entries have another CRC", "entries' CRC", f"{array_crc:08x}", 88)
    found, bad = _entries(rows, each, sector, array * sector)
    return Table(sector, str(uuid.UUID(bytes_le=guid)), found, bad, other * sector)


def _entries(
    rows: bytes, each: int, sector: int, where: int
) -> tuple[list[Entry], list[FormatError]]:
    found: list[Entry] = []
    bad: list[FormatError] = []
    for number in range(len(rows) // each):
        row = rows[number * each : (number + 1) * each]
        if row[:16] == bytes(16):
            continue
        first, last = struct.unpack_from("<QQ", row, 32)
        if last < first or first == 0:
            bad.append(
                FormatError(
                    f"no range of sectors: {first} to {last}",
                    structure=f"GPT entry {number + 1}",
                    offset=where + number * each + 32,
                )
            )
            continue
        kind, own = (str(uuid.UUID(bytes_le=row[n : n + 16])) for n in (0, 16))
        name = row[56:128].decode("utf-16-le", "replace").split("\0", 1)[0]
        length = (last - first + 1) * sector
        found.append(Entry(number + 1, kind, own, first * sector, length, name))
    return found, bad
