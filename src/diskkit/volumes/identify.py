# SPDX-License-Identifier: Apache-2.0
"""Which filesystem, or what else, a volume holds: told by its superblock, as blkid does.

Only a first screening: a magic number, the checks that keep boot code from being taken for a
filesystem, label and UUID. Readers judge the rest.
"""

from __future__ import annotations

import struct
import uuid
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from diskkit.volumes.labels import fat_label, ntfs_label
from diskkit.volumes.reading import read_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from diskkit.interfaces import Readable


class Content(NamedTuple):
    """What a volume holds."""

    filesystem: str
    """Lower case: "ext4", "xfs", "ntfs", "fat32", "swap", "luks2", "lvm2", "linux_raid" ..."""
    label: str | None
    uuid: str | None
    """As blkid writes it."""


_START = 4096 + 256
"""Bytes at the start that most signatures lie in."""


def identify(volume: Readable) -> Content | None:
    """What a volume holds, or None. Raises only what reading it raises."""
    start = read_at(volume, 0, min(_START, volume.size)).ljust(_START, b"\0")
    for probe in _PROBES:
        found = probe(volume, start)
        if found is not None:
            return found
    return None


def _text(raw: bytes) -> str | None:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace").strip() or None


def _uuid(raw: bytes) -> str | None:
    return str(uuid.UUID(bytes=raw)) if any(raw) else None


def _luks(volume: Readable, start: bytes) -> Content | None:
    if start[:6] != b"LUKS\xba\xbe":
        return None
    (version,) = struct.unpack_from(">H", start, 6)
    label = _text(start[24:72]) if version == 2 else None
    return Content(f"luks{version}", label, _text(start[168:208]))


def _lvm(volume: Readable, start: bytes) -> Content | None:
    for at in range(0, 2048, 512):
        if start[at : at + 8] == b"LABELONE" and start[at + 24 : at + 32] == b"LVM2 001":
            (offset,) = struct.unpack_from("<I", start, at + 20)
            place = at + min(offset, 480)
            name = start[place : place + 32].decode("ascii", "replace")
            cuts = (0, 6, 10, 14, 18, 22, 26, 32)
            parts = [name[a:b] for a, b in pairwise(cuts)]
            return Content("lvm2", None, "-".join(parts))
    return None


def _raid(volume: Readable, start: bytes) -> Content | None:
    """Linux RAID: version 1.1 at the start, 1.2 at 4 KiB, 1.0 and 0.90 near the end."""
    for at in (0, 4096):
        if start[at : at + 8] == b"\xfc\x4e\x2b\xa9\x01\x00\x00\x00":
            return _raid_1(start[at : at + 128])
    if volume.size >= 128 << 10:
        at = (volume.size - 8192) & ~4095
        tail = read_at(volume, at, 128)
        if tail[:8] == b"\xfc\x4e\x2b\xa9\x01\x00\x00\x00":
            return _raid_1(tail)
        old = read_at(volume, (volume.size & ~0xFFFF) - 0x10000, 64)
        if old[:4] in (b"\xfc\x4e\x2b\xa9", b"\xa9\x2b\x4e\xfc"):
            order = "<" if old[:1] == b"\xfc" else ">"
            words = (struct.unpack_from(f"{order}I", old, n)[0] for n in (20, 52, 56, 60))
            raw = b"".join(struct.pack(">I", word) for word in words)
            return Content("linux_raid", None, _uuid(raw))
    return None


def _raid_1(block: bytes) -> Content:
    return Content("linux_raid", _text(block[32:64]), _uuid(block[16:32]))


def _xfs(volume: Readable, start: bytes) -> Content | None:
    if start[:4] != b"XFSB":
        return None
    return Content("xfs", _text(start[108:120]), _uuid(start[32:48]))


_EXT3_JOURNAL, _EXT3_JOURNAL_DEVICE = 0x4, 0x8
_EXT2_ONLY_INCOMPAT, _EXT3_INCOMPAT = 0x2 | 0x10, 0x2 | 0x4 | 0x10
_EXT2_ONLY_RO = 0x1 | 0x2 | 0x4


def _ext(volume: Readable, start: bytes) -> Content | None:
    block = start[1024:2048]
    if block[56:58] != b"\x53\xef":
        return None
    compat, incompat, ro_compat = struct.unpack_from("<III", block, 92)
    if incompat & _EXT3_JOURNAL_DEVICE:
        kind = "jbd"
    elif incompat & ~_EXT3_INCOMPAT or ro_compat & ~_EXT2_ONLY_RO:
        kind = "ext4"
    elif compat & _EXT3_JOURNAL:
        kind = "ext3"
    else:
        kind = "ext2"
    return Content(kind, _text(block[120:136]), _uuid(block[104:120]))


def _ntfs(volume: Readable, start: bytes) -> Content | None:
    if start[3:11] != b"NTFS    ":
        return None
    return Content("ntfs", ntfs_label(volume, start), start[72:80][::-1].hex().upper())


def _windows(volume: Readable, start: bytes) -> Content | None:
    """BitLocker, ReFS and exFAT: a name where NTFS has its own."""
    if start[3:11] == b"-FVE-FS-":
        return Content("bitlocker", None, None)
    # BitLocker To Go looks like FAT32; its identifier lies behind that of the boot sector.
    if start[3:11] == b"MSWIN4.1" and start[424:440] == _BITLOCKER_TO_GO:
        return Content("bitlocker", None, None)
    if start[3:11] == b"ReFS\0\0\0\0":
        return Content("refs", None, start[56:64][::-1].hex().upper())
    if start[3:11] == b"EXFAT   ":
        serial = struct.unpack_from("<I", start, 100)[0]
        return Content("exfat", None, f"{serial >> 16:04X}-{serial & 0xFFFF:04X}")
    return None


_BITLOCKER_TO_GO = uuid.UUID("4967d63b-2e29-4ad8-8399-f6a339e3d001").bytes_le


def _fat(volume: Readable, start: bytes) -> Content | None:
    """FAT: no magic number is sure, so the geometry must make sense, too (Microsoft's rules)."""
    if start[510:512] != b"\x55\xaa" or start[0] not in (0xEB, 0xE9):
        return None
    sector, per_cluster, reserved, copies, roots, small, media, per_fat = struct.unpack_from(
        "<HBHBHHBH", start, 11
    )
    if sector not in (512, 1024, 2048, 4096) or not per_cluster or per_cluster & (per_cluster - 1):
        return None
    if not reserved or copies not in (1, 2) or (media != 0xF0 and media < 0xF8):
        return None
    (large, per_fat_32) = struct.unpack_from("<II", start, 32)
    total, table = small or large, per_fat or per_fat_32
    root_sectors = (roots * 32 + sector - 1) // sector
    data = total - reserved - copies * table - root_sectors
    if not table or data <= 0:
        return None
    clusters = data // per_cluster
    kind = "fat12" if clusters < 4085 else "fat16" if clusters < 65525 else "fat32"
    if per_fat == 0:
        kind = "fat32"
    at = 64 if kind == "fat32" else 36
    if start[at + 2] not in (0x28, 0x29):
        return Content(kind, None, None)
    (serial,) = struct.unpack_from("<I", start, at + 3)
    label = fat_label(volume, start, is_32=kind == "fat32")
    return Content(kind, label, f"{serial >> 16:04X}-{serial & 0xFFFF:04X}")


def _btrfs(volume: Readable, start: bytes) -> Content | None:
    if volume.size < 0x11000:
        return None
    block = read_at(volume, 0x10000, 0x1000)
    if block[64:72] != b"_BHRfS_M":
        return None
    return Content("btrfs", _text(block[0x12B : 0x12B + 256]), _uuid(block[32:48]))


def _swap(volume: Readable, start: bytes) -> Content | None:
    """Its mark ends the first page, whose size depends on the processor."""
    for page in (4096, 8192, 16384, 65536):
        if volume.size < page:
            return None
        mark = read_at(volume, page - 10, 10)
        if mark in (b"SWAPSPACE2", b"SWAP-SPACE"):
            if mark == b"SWAP-SPACE":
                return Content("swap", None, None)
            return Content("swap", _text(start[1052:1068]), _uuid(start[1036:1052]))
    return None


def _others(volume: Readable, start: bytes) -> Content | None:
    """Named, so that nobody looks for something else."""
    if start[:4] in (b"hsqs", b"sqsh"):
        return Content("squashfs", None, None)
    if start[1024:1028] == b"\xe2\xe1\xf5\xe0":
        return Content("erofs", _text(start[1088:1104]), _uuid(start[1072:1088]))
    if start[1024:1028] == b"\x10\x20\xf5\xf2":
        return Content("f2fs", None, _uuid(start[1132:1148]))
    if start[1024:1026] in (b"H+", b"HX"):
        return Content("hfsplus", None, None)
    if start[32:36] == b"NXSB":
        return Content("apfs", None, _uuid(start[72:88]))
    return None


def _later(volume: Readable, start: bytes) -> Content | None:
    """What begins further in: dynamic disks, optical discs, VMFS."""
    if volume.size >= 0xC10 and start[0xC00:0xC08] == b"PRIVHEAD":
        return Content("ldm", None, None)
    if volume.size >= 0x8006 and read_at(volume, 0x8001, 5) == b"CD001":
        return Content("iso9660", _text(read_at(volume, 0x8028, 32)), None)
    if volume.size >= 0x100004 and read_at(volume, 0x100000, 4) == b"\x0d\xd0\x01\xc0":
        return Content("vmfs", None, None)
    return None


_PROBES: tuple[Callable[[Readable, bytes], Content | None], ...] = (
    # Containers first: what they hold may show through.
    _luks,
    _lvm,
    _raid,
    _windows,
    _ntfs,
    _xfs,
    _ext,
    _btrfs,
    _swap,
    _others,
    _fat,
    _later,
)
