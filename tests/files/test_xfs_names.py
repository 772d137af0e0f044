# SPDX-License-Identifier: Apache-2.0
"""Names on XFS that are not UTF-8, in directories of every form; and directories that lie."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskkit import FormatError
from diskkit.cli import main
from files.guests import make_xfs, walk
from files.test_copies import reader_for
from volumes.tables import Memory

if TYPE_CHECKING:
    from pathlib import Path

    Out = pytest.CaptureFixture[str]

COUNTS = {"in the inode": 2, "one block": 30, "blocks and a leaf": 700, "a tree": 3000}
GEOMETRY = (4096, 1 << 16, 20, 512, 3, 4096, True)


def test_names_come_out_of_every_form_of_directory(tmp_path: Path, capfd: Out) -> None:
    reader_for("xfs")
    source = tmp_path / "tree"
    content = tmp_path / "content"
    content.write_bytes(b"x")
    for form, count in COUNTS.items():
        folder = os.fsencode(source / form.replace(" ", "_"))
        (source / form.replace(" ", "_")).mkdir(parents=True)
        for number in range(count):
            start = b"bad\xff\xfe" if number % 7 == 1 else b"good"
            name = b"%s_%d_" % (start, number) + b"y" * (number % 50)
            os.link(content, folder + b"/" + name)
    make_xfs(tmp_path / "v.raw", source)
    assert main(["cp", "-r", f"{tmp_path}/v.raw:/", str(tmp_path / "out"), "-q"]) == 0
    assert capfd.readouterr().err == ""
    assert walk(tmp_path / "out") == walk(source)
    assert sum(b"\xff" in name for name in walk(source)) > 500
    assert main(["ls", f"{tmp_path}/v.raw:/in_the_inode"]) == 0
    assert r"bad\xff\xfe_1_y" in capfd.readouterr().out


class _Cached(Memory):
    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])


def names_in(folder: bytes, inode: bytes) -> list[tuple[bytes, int]]:
    from diskkit.files.filesystem import Extent
    from diskkit.files.readers.xfsnames import Geometry, entries

    volume: Any = _Cached(bytes(8 * 512) + inode.ljust(4096, b"\0")[:4096] + folder)
    blocks = [Extent(len(folder), 8192)] if folder else []
    return list(entries(volume, Geometry(*GEOMETRY), 8, lambda: blocks))


def test_directory_as_the_books_have_it() -> None:
    short = b"IN\x41\xed\x03\x01".ljust(176, b"\0") + b"\x01\x00\0\0\0\x80" + b"\x02\0\x60a\xff\x01"
    assert names_in(b"", short + b"\0\0\0\x83") == [(b"a\xff", 0x83)]
    entry = (99).to_bytes(8, "big") + b"\x03b\xffc\x01\0\x40"
    block = b"XDD3".ljust(64, b"\0") + entry.ljust(16, b"\0") + b"\xff\xff\x0f\xb0"
    assert names_in(block.ljust(4096, b"\0"), b"IN\x41\xed\x03\x02") == [(b"b\xffc", 99)]


@given(st.binary(max_size=200), st.sampled_from([b"XD2B", b"XD2D", b"XDB3", b"XDD3", b"XXXX"]))
def test_blocks_of_any_kind_give_names_or_an_error(raw: bytes, mark: bytes) -> None:
    block = (mark + raw + raw[::-1] * 20).ljust(4096, b"\xff")[:4096]
    try:
        found = names_in(block, b"IN\x41\xed\x03\x02")
    except FormatError:
        return
    assert len(found) < 4096 // 16


@given(st.binary(min_size=1, max_size=300), st.sampled_from([1, 2, 3, 9]))
def test_inodes_of_any_kind_give_names_or_an_error(raw: bytes, version: int) -> None:
    inode = b"IN\x41\xed" + bytes((version, 1)) + bytes(170 if version == 3 else 94) + raw
    try:
        found = names_in(b"", inode)
    except FormatError:
        return
    assert len(found) < 256


@pytest.mark.parametrize("at", [4, 84, 100, 104, 123, 124, 192])
def test_superblocks_that_lie_are_refused_or_bounded(at: int) -> None:
    from diskkit.files.readers.xfsnames import read_geometry

    raw = bytearray(512)
    raw[4:8], raw[84:88], raw[104:106] = b"\0\0\x10\0", b"\0\0\x50\0", b"\x02\0"
    raw[100:102], raw[123], raw[124] = b"\xb4\xa5", 3, 15
    assert read_geometry(bytes(raw)).inode == 512
    raw[at] = 0xFF
    try:
        geometry = read_geometry(bytes(raw))
    except FormatError:
        return
    assert geometry.folder_block <= 65536
    assert geometry.place((1 << 64) - 1) >= 0
