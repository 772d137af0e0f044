# SPDX-License-Identifier: Apache-2.0
"""The kernel's messages, byte by byte, as uapi/linux/fuse.h has them."""

from __future__ import annotations

import stat
import struct
from typing import TYPE_CHECKING

import pytest

from diskkit.fuse import wire
from diskkit.fuse.wire import Attributes

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD = struct.pack("<IIQQIIII", 999, 15, 7, 2, 1000, 100, 4242, 0)
NODE = Attributes(
    node=0x1122334455667788,
    mode=stat.S_IFREG | 0o640,
    size=1 << 40,
    blocks=3,
    links=2,
    uid=1000,
    gid=100,
    mtime=1_600_000_000_123_456_789,
    atime=5_000_000_000,
    ctime=-1,
    rdev=0,
)

REQUESTS: list[tuple[Callable[[memoryview], object], bytes, object]] = [
    (wire.request, b"", wire.Request(999, 15, 7, 2)),
    (wire.init, struct.pack("<IIII", 7, 45, 131072, 0xF0F0), (7, 45, 131072, 0xF0F0)),
    (wire.open_flags, struct.pack("<II", 0o100002, 0), 0o100002),
    (
        wire.transfer,
        struct.pack("<QQIIQII", 3, 1 << 41, 65536, 0, 9, 2, 0),
        wire.Transfer(3, 1 << 41, 65536),
    ),
    (wire.handle, struct.pack("<Q", 1 << 50), 1 << 50),
    (wire.fallocate, struct.pack("<QQQII", 3, 4096, 8192, 3, 0), (4096, 8192, 3)),
    (wire.setattr_size, struct.pack("<IIQQ", 8, 0, 3, 77), 77),
    (wire.setattr_size, struct.pack("<IIQQ", 1 | 2 | 4, 0, 3, 77), None),
    (wire.lseek, struct.pack("<QQII", 3, 512, 4, 0), (512, 4)),
    (wire.xattr_size, struct.pack("<II", 256, 0), 256),
]


@pytest.mark.parametrize(
    ("parse", "body", "said"), REQUESTS, ids=lambda v: getattr(v, "__name__", "")
)
def test_requests(parse: Callable[[memoryview], object], body: bytes, said: object) -> None:
    raw = HEAD + body
    assert parse(memoryview(raw)) == said
    assert parse(memoryview(raw + bytes(40))) == said  # kernels add fields at the end
    for length in range(len(raw)):
        with pytest.raises(wire.Malformed):
            parse(memoryview(raw[:length]))


def test_names() -> None:
    assert wire.name(memoryview(HEAD + b"a b\xff\0")) == b"a b\xff"
    assert wire.name(memoryview(HEAD + b"first\0second\0")) == b"first"
    assert wire.xattr_name(memoryview(HEAD + bytes(8) + b"user.x\0")) == b"user.x"
    for raw in (b"", HEAD, HEAD + b"endless", HEAD[:-5] + b"\0"[:0]):
        with pytest.raises(wire.Malformed):
            wire.name(memoryview(raw))


ATTRIBUTES = struct.pack(
    "<QQQQQQIIIIIIIIII",
    0x1122334455667788, 1 << 40, 3, 5, 1_600_000_000, 0, 0, 123_456_789, 0,
    stat.S_IFREG | 0o640, 2, 1000, 100, 0, 4096, 0,
)  # fmt: skip
HOUR = 3600

ANSWERS = [
    (wire.attributes(NODE), ATTRIBUTES, 88),
    (
        wire.entry(NODE),
        struct.pack("<QQQQII", NODE.node, 0, HOUR, HOUR, 0, 0) + ATTRIBUTES,
        128,
    ),
    (wire.nothing(), struct.pack("<QQQQII", 0, 0, HOUR, 0, 0, 0) + bytes(88), 128),
    (wire.attribute_answer(NODE), struct.pack("<QII", HOUR, 0, 0) + ATTRIBUTES, 104),
    (wire.open_answer(5, 2), struct.pack("<QII", 5, 2, 0), 16),
    (wire.wrote(6, 4096), struct.pack("<IiQII", 24, 0, 6, 4096, 0), 24),
    (wire.lseek_answer(1 << 41), struct.pack("<Q", 1 << 41), 8),
    (wire.xattr_answer(12), struct.pack("<II", 12, 0), 8),
    (
        wire.statfs_answer(10 << 20),
        struct.pack("<QQQQQIIII", 2560, 0, 0, 0, 0, 4096, 255, 4096, 0) + bytes(24),
        80,
    ),
    (
        wire.dirent(9, 3, stat.S_IFDIR | 0o755, b"name"),
        struct.pack("<QQII", 9, 3, 4, 4) + b"name" + bytes(4),
        32,
    ),
    (
        wire.dirent(9, 3, stat.S_IFREG, b"8 bytes!"),
        struct.pack("<QQII", 9, 3, 8, 8) + b"8 bytes!",
        32,
    ),
    (
        wire.init_answer(131072, 0xABCD),
        struct.pack("<IIIIHHIIHHII", 7, 31, 131072, 0xABCD, 64, 48, 1 << 20, 1, 256, 0, 0, 0)
        + bytes(24),
        64,
    ),
]


@pytest.mark.parametrize(("made", "wanted", "size"), ANSWERS)
def test_answers(made: bytes, wanted: bytes, size: int) -> None:
    assert made == wanted
    assert len(made) == size


def test_what_is_wanted_of_the_kernel() -> None:
    # ASYNC_READ, BIG_WRITES, DO_READDIRPLUS, ASYNC_DIO, PARALLEL_DIROPS, MAX_PAGES,
    # CACHE_SYMLINKS, HANDLE_KILLPRIV_V2
    asked = (0, 5, 13, 15, 18, 22, 23, 28)
    assert sum(1 << bit for bit in asked) == wire.WANTED
    assert not wire.WANTED & 1 << 16, "the write-back cache"
    assert sorted(wire.SILENT) == [2, 36, 42]
