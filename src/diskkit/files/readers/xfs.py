# SPDX-License-Identifier: Apache-2.0
"""XFS, through libfsxfs."""

from __future__ import annotations

import stat
import struct
from functools import partial
from typing import TYPE_CHECKING, Any

import pyfsxfs

from diskkit.errors import FormatError
from diskkit.files.filesystem import NO_TIME, Extent, Node
from diskkit.files.readers.libyal import (
    MAX_EXTENTS,
    LibraryReader,
    judged,
    lost,
    reason,
    try_name,
)
from diskkit.files.readers.xfsnames import entries, read_geometry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diskkit.filters.cache import BlockCache

_PROBE = 512
"""Bytes of an extent that are read both ways."""
_NO_NAME = "the reader cannot give its name"


class Reader(LibraryReader):
    """An XFS filesystem. An entry without a name is listed as ?NUMBER, with a problem."""

    def __init__(self, kind: str, volume: BlockCache) -> None:
        """Open it."""
        super().__init__(kind, volume, pyfsxfs)
        self._groups = _Groups(volume)
        with judged(kind, "root directory"):
            self.root = self.library_volume.get_root_directory().get_inode_number()

    def _open(self, id: int) -> Any:  # noqa: ANN401
        return self.library_volume.get_file_entry_by_inode(id)

    def scandir(self, id: int) -> Iterator[tuple[bytes, Node]]:
        others: dict[int, list[bytes]] | None = None
        no_name = _NO_NAME
        for number, entry, problem in self.sub_entries(id):
            if entry is None:
                yield b"?%d" % number, lost(problem)
                continue
            name = try_name(entry)
            try:
                node = _node(entry)
            except OSError as error:
                node = lost(reason(error))
            if name is None:
                if others is None:
                    try:
                        others = self._other_names(id)
                    except FormatError as error:
                        others, no_name = {}, f"{_NO_NAME}: {error}"[:300]
                # Several names of one file in one directory come in the directory's order.
                known = others.get(node.id)
                if known:
                    yield known.pop(0), node
                else:
                    yield b"?%d" % node.id, node._replace(problem=no_name)
            else:
                yield name.encode("utf-8", "surrogatepass"), node

    def _other_names(self, id: int) -> dict[int, list[bytes]]:
        """The names of a directory that are not UTF-8, by inode. Raises `FormatError`."""
        found: dict[int, list[bytes]] = {}
        raw = self.volume.read(0, min(512, self.volume.size)).ljust(512, b"\0")
        blocks = partial(self._folder_blocks, id)
        for name, number in entries(self.volume, read_geometry(raw), id, blocks):
            if not _is_text(name):
                found.setdefault(number, []).append(name)
        return found

    def _folder_blocks(self, id: int) -> Iterator[Extent]:
        """Where a directory lies, with its indexes: its size is none to the library."""
        source = self.entry(id)
        with judged(self.kind, f"directory {id}"):
            count = source.get_number_of_extents()
            for number in range(min(count, MAX_EXTENTS)):
                offset, length, _ = source.get_extent(number)
                yield Extent(length, self._groups.place(offset))

    def lookup(self, id: int, name: bytes) -> Node | None:
        """By reading on: the library's own search fails on small directories (20260901)."""
        return self.look(id, name, None)

    def stat(self, id: int) -> Node:
        with judged(self.kind, f"file {id}"):
            return _node(self.entry(id))

    def readlink(self, id: int) -> bytes:
        with judged(self.kind, f"link {id}"):
            target: str | None = self.entry(id).get_symbolic_link_target()
        return (target or "").encode("utf-8", "surrogatepass")

    def xattrs(self, id: int) -> dict[bytes, bytes]:
        entry = self.entry(id)
        found = {}
        with judged(self.kind, f"attributes of {id}"):
            for number in range(entry.get_number_of_extended_attributes()):
                attribute = entry.get_extended_attribute(number)
                size = attribute.get_size()
                value = attribute.read_buffer_at_offset(size, 0) if size else b""
                found[attribute.get_name().encode("utf-8", "surrogatepass")] = value
        return found

    def extents(self, id: int, stream: str = "") -> list[Extent] | None:
        source = self.content(id, stream)
        found = self.library_extents(source, source.get_size())
        if found is None:
            return None
        placed = []
        at = 0
        for extent in found:
            place = extent.offset
            if place >= 0:
                place = self._groups.place(extent.offset)
                if place != extent.offset and not self._agrees(source, at, place, extent.length):
                    return None
            placed.append(Extent(extent.length, place))
            at += extent.length
        return placed

    def _agrees(self, source: Any, at: int, place: int, length: int) -> bool:  # noqa: ANN401
        """Whether the library reads the same there: should it mend its offsets, ours are wrong."""
        length = min(length, _PROBE)
        if place + length > self.volume.size:
            return False
        with judged(self.kind, "extents"):
            theirs = source.read_buffer_at_offset(length, at)
        return bool(theirs == self.volume.read(place, length))


def _is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


class _Groups:
    """Where blocks lie: the upper bits of a number are the group's, and groups are no power of two.

    libfsxfs (20260901) gives the number times the size of a block.
    """

    def __init__(self, volume: BlockCache) -> None:
        raw = volume.read(0, min(128, volume.size)).ljust(128, b"\0")
        self.block: int = struct.unpack_from(">I", raw, 4)[0]
        self.blocks: int = struct.unpack_from(">I", raw, 84)[0]
        self.log: int = raw[124]
        if not 512 <= self.block <= 65536 or not self.blocks or self.log > 32:
            raise FormatError(
                "not those of allocation groups",
                structure="XFS superblock",
                field="blocks",
                value=(self.block, self.blocks, self.log),
            )

    def place(self, offset: int) -> int:
        """Byte of the volume, for what the library calls the offset."""
        number, inside = divmod(offset, self.block)
        group, number = number >> self.log, number & (1 << self.log) - 1
        return (group * self.blocks + number) * self.block + inside


def _node(entry: Any) -> Node:  # noqa: ANN401
    mode = entry.get_file_mode()
    device = None
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        device = entry.get_device_number()
    major, minor = device or (0, 0)
    created = entry.get_creation_time_as_integer()
    return Node(
        entry.get_inode_number(),
        mode,
        entry.get_size(),
        entry.get_number_of_links(),
        entry.get_owner_identifier(),
        entry.get_group_identifier(),
        entry.get_modification_time_as_integer(),
        entry.get_access_time_as_integer(),
        entry.get_inode_change_time_as_integer(),
        NO_TIME if created is None else created,
        major,
        minor,
    )
