# SPDX-License-Identifier: Apache-2.0
"""What the readers over libyal's libraries share: a file object over a volume, and kept entries."""

from __future__ import annotations

import stat
from collections import OrderedDict
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from diskkit.errors import DiskkitError, FormatError
from diskkit.files.filesystem import NO_TIME, Extent, FileSystem, Node
from diskkit.files.readers.folders import Folders
from diskkit.filters.cache import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from diskkit.files.filesystem import RegistryValue
    from diskkit.filters.cache import BlockCache

MAX_EXTENTS = 1_000_000
"""Extents of one file that are listed; a file in more pieces is read through the library."""
_AT_HAND = 16
_KEPT = 64
_SPARSE = 1


class VolumeFile:
    """A volume as the file object that the libraries ask for.

    They read a few bytes at a time, in a few places in turns: blocks at hand are found here without
    the bookkeeping of the cache.
    """

    def __init__(self, volume: BlockCache) -> None:
        self._volume = volume
        self._size = volume.size
        self._at = 0
        self._blocks: dict[int, bytes | bytearray] = {}

    def read(self, length: int) -> bytes:
        """The next bytes."""
        number, inside = divmod(self._at, BLOCK)
        block = self._blocks.get(number)
        if block is not None and inside + length <= len(block):
            content = bytes(block[inside : inside + length])
        else:
            content = self._slowly(max(0, min(length, self._size - self._at)), number)
        self._at += len(content)
        return content

    def _slowly(self, length: int, number: int) -> bytes:
        """Through the cache; the block that it begins in is at hand from now on."""
        if 0 < length < BLOCK and number not in self._blocks:
            if len(self._blocks) >= _AT_HAND:
                self._blocks.clear()
            with suppress(DiskkitError):  # what is wanted may be a good part of a bad block
                self._blocks[number] = self._volume.block(number)
        return self._volume.read(self._at, length)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move."""
        self._at = offset if not whence else offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        """Where it is."""
        return self._at

    def get_size(self) -> int:
        """Bytes."""
        return self._size


@contextmanager
def judged(kind: str, what: str) -> Iterator[None]:
    """Turn a library's complaint into ours: its first sentence tells enough."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FormatError):
            raise
        text = str(error).partition(": ")[2] or str(error)
        raise FormatError(text[:300], structure=f"{kind} filesystem", field=what) from None


class LibraryReader(FileSystem):
    """A `FileSystem` over one of the libraries; they all look alike."""

    def __init__(self, kind: str, volume: BlockCache, library: Any) -> None:  # noqa: ANN401
        """Open it. `library` is the module."""
        self.kind = kind
        self.volume = volume
        self.warnings = []
        self.library_volume: Any = library.volume()
        with judged(kind, "volume"):
            self.library_volume.open_file_object(VolumeFile(volume))
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self.folders = Folders()

    def _open(self, id: int) -> Any:  # noqa: ANN401
        """The library's object for an id."""
        raise NotImplementedError

    def entry(self, id: int) -> Any:  # noqa: ANN401 - the libraries have no types
        """The library's object for an id, kept for the next call."""
        found = self._kept.get(id)
        if found is None:
            with judged(self.kind, f"file {id}"):
                found = self._open(id)
            if found is None:
                raise FormatError("no such file", structure=f"{self.kind} filesystem", value=id)
            self._kept[id] = found
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(id)
        return found

    def sub_entries(self, id: int) -> Iterator[tuple[int, Any, str]]:
        """What a directory holds, as `each_entry` gives it."""
        folder = self.entry(id)
        with judged(self.kind, f"directory {id}"):
            count = folder.get_number_of_sub_file_entries()
        return each_entry(count, folder.get_sub_file_entry)

    def look(self, id: int, name: bytes, fold: Callable[[bytes], bytes] | None) -> Node | None:
        """`lookup` by reading all names, once."""
        number = self.folders.look(id, name, lambda: self._named(id), fold)
        if number is not None:
            return self.stat(number)
        nameless = self.scandir(id) if name[:1] == b"?" else ()
        return next((node for own, node in nameless if own == name), None)

    def _named(self, id: int) -> Iterator[tuple[bytes, int]]:
        """Entries that have a name; others are listed as ?NUMBER."""
        for name, node in self.scandir(id):
            if name[:1] != b"?" or not node.problem:
                yield name, node.id

    def content(self, id: int, stream: str) -> Any:  # noqa: ANN401
        """The library's object that has a file's content."""
        if stream:
            raise FormatError(f"no streams in {self.kind}", structure="file", value=stream)
        return self.entry(id)

    def read_at(self, id: int, offset: int, length: int, stream: str = "") -> bytes:
        with judged(self.kind, f"file {id}"):
            return read_from(self.content(id, stream), offset, length)

    def library_extents(self, source: Any, size: int) -> list[Extent] | None:  # noqa: ANN401
        """The extents that the library lists, cut at the size; None if they do not reach it."""
        with judged(self.kind, "extents"):
            count = source.get_number_of_extents()
            if count > MAX_EXTENTS:
                return None
            found = []
            left = size
            for number in range(count):
                offset, length, flags = source.get_extent(number)
                length = min(length, left)
                if length > 0:
                    found.append(Extent(length, -1 if flags & _SPARSE else offset))
                    left -= length
        return found if left == 0 else None

    def xattrs(self, id: int) -> dict[bytes, bytes]:
        return {}

    def streams(self, id: int) -> list[tuple[str, int]]:
        return []

    def registry(self, id: int, wanted: Sequence[tuple[str, str]]) -> list[RegistryValue]:
        from diskkit.files.registry import read_values

        return read_values(self, id, wanted)

    def close(self) -> None:
        self._kept.clear()
        self.library_volume.close()


def each_entry(count: int, get: Callable[[int], Any]) -> Iterator[tuple[int, Any, str]]:
    """Entries by number; one that the library cannot give is None, with the reason."""
    for number in range(count):
        try:
            yield number, get(number), ""
        except OSError as error:
            yield number, None, str(error).partition(": ")[2][:200]


def read_from(source: Any, offset: int, length: int) -> bytes:  # noqa: ANN401
    """Bytes of a file or stream of the library; fewer than asked for at its end only."""
    parts = []
    while length > 0:
        part = source.read_buffer_at_offset(length, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return b"".join(parts)


def try_name(entry: Any) -> str | None:  # noqa: ANN401
    """Its name, or None where the library cannot give it: one that is no UTF-8, for instance."""
    try:
        name: str | None = entry.get_name()
    except OSError:
        return None
    return name


def lost(problem: str, id: int = 0) -> Node:
    """In place of an entry that cannot be had."""
    text = problem or "cannot be read"
    return Node(id, stat.S_IFREG, 0, 1, 0, 0, 0, 0, 0, NO_TIME, 0, 0, text)


def reason(error: Exception) -> str:
    """What a library says, without the name of its function."""
    return (str(error).partition(": ")[2] or str(error))[:200]
