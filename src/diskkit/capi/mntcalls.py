# SPDX-License-Identifier: Apache-2.0
"""What the second C library calls: `diskkit.vixmntapi`, in the way of calls.py."""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING

from diskkit import vixmntapi as mnt
from diskkit.capi.answers import ended, guarded, number, tell
from diskkit.vixdisklib.library import library

if TYPE_CHECKING:
    from collections.abc import Sequence


@guarded("VixMntapi_Init")
def mnt_init(major: int, minor: int, wanted: int) -> None:
    """`wanted` is as in `calls.init`."""
    speak = [functools.partial(tell, level) if wanted >> level & 1 else None for level in (0, 1)]
    library.listen(*speak)
    mnt.Init(major, minor)


mnt_exit = guarded("VixMntapi_Exit")(mnt.Exit)


@guarded("VixMntapi_OpenDisks")
def mnt_open(connection: int, flags: int, *names: str) -> bytes:
    """The handle."""
    return number(mnt.OpenDisks(connection, names, flags))


@guarded("VixMntapi_GetDiskSetInfo")
def mnt_set_info(handle: int) -> bytes:
    """A number of 32 bits and a text with a NUL."""
    found = mnt.GetDiskSetInfo(handle)
    return struct.pack("=I", found.openFlags) + ended([found.mountPath])


@guarded("VixMntapi_CloseDiskSet")
def mnt_close(handle: int) -> None:
    """A code."""
    mnt.CloseDiskSet(handle)


@guarded("VixMntapi_GetVolumeHandles")
def mnt_volumes(handle: int) -> bytes:
    """Numbers of 64 bits."""
    return b"".join(map(number, mnt.GetVolumeHandles(handle)))


@guarded("VixMntapi_GetOsInfo")
def mnt_os_info(handle: int) -> bytes:
    """Four numbers of 32 bits and three texts, each with a NUL."""
    o = mnt.GetOsInfo(handle)
    numbers = (o.family, o.majorVersion, o.minorVersion, o.osIs64Bit)
    return struct.pack("=4I", *numbers) + ended([o.vendor, o.edition, o.osFolder])


@guarded("VixMntapi_MountVolume")
def mnt_mount(volume: int, read_only: int) -> None:
    """A code."""
    mnt.MountVolume(volume, bool(read_only))


@guarded("VixMntapi_DismountVolume")
def mnt_dismount(volume: int, force: int) -> None:
    """A code."""
    mnt.DismountVolume(volume, bool(force))


@guarded("VixMntapi_GetVolumeInfo")
def mnt_volume_info(volume: int) -> bytes:
    """Three numbers of 32 bits, the last how many mount points, and texts, each with a NUL."""
    found = mnt.GetVolumeInfo(volume)
    points: Sequence[str] = found.inGuestMountPoints
    fixed = struct.pack("=3I", found.type, found.isMounted, len(points))
    return fixed + ended([found.symbolicLink, *points])
