# SPDX-License-Identifier: Apache-2.0
"""Labels that are not in a superblock: NTFS keeps its in a file, FAT in the root directory.

Both are read without a filesystem reader, a few sectors each. A label that cannot be found is
none: the reader of the filesystem will say what is wrong with it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from diskkit.volumes.reading import read_at

if TYPE_CHECKING:
    from diskkit.interfaces import Readable

_VOLUME_RECORD = 3
_VOLUME_NAME, _END = 0x60, 0xFFFFFFFF
_MAX_ROOT = 65536
_LABEL_ATTRIBUTE, _LONG_NAME = 0x08, 0x0F


def ntfs_label(volume: Readable, boot: bytes) -> str | None:
    """The attribute $VOLUME_NAME of file record 3."""
    sector, per_cluster = struct.unpack_from("<HB", boot, 11)
    (table,) = struct.unpack_from("<Q", boot, 48)
    (per_record,) = struct.unpack_from("<b", boot, 64)
    cluster = sector * (per_cluster if per_cluster <= 128 else 1 << (256 - per_cluster) % 32)
    record = 1 << -per_record % 64 if per_record < 0 else per_record * cluster
    place = table * cluster + _VOLUME_RECORD * record
    if not 512 <= record <= 4096 or place + record > volume.size:
        return None
    raw = _fixed(read_at(volume, place, record))
    if raw is None:
        return None
    (at,) = struct.unpack_from("<H", raw, 20)
    while at + 24 <= record:
        kind, length = struct.unpack_from("<II", raw, at)
        if kind == _END or length < 24 or at + length > record:
            return None
        if kind == _VOLUME_NAME and not raw[at + 8]:
            size, start = struct.unpack_from("<IH", raw, at + 16)
            if start + size > length:
                return None
            return bytes(raw[at + start : at + start + size]).decode("utf-16-le", "replace") or None
        at += length
    return None


def _fixed(record: bytes) -> bytearray | None:
    """A file record with the last two bytes of each sector put back, or None if it is torn."""
    if record[:4] != b"FILE":
        return None
    start, count = struct.unpack_from("<HH", record, 4)
    if start + 2 * count > len(record) or (count - 1) * 512 > len(record):
        return None
    raw = bytearray(record)
    for number in range(1, count):
        end = number * 512
        if raw[end - 2 : end] != record[start : start + 2]:
            return None
        raw[end - 2 : end] = record[start + 2 * number : start + 2 * number + 2]
    return raw


def fat_label(volume: Readable, boot: bytes, *, is_32: bool) -> str | None:
    """The root directory's entry, which systems keep up to date; else what the boot sector says."""
    sector, per_cluster, reserved, copies, roots, _, _, per_fat = struct.unpack_from(
        "<HBHBHHBH", boot, 11
    )
    if is_32:
        (per_fat, _, _, root) = struct.unpack_from("<IHHI", boot, 36)
        place = (reserved + copies * per_fat + max(root - 2, 0) * per_cluster) * sector
        length = per_cluster * sector
    else:
        place = (reserved + copies * per_fat) * sector
        length = roots * 32
    length = min(length, _MAX_ROOT)
    if place + length <= volume.size:
        rows = read_at(volume, place, length)
        for at in range(0, length - 31, 32):
            first, attributes = rows[at], rows[at + 11]
            if first == 0:
                break
            is_label = attributes & _LABEL_ATTRIBUTE and attributes & _LONG_NAME != _LONG_NAME
            if first != 0xE5 and is_label:
                return _dos(rows[at : at + 11])
    at = 71 if is_32 else 43
    label = _dos(boot[at : at + 11])
    return None if label == "NO NAME" else label


def _dos(raw: bytes) -> str | None:
    return raw.decode("cp437").strip() or None
