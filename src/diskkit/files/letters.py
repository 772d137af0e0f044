# SPDX-License-Identifier: Apache-2.0
"""Which letters a Windows guest gives its volumes, by the key MountedDevices of its SYSTEM hive.

Rule: the value of a letter is 12 bytes for a partition of an MBR: the disk's id, and the byte at
which the partition begins; or 24 for one of a GPT: "DMIO:ID:", and its GUID. All else, such as
the text that names a removable device, is no partition of these disks.
"""

from __future__ import annotations

import struct
from string import ascii_uppercase
from typing import TYPE_CHECKING
from uuid import UUID

from diskkit.files.guest import hive_values

if TYPE_CHECKING:
    from diskkit.files.filesystem import FileSystem
    from diskkit.volumes import Volume

_ON_MBR = struct.Struct("<IQ")
_ON_GPT = struct.Struct("<8s16s")
_GPT_MARK = b"DMIO:ID:"


def read_letters(fs: FileSystem) -> list[tuple[bytes, str]]:
    """What has a letter, as Windows names it, and the letter: "C:"; nothing without a Windows."""
    if fs.kind != "ntfs":
        return []
    # Asked for by name: what else the key holds, and how much of it, does not matter.
    wanted = [("MountedDevices", f"\\DosDevices\\{letter}:") for letter in ascii_uppercase]
    found = hive_values(fs, b"SYSTEM", wanted) or []
    named = zip(found, ascii_uppercase, strict=False)
    return [(value, f"{letter}:") for value, letter in named if isinstance(value, bytes)]


def means(what: bytes, volume: Volume) -> bool:
    """Whether Windows names a volume so."""
    if volume.part_uuid is None:
        return False
    if len(what) == _ON_MBR.size and volume.type.startswith("0x"):
        disk_id, begin = _ON_MBR.unpack(what)
        return volume.part_uuid.startswith(f"{disk_id:08x}-") and volume.offset == begin
    if len(what) == _ON_GPT.size:
        mark, raw = _ON_GPT.unpack(what)
        return mark == _GPT_MARK and volume.part_uuid == str(UUID(bytes_le=raw))
    return False
