# SPDX-License-Identifier: Apache-2.0
"""Trees in folders of their own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from diskkit.errors import StorageError
from diskkit.vixdisklib.library import library

if TYPE_CHECKING:
    from diskkit.disk import Disk
    from diskkit.fuse.session import Session
    from diskkit.fuse.tree import Tree


class Mount:
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
