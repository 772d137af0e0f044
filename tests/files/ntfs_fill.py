# SPDX-License-Identifier: Apache-2.0
"""Fills an NTFS volume through libntfs-3g; run as a program: ntfs_fill.py IMAGE FOLDER.

Needs no root and no mount. Copies the tree of FOLDER: folders, files with their holes, hard links,
and symbolic links as Interix has them, or as WSL has in a folder whose name ends in `.wsl`.
`NAME:STREAM` beside a file or folder is an alternate data stream of it, `NAME:$REPARSE_POINT` its
reparse point. What is in a folder whose name ends in `.compressed` is compressed.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
from pathlib import Path

_FILE, _FOLDER = 0o100000, 0o040000
_DATA = 0x80
_PIECE = 1 << 20
_COMPRESSED = (0x800).to_bytes(4, "little")
_STATE_OFFSET, _STATE_COMPRESSION = 16, 1 << 6
"""Where `ntfs_volume` has its flags, and the one that allows compression (NV_Compression)."""


class Library:
    """The few functions needed, with their types."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("ntfs-3g")
        if name is None:
            raise SystemExit("no libntfs-3g")
        self.c = c = ctypes.CDLL(name, use_errno=True)
        pointer, text = ctypes.c_void_p, ctypes.c_char_p
        wide, number, long = ctypes.c_char_p, ctypes.c_uint32, ctypes.c_int64
        for function, result, arguments in (
            ("ntfs_mount", pointer, [text, ctypes.c_ulong]),
            ("ntfs_umount", ctypes.c_int, [pointer, ctypes.c_int]),
            ("ntfs_pathname_to_inode", pointer, [pointer, pointer, text]),
            ("ntfs_create", pointer, [pointer, number, wide, ctypes.c_uint8, number]),
            (
                "ntfs_create_symlink",
                pointer,
                [pointer, number, wide, ctypes.c_uint8, wide, ctypes.c_int],
            ),
            ("ntfs_reparse_set_wsl_symlink", ctypes.c_int, [pointer, wide, ctypes.c_int]),
            ("ntfs_link", ctypes.c_int, [pointer, pointer, wide, ctypes.c_uint8]),
            ("ntfs_inode_close", ctypes.c_int, [pointer]),
            ("ntfs_inode_close_in_dir", ctypes.c_int, [pointer, pointer]),
            ("ntfs_attr_open", pointer, [pointer, number, wide, number]),
            ("ntfs_attr_add", ctypes.c_int, [pointer, number, wide, ctypes.c_uint8, pointer, long]),
            ("ntfs_attr_pwrite", long, [pointer, long, long, text]),
            ("ntfs_attr_truncate", ctypes.c_int, [pointer, long]),
            ("ntfs_attr_pclose", ctypes.c_int, [pointer]),
            ("ntfs_attr_close", None, [pointer]),
            ("ntfs_set_ntfs_attrib", ctypes.c_int, [pointer, text, ctypes.c_size_t, ctypes.c_int]),
            (
                "ntfs_set_ntfs_reparse_data",
                ctypes.c_int,
                [pointer, text, ctypes.c_size_t, ctypes.c_int],
            ),
        ):
            f = getattr(c, function)
            f.restype, f.argtypes = result, arguments


def fail(what: str) -> SystemExit:
    return SystemExit(f"{what}: {os.strerror(ctypes.get_errno())}")


def fill(image: str, folder: Path) -> None:
    c = Library().c
    volume = c.ntfs_mount(image.encode(), 0)
    if not volume:
        raise fail(image)
    ctypes.c_ulong.from_address(volume + _STATE_OFFSET).value |= _STATE_COMPRESSION
    seen: dict[int, str] = {}
    for path in sorted(folder.rglob("*"), key=lambda p: (p.name.count(":"), str(p))):
        inside = "/" + str(path.relative_to(folder))
        if ":" in path.name:
            _stream(c, volume, inside, path)
            continue
        name = path.name.encode("utf-16-le")
        parent = c.ntfs_pathname_to_inode(volume, None, str(Path(inside).parent).encode())
        inode = path.lstat().st_ino
        if path.is_symlink():
            node = _link(c, parent, name, path)
        elif not path.is_dir() and inode in seen:
            node = c.ntfs_pathname_to_inode(volume, None, seen[inode].encode())
            if c.ntfs_link(node, parent, name, len(name) // 2):
                raise fail(inside)
        else:
            kind = _FOLDER if path.is_dir() else _FILE
            node = c.ntfs_create(parent, 0, name, len(name) // 2, kind)
            if not node:
                raise fail(inside)
            if path.is_file():
                seen[inode] = inside
                _put(c, node, b"", path)
            elif path.suffix == ".compressed" and c.ntfs_set_ntfs_attrib(node, _COMPRESSED, 4, 0):
                raise fail(inside)
        # Closed on its own it would open the parent a second time, and spoil its index.
        if c.ntfs_inode_close_in_dir(node, parent) or c.ntfs_inode_close(parent):
            raise fail(inside)
    if c.ntfs_umount(volume, 0):
        raise fail(image)


def _link(c: ctypes.CDLL, parent: int, name: bytes, path: Path) -> int:
    target = str(path.readlink()).encode("utf-16-le")
    words = name, len(name) // 2
    node: int
    if path.parent.suffix == ".wsl":
        node = c.ntfs_create(parent, 0, *words, _FILE)
        if not node or c.ntfs_reparse_set_wsl_symlink(node, target, len(target) // 2):
            raise fail(str(path))
    else:
        node = c.ntfs_create_symlink(parent, 0, *words, target, len(target) // 2)
        if not node:
            raise fail(str(path))
    return node


def _stream(c: ctypes.CDLL, volume: int, inside: str, path: Path) -> None:
    owner, _, stream = inside.rpartition(":")
    node = c.ntfs_pathname_to_inode(volume, None, owner.encode())
    if node and stream == "$REPARSE_POINT":
        content = path.read_bytes()
        if c.ntfs_set_ntfs_reparse_data(node, content, len(content), 0):
            raise fail(inside)
        c.ntfs_inode_close(node)
        return
    name = stream.encode("utf-16-le")
    if not node or c.ntfs_attr_add(node, _DATA, name, len(name) // 2, None, 0):
        raise fail(inside)
    _put(c, node, name, path)
    c.ntfs_inode_close(node)


def _put(c: ctypes.CDLL, node: int, name: bytes, path: Path) -> None:
    attribute = c.ntfs_attr_open(node, _DATA, name, len(name) // 2)
    if not attribute:
        raise fail("open")
    with path.open("rb", buffering=0) as f:
        size = f.seek(0, os.SEEK_END)
        at = 0
        while at < size:
            try:
                at = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = min(os.lseek(f.fileno(), at, os.SEEK_HOLE), at + _PIECE)
            part = os.pread(f.fileno(), end - at, at)
            if c.ntfs_attr_pwrite(attribute, at, len(part), part) != len(part):
                raise fail("write")
            at = end
    if at < size and c.ntfs_attr_truncate(attribute, size):
        raise fail("hole at the end")
    if c.ntfs_attr_pclose(attribute):
        raise fail("end of a compressed file")
    c.ntfs_attr_close(attribute)


if __name__ == "__main__":
    fill(sys.argv[1], Path(sys.argv[2]))
