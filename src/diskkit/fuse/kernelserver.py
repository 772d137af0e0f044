# SPDX-License-Identifier: Apache-2.0
"""`KernelServer`: shows a volume over FUSE to the kernel alone, which mounts it on a folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from diskkit.fuse import kernel, mounting
from diskkit.fuse.servers import Note
from diskkit.fuse.session import THREADS, Session
from diskkit.fuse.tree import VolumeTree
from diskkit.interfaces import Closing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from diskkit.disk import Disk
    from diskkit.fuse.servers import Writer
    from diskkit.volumes import Volume


class KernelServer(Closing):
    """A volume in a folder by the kernel's driver, served by threads of this process.

    `start` it, `join` it until it is unmounted by whomever, and `close` it whatever happened.
    """

    def __init__(
        self,
        disks: Sequence[Disk],
        volume: Volume,
        folder: str,
        writer: Writer,
        *,
        writable: bool,
        threads: int = THREADS,
        warn: Callable[[str], object] | None = None,
    ) -> None:
        """Make ready to mount `volume`, which lies on `disks`, on `folder`.

        Raises what `kernel.driver_for` raises where that cannot work, and `StorageError`.
        """
        kernel.driver_for(volume)
        self._volume = volume
        self._writer = writer
        # As mountinfo will have it.
        first = disks[0].path
        self.note = Note(writer.label, first, os.path.realpath(folder), "", writable)
        self._private = writer.private_folder()
        device = -1
        try:
            device = mounting.mount(
                first, str(self._private), read_only=not writable, allow_other=False
            )
        finally:
            if device < 0:
                self._private.rmdir()
        self._tree = VolumeTree(disks, volume)
        self._session = Session(device, self._tree, threads=threads, warn=warn)

    def start(self) -> None:
        """Have it mounted. Raises `StorageError` with what the kernel says; then `leave`."""
        self._session.start()
        mounting.read_ahead(str(self._private))
        source = self._private / os.fsdecode(self._tree.name)
        self.note = kernel.mount_volume(
            source, self.note.folder, self._volume, self._writer, self.note
        )

    def join(self) -> None:
        """Return when nobody uses it any more.

        Raises `StorageError` if it cannot be served, and whatever something was not written for.
        """
        self._session.join()
        if self._tree.failure is not None:
            raise self._tree.failure

    def leave(self) -> None:
        """Take out of the file tree what is there, and return when nobody uses it any more."""
        rows = [(row.source, row.folder) for row in mounting.rows()]
        if (self.note.loop, self.note.folder) in rows:
            mounting.leave(self.note.folder)
        elif str(self._private) in (where for _, where in rows):
            mounting.leave(str(self._private))
        self.join()

    def close(self) -> None:
        """After `join` or `leave`."""
        self._session.close()
        if self._private.exists():
            self._private.rmdir()
