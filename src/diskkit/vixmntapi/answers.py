# SPDX-License-Identifier: Apache-2.0
"""What the functions answer, and the numbers in it."""

from __future__ import annotations

from typing import NamedTuple

MAJOR, MINOR = 1, 0
NO_OS, WINDOWS, OTHER = 0, 1, 255
UNKNOWN_VOLTYPE, BASIC_PARTITION, GPT_PARTITION, DYNAMIC_VOLUME, LVM_VOLUME = range(5)


class DiskSetInfo(NamedTuple):
    """The answer of `GetDiskSetInfo`."""

    openFlags: int
    mountPath: str
    """A file that is the whole first disk."""


class VolumeInfo(NamedTuple):
    """The answer of `GetVolumeInfo`."""

    type: int
    isMounted: bool
    symbolicLink: str
    """The folder it is mounted on; "" if it is not."""
    inGuestMountPoints: tuple[str, ...]
    """Folders of a Linux guest, letters of a Windows guest ("C:")."""


class OsInfo(NamedTuple):
    """The answer of `GetOsInfo`."""

    family: int
    majorVersion: int
    minorVersion: int
    osIs64Bit: bool
    vendor: str
    edition: str
    osFolder: str
