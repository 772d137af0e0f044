# SPDX-License-Identifier: Apache-2.0
"""Disks that were opened together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diskkit.errors import DiskkitError, StorageError
from diskkit.vixdisklib.library import library

if TYPE_CHECKING:
    from diskkit.disk import Disk
    from diskkit.vixmntapi.mounts import Mount
    from diskkit.volumes import Volume


class DiskSet:
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
        self.mounts: dict[int, Mount] = {}
        self.flat: Mount | None = None

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
