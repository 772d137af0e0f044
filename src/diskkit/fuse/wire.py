# SPDX-License-Identifier: Apache-2.0
"""The messages between the kernel and a FUSE server: layouts and numbers. Pure.

They are those of the kernel's interface, version 7.31 and later (uapi/linux/fuse.h).
"""

from __future__ import annotations

import stat
from enum import IntEnum
from struct import Struct
from typing import NamedTuple

MAJOR, MINOR = 7, 31
"""The version spoken. Older kernels are refused; newer ones speak the older version with us."""
ROOT = 1
"""The number of the topmost node."""
MAX_WRITE = 1 << 20
HEAD = 4096
"""Room in front of written bytes for the headers of a request."""
FOREVER = 3600
"""Seconds for which the kernel may keep names and attributes: nothing else changes them."""

IN = Struct("=IIQQIIII")
"""len, opcode, unique, nodeid, uid, gid, pid, (extensions, padding)."""
OUT = Struct("=IiQ")
"""len, error, unique."""


class Op(IntEnum):
    """What is asked for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    GETXATTR = 22
    LISTXATTR = 23
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    LSEEK = 46


SILENT = frozenset((Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT))
"""These get no answer."""

# Flags of INIT.
ASYNC_READ, BIG_WRITES, DO_READDIRPLUS = 1 << 0, 1 << 5, 1 << 13
ASYNC_DIO, PARALLEL_DIROPS = 1 << 15, 1 << 18
MAX_PAGES, CACHE_SYMLINKS, HANDLE_KILLPRIV_V2 = 1 << 22, 1 << 23, 1 << 28
# Not READDIRPLUS_AUTO: with it, the kernel takes most entries without attributes, and then looks
# each up, which costs hundreds of times what sending them costs.
WANTED = (
    ASYNC_READ
    | BIG_WRITES
    | DO_READDIRPLUS
    | ASYNC_DIO
    | PARALLEL_DIROPS
    | MAX_PAGES
    | CACHE_SYMLINKS
    # Nothing that can be written to has a set-uid bit, and without this the kernel asks for the
    # attribute security.capability before each write.
    | HANDLE_KILLPRIV_V2
)
# Flags of OPEN, in the answer.
KEEP_CACHE, CACHE_DIR, NOFLUSH, PARALLEL_DIRECT_WRITES = 1 << 1, 1 << 3, 1 << 5, 1 << 6
# Bits of SETATTR that say what is to be set.
SET_SIZE = 1 << 3
# Modes of FALLOCATE.
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16

_INIT_IN = Struct("=IIII")
_INIT_OUT = Struct("=IIIIHHIIHHII24x")
_ATTR = Struct("=6Q10I")
_ENTRY = Struct("=QQQQII")
_ATTR_OUT = Struct("=QII")
_OPEN_IN = Struct("=II")
_OPEN_OUT = Struct("=QII")
_READ_IN = Struct("=QQIIQII")
_WROTE = Struct(OUT.format + "II")
_FH = Struct("=Q")
_FALLOCATE_IN = Struct("=QQQII")
_SETATTR_IN = Struct("=IIQQ")
_LSEEK_IN = Struct("=QQII")
_XATTR_IN = Struct("=II")
_STATFS = Struct("=QQQQQIIII24x")
_DIRENT = Struct("=QQII")

WRITE_DATA = IN.size + _READ_IN.size
"""Where the bytes of a WRITE begin in its message: a WRITE has the fields of a READ."""


class Malformed(Exception):
    """A message is shorter than its kind."""


class Request(NamedTuple):
    """What every message begins with."""

    length: int
    opcode: int
    unique: int
    node: int


class Transfer(NamedTuple):
    """The arguments of READ and WRITE."""

    handle: int
    offset: int
    size: int


class Attributes(NamedTuple):
    """What stat answers. Times are nanoseconds since 1970."""

    node: int
    mode: int
    size: int
    blocks: int
    """Of 512 bytes."""
    links: int = 1
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    atime: int = 0
    ctime: int = 0
    rdev: int = 0


def _unpack(layout: Struct, raw: memoryview, offset: int = IN.size) -> tuple[int, ...]:
    if len(raw) < offset + layout.size:
        raise Malformed(f"{len(raw)} bytes, not {offset + layout.size}")
    return layout.unpack_from(raw, offset)


def request(raw: memoryview) -> Request:
    """The head of a message, whose length is for the caller to judge. Raises `Malformed`."""
    length, opcode, unique, node, *_ = _unpack(IN, raw, 0)
    return Request(length, opcode, unique, node)


def check_length(head: Request, raw: memoryview) -> None:
    """Raise `Malformed` if a message is not as long as its head says."""
    if head.length != len(raw):
        raise Malformed(f"{len(raw)} bytes, and says {head.length}")


def name(raw: memoryview, offset: int = IN.size) -> bytes:
    """The name that ends a message, without its NUL."""
    text = bytes(raw[offset:])
    if not text.endswith(b"\0"):
        raise Malformed("a name without end")
    return text[: text.index(b"\0")]


def init(raw: memoryview) -> tuple[int, int, int, int]:
    """Major, minor, read-ahead and flags of the kernel."""
    return _unpack(_INIT_IN, raw)  # type: ignore[return-value]


def init_answer(read_ahead: int, flags: int) -> bytes:
    """What we speak and want."""
    pages = MAX_WRITE // 4096
    return _INIT_OUT.pack(MAJOR, MINOR, read_ahead, flags, 64, 48, MAX_WRITE, 1, pages, 0, 0, 0)


def transfer(raw: memoryview) -> Transfer:
    """Of READ, WRITE, READDIR and READDIRPLUS."""
    handle, offset, size, *_ = _unpack(_READ_IN, raw)
    return Transfer(handle, offset, size)


def open_flags(raw: memoryview) -> int:
    """As in open(2)."""
    return _unpack(_OPEN_IN, raw)[0]


def handle(raw: memoryview) -> int:
    """Of RELEASE, RELEASEDIR, FSYNC."""
    return _unpack(_FH, raw)[0]


def fallocate(raw: memoryview) -> tuple[int, int, int]:
    """Offset, length, mode."""
    _, offset, length, mode, _ = _unpack(_FALLOCATE_IN, raw)
    return offset, length, mode


def setattr_size(raw: memoryview) -> int | None:
    """The size to be set, if that is asked for."""
    valid, _, _, size = _unpack(_SETATTR_IN, raw)
    return size if valid & SET_SIZE else None


def lseek(raw: memoryview) -> tuple[int, int]:
    """Offset and whence."""
    _, offset, whence, _ = _unpack(_LSEEK_IN, raw)
    return offset, whence


def xattr_size(raw: memoryview) -> int:
    """Room in the caller's buffer; 0: only the size is wanted."""
    return _unpack(_XATTR_IN, raw)[0]


def xattr_name(raw: memoryview) -> bytes:
    """Of GETXATTR."""
    return name(raw, IN.size + _XATTR_IN.size)


def refusal(unique: int, number: int) -> bytes:
    """The answer that is an error number, from 1 to 511."""
    return OUT.pack(OUT.size, -number, unique)


def attributes(a: Attributes) -> bytes:
    """As every answer about a node holds them."""
    times = [divmod(max(t, 0), 1_000_000_000) for t in (a.atime, a.mtime, a.ctime)]
    return _ATTR.pack(
        a.node,
        a.size,
        a.blocks,
        *(seconds for seconds, _ in times),
        *(rest for _, rest in times),
        a.mode,
        a.links,
        a.uid,
        a.gid,
        a.rdev,
        4096,
        0,
    )


def entry(a: Attributes) -> bytes:
    """The answer of LOOKUP."""
    return _ENTRY.pack(a.node, 0, FOREVER, FOREVER, 0, 0) + attributes(a)


def nothing() -> bytes:
    """The answer of LOOKUP that lets the kernel remember that there is no such name."""
    return _ENTRY.pack(0, 0, FOREVER, 0, 0, 0) + bytes(_ATTR.size)


def attribute_answer(a: Attributes) -> bytes:
    """The answer of GETATTR and SETATTR."""
    return _ATTR_OUT.pack(FOREVER, 0, 0) + attributes(a)


def open_answer(number: int, flags: int) -> bytes:
    """The answer of OPEN and OPENDIR."""
    return _OPEN_OUT.pack(number, flags, 0)


def wrote(unique: int, size: int) -> bytes:
    """The answer of WRITE, head included."""
    return _WROTE.pack(_WROTE.size, 0, unique, size, 0)


def lseek_answer(offset: int) -> bytes:
    """The answer of LSEEK."""
    return _FH.pack(offset)


def xattr_answer(size: int) -> bytes:
    """The answer of GETXATTR and LISTXATTR that tells a size."""
    return _XATTR_IN.pack(size, 0)


def statfs_answer(size: int) -> bytes:
    """A full filesystem of that many bytes."""
    return _STATFS.pack(size // 4096, 0, 0, 0, 0, 4096, 255, 4096, 0)


def dirent(number: int, position: int, mode: int, label: bytes) -> bytes:
    """An entry of READDIR; `position` is where the next one begins."""
    head = _DIRENT.pack(number, position, len(label), stat.S_IFMT(mode) >> 12)
    return head + label + bytes(-(len(label)) % 8)
