# SPDX-License-Identifier: Apache-2.0
"""ext2, ext3 and ext4: inodes, directory blocks and extended attributes as they lie on the volume.

Own code beside libfsext (20260821), which cannot give names that are not UTF-8 or 255 bytes long,
and was seen to forget attributes of a file with two names. Rules: kernel documentation,
filesystems/ext4. All fields are little-endian.
"""

from __future__ import annotations

import stat
import struct
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import FormatError
from diskkit.files.filesystem import NO_TIME, Node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diskkit.filters.cache import BlockCache

ROOT = 2
_META_BG, _64BIT, _RECOVER = 0x10, 0x80, 0x4
_ENCRYPTED, _INLINE = 0x800, 0x10000000
_BASE = 128
_FIRST_TIMES = struct.Struct("<HHIIIIIHH")
_SECOND = 1_000_000_000
_XATTR_MAGIC = 0xEA020000
_INLINE_NAME = b"system.data"
_PREFIXES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
    7: b"system.",
    8: b"system.richacl",
}


class Inode(NamedTuple):
    """An inode, and the parts of it that only this module looks into."""

    node: Node
    flags: int
    raw: bytes


def _wrong(field: str, value: object, rule: str) -> FormatError:
    return FormatError(rule, structure="ext superblock", field=field, value=value)


class InodeTable:
    """Finds inodes."""

    def __init__(self, volume: BlockCache) -> None:
        """Read the superblock; judge what is used of it."""
        self.volume = volume
        block = self._read(1024, 1024)
        self.count = _u32(block, 0)
        log_size = _u32(block, 24)
        self.per_group = _u32(block, 40)
        if log_size > 6:
            raise _wrong("block size", log_size, "larger than 64 KiB")
        self.block = 1024 << log_size
        revision = struct.unpack_from("<I", block, 76)[0]
        self.size = struct.unpack_from("<H", block, 88)[0] if revision else _BASE
        incompat = struct.unpack_from("<I", block, 96)[0] if revision else 0
        if not _BASE <= self.size <= self.block or self.size & (self.size - 1):
            raise _wrong("inode size", self.size, "not a power of two from 128 to a block")
        if not self.per_group or not self.count:
            raise _wrong("inodes per group", self.per_group, "none")
        if incompat & _META_BG:
            raise _wrong("features", "meta_bg", "descriptors in another place are not read")
        wide = struct.unpack_from("<H", block, 254)[0] if incompat & _64BIT else 32
        self.descriptor = wide if 32 <= wide <= 1024 else 32
        # Behind the block of the superblock; what the superblock calls the first block of data
        # is another one with bigalloc.
        self.table = (1024 // self.block + 1) * self.block
        self.must_recover = bool(incompat & _RECOVER)
        self._groups: dict[int, int] = {}
        self._last: Inode | None = None

    def _read(self, offset: int, length: int) -> bytes:
        if offset < 0 or offset + length > self.volume.size:
            raise FormatError(
                f"bytes {offset} to {offset + length} are outside of the volume",
                structure="ext filesystem",
            )
        return self.volume.read(offset, length)

    def _group(self, number: int) -> int:
        """Byte at which the inodes of a group begin."""
        found = self._groups.get(number)
        if found is None:
            raw = self._read(self.table + number * self.descriptor, self.descriptor)
            block = struct.unpack_from("<I", raw, 8)[0]
            if self.descriptor >= 64:
                block |= struct.unpack_from("<I", raw, 40)[0] << 32
            found = self._groups[number] = block * self.block
        return found

    def inode(self, number: int) -> Inode:
        """One inode. Raises `FormatError` for a number that there cannot be."""
        if self._last is not None and self._last.node.id == number:
            return self._last  # a file is asked for its content, then for its attributes
        if not 0 < number <= self.count:
            raise FormatError(
                f"not 1 to {self.count}", structure="ext filesystem", field="inode", value=number
            )
        group, index = divmod(number - 1, self.per_group)
        raw = self._read(self._group(group) + index * self.size, self.size)
        self._last = _parse(number, raw)
        return self._last

    def attributes(self, inode: Inode) -> dict[bytes, bytes]:
        """Extended attributes: in the inode, then in a block of their own."""
        found = self._all(inode, {})
        found.pop(_INLINE_NAME, None)
        return found

    def _all(self, inode: Inode, found: dict[bytes, bytes]) -> dict[bytes, bytes]:
        raw = inode.raw
        if len(raw) > _BASE:
            begin = _BASE + struct.unpack_from("<H", raw, _BASE)[0]
            if begin + 4 <= len(raw) and _u32(raw, begin) == _XATTR_MAGIC:
                self._attributes(raw, begin + 4, begin + 4, found)
        block = _u32(raw, 104) | struct.unpack_from("<H", raw, 118)[0] << 32
        if block:
            rows = self._read(block * self.block, self.block)
            if _u32(rows, 0) != _XATTR_MAGIC:
                raise FormatError("not an attribute block", structure="ext inode", value=block)
            self._attributes(rows, 32, 0, found)
        return found

    def inline(self, inode: Inode) -> tuple[bytes, bytes]:
        """Content that lies in the inode: in place of block numbers, and behind the attributes."""
        return inode.raw[40:100], self._all(inode, {}).get(_INLINE_NAME, b"")

    def _attributes(self, rows: bytes, at: int, base: int, found: dict[bytes, bytes]) -> None:
        """Entries from `at` on; their values lie relative to `base`."""
        while at + 16 <= len(rows) and rows[at : at + 4] != b"\0\0\0\0":
            length, kind, place, other, size = struct.unpack_from("<BBHII", rows, at)
            name = _PREFIXES.get(kind, b"") + rows[at + 16 : at + 16 + length]
            if other:
                raise FormatError(
                    "its value lies in an inode of its own, which is not read",
                    structure="ext attribute",
                    value=name,
                )
            if base + place + size > len(rows):
                raise FormatError(
                    "lies outside of its block", structure="ext attribute", value=name
                )
            found[name] = rows[base + place : base + place + size]
            at += (16 + length + 3) & ~3


def _u32(raw: bytes, at: int) -> int:
    value: int = struct.unpack_from("<I", raw, at)[0]
    return value


def _parse(number: int, raw: bytes) -> Inode:
    mode, uid, low, access, change, modify, _, gid, links = _FIRST_TIMES.unpack_from(raw)
    flags, high = _u32(raw, 32), _u32(raw, 108)
    uid |= struct.unpack_from("<H", raw, 120)[0] << 16
    gid |= struct.unpack_from("<H", raw, 122)[0] << 16
    extra = struct.unpack_from("<H", raw, _BASE)[0] if len(raw) > _BASE else 0
    birth = NO_TIME
    if extra >= 16 and len(raw) >= 152:
        change_x, modify_x, access_x = struct.unpack_from("<III", raw, 132)
        if extra >= 24:
            birth = _time(_u32(raw, 144), _u32(raw, 148))
    else:
        change_x = modify_x = access_x = 0
    is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    major, minor = _device(raw) if is_device else (0, 0)
    problem = "encrypted by the guest (fscrypt)" if flags & _ENCRYPTED else ""
    node = Node(
        number,
        mode,
        (low | high << 32) & (1 << 63) - 1,
        links,
        uid,
        gid,
        _time(modify, modify_x),
        _time(access, access_x),
        _time(change, change_x),
        birth,
        major,
        minor,
        problem,
    )
    return Inode(node, flags, raw)


def _time(seconds: int, extra: int) -> int:
    """32 signed bits of seconds, two more bits of them above, 30 bits of nanoseconds."""
    if seconds >= 1 << 31:
        seconds -= 1 << 32
    return (seconds + ((extra & 3) << 32)) * _SECOND + (extra >> 2)


def _device(raw: bytes) -> tuple[int, int]:
    """The old form in the first block number, or the new one in the second."""
    old, new = struct.unpack_from("<II", raw, 40)
    if old:
        return old >> 8 & 0xFF, old & 0xFF
    return new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00


def short_link(inode: Inode) -> bytes | None:
    """The target of a link that fits into the inode."""
    if inode.node.size < 60 and not inode.flags & _INLINE and not inode.flags & 0x80000:
        return inode.raw[40 : 40 + inode.node.size]
    return None


def is_inline(inode: Inode) -> bool:
    """Whether content lies in the inode itself."""
    return bool(inode.flags & _INLINE)


def entries(block: bytes) -> Iterator[tuple[bytes, int]]:
    """Name and inode of each entry of a directory block. Raises `FormatError`.

    The nodes of an index look like unused entries to those who read on, as is meant.
    """
    at, end = 0, len(block)
    while at + 8 <= end:
        number, length, name_length = struct.unpack_from("<IHB", block, at)
        if length in (0, 0xFFFF) and end == 65536:
            length = 65536
        if length < 8 or length % 4 or at + length > end or 8 + name_length > length:
            raise FormatError(
                "does not fit into its block",
                structure="ext directory entry",
                offset=at,
                value=length,
            )
        if number and name_length:
            name = block[at + 8 : at + 8 + name_length]
            if name not in (b".", b".."):
                yield name, number
        at += length
