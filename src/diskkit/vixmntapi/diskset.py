# SPDX-License-Identifier: Apache-2.0
"""Disks that were opened together, their volumes, and what of them is mounted."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING

from diskkit.errors import DiskkitError, FormatError, StorageError
from diskkit.files import open_filesystem, why_unreadable
from diskkit.files.survey import Survey, survey
from diskkit.fuse import kernel, loop
from diskkit.fuse.filestree import FilesTree
from diskkit.fuse.tree import DiskTree
from diskkit.vixdisklib.failures import VixError, vix_error
from diskkit.vixdisklib.library import library
from diskkit.vixmntapi.mounts import FuseMount, KernelMount
from diskkit.vixmntapi.upgradable import UpgradableDisk
from diskkit.volumes import Volume, find_volumes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diskkit.interfaces import OpenPolicy
    from diskkit.vixmntapi.mounts import Mount

_CODES: dict[type[Exception], str] = {
    kernel.NoRoot: "MNTAPI_NO_ROOT",
    kernel.NoDriver: "MNTAPI_NO_DRIVER",
    loop.NoLoop: "MNTAPI_LOOP_FAILED",
    FormatError: "NOT_SUPPORTED",
    StorageError: "MNTAPI_OS_ERROR",
}
"""Why the kernel does not mount a volume, the special before the general."""


class DiskSet:
    """Disks that were opened together, and what is on them."""

    def __init__(
        self, names: Sequence[str], flags: int, policy: OpenPolicy, connection: int
    ) -> None:
        """Open them for reading; for writing when `policy` allows it and a volume has to be."""
        self.flags = flags
        self.writable = policy.writable
        self.disks: list[UpgradableDisk] = []
        try:
            for name in names:
                self.disks.append(UpgradableDisk(name, policy, connection))
            self.table = find_volumes(*self.disks)
        except BaseException:
            for disk in self.disks:
                disk.close()
            raise
        for text in self.table.warnings:
            library.warn(text)
        self.handles: dict[int, Volume] = {}
        self.mounts: dict[int, Mount] = {}
        """By the handle of the volume."""
        self._flat: Mount | None = None

    def flat(self) -> str:
        """A file that is the first disk."""
        if self._flat is None:
            tree = DiskTree(self.disks[:1], [], uid=os.getuid(), gid=os.getgid())
            self._flat = FuseMount(self.disks[0], tree)
        return f"{self._flat.folder}/flat"

    @cached_property
    def survey(self) -> Survey:
        """What the guest's files tell."""
        return survey(self.table.volumes, library.warn)

    # --- mounting -----------------------------------------------------------------------------

    def mount(self, volume: Volume, *, read_only: bool) -> Mount:
        """The files of a volume in a folder: for reading by a reader, else by the kernel."""
        if not read_only:
            return self._mount_writable(volume)
        reason = why_unreadable(volume)
        if not reason:
            fs = open_filesystem(volume)
            for text in fs.warnings:
                library.warn(f"volume {volume.name}: {text}")
            tree = FilesTree(volume, fs)
            try:
                return FuseMount(self.disks[0], tree)
            except BaseException:
                tree.close()
                raise
        if volume.content is None or volume.content.filesystem not in kernel.DRIVERS:
            raise vix_error("NOT_SUPPORTED", f"volume {volume.name}: {reason}")
        _check_driver(volume)
        return _by_kernel(volume, writable=False)

    def _mount_writable(self, volume: Volume) -> Mount:
        if not self.writable:
            text = f"volume {volume.name}: its disks were opened for reading only"
            raise vix_error("MNTAPI_VOLUME_NOT_WRITABLE", text)
        _check_driver(volume)
        # What the guest says is read before the kernel changes what it is read from.
        _ = self.survey
        for disk in _disks_of(volume):
            disk.make_writable()
        return _by_kernel(volume, writable=True)

    def close(self) -> None:
        """Unmount all, close all. Raises the first failure, when all is done."""
        failures: list[Exception] = []
        for mount in [*self.mounts.values(), *([self._flat] if self._flat else [])]:
            try:
                _end(mount)
            except (DiskkitError, OSError) as error:
                failures.append(error)
        self.mounts.clear()
        for disk in self.disks:
            try:
                disk.close()
            except (DiskkitError, OSError) as error:
                failures.append(error)
        for more in failures[1:]:
            library.warn(str(more))
        if failures:
            raise failures[0]


def _end(mount: Mount) -> None:
    """End it, whoever is inside."""
    try:
        mount.end(force=False)
    except StorageError as error:
        if mount.gone:
            raise
        library.warn(f"{error}: taken away all the same")
        mount.end(force=True)


def _check_driver(volume: Volume) -> None:
    """Raise unless the kernel can mount it, before anything is done for that."""
    try:
        kernel.driver_for(volume)
    except (FormatError, StorageError) as error:
        raise _refused(volume, error) from error


def _by_kernel(volume: Volume, *, writable: bool) -> Mount:
    try:
        return KernelMount(list(dict.fromkeys(_disks_of(volume))), volume, writable=writable)
    except (FormatError, StorageError) as error:
        raise _refused(volume, error) from error


def _refused(volume: Volume, error: FormatError | StorageError) -> VixError:
    code = next(code for kind, code in _CODES.items() if isinstance(error, kind))
    # The advice is for the command line.
    text = error.problem if isinstance(error, FormatError) else str(error)
    if not why_unreadable(volume):
        text += "; its files can be mounted for reading only"
    return vix_error(code, f"volume {volume.name}: {text}")


def _disks_of(volume: Volume) -> Iterator[UpgradableDisk]:
    """What a volume lies on, be it through the partitions of a volume group."""
    for segment in volume.segments:
        for stripe in segment.stripes:
            if isinstance(stripe.source, Volume):
                yield from _disks_of(stripe.source)
            elif isinstance(stripe.source, UpgradableDisk):
                yield stripe.source
