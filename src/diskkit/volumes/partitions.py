# SPDX-License-Identifier: Apache-2.0
"""Which table a disk has, and its partitions as volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import FormatError
from diskkit.volumes import gpt, mbr
from diskkit.volumes.reading import read_at
from diskkit.volumes.volume import one_range

if TYPE_CHECKING:
    from collections.abc import Callable

    from diskkit.interfaces import Readable
    from diskkit.volumes.volume import Volume

LDM_PARTITION = 0x42


class Partitions(NamedTuple):
    """A disk's table."""

    scheme: str
    """"mbr", "gpt", or "none": a filesystem, or nothing, on the whole disk."""
    volumes: list[Volume]
    sector_size: int


def find_partitions(disk: Readable, warn: Callable[[str], None]) -> Partitions:
    """The table of a disk. Raises `FormatError` if it has one that cannot be read at all."""
    first = read_at(disk, 0, 512) if disk.size >= 512 else b""
    if not mbr.is_plausible(first):
        return _whole(disk)
    used = mbr.entries(first)
    if any(entry.kind == mbr.PROTECTIVE for entry in used):
        return _gpt(disk, warn)
    return _mbr(disk, used, mbr.disk_id(first), warn)


def _whole(disk: Readable) -> Partitions:
    volume = one_range(disk, 0, disk.size, number=1, name="whole", type="none")
    return Partitions("none", [volume] if disk.size else [], 512)


def _mbr(
    disk: Readable, used: list[mbr.Entry], disk_id: int, warn: Callable[[str], None]
) -> Partitions:
    def read_sector(place: int) -> bytes:
        if place + 512 > disk.size:
            raise FormatError(
                f"lies outside of the disk's {disk.size} bytes",
                structure="extended boot record",
                offset=place,
            )
        return read_at(disk, place, 512)

    found = [entry for entry in used if entry.kind not in mbr.EXTENDED]
    extended = [entry for entry in used if entry.kind in mbr.EXTENDED]
    for more in extended[1:]:
        warn(f"partition {more.number}: a second extended partition, not looked at")
    if extended:
        found += mbr.logical(read_sector, extended[0], warn)
    volumes = []
    for entry in found:
        volume = one_range(
            disk,
            entry.offset,
            entry.length,
            number=entry.number,
            name=f"p{entry.number}",
            type=f"0x{entry.kind:02x}",
        )
        volume.type_name = mbr.TYPE_NAMES.get(entry.kind, "")
        # As Linux makes one up, where the table has none of its own (PARTUUID in fstab).
        volume.part_uuid = f"{disk_id:08x}-{entry.number:02x}" if disk_id else None
        volumes.append(volume)
    _warn_of_overlaps(volumes, warn)
    return Partitions("mbr", volumes, 512)


def _gpt(disk: Readable, warn: Callable[[str], None]) -> Partitions:
    table = _gpt_table(disk, warn)
    volumes = []
    for error in table.bad:
        warn(str(error))
    for entry in table.entries:
        volume = one_range(
            disk,
            entry.offset,
            entry.length,
            number=entry.number,
            name=f"p{entry.number}",
            type=entry.kind,
        )
        volume.type_name = gpt.TYPE_NAMES.get(entry.kind, "")
        volume.part_label = entry.name or None
        volume.part_uuid = entry.uuid
        volumes.append(volume)
    _warn_of_overlaps(volumes, warn)
    return Partitions("gpt", volumes, table.sector_size)


def _gpt_table(disk: Readable, warn: Callable[[str], None]) -> gpt.Table:
    """The primary copy; else the backup, which is in the last sector, with a warning."""

    def read(offset: int, length: int) -> bytes:
        return read_at(disk, offset, length)

    errors: list[FormatError] = []
    for sector in gpt.SECTOR_SIZES:
        try:
            table = gpt.read_table(read, disk.size, sector, sector)
        except FormatError as error:
            errors.append(error)
            continue
        try:
            gpt.read_table(read, disk.size, table.backup_offset, sector)
        except FormatError as error:
            warn(f"the backup of the partition table is not whole: {error}")
        return table
    for sector in gpt.SECTOR_SIZES:
        last = disk.size - disk.size % sector - sector
        try:
            table = gpt.read_table(read, disk.size, last, sector)
        except FormatError:
            continue
        warn(f"the partition table is damaged, its backup was used: {errors[sector == 4096]}")
        return table
    # The message is about the copy that is there at all.
    raise next((e for e in errors if e.field != "signature"), errors[0])


def _warn_of_overlaps(volumes: list[Volume], warn: Callable[[str], None]) -> None:
    rows = sorted((v.offset or 0, v.length, v.number) for v in volumes)
    end, owner = 0, 0
    for offset, length, number in rows:
        if offset < end:
            warn(f"partitions {owner} and {number} overlap")
        if offset + length > end:
            end, owner = offset + length, number
