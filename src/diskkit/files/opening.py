# SPDX-License-Identifier: Apache-2.0
"""`open_filesystem`: from a volume to its files, or to the reason why not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diskkit.errors import UnsupportedFeature
from diskkit.files.readers import READERS, check_installed

if TYPE_CHECKING:
    from diskkit.files.filesystem import FileSystem
    from diskkit.files.process import Started
    from diskkit.volumes import Volume

_REASONS = {
    "btrfs": "btrfs is read by the kernel only: mount the volume",
    "ldm": "Windows dynamic disks (LDM) cannot be read",
    "bitlocker": "encrypted by BitLocker, which cannot be read",
    "refs": "ReFS cannot be read",
    "exfat": "exFAT cannot be read",
    "apfs": "APFS cannot be read",
    "hfsplus": "HFS+ cannot be read",
    "vmfs": "VMFS cannot be read",
    "lvm2": "a part of a volume group: name one of its logical volumes",
    "luks1": "encrypted (LUKS): give its key, and name {}.luks",
    "luks2": "encrypted (LUKS): give its key, and name {}.luks",
    "linux_raid": "a member of a Linux RAID, which cannot be read",
    "swap": "swap space: there are no files in it",
}


def why_unreadable(volume: Volume) -> str:
    """Why files of a volume cannot be had, or "" if there is a reader for them."""
    if volume.problem is not None:
        return str(volume.problem)
    if volume.content is None:
        return "no filesystem was recognised"
    kind = volume.content.filesystem
    reason = _REASONS.get(kind, f"{kind} cannot be read").format(volume.name)
    return "" if kind in READERS else reason


def open_filesystem(volume: Volume, *, started: Started | None = None) -> FileSystem:
    """The files of a volume. Close it when done; the disk stays open.

    The reader runs in a process of its own; one that was `started` early is taken over, if this
    does not fail. It may be asked from many threads, which the libraries may not. Raises
    `UnsupportedFeature` where there is none, and `FormatError` if it finds the filesystem wrong.
    """
    reason = why_unreadable(volume)
    if reason or volume.content is None:
        raise UnsupportedFeature(reason, structure=f"volume {volume.name}")
    kind = volume.content.filesystem
    check_installed(kind)
    from diskkit.files.process import ProcessFileSystem

    return ProcessFileSystem(kind, volume, started=started)
