# SPDX-License-Identifier: Apache-2.0
"""What a mount shows: the contract of a tree, and the tree of a disk and its volumes.

A tree knows nothing of how it is asked. Nodes are numbers; a tree finds everything out from the
number, so nothing has to be kept for nodes that somebody has seen once.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import DiskkitError
from diskkit.fuse.wire import ROOT, Attributes
from diskkit.runs import State
from diskkit.volumes.asdisk import VolumeDisk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from diskkit.disk import Disk
    from diskkit.table import RunTable
    from diskkit.volumes import Volume

_SECTOR = 512
_LOOK = 16 << 20
"""Bytes in which data or a hole is looked for first: what is sought is most often near."""


def failure(number: int) -> OSError:
    """An answer that is an error number."""
    return OSError(number, os.strerror(number))


class OpenFile(ABC):
    """A file that was opened. Safe from many threads."""

    size: int
    """Bytes."""
    alone = True
    """Whether its bytes change by its own writes only, so that what was read may be kept."""

    @abstractmethod
    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset`; fewer bytes at the end of the file. How many there are."""

    def write(self, offset: int, data: memoryview) -> int:
        """Write; returns how many bytes were taken, which are fewer at the end of the file."""
        raise failure(errno.EROFS)

    def erase(self, offset: int, length: int, *, give_back: bool) -> None:
        """Make a range zeros."""
        raise failure(errno.EROFS)

    def seek(self, offset: int, whence: int) -> int:
        """The next data (`os.SEEK_DATA`) or hole (`os.SEEK_HOLE`); where unknown, all is data."""
        if offset >= self.size:
            raise failure(errno.ENXIO)
        return offset if whence == os.SEEK_DATA else self.size

    def flush(self) -> None:  # noqa: B027 - what is only read is durable
        """Make durable."""


class Tree(ABC):
    """Files and folders by number. Raises `OSError` with the number that callers shall get."""

    size: int
    """Bytes of all, as df tells it."""

    @abstractmethod
    def stat(self, node: int) -> Attributes:
        """Of a node."""

    @abstractmethod
    def lookup(self, node: int, name: bytes) -> Attributes | None:
        """What a folder holds under a name."""

    @abstractmethod
    def entries(self, node: int) -> Iterator[tuple[bytes, Attributes]]:
        """What a folder holds, always in the same order, without `.` and `..`."""

    @abstractmethod
    def open(self, node: int, *, writing: bool) -> OpenFile:
        """A file."""

    def readlink(self, node: int) -> bytes:
        """Where a symbolic link leads."""
        raise failure(errno.EINVAL)

    def xattrs(self, node: int) -> dict[bytes, bytes]:
        """Extended attributes by name."""
        return {}

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Give back what it holds. The disk stays open."""


def names_of(volumes: Sequence[Volume]) -> list[bytes]:
    """What volumes are called in a folder: no two alike, and none with a slash."""
    names: list[bytes] = []
    taken = set()
    for volume in volumes:
        name = os.fsencode(volume.name.replace("/", "-"))
        # Two groups and their volumes may read the same once a slash is a dash.
        while name in taken:
            name += b"-%d" % volume.number
        taken.add(name)
        names.append(name)
    return names


class Fixed(NamedTuple):
    """A file of known size that is a whole disk or volume."""

    name: bytes
    content: Disk
    blocks: int


class DiskTree(Tree):
    """A folder with a disk as the file `flat`, and a file for each partition and logical volume.

    Nodes: 1 the folder, 2 `flat`, then the volumes.
    """

    _readers = 0o400

    def __init__(
        self,
        disks: Sequence[Disk],
        volumes: Sequence[Volume],
        *,
        uid: int,
        gid: int,
        others: bool = False,
    ) -> None:
        """Show the first disk, and volumes that lie on any of the disks, which stay the caller's.

        What can be written to its owner may write to; `others` may read all.
        """
        self._readers = 0o444 if others else 0o400
        self._alone = not any(disk.writable for disk in disks)
        self.size = disks[0].size
        self._owner = uid, gid
        self._when = time.time_ns()
        self._files = [Fixed(b"flat", disks[0], _allocated(disks[0]) // _SECTOR)]
        for name, volume in zip(names_of(volumes), volumes, strict=True):
            if volume.problem is None:
                self._files.append(_fixed(name, volume, disks))

    def stat(self, node: int) -> Attributes:
        if node == ROOT:
            mode, links = stat.S_IFDIR | 0o555, 2
            return self._attributes(ROOT, mode, 0, 0, links)
        one = self._file(node)
        mode = stat.S_IFREG | self._readers | (0o200 if one.content.writable else 0)
        return self._attributes(node, mode, one.content.size, one.blocks, 1)

    def _attributes(self, node: int, mode: int, size: int, blocks: int, links: int) -> Attributes:
        when = self._when
        return Attributes(node, mode, size, blocks, links, *self._owner, when, when, when)

    def _file(self, node: int) -> Fixed:
        if not 0 <= node - 2 < len(self._files):
            raise failure(errno.ENOENT)
        return self._files[node - 2]

    def lookup(self, node: int, name: bytes) -> Attributes | None:
        if node != ROOT:
            raise failure(errno.ENOTDIR)
        for number, one in enumerate(self._files):
            if one.name == name:
                return self.stat(number + 2)
        return None

    def entries(self, node: int) -> Iterator[tuple[bytes, Attributes]]:
        if node != ROOT:
            raise failure(errno.ENOTDIR)
        for number, one in enumerate(self._files):
            yield one.name, self.stat(number + 2)

    def open(self, node: int, *, writing: bool) -> OpenFile:
        if node == ROOT:
            raise failure(errno.EISDIR)
        one = self._file(node)
        if writing and not one.content.writable:
            raise failure(errno.EROFS)
        return self._opened(one)

    def _opened(self, one: Fixed) -> OpenFile:
        return Whole(one.content, alone=self._alone)


class VolumeTree(DiskTree):
    """A folder with one volume as its only file, called by its first disk and the volume."""

    def __init__(self, disks: Sequence[Disk], volume: Volume) -> None:
        """Show `volume`, which lies on `disks`; writable if that is. For this user alone."""
        self._alone = not volume.writable
        self.size = volume.size
        self._owner = os.getuid(), os.getgid()
        self._when = time.time_ns()
        # Programs that list mounts show it as what is mounted.
        label = f"{os.path.basename(disks[0].path)}:{volume.name}".replace("/", "-")  # noqa: PTH119
        self.name = os.fsencode(label)[-255:]
        self._files = [_fixed(self.name, volume, disks)]
        self.failure: Exception | None = None
        """Why something was not written. Whom the kernel told of it nobody knows."""

    def _opened(self, one: Fixed) -> OpenFile:
        return Noted(one.content, self, alone=self._alone)


def _fixed(name: bytes, volume: Volume, disks: Sequence[Disk]) -> Fixed:
    return Fixed(name, VolumeDisk(volume, disks, borrowed=True), volume.size // _SECTOR)


class Whole(OpenFile):
    """A disk as a file."""

    def __init__(self, disk: Disk, *, alone: bool) -> None:
        """The disk stays the caller's; `alone` unless another file can change its bytes."""
        self._disk = disk
        self.size = disk.size
        self.alone = alone

    def read_into(self, offset: int, buffer: memoryview) -> int:
        n = max(0, min(len(buffer), self.size - offset))
        if n:
            self._disk.read_into(offset, buffer[:n])
        return n

    def write(self, offset: int, data: memoryview) -> int:
        n = max(0, min(len(data), self.size - offset))
        if not n and len(data):
            raise failure(errno.ENOSPC)
        self._disk.write(offset, data[:n])
        return n

    def erase(self, offset: int, length: int, *, give_back: bool) -> None:
        if not self._disk.writable:
            raise failure(errno.EROFS)
        length = max(0, min(length, self.size - offset))
        change = self._disk.discard if give_back else self._disk.zero
        change(offset, length)

    def seek(self, offset: int, whence: int) -> int:
        if offset >= self.size:
            raise failure(errno.ENXIO)
        at, look = offset, _LOOK
        while at < self.size:
            n = min(look, self.size - at)
            for table in self._disk.stored(at, n):
                empty = _empty(table)
                found = ~empty if whence == os.SEEK_DATA else empty
                if found.any():
                    return int(table.starts[found.argmax()])
            at, look = at + n, 4 * look
        if whence == os.SEEK_HOLE:
            return self.size
        raise failure(errno.ENXIO)

    def flush(self) -> None:
        if self._disk.writable:
            self._disk.flush()


class Noted(Whole):
    """The same; what could not be written is noted in its tree."""

    def __init__(self, disk: Disk, tree: VolumeTree, *, alone: bool) -> None:
        super().__init__(disk, alone=alone)
        self._tree = tree

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if isinstance(error, DiskkitError) or not isinstance(error, OSError):  # no mere answer
                self._tree.failure = self._tree.failure or error
            raise

    def write(self, offset: int, data: memoryview) -> int:
        with self._noting():
            return super().write(offset, data)

    def erase(self, offset: int, length: int, *, give_back: bool) -> None:
        with self._noting():
            super().erase(offset, length, give_back=give_back)

    def flush(self) -> None:
        with self._noting():
            super().flush()


def _empty(table: RunTable) -> NDArray[np.bool_]:
    empty: NDArray[np.bool_] = (table.states == State.HOLE) | (table.states == State.ZERO)
    return empty


def _allocated(disk: Disk) -> int:
    """Bytes that are data."""
    total = 0
    for table in disk.stored():
        data = ~_empty(table)
        total += int((table.ends[data] - table.starts[data]).sum())
    return total
