# SPDX-License-Identifier: Apache-2.0
"""The functions of VixMntapi, and the sets that are open."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from diskkit.errors import StorageError
from diskkit.vixdisklib.disks import policy_of
from diskkit.vixdisklib.failures import from_exception, translated, vix_error
from diskkit.vixdisklib.library import library
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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diskkit.vixmntapi.diskset import DiskSet
    from diskkit.volumes import Volume

_sets: dict[int, DiskSet] = {}
_lock = Lock()
_ready = False


def Init(majorVersion: int, minorVersion: int) -> None:
    """Begin; only version 1.0 exists. `diskkit.vixdisklib.Init` comes before."""
    global _ready
    with translated():
        library.check_ready()
        if (majorVersion, minorVersion) != (MAJOR, MINOR):
            text = f"version {majorVersion}.{minorVersion} was asked for; there is {MAJOR}.{MINOR}"
            raise vix_error("MNTAPI_INCOMPATIBLE_VERSION", text)
        _ready = True


def Exit() -> None:
    """End: unmount and close all. May be called at any time."""
    global _ready
    with _lock:
        sets = list(_sets.values())
        _sets.clear()
        _ready = False
    for one in sets:
        try:
            one.close()
        except Exception as error:
            library.warn(f"closing a disk set failed: {from_exception(error)}")


def OpenDisks(connection: int, diskNames: Sequence[str], openFlags: int = 0) -> int:
    """Open disks that belong together, most often one, and find their volumes. Its handle.

    Flags are those of `vixdisklib.Open`. A disk is opened for writing by the first `MountVolume`
    that has to write to it, and until then for reading, whatever the flags are.
    """
    from diskkit.vixmntapi.diskset import DiskSet

    with translated():
        _check_ready()
        policy = policy_of(library.connection(connection), openFlags)
        if not diskNames or not all(diskNames):
            raise vix_error("INVALID_ARG", "no disk is named")
        made = DiskSet(diskNames, openFlags, policy, connection)
        with _lock:
            number = library.new_number()
            _sets[number] = made
        library.log(f"{diskNames[0]}: opened as disk set {number}")
        return number


def GetDiskSetInfo(diskSet: int) -> DiskSetInfo:
    """How it was opened, and a file that is the first disk."""
    with translated():
        found = _set(diskSet)
        with _lock:
            return DiskSetInfo(found.flags, found.flat())


def CloseDiskSet(diskSet: int) -> None:
    """Unmount its volumes and close its disks. What is raised is told when all is done."""
    with translated():
        _set(diskSet)
        with _lock:
            found = _sets.pop(diskSet)
        found.close()


def GetVolumeHandles(diskSet: int) -> list[int]:
    """A handle for each volume that can be read or not, in the order of the partition table."""
    with translated():
        found = _set(diskSet)
        with _lock:
            if not found.handles:
                found.handles = {library.new_number(): v for v in found.table.volumes}
            return list(found.handles)


def GetVolumeInfo(volume: int) -> VolumeInfo:
    """What a volume is, and where it is mounted."""
    with translated():
        owner, found = _volume(volume)
        mount = owner.mounts.get(volume)
        kind = BASIC_PARTITION if owner.table.scheme == "mbr" else UNKNOWN_VOLTYPE
        if owner.table.scheme == "gpt":
            kind = GPT_PARTITION
        if found.type == "lvm":
            kind = LVM_VOLUME
        elif found.content is not None and found.content.filesystem == "ldm":
            kind = DYNAMIC_VOLUME
        places = tuple(owner.survey.places.get(found.number, ()))
        return VolumeInfo(kind, mount is not None, mount.folder if mount else "", places)


def MountVolume(volume: int, readOnly: bool = True) -> None:
    """Show the files of a volume in a folder; `GetVolumeInfo` says which.

    For writing the kernel's own driver mounts it, if this is root; for reading it does so where
    there is no other reader. A journal is replayed for writing only.
    """
    with translated():
        owner, found = _volume(volume)
        with _lock:
            if volume in owner.mounts:
                raise vix_error("MNTAPI_VOLUME_ALREADY_MOUNTED", f"{found.name}: is mounted")
            mount = owner.mounts[volume] = owner.mount(found, read_only=readOnly)
        library.log(f"volume {found.name}: mounted on {mount.folder}")


def DismountVolume(volume: int, force: bool = False) -> None:
    """Take its folder away; with `force`, although somebody is in it.

    What was written is durable then; a failure is told, whether the folder is gone or not.
    """
    with translated():
        owner, found = _volume(volume)
        with _lock:
            mount = owner.mounts.get(volume)
            if mount is None:
                raise vix_error("MNTAPI_VOLUME_NOT_MOUNTED", f"{found.name}: is not mounted")
            try:
                mount.end(force=force)
            except StorageError as error:
                if mount.gone:
                    raise
                raise vix_error("MNTAPI_UMOUNT", str(error)) from error
            finally:
                if mount.gone:
                    del owner.mounts[volume]


def GetOsInfo(diskSet: int) -> OsInfo:
    """The operating system that its volumes hold; family `NO_OS` if there is none.

    Nothing needs to be mounted. Of several systems the first counts, in the order of the volumes.
    """
    with translated():
        found = next(iter(_set(diskSet).survey.systems.values()), None)
        if found is None:
            return OsInfo(NO_OS, 0, 0, False, "", "", "")
        return OsInfo(
            WINDOWS if found.family == "windows" else OTHER,
            found.major or 0,
            found.minor or 0,
            bool(found.is_64_bit),
            found.vendor,
            found.edition or found.name,
            found.folder,
        )


def _check_ready() -> None:
    library.check_ready()
    if not _ready:
        raise vix_error("DISK_NOINIT", "VixMntapi_Init was not called, or Exit was")


def _set(number: int) -> DiskSet:
    _check_ready()
    found = _sets.get(number)
    if found is None:
        raise vix_error("INVALID_HANDLE", f"{number} is not the handle of a disk set")
    return found


def _volume(number: int) -> tuple[DiskSet, Volume]:
    _check_ready()
    for one in list(_sets.values()):
        volume = one.handles.get(number)
        if volume is not None:
            return one, volume
    raise vix_error("INVALID_HANDLE", f"{number} is not the handle of a volume")
