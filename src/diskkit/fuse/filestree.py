# SPDX-License-Identifier: Apache-2.0
"""The files inside of volumes as a tree, and a tree that shows them beside the disk itself."""

from __future__ import annotations

import errno
import os
import stat
from bisect import bisect_right
from contextlib import suppress
from itertools import accumulate
from threading import Lock
from typing import TYPE_CHECKING

from diskkit.files import open_filesystem, why_unreadable
from diskkit.files.filesystem import LARGE_STREAM
from diskkit.fuse.tree import OpenFile, Tree, failure, names_of
from diskkit.fuse.wire import ROOT, Attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from diskkit.files import Extent, FileSystem, Node
    from diskkit.fuse.tree import DiskTree
    from diskkit.volumes import Volume

_SECTOR = 512
_LONGEST_NAME = 1024
"""What the kernel takes from a server."""
_SHIFT = 56
_INSIDE = (1 << _SHIFT) - 1
FOLDER = b"files"


class FilesTree(Tree):
    """The files of one volume, for reading. A node is the file's own id plus 2; the root is 1."""

    def __init__(self, volume: Volume, fs: FileSystem) -> None:
        """Take over an opened filesystem."""
        self.size = volume.size
        self._volume = volume
        self._fs = fs

    def _id(self, node: int) -> int:
        return self._fs.root if node == ROOT else node - 2

    def _attributes(self, node: Node) -> Attributes:
        number = ROOT if node.id == self._fs.root else node.id + 2
        return Attributes(
            number,
            node.mode,
            node.size,
            -(-node.size // _SECTOR),
            max(1, node.links),
            node.uid,
            node.gid,
            node.mtime,
            node.atime,
            node.ctime,
        )

    def stat(self, node: int) -> Attributes:
        return self._attributes(self._fs.stat(self._id(node)))

    def lookup(self, node: int, name: bytes) -> Attributes | None:
        found = self._fs.lookup(self._id(node), name)
        return None if found is None else self._attributes(found)

    def entries(self, node: int) -> Iterator[tuple[bytes, Attributes]]:
        for name, found in self._fs.scandir(self._id(node)):
            # No name may leave its folder, and one that the kernel refuses would hide all others.
            if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
                continue
            if len(name) <= _LONGEST_NAME:
                yield name, self._attributes(found)

    def open(self, node: int, *, writing: bool) -> OpenFile:
        if writing:
            raise failure(errno.EROFS)
        found = self._fs.stat(self._id(node))
        if found.problem or not stat.S_ISREG(found.mode):
            raise failure(errno.EIO if found.problem else errno.EISDIR)
        extents = self._fs.extents(found.id)
        if extents is None:
            return Through(self._fs, found)
        return Direct(self._volume, extents, found.size)

    def readlink(self, node: int) -> bytes:
        return self._fs.readlink(self._id(node))

    def xattrs(self, node: int) -> dict[bytes, bytes]:
        found = self._fs.xattrs(self._id(node))
        return {n: value for n, value in found.items() if not n.startswith(LARGE_STREAM)}

    def close(self) -> None:
        self._fs.close()


class Direct(OpenFile):
    """A file that lies in known places of its volume."""

    def __init__(self, volume: Volume, extents: list[Extent], size: int) -> None:
        """`extents` cover the file in order."""
        self._volume = volume
        self._extents = extents
        self._starts = [0, *accumulate(extent.length for extent in extents)]
        self.size = size

    def read_into(self, offset: int, buffer: memoryview) -> int:
        wanted = max(0, min(len(buffer), self.size - offset))
        row = bisect_right(self._starts, offset) - 1
        done = 0
        while done < wanted:
            if row >= len(self._extents):
                buffer[done:wanted] = bytes(wanted - done)
                break
            length, place = self._extents[row]
            inside = offset + done - self._starts[row]
            n = min(wanted - done, length - inside)
            if place >= 0:
                self._volume.read_into(place + inside, buffer[done : done + n])
            else:
                buffer[done : done + n] = bytes(n)
            done, row = done + n, row + 1
        return wanted

    def seek(self, offset: int, whence: int) -> int:
        if offset >= self.size:
            raise failure(errno.ENXIO)
        row = bisect_right(self._starts, offset) - 1
        for number in range(row, len(self._extents)):
            if (self._extents[number].offset >= 0) == (whence == os.SEEK_DATA):
                return max(offset, self._starts[number])
        if whence == os.SEEK_DATA:
            raise failure(errno.ENXIO)
        return self.size


class Through(OpenFile):
    """A file whose bytes only the filesystem's reader can give."""

    def __init__(self, fs: FileSystem, node: Node) -> None:
        """`node` is a regular file."""
        self._fs = fs
        self._node = node
        self.size = node.size

    def read_into(self, offset: int, buffer: memoryview) -> int:
        wanted = max(0, min(len(buffer), self.size - offset))
        done = 0
        while done < wanted:
            part = self._fs.read_at(self._node.id, offset + done, wanted - done)
            if not part:
                raise failure(errno.EIO)
            buffer[done : done + len(part)] = part
            done += len(part)
        return wanted


class JoinedTree(Tree):
    """The disk and its volumes as files, and the folder `files` with a folder for each volume.

    The upper 8 bits of a node say whose it is: 0 is the disk's tree, n the n-th volume's. The
    filesystem of a volume is opened when somebody first looks into it.
    """

    def __init__(
        self,
        disk: DiskTree,
        volumes: list[Volume],
        warn: Callable[[str], object] | None = None,
    ) -> None:
        """Show `disk`'s tree, and the files of those volumes that have a reader.

        `warn` is told what is doubtful about a filesystem, when it is opened.
        """
        self._disk = disk
        self._warn = warn
        self.size = disk.size
        named = zip(names_of(volumes), volumes, strict=True)
        readable = [(name, volume) for name, volume in named if not why_unreadable(volume)][:255]
        self._volumes = [volume for _, volume in readable]
        self._names = {name: number for number, (name, _) in enumerate(readable, 1)}
        self._trees: dict[int, FilesTree] = {}
        self._lock = Lock()

    @property
    def _folder(self) -> int:
        return _INSIDE

    def _of(self, node: int) -> tuple[int, Tree]:
        number = node >> _SHIFT
        if not number:
            return number, self._disk
        with self._lock:
            tree = self._trees.get(number)
            if tree is None:
                if number > len(self._volumes):
                    raise failure(errno.ENOENT)
                volume = self._volumes[number - 1]
                fs = open_filesystem(volume)
                tree = self._trees[number] = FilesTree(volume, fs)
                self._tell(volume, fs.warnings)
        return number, tree

    def _tell(self, volume: Volume, warnings: list[str]) -> None:
        if self._warn is not None:
            for text in warnings:
                # Whoever listened may have gone.
                with suppress(OSError):
                    self._warn(f"volume {volume.name}: {text}")

    @staticmethod
    def _outer(number: int, inner: Attributes) -> Attributes:
        if inner.node > _INSIDE:
            raise failure(errno.EOVERFLOW)
        return inner._replace(node=number << _SHIFT | inner.node)

    def stat(self, node: int) -> Attributes:
        if node == self._folder:
            return self._disk.stat(ROOT)._replace(node=node)
        number, tree = self._of(node)
        return self._outer(number, tree.stat(node & _INSIDE))

    def lookup(self, node: int, name: bytes) -> Attributes | None:
        if node == self._folder:
            number = self._names.get(name, 0)
            return self.stat(number << _SHIFT | ROOT) if number else None
        if node == ROOT and name == FOLDER and self._names:
            return self.stat(self._folder)
        number, tree = self._of(node)
        found = tree.lookup(node & _INSIDE, name)
        return None if found is None else self._outer(number, found)

    def entries(self, node: int) -> Iterator[tuple[bytes, Attributes]]:
        if node == self._folder:
            # Listing the folder opens no filesystem: looking into one does.
            for name, number in self._names.items():
                yield name, self._disk.stat(ROOT)._replace(node=number << _SHIFT | ROOT)
            return
        if node == ROOT and self._names:
            yield FOLDER, self.stat(self._folder)
        number, tree = self._of(node)
        for name, found in tree.entries(node & _INSIDE):
            yield name, self._outer(number, found)

    def open(self, node: int, *, writing: bool) -> OpenFile:
        if node == self._folder:
            raise failure(errno.EISDIR)
        _, tree = self._of(node)
        return tree.open(node & _INSIDE, writing=writing)

    def readlink(self, node: int) -> bytes:
        return self._of(node)[1].readlink(node & _INSIDE)

    def xattrs(self, node: int) -> dict[bytes, bytes]:
        return {} if node == self._folder else self._of(node)[1].xattrs(node & _INSIDE)

    def close(self) -> None:
        with self._lock:
            for tree in self._trees.values():
                tree.close()
            self._trees.clear()
