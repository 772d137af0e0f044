# SPDX-License-Identifier: Apache-2.0
"""ext2, ext3 and ext4: content through libfsext, names and inodes by our own code."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pyfsext

from diskkit.errors import FormatError, UnsupportedFeature
from diskkit.files.readers.extinodes import ROOT, InodeTable, entries, is_inline, short_link
from diskkit.files.readers.libyal import LibraryReader, judged, lost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diskkit.files.filesystem import Extent, Node
    from diskkit.filters.cache import BlockCache

MAX_TARGET = 65536
_STEP = 1 << 20


class Reader(LibraryReader):
    """An ext filesystem. Its journal is not replayed: what was written last may be missing."""

    root = ROOT

    def __init__(self, kind: str, volume: BlockCache) -> None:
        """Open it."""
        super().__init__(kind, volume, pyfsext)
        self.table = InodeTable(volume)
        if self.table.must_recover:
            self.warnings.append(
                f"this {kind} was not unmounted: its journal is not replayed, so what was written "
                "last may be missing"
            )

    def _open(self, id: int) -> Any:  # noqa: ANN401
        return self.library_volume.get_file_entry_by_inode(id)

    def scandir(self, id: int) -> Iterator[tuple[bytes, Node]]:
        folder = self.table.inode(id)
        if not folder.node.is_dir:
            raise FormatError("not a directory", structure="ext inode", value=id)
        if folder.node.problem:
            raise UnsupportedFeature(folder.node.problem, structure=f"directory {id}")
        for name, number in self._names(id, inline=is_inline(folder)):
            try:
                node = self.table.inode(number).node
            except FormatError as error:
                node = lost(str(error), number)
            yield name, node

    def _names(self, id: int, *, inline: bool) -> Iterator[tuple[bytes, int]]:
        if inline:
            yield from self._inline_names(id)
            return
        size = self.table.block
        for extent in self.extents(id) or []:
            if extent.offset < 0:
                continue
            if extent.offset + extent.length > self.volume.size:
                raise FormatError("lies outside of the volume", structure=f"directory {id}")
            for begin in range(0, extent.length, _STEP):
                step = min(_STEP, extent.length - begin)
                content = self.volume.read(extent.offset + begin, step)
                for at in range(0, step - size + 1, size):
                    yield from entries(content[at : at + size])

    def _inline_names(self, id: int) -> Iterator[tuple[bytes, int]]:
        """The first four bytes are the parent's number; `.` and `..` are not there."""
        first, rest = self.table.inline(self.table.inode(id))
        yield from entries(first[4:])
        yield from entries(rest)

    def lookup(self, id: int, name: bytes) -> Node | None:
        folder = self.table.inode(id)
        if not folder.node.is_dir or folder.node.problem:
            return None
        names = partial(self._names, id, inline=is_inline(folder))
        number = self.folders.look(id, name, names)
        return None if number is None else self.table.inode(number).node

    def stat(self, id: int) -> Node:
        return self.table.inode(id).node

    def readlink(self, id: int) -> bytes:
        inode = self.table.inode(id)
        if not inode.node.is_link:
            raise FormatError("not a link", structure="ext inode", value=id)
        target = short_link(inode)
        return target if target is not None else self._long_target(id)

    def _long_target(self, id: int) -> bytes:
        inode = self.table.inode(id)
        if is_inline(inode):
            return self.read_at(id, 0, min(inode.node.size, MAX_TARGET))
        with judged(self.kind, f"link {id}"):
            found: str | None = self.entry(id).get_symbolic_link_target()
        return (found or "").encode("utf-8", "surrogatepass")[:MAX_TARGET]

    def xattrs(self, id: int) -> dict[bytes, bytes]:
        return self.table.attributes(self.table.inode(id))

    def read_at(self, id: int, offset: int, length: int, stream: str = "") -> bytes:
        inode = self.table.inode(id)
        if not is_inline(inode) or stream:
            return super().read_at(id, offset, length, stream)
        # The library (20260821) reads the first of the two parts only.
        whole = b"".join(self.table.inline(inode))
        return whole[: inode.node.size][offset : offset + length]

    def content(self, id: int, stream: str) -> Any:  # noqa: ANN401
        problem = self.table.inode(id).node.problem
        if problem:
            raise UnsupportedFeature(problem, structure=f"file {id}")
        return super().content(id, stream)

    def extents(self, id: int, stream: str = "") -> list[Extent] | None:
        source = self.content(id, stream)
        inode = self.table.inode(id)
        if is_inline(inode):
            return None
        return self.library_extents(source, inode.node.size)
