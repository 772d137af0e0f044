# SPDX-License-Identifier: Apache-2.0
"""The VixMntapi interface as Python functions: the volumes of disks, as folders.

The names and rules of VDDK's second library, without pointers, in the way of `diskkit.vixdisklib`,
whose `Init` comes first. Volumes are shown over FUSE by threads of this process: their files for
reading, without root where fusermount3 is installed; or as a whole to the kernel, whose driver
mounts them for writing, for root. Unlike VDDK's, it takes several disks at once, GPT, LVM and any
guest, and needs nothing mounted for `GetOsInfo`.
"""

from __future__ import annotations

from diskkit.vixmntapi.answers import (
    BASIC_PARTITION,
    DYNAMIC_VOLUME,
    GPT_PARTITION,
    LVM_VOLUME,
    MAJOR,
    MINOR,
    NO_OS,
    OTHER,
    UNKNOWN_VOLTYPE,
    WINDOWS,
    DiskSetInfo,
    OsInfo,
    VolumeInfo,
)
from diskkit.vixmntapi.functions import (
    CloseDiskSet,
    DismountVolume,
    Exit,
    GetDiskSetInfo,
    GetOsInfo,
    GetVolumeHandles,
    GetVolumeInfo,
    Init,
    MountVolume,
    OpenDisks,
)

__all__ = [
    "BASIC_PARTITION",
    "DYNAMIC_VOLUME",
    "GPT_PARTITION",
    "LVM_VOLUME",
    "MAJOR",
    "MINOR",
    "NO_OS",
    "OTHER",
    "UNKNOWN_VOLTYPE",
    "WINDOWS",
    "CloseDiskSet",
    "DiskSetInfo",
    "DismountVolume",
    "Exit",
    "GetDiskSetInfo",
    "GetOsInfo",
    "GetVolumeHandles",
    "GetVolumeInfo",
    "Init",
    "MountVolume",
    "OpenDisks",
    "OsInfo",
    "VolumeInfo",
]
