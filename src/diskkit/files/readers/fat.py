# SPDX-License-Identifier: Apache-2.0
"""FAT12, FAT16 and FAT32, through libfsfat.

Times are read from the directory entries themselves: the library's are a month late (20260826).
"""

from __future__ import annotations

import calendar
import stat
import struct
from typing import TYPE_CHECKING, Any

import pyfsfat

from diskkit.errors import FormatError
from diskkit.files.filesystem import NO_TIME, Extent, Node
from diskkit.files.readers.folders import upper
from diskkit.files.readers.libyal import LibraryReader, judged, lost, reason, try_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diskkit.filters.cache import BlockCache

_READ_ONLY, _LABEL, _FOLDER = 0x01, 0x08, 0x10
_SECOND = 1_000_000_000


class Reader(LibraryReader):
    """A FAT filesystem. An id is the place of the directory entry on the volume; 0 is the root."""

    root = 0

    def __init__(self, kind: str, volume: BlockCache) -> None:
        """Open it."""
        super().__init__(kind, volume, pyfsfat)

    def _open(self, id: int) -> Any:  # noqa: ANN401
        if id == 0:
            return self.library_volume.get_root_directory()
        return self.library_volume.get_file_entry_by_identifier(id)

    def scandir(self, id: int) -> Iterator[tuple[bytes, Node]]:
        for number, entry, problem in self.sub_entries(id):
            if entry is None:
                yield b"?%d" % number, lost(problem)
                continue
            try:
                node = self._node(entry)
            except (OSError, FormatError) as error:
                yield b"?%d" % number, lost(reason(error))
                continue
            name = try_name(entry)
            if name in (".", ".."):
                continue
            if name is None:
                yield b"?%d" % number, node._replace(problem="the reader cannot give its name")
            else:
                yield name.encode("utf-8", "surrogatepass"), node

    def lookup(self, id: int, name: bytes) -> Node | None:
        """Upper and lower case are alike."""
        return self.look(id, name, upper)

    def stat(self, id: int) -> Node:
        if id == 0:
            return Node(0, stat.S_IFDIR | 0o755, 0, 1, 0, 0, 0, 0, 0, NO_TIME, 0, 0)
        with judged(self.kind, f"file {id}"):
            return self._node(self.entry(id))

    def readlink(self, id: int) -> bytes:
        raise FormatError("FAT has no links", structure=f"file {id}")

    def extents(self, id: int, stream: str = "") -> list[Extent] | None:
        source = self.content(id, stream)
        return self.library_extents(source, source.get_size())

    def _node(self, entry: Any) -> Node:  # noqa: ANN401
        id = entry.get_identifier()
        flags = entry.get_file_attribute_flags()
        kind = stat.S_IFDIR | 0o755 if flags & _FOLDER else stat.S_IFREG | 0o644
        if flags & _READ_ONLY:
            kind &= ~0o222
        if id < 0 or id + 32 > self.volume.size:
            raise FormatError("lies outside of the volume", structure="FAT entry", value=id)
        row = self.volume.read(id, 32)
        tenths, born_at, born, seen = struct.unpack_from("<BHHH", row, 13)
        changed_at, changed = struct.unpack_from("<HH", row, 22)
        mtime = _time(changed, changed_at)
        birth = _time(born, born_at)
        return Node(
            id,
            kind,
            0 if flags & _FOLDER else entry.get_size(),
            1,
            0,
            0,
            mtime,
            _time(seen, 0),
            mtime,
            birth + tenths * 10_000_000 if birth else NO_TIME,
            0,
            0,
        )


def _time(date: int, time: int) -> int:
    """Microsoft's rule: bits 7 (years since 1980), 4, 5; and 5, 6, 5 (of two seconds)."""
    month, day = date >> 5 & 15, date & 31
    if not 1 <= month <= 12 or not day:
        return 0
    parts = (1980 + (date >> 9), month, day, time >> 11, time >> 5 & 63, (time & 31) * 2)
    return calendar.timegm((*parts, 0, 0, 0)) * _SECOND
