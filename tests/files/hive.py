# SPDX-License-Identifier: Apache-2.0
"""Writes a registry hive, from the published description of the format (regf 1.5)."""

from __future__ import annotations

import struct
from typing import TypeAlias

Tree: TypeAlias = "dict[str, Tree | str | int | bytes]"
NONE = 0xFFFFFFFF
BIG = 16344
"""Bytes of data that a cell holds at most."""


class _Cells:
    def __init__(self) -> None:
        self.raw = bytearray(32)  # the header of the only bin

    def add(self, content: bytes) -> int:
        place = len(self.raw)
        size = -(-(len(content) + 4) // 8) * 8
        self.raw += struct.pack("<i", -size) + content.ljust(size - 4, b"\0")
        return place

    def data(self, content: bytes) -> int:
        """A value's data: in one cell, or in many that a list names."""
        if len(content) <= BIG:
            return self.add(content)
        parts = [self.add(content[at : at + BIG]) for at in range(0, len(content), BIG)]
        listed = self.add(struct.pack(f"<{len(parts)}I", *parts))
        return self.add(struct.pack("<2sHI", b"db", len(parts), listed))

    def value(self, name: str, value: str | int | bytes) -> int:
        if isinstance(value, int):
            data, kind = value.to_bytes(4, "little"), 4
            size, place = 4 | 1 << 31, int.from_bytes(data, "little")
        elif isinstance(value, bytes):
            kind, size = 3, len(value)
            if size > 4:
                place = self.data(value)
            else:  # it stands in the value itself
                size, place = size | 1 << 31, int.from_bytes(value, "little")
        else:
            data, kind = value.encode("utf-16-le") + b"\0\0", 1
            size, place = len(data), self.add(data)
        head = struct.pack("<2sHIIIHH", b"vk", len(name), size, place, kind, 1, 0)
        return self.add(head + name.encode())

    def key(self, name: str, tree: Tree, parent: int, flags: int = 0x20) -> int:
        place = self.add(bytes(76) + name.encode())
        below = sorted((k, v) for k, v in tree.items() if isinstance(v, dict))
        keys = [(k, self.key(k, v, place)) for k, v in below]
        values = [self.value(k, v) for k, v in tree.items() if not isinstance(v, dict)]
        rows = b"".join(struct.pack("<I4s", at, k.encode()[:4]) for k, at in keys)
        keys_at = self.add(struct.pack("<2sH", b"lf", len(keys)) + rows) if keys else NONE
        listed = struct.pack(f"<{len(values)}I", *values)
        values_at = self.add(listed) if values else NONE
        head = struct.pack(
            "<2sHQIIIIIIIIII20xHH",
            b"nk",
            flags,
            0x01D00000_00000000,
            0,
            parent,
            len(keys),
            0,
            keys_at,
            NONE,
            len(values),
            values_at,
            NONE,
            NONE,
            len(name),
            0,
        )
        self.raw[place + 4 : place + 4 + len(head)] = head
        return place


def hive(tree: Tree) -> bytes:
    """A hive with these keys (dicts) and values (texts, 32-bit numbers, binary)."""
    cells = _Cells()
    root = cells.key("ROOT", tree, NONE, 0x2C)
    size = -(-len(cells.raw) // 4096) * 4096
    rest = size - len(cells.raw)
    if rest >= 8:
        cells.raw += struct.pack("<i", rest)
    cells.raw += bytes(size - len(cells.raw))
    cells.raw[:32] = struct.pack("<4sIIQQI", b"hbin", 0, size, 0, 0, 0)
    base = struct.pack("<4sIIQIIIIIII", b"regf", 1, 1, 0, 1, 5, 0, 1, root, size, 1)
    base = base.ljust(508, b"\0")
    check = 0
    for (word,) in struct.iter_unpack("<I", base):
        check ^= word
    return (base + struct.pack("<I", check)).ljust(4096, b"\0") + bytes(cells.raw)
