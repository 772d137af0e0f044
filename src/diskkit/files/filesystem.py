# SPDX-License-Identifier: Apache-2.0
"""The contract of every reader of files: what a filesystem answers."""

from __future__ import annotations

import stat
from abc import abstractmethod
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from diskkit.errors import DiskkitError, FormatError
from diskkit.interfaces import Closing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

NO_TIME = -(1 << 63)
"""In place of a time that the filesystem does not have."""
SHORT = 4096
"""Bytes of content that are told together with all else of a file."""

RegistryValue: TypeAlias = str | int | bytes | None
"""Text, number, binary; None for what is not there, or is of another kind, or too long."""


LARGE_STREAM = b"stream."
"""Before the name of an alternate data stream that no attribute can hold: among the attributes it
says that there is one. Its value is empty."""


class Node(NamedTuple):
    """What is known of a file without reading it. Times are nanoseconds since 1970, UTC.

    FAT has local times of an unknown zone: they are given as if it were UTC.
    """

    id: int
    """What the other calls take; equal for two names exactly when they are the same file."""
    mode: int
    """Kind and permission bits as in `st_mode`; made up where the filesystem has none."""
    size: int
    links: int
    """Names it has; 0 where the filesystem does not count them."""
    uid: int
    gid: int
    mtime: int
    atime: int
    ctime: int
    btime: int
    """Creation, or `NO_TIME`."""
    major: int
    minor: int
    """Of a device."""
    problem: str = ""
    """Why its content, or its name, cannot be had; "" if it can."""

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)


class Extent(NamedTuple):
    """A stretch of a file's content, in the order of the file."""

    length: int
    offset: int
    """Byte of the volume at which it lies; -1 for zeros that take no room."""


class Details(NamedTuple):
    """What copying a file takes, besides its node."""

    extents: list[Extent] | None = None
    """Of a regular file: where its content lies, if the filesystem can say."""
    content: bytes | None = None
    """Of a regular file of at most `SHORT` bytes: all of it, if it lies nowhere else."""
    target: bytes = b""
    """Of a symbolic link."""
    error: DiskkitError | None = None
    """Why its content, or where it leads, cannot be had."""
    xattrs: Mapping[bytes, bytes] = MappingProxyType({})
    xattrs_error: DiskkitError | None = None
    """Why these cannot be had."""


class FileSystem(Closing):
    """A filesystem, read only. Names are bytes, as they are in it; streams are text.

    Raises `FormatError` where its structures make no sense, and `UnsupportedFeature` for what
    cannot be read by nature, such as encrypted files.
    """

    kind: str
    """As `Content.filesystem` says it."""
    root: int
    """Id of the root directory."""
    warnings: list[str]
    """What makes its content doubtful, such as a journal that was not replayed."""

    @abstractmethod
    def scandir(self, id: int) -> Iterator[tuple[bytes, Node]]:
        """The entries of a directory, in its own order, without `.` and `..`.

        An entry that cannot be had in full comes with its `problem`, under a name made up from
        its number where the name itself cannot be had.
        """

    @abstractmethod
    def lookup(self, id: int, name: bytes) -> Node | None:
        """The entry of that name, by the filesystem's own rule on upper and lower case."""

    @abstractmethod
    def stat(self, id: int) -> Node:
        """What `scandir` says of it."""

    @abstractmethod
    def read_at(self, id: int, offset: int, length: int, stream: str = "") -> bytes:
        """Content of a file; fewer bytes than asked for at its end only."""

    @abstractmethod
    def readlink(self, id: int) -> bytes:
        """Where a symbolic link leads."""

    @abstractmethod
    def xattrs(self, id: int) -> dict[bytes, bytes]:
        """Extended attributes by their full names, such as b"user.comment".

        An alternate data stream is b"user." and its name, or `LARGE_STREAM` and its name.
        """

    @abstractmethod
    def streams(self, id: int) -> list[tuple[str, int]]:
        """Alternate data streams: name and size."""

    @abstractmethod
    def registry(self, id: int, wanted: Sequence[tuple[str, str]]) -> list[RegistryValue]:
        """Values of a Windows registry hive, by (key path, value name).

        Raises `FormatError` if the file is no hive.
        """

    @abstractmethod
    def extents(self, id: int, stream: str = "") -> list[Extent] | None:
        """Where the content lies, up to its size; None where only `read_at` can give it."""

    def details(self, nodes: Sequence[Node]) -> Iterator[Details]:
        """Everything else about each of these, in their order. What fails, fails alone."""
        for node in nodes:
            yield self._details(node)

    def _details(self, node: Node) -> Details:
        found = Details()
        try:
            if node.is_link:
                return found._replace(target=self.readlink(node.id))
            if node.is_file:
                extents = self.extents(node.id)
                found = found._replace(extents=extents)
                if extents is None and node.size <= SHORT:
                    found = found._replace(content=self.read_at(node.id, 0, node.size))
        except Exception as error:
            return Details(error=as_ours(error))
        try:
            return found._replace(xattrs=self.xattrs(node.id))
        except Exception as error:
            return found._replace(xattrs_error=as_ours(error))


def as_ours(error: Exception) -> DiskkitError:
    """What a reader raised, which may be anything that bytes can make a library raise."""
    if isinstance(error, DiskkitError):
        return error
    if isinstance(error, MemoryError):
        return FormatError("needs more memory than a reader may have")
    return FormatError(f"{type(error).__name__}: {error}"[:500])
