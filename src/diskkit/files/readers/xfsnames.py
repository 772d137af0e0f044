# SPDX-License-Identifier: Apache-2.0
"""XFS: names that are not UTF-8, which libfsxfs (20260901) cannot give, from the directories.

Rules: "XFS Algorithms & Data Structures", directories of version 2 and 3. Fields are big-endian.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from diskkit.files.filesystem import Extent
    from diskkit.filters.cache import BlockCache

_LOCAL = 1
_CORE = {1: 100, 2: 100, 3: 176}
"""Bytes of an inode before its data, by its version."""
_HEADERS = {b"XD2B": 16, b"XD2D": 16, b"XDB3": 64, b"XDD3": 64}
_WITH_TAIL = (b"XD2B", b"XDB3")
_FREE = 0xFFFF
_FTYPE_5, _FTYPE_4 = 0x1, 0x200


class Geometry(NamedTuple):
    """What the superblock says of inodes and directories."""

    block: int
    group_blocks: int
    group_log: int
    inode: int
    per_block_log: int
    folder_block: int
    with_type: bool
    """Whether entries have a byte more, of the kind of file."""

    def place(self, number: int) -> int:
        """Byte at which an inode begins."""
        inside = number & (1 << self.per_block_log) - 1
        block = number >> self.per_block_log & (1 << self.group_log) - 1
        group = number >> self.per_block_log >> self.group_log
        return (group * self.group_blocks + block) * self.block + inside * self.inode


def _wrong(field: str, value: object, rule: str) -> FormatError:
    return FormatError(rule, structure="XFS directory", field=field, value=value)


def read_geometry(raw: bytes) -> Geometry:
    """From the superblock's first 512 bytes. Raises `FormatError`."""
    (block,) = struct.unpack_from(">I", raw, 4)
    (group_blocks,) = struct.unpack_from(">I", raw, 84)
    version, _, inode = struct.unpack_from(">HHH", raw, 100)
    per_block_log, group_log, folder_log = raw[123], raw[124], raw[192]
    (more,) = struct.unpack_from(">I", raw, 200)
    (incompatible,) = struct.unpack_from(">I", raw, 216)
    if not 512 <= block <= 65536 or not 256 <= inode <= 2048 or folder_log > 7:
        raise _wrong("superblock", (block, inode, folder_log), "sizes that there cannot be")
    if group_log > 32 or per_block_log > 8 or block << folder_log > 65536:
        raise _wrong("superblock", (group_log, per_block_log), "sizes that there cannot be")
    typed = incompatible & _FTYPE_5 if version & 15 == 5 else more & _FTYPE_4
    return Geometry(
        block, group_blocks, group_log, inode, per_block_log, block << folder_log, bool(typed)
    )


def entries(
    volume: BlockCache, geometry: Geometry, number: int, extents: Callable[[], Iterable[Extent]]
) -> Iterator[tuple[bytes, int]]:
    """Names and inodes in the directory of inode `number`, whose blocks `extents` tells.

    Raises `FormatError`.
    """
    place = geometry.place(number)
    raw = _read(volume, place, geometry.inode)
    core = _CORE.get(raw[4])
    if raw[:2] != b"IN" or core is None:
        raise _wrong("inode", number, "is none")
    if raw[5] == _LOCAL:
        yield from _short(raw[core:], typed=geometry.with_type)
        return
    step = geometry.folder_block
    for extent in extents():
        for begin in range(0, extent.length - step + 1, step):
            block = _read(volume, extent.offset + begin, step)
            # The others are indexes: they hold no names.
            if block[:4] in _HEADERS:
                yield from _block(block, typed=geometry.with_type)


def _read(volume: BlockCache, offset: int, length: int) -> bytes:
    if offset < 0 or offset + length > volume.size:
        raise _wrong("place", offset, f"outside of the volume's {volume.size} bytes")
    return volume.read(offset, length)


def _short(raw: bytes, *, typed: bool) -> Iterator[tuple[bytes, int]]:
    """A directory that fits into its inode."""
    count, wide = raw[0], raw[1]
    width = 8 if wide else 4
    at = 2 + width
    for _ in range(count):
        if at >= len(raw):
            raise _wrong("entry", at, "lies behind the inode's end")
        length = raw[at]
        end = at + 3 + length + typed
        if end + width > len(raw):
            raise _wrong("entry", at, "lies behind the inode's end")
        yield raw[at + 3 : at + 3 + length], int.from_bytes(raw[end : end + width], "big")
        at = end + width


def _block(raw: bytes, *, typed: bool) -> Iterator[tuple[bytes, int]]:
    at, end = _HEADERS[raw[:4]], len(raw)
    if raw[:4] in _WITH_TAIL:
        (count,) = struct.unpack_from(">I", raw, end - 8)
        end -= 8 + 8 * count
    while at + 16 <= end:
        mark, length = struct.unpack_from(">HH", raw, at)
        if mark == _FREE:
            if length < 8 or length % 8:
                raise _wrong("free space", length, "no multiple of 8")
            at += length
            continue
        number, size = struct.unpack_from(">QB", raw, at)
        after = at + (9 + size + typed + 2 + 7 & ~7)
        if not size or after > end:
            raise _wrong("entry", at, "does not fit into its block")
        name = raw[at + 9 : at + 9 + size]
        if name not in (b".", b".."):
            yield name, number
        at = after
