# SPDX-License-Identifier: Apache-2.0
"""`UpgradableDisk`: a disk that is open for reading until somebody has to write to it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from diskkit.disk import Disk
from diskkit.errors import StorageError, UsageError
from diskkit.open import open_disk
from diskkit.vixdisklib.failures import VixError
from diskkit.vixdisklib.library import Handle, library

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diskkit.disk import Source
    from diskkit.info import DiskInfo
    from diskkit.interfaces import OpenPolicy
    from diskkit.table import RunTable

    State = list[tuple[int, int, int, int]]


class UpgradableDisk(Disk):
    """A disk of files, first open for reading, then for writing, under the same readers.

    Programs ask for writing out of habit, and most only read: a lock that keeps all others away is
    for those who write. A writer's lock bars readers, our own too, so the files are closed and
    opened again; whoever reads meanwhile waits.
    """

    def __init__(self, path: str, policy: OpenPolicy, connection: int) -> None:
        """Open it for reading. `policy` says whether it may be opened for writing later."""
        self._policy = policy
        reading = policy._replace(writable=False)
        self.path = path
        # A program may be somewhere else when it is opened again.
        self._home = "" if os.path.isabs(path) else os.getcwd()  # noqa: PTH109, PTH117
        self._handle = Handle(path, reading, connection, old=False)
        self._handle.number = library.new_number()
        self._closed = False
        self._lost: Exception | None = None
        """Why it is not open any more."""
        with self._using() as disk:
            self.size = disk.size
            self.granularity = disk.granularity
            self.parallel = disk.parallel

    @contextmanager
    def _using(self) -> Iterator[Disk]:
        if self._closed:
            raise UsageError(f"{self.path}: the disk is closed")
        try:
            disk = self._handle.enter()
        except VixError as error:
            raise self._lost or UsageError(error.text) from None
        try:
            yield disk
        finally:
            self._handle.leave()

    def make_writable(self) -> None:
        """Open it for writing, until it is closed. If that fails it is read on.

        Raises what opening it raises; and `StorageError` if another program has changed it in the
        moment in which it was not open: nothing is read any more then, since what was read before
        would not fit.
        """
        if not self._policy.writable:
            raise UsageError(f"{self.path}: opened for reading only")
        with self._handle.alone() as old:
            if old.writable:
                return
            before = self._state(old)
            self._handle.replace(None)
            old.close()
            try:
                self._open(self._policy, before)
            except Exception:
                try:
                    self._open(self._policy._replace(writable=False), before)
                except Exception as error:
                    self._lost = error
                    raise
                raise
            self.writable = True

    def _open(self, policy: OpenPolicy, before: State) -> None:
        disk = open_disk(self._absolute(self.path), format="vmdk", policy=policy)
        try:
            self._check_same(disk, before)
        except BaseException:
            disk.close()
            raise
        self._handle.replace(disk)

    def _check_same(self, disk: Disk, before: State) -> None:
        if self._state(disk) != before:
            raise StorageError(self.path, "another program has changed it: open it again")

    def _absolute(self, name: str) -> str:
        return os.path.join(self._home, name)  # noqa: PTH118 - as it was given

    def _state(self, disk: Disk) -> State:
        """By what a change of its files shows: whoever writes leaves a later time."""
        names = {link.path for link in disk.info.links}
        names.update(source.name for source in disk.sources if source.name is not None)
        found = [os.stat(self._absolute(name)) for name in names]  # noqa: PTH116
        return sorted((f.st_dev, f.st_ino, f.st_size, f.st_mtime_ns) for f in found)

    @property
    def info(self) -> DiskInfo:
        """Of the disk as it is open now."""
        with self._using() as disk:
            return disk.info

    @property
    def sources(self) -> Sequence[Source]:
        """The same files however it is open."""
        with self._using() as disk:
            return disk.sources

    def _fill(self, offset: int, buffer: memoryview) -> None:
        with self._using() as disk:
            disk.read_into(offset, buffer)

    def _scan(self, offset: int, length: int, links: int | None) -> Iterator[RunTable]:
        with self._using() as disk:
            yield from disk.tables(offset, length, links=links)

    def stored(self, offset: int = 0, length: int | None = None) -> Iterator[RunTable]:
        """As the disk says it."""
        with self._using() as disk:
            yield from disk.stored(offset, length)

    def _write(self, offset: int, data: memoryview) -> None:
        with self._using() as disk:
            disk.write(offset, data)

    def _zero(self, offset: int, length: int, *, give_back: bool) -> None:
        with self._using() as disk:
            (disk.discard if give_back else disk.zero)(offset, length)

    def zeroes_quickly(self, offset: int, length: int) -> bool:
        """As the disk says it."""
        with self._using() as disk:
            return disk.zeroes_quickly(offset, length)

    def _flush(self) -> None:
        with self._using() as disk:
            disk.flush()

    def close(self) -> None:
        """Make it durable and close its files, when nobody is using them."""
        if self._closed:
            return
        self._closed = True
        if self._lost is None:
            self._handle.close()
