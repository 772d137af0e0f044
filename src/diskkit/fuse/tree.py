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
from diskkit.volumes.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diskkit.disk import Disk
    from diskkit.interfaces import Readable

_SECTOR = 512


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


class Fixed(NamedTuple):
    """A file of known size that is a whole disk or volume."""

    name: bytes
    content: Disk | Volume
    blocks: int


class DiskTree(Tree):
    """A folder with the disk as the file `flat`, and a file for each partition and logical volume.

    Nodes: 1 the folder, 2 `flat`, then the volumes.
    """

    _readers = 0o400

    def __init__(
        self, disk: Disk, volumes: list[Volume], *, uid: int, gid: int, others: bool = False
    ) -> None:
        """Show `disk`, writable by its owner if it is; `others` may read it."""
        self._readers = 0o444 if others else 0o400
        self._disk = disk
        self.size = disk.size
        self._owner = uid, gid
        self._when = time.time_ns()
        self._files = [Fixed(b"flat", disk, _allocated(disk) // _SECTOR)]
        names = {b"flat"}
        for volume in volumes:
            if volume.problem is not None:
                continue
            name = os.fsencode(volume.name.replace("/", "-"))
            # Two groups and their volumes may read the same once a slash is a dash.
            name = name if name not in names else name + b"-%d" % volume.number
            names.add(name)
            self._files.append(Fixed(name, volume, volume.size // _SECTOR))

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
        return Whole(one.content, self._disk)


class VolumeTree(DiskTree):
    """A folder with one volume as its only file, called by the disk and the volume."""

    def __init__(self, disk: Disk, volume: Volume) -> None:
        """Show `volume`, which lies on `disk`; writable if that is. For this user alone."""
        self._disk = disk
        self.size = volume.size
        self._owner = os.getuid(), os.getgid()
        self._when = time.time_ns()
        # Programs that list mounts show it as what is mounted.
        label = f"{os.path.basename(disk.path)}:{volume.name}".replace("/", "-")  # noqa: PTH119
        self.name = os.fsencode(label)[-255:]
        self._files = [Fixed(self.name, volume, volume.size // _SECTOR)]
        self.failure: Exception | None = None
        """Why something was not written. Whom the kernel told of it nobody knows."""

    def _opened(self, one: Fixed) -> OpenFile:
        return Noted(one.content, self._disk, self)


class Whole(OpenFile):
    """A disk, or a volume of one, as a file."""

    def __init__(self, content: Disk | Volume, disk: Disk) -> None:
        """`disk` is the one that `content` lies on, or is."""
        self._content = content
        self._disk = disk
        self.size = content.size
        self.alone = not content.writable
        try:
            next(self._ranges(0, min(1, self.size)), None)
            self._mapped = True
        except OSError:
            self._mapped = False

    def read_into(self, offset: int, buffer: memoryview) -> int:
        n = max(0, min(len(buffer), self.size - offset))
        if n:
            self._content.read_into(offset, buffer[:n])
        return n

    def write(self, offset: int, data: memoryview) -> int:
        n = max(0, min(len(data), self.size - offset))
        if not n and len(data):
            raise failure(errno.ENOSPC)
        self._content.write(offset, data[:n])
        return n

    def erase(self, offset: int, length: int, *, give_back: bool) -> None:
        if not self._content.writable:
            raise failure(errno.EROFS)
        length = max(0, min(length, self.size - offset))
        for begin, n in self._ranges(offset, length):
            if give_back:
                self._disk.discard(begin, n)
            else:
                self._disk.zero(begin, n)

    def _ranges(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Where a range lies on the disk."""
        yield from _places(self._content, self._disk, offset, length)

    def seek(self, offset: int, whence: int) -> int:
        if offset >= self.size:
            raise failure(errno.ENXIO)
        if not self._mapped:
            return super().seek(offset, whence)
        at = offset
        for begin, n in self._ranges(offset, self.size - offset):
            found = _seek(self._disk, begin, n, data=whence == os.SEEK_DATA)
            if found is not None:
                return at + found - begin
            at += n
        if whence == os.SEEK_HOLE:
            return self.size
        raise failure(errno.ENXIO)

    def flush(self) -> None:
        if self._content.writable:
            self._content.flush()


class Noted(Whole):
    """The same; what could not be written is noted in its tree."""

    def __init__(self, content: Disk | Volume, disk: Disk, tree: VolumeTree) -> None:
        super().__init__(content, disk)
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


def _places(source: Readable, disk: Disk, offset: int, length: int) -> Iterator[tuple[int, int]]:
    """Where a range of something on `disk` lies on it; a logical volume's partition is between."""
    if source is disk:
        yield offset, length
    elif isinstance(source, Volume):
        for piece in source.pieces(offset, length):
            yield from _places(piece.source, disk, piece.offset, piece.length)
    else:
        raise failure(errno.EOPNOTSUPP)  # encrypted, or on another disk


def _seek(disk: Disk, offset: int, length: int, *, data: bool) -> int | None:
    """The first byte of a range that is data, or that is none."""
    import numpy as np

    for table in disk.stored(offset, length):
        empty = (table.states == State.HOLE) | (table.states == State.ZERO)
        rows = np.flatnonzero(~empty if data else empty)
        if len(rows):
            return max(offset, int(table.starts[rows[0]]))
    return None


def _allocated(disk: Disk) -> int:
    """Bytes that are data."""
    total = 0
    for table in disk.stored():
        data = (table.states != State.HOLE) & (table.states != State.ZERO)
        total += int((table.ends[data] - table.starts[data]).sum())
    return total
