# SPDX-License-Identifier: Apache-2.0
"""The VixMntapi interface as Python functions: the volumes of disks, as folders.

The names and rules of VDDK's second library, without pointers, in the way of `diskkit.vixdisklib`,
whose `Init` comes first. Volumes are shown over FUSE by threads of this process, read only; root is
not needed where fusermount3 is installed. Unlike VDDK's, it takes several disks at once, GPT, LVM
and any guest, and needs nothing mounted for `GetOsInfo`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import DiskkitError, StorageError
from diskkit.open import open_disk
from diskkit.vixdisklib.failures import translated, vix_error
from diskkit.vixdisklib.library import library

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diskkit.disk import Disk
    from diskkit.fuse.session import Session
    from diskkit.fuse.tree import Tree
    from diskkit.volumes import Volume

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
    """Of a Linux guest."""


class OsInfo(NamedTuple):
    """The answer of `GetOsInfo`."""

    family: int
    majorVersion: int
    minorVersion: int
    osIs64Bit: bool
    vendor: str
    edition: str
    osFolder: str


class _Mount:
    """A tree in a folder of its own."""

    def __init__(self, disk: Disk, tree: Tree) -> None:
        from diskkit.fuse import mounting
        from diskkit.fuse.session import Session

        self.folder = tempfile.mkdtemp(prefix="vixmntapi-")
        self._tree = tree
        self._session: Session | None = None
        try:
            device = mounting.mount(disk.path, self.folder, read_only=True, allow_other=False)
            self._session = Session(device, tree, warn=library.warn)
            self._session.start()
        except BaseException:
            self.end(force=True)
            raise

    def end(self, *, force: bool) -> None:
        """Unmount. Without `force`, raises `StorageError` if somebody is in the folder."""
        from diskkit.fuse import mounting

        if self._session is not None:
            mounting.unmount(self.folder, lazy=force)
            if not force:
                # A folder that was taken away with somebody inside goes on until they leave.
                try:
                    self._session.join()
                except StorageError as error:
                    library.warn(f"{self.folder}: {error}")
                self._session.close()
                self._tree.close()
        Path(self.folder).rmdir()


class _DiskSet:
    """Disks that were opened together, and what is on them."""

    def __init__(self, disks: list[Disk], flags: int) -> None:
        from diskkit.volumes import find_volumes

        self.disks = disks
        self.flags = flags
        self.table = find_volumes(*disks)
        for text in self.table.warnings:
            library.warn(text)
        self._places: dict[int, list[str]] | None = None
        self.handles: dict[int, Volume] = {}
        self.mounts: dict[int, _Mount] = {}
        self.flat: _Mount | None = None

    def guest_places(self) -> dict[int, list[str]]:
        """By number of the volume: where a Linux guest mounts it, as its fstab says."""
        from diskkit.files import open_filesystem, why_unreadable
        from diskkit.files.fstab import mount_points, read_fstab

        if self._places is None:
            rows: list[tuple[str, str]] = []
            for volume in self.table.volumes:
                if rows or why_unreadable(volume):
                    continue
                try:
                    with open_filesystem(volume) as fs:
                        rows = read_fstab(fs)
                except DiskkitError as error:
                    library.warn(f"volume {volume.name}: cannot tell what it mounts: {error}")
            self._places = mount_points(rows, self.table.volumes)
        return self._places

    def close(self) -> None:
        """Unmount all, close all."""
        for mount in [*self.mounts.values(), *([self.flat] if self.flat else [])]:
            try:
                mount.end(force=False)
            except StorageError as error:
                library.warn(f"{error}: taken away all the same")
                mount.end(force=True)
        self.mounts.clear()
        for disk in self.disks:
            disk.close()


_sets: dict[int, _DiskSet] = {}
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
        one.close()


def OpenDisks(connection: int, diskNames: Sequence[str], openFlags: int = 0) -> int:
    """Open disks that belong together, most often one, and find their volumes. Its handle."""
    with translated():
        _check_ready()
        library.connection(connection)
        if not diskNames or not all(diskNames):
            raise vix_error("INVALID_ARG", "no disk is named")
        policy = library.policy()
        disks: list[Disk] = []
        try:
            for name in diskNames:
                disk = open_disk(name, format="vmdk", policy=policy)
                disks.append(disk)
            made = _DiskSet(disks, openFlags)
        except BaseException:
            for disk in disks:
                disk.close()
            raise
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
            if found.flat is None:
                from diskkit.fuse.tree import DiskTree

                tree = DiskTree(found.disks, [], uid=os.getuid(), gid=os.getgid())
                found.flat = _Mount(found.disks[0], tree)
        return DiskSetInfo(found.flags, f"{found.flat.folder}/flat")


def CloseDiskSet(diskSet: int) -> None:
    """Unmount its volumes and close its disks."""
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
        places = tuple(owner.guest_places().get(found.number, ()))
        return VolumeInfo(kind, mount is not None, mount.folder if mount else "", places)


def MountVolume(volume: int, readOnly: bool = True) -> None:
    """Show the files of a volume in a folder; `GetVolumeInfo` says which. Only for reading."""
    from diskkit.files import open_filesystem, why_unreadable
    from diskkit.fuse.filestree import FilesTree

    with translated():
        owner, found = _volume(volume)
        if not readOnly:
            raise vix_error("MNTAPI_VOLUME_NOT_WRITABLE", f"{found.name}: can be read only")
        with _lock:
            if volume in owner.mounts:
                raise vix_error("MNTAPI_VOLUME_ALREADY_MOUNTED", f"{found.name}: is mounted")
            reason = why_unreadable(found)
            if reason:
                raise vix_error("NOT_SUPPORTED", f"volume {found.name}: {reason}")
            tree = FilesTree(found, open_filesystem(found))
            try:
                owner.mounts[volume] = _Mount(owner.disks[0], tree)
            except BaseException:
                tree.close()
                raise
        library.log(f"volume {found.name}: mounted on {owner.mounts[volume].folder}")


def DismountVolume(volume: int, force: bool = False) -> None:
    """Take its folder away; with `force`, although somebody is in it."""
    with translated():
        owner, found = _volume(volume)
        with _lock:
            mount = owner.mounts.get(volume)
            if mount is None:
                raise vix_error("MNTAPI_VOLUME_NOT_MOUNTED", f"{found.name}: is not mounted")
            try:
                mount.end(force=force)
            except StorageError as error:
                raise vix_error("MNTAPI_UMOUNT", str(error)) from error
            del owner.mounts[volume]


def GetOsInfo(diskSet: int) -> OsInfo:
    """The operating system that its volumes hold; family `NO_OS` if there is none.

    Nothing needs to be mounted. Of several systems the first counts, in the order of the volumes.
    """
    from diskkit.files import open_filesystem, why_unreadable
    from diskkit.files.guest import detect

    with translated():
        for volume in _set(diskSet).table.volumes:
            if why_unreadable(volume):
                continue
            try:
                with open_filesystem(volume) as fs:
                    found = detect(fs)
            except DiskkitError as error:
                library.warn(f"volume {volume.name}: cannot tell what system it holds: {error}")
                continue
            if found is not None:
                return OsInfo(
                    WINDOWS if found.family == "windows" else OTHER,
                    found.major or 0,
                    found.minor or 0,
                    bool(found.is_64_bit),
                    found.vendor,
                    found.edition or found.name,
                    found.folder,
                )
        return OsInfo(NO_OS, 0, 0, False, "", "", "")


def _check_ready() -> None:
    library.check_ready()
    if not _ready:
        raise vix_error("DISK_NOINIT", "VixMntapi_Init was not called, or Exit was")


def _set(number: int) -> _DiskSet:
    _check_ready()
    found = _sets.get(number)
    if found is None:
        raise vix_error("INVALID_HANDLE", f"{number} is not the handle of a disk set")
    return found


def _volume(number: int) -> tuple[_DiskSet, Volume]:
    _check_ready()
    for one in list(_sets.values()):
        volume = one.handles.get(number)
        if volume is not None:
            return one, volume
    raise vix_error("INVALID_HANDLE", f"{number} is not the handle of a volume")
