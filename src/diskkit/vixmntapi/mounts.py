# SPDX-License-Identifier: Apache-2.0
"""Volumes and disks in folders of their own, each until it is ended or somebody unmounts it."""

from __future__ import annotations

import errno
import signal
import tempfile
import threading
from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from diskkit.errors import StorageError
from diskkit.fuse import kernel, mounting
from diskkit.fuse.kernelserver import KernelServer
from diskkit.fuse.servers import Writer
from diskkit.fuse.session import Session
from diskkit.vixdisklib.library import library

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diskkit.disk import Disk
    from diskkit.fuse.tree import Tree
    from diskkit.volumes import Volume


class Mount(ABC):
    """A folder with something in it. Threads of this process serve it until the last has left."""

    def __init__(self) -> None:
        """Make the folder."""
        self.folder = tempfile.mkdtemp(prefix="vixmntapi-")
        self.gone = False
        """Whether nothing is in the folder any more, and the folder is removed."""
        self.failure: Exception | None = None
        """What went wrong while it was served."""
        self._thread = threading.Thread(target=self._run, name="vixmntapi", daemon=True)

    def _run(self) -> None:
        # In a program that is not ours its signals are not for this thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._serve()
        except Exception as error:
            self.failure = error
            library.warn(f"{self.folder}: {error}")

    @abstractmethod
    def _serve(self) -> None:
        """Return when the last has left and all is durable and given back, or raise why not."""

    @abstractmethod
    def end(self, *, force: bool) -> None:
        """Unmount; all is durable then. Raises `StorageError` if somebody is in the folder.

        With `force`, they lose the folder, and keep what they have open as long as the disks are.
        If it is `gone` nevertheless, what is raised is why something may not have been written.
        """

    def _remove(self) -> None:
        Path(self.folder).rmdir()
        self.gone = True


class FuseMount(Mount):
    """A tree, for reading."""

    def __init__(self, disk: Disk, tree: Tree) -> None:
        """Show `tree`, which is taken over unless this fails."""
        super().__init__()
        self._tree = tree
        try:
            device = mounting.mount(disk.path, self.folder, read_only=True, allow_other=False)
            self._session = Session(device, tree, warn=library.warn)
            try:
                self._session.start()
            except BaseException:
                mounting.leave(self.folder)
                self._session.close()
                raise
        except BaseException:
            self._remove()
            raise
        self._thread.start()

    def _serve(self) -> None:
        with ExitStack() as stack:
            stack.callback(self._tree.close)
            stack.callback(self._session.close)
            self._session.join()

    def end(self, *, force: bool) -> None:
        try:
            mounting.unmount(self.folder, lazy=force)
        except StorageError as error:
            if error.errno != errno.EINVAL:  # unless others have just unmounted it
                raise
        if not force:
            self._thread.join()
        self._remove()


class KernelMount(Mount):
    """A volume by the kernel's own driver. `diskkit umount` ends it, too."""

    def __init__(self, disks: Sequence[Disk], volume: Volume, *, writable: bool) -> None:
        """Mount `volume`, which lies on `disks`. Raises what `KernelServer` raises."""
        super().__init__()
        self._volume = volume
        with ExitStack() as stack:
            stack.callback(self._remove)
            self._writer = stack.enter_context(Writer())
            self._reader = stack.enter_context(self._writer.reader())
            self._server = stack.enter_context(
                KernelServer(
                    disks, volume, self.folder, self._writer, writable=writable, warn=library.warn
                )
            )
            try:
                self._server.start()
            except BaseException:
                self._server.leave()
                raise
            stack.pop_all()
        self._thread.start()

    def _serve(self) -> None:
        # The note is left last: it tells others how it went, and that they need not wait any more.
        with self._writer, self._server:
            self._server.join()
            if self._server.note.writable:
                # A driver that has no journal need not ask for it.
                self._volume.flush()

    def end(self, *, force: bool) -> None:
        told: StorageError | None = None
        try:
            kernel.unmount_volume(self._reader, self._server.note, lazy=False)
        except StorageError as error:
            if force and error.errno == errno.EBUSY:
                self._abandon()
                return
            if error.errno == errno.EBUSY or self._reader.alive():
                raise
            told = error
        self._thread.join()
        self._reader.close()
        self._remove()
        # The note has only the text of it.
        failure = self.failure or told
        if failure is not None:
            raise failure

    def _abandon(self) -> None:
        """Leave it to those who are inside; what they have written so far is durable."""
        try:
            mounting.sync(self.folder)
        finally:
            mounting.unmount(self.folder, lazy=True)
            self._reader.close()
            self._remove()
