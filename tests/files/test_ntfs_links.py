# SPDX-License-Identifier: Apache-2.0
"""Symbolic links on NTFS that Windows does not know: ntfs-3g makes them in two forms."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import diskkit
from diskkit.cli import main
from diskkit.files import open_filesystem
from diskkit.files.readers import open_reader
from diskkit.files.readers.ntfslinks import INTERIX, interix_target, wsl_target
from diskkit.files.walk import resolve
from diskkit.filters.cache import BlockCache
from diskkit.volumes import find_volumes
from files.guests import make_ntfs, walk
from files.test_copies import reader_for
from files.test_ntfs import SYSTEM, flag

if TYPE_CHECKING:
    from pathlib import Path

    Out = pytest.CaptureFixture[str]

LINKS = {
    "short": "plain",
    "up": "../folder/file",
    "é 漢 🙂": "ü/🙂" + "/long" * 60,
    "absolute": "/mnt/c/Users",
    "twisted": "folder/../..",
}


def with_links(folder: Path) -> tuple[Path, Path]:
    reader_for("ntfs")
    source = folder / "tree"
    (source / "folder").mkdir(parents=True)
    (source / "folder" / "file").write_bytes(b"at the end of it")
    for place in ("interix", "of.wsl"):
        (source / place).mkdir()
        for name, target in LINKS.items():
            (source / place / name).symlink_to(target)
    make_ntfs(folder / "v.raw", source)
    return folder / "v.raw", source


def test_links_are_links(tmp_path: Path, capfd: Out) -> None:
    volume, source = with_links(tmp_path)
    with (
        diskkit.open_disk(volume) as disk,
        open_filesystem(find_volumes(disk).volume(1)) as fs,
    ):
        for place in (b"interix", b"of.wsl"):
            found = resolve(fs, place).node.id
            rows = {name.decode(): node for name, node in fs.scandir(found)}
            assert {name: fs.readlink(node.id).decode() for name, node in rows.items()} == LINKS
            for name, node in rows.items():
                assert (node.is_link, node.problem) == (True, "")
                assert node.size == len(LINKS[name].encode())
                assert fs.stat(node.id) == node
            content = resolve(fs, place + b"/up").node
            assert fs.read_at(content.id, 0, 100) == b"at the end of it"
    assert main(["cp", "-r", f"{volume}:/", str(tmp_path / "out"), "-q"]) == 3
    told = capfd.readouterr().err.splitlines()
    wanted = walk(source)
    for place in (b"interix", b"of.wsl"):
        for out in (b"/absolute", b"/twisted"):
            del wanted[place + out]
    assert walk(tmp_path / "out") == wanted
    assert len(told) == 4
    assert all("left out: a link that leads out: " in line for line in told)


CONTENT = {
    "no mark": b"IntxLNK\2" + b"a\0",
    "half a letter": INTERIX + b"a\0b",
    "a zero": INTERIX + b"a\0\0\0b\0",
    "nothing": INTERIX,
    "too long": INTERIX + b"a\0" * 4097,
}


def test_system_files_that_are_no_links_are_files(tmp_path: Path, capfd: Out) -> None:
    reader_for("ntfs")
    source = tmp_path / "tree"
    source.mkdir()
    for name, content in CONTENT.items():
        (source / name).write_bytes(content)
    (source / "longest").write_bytes(INTERIX + b"a\0" * 4096)
    make_ntfs(tmp_path / "v.raw", source)
    raw = bytearray((tmp_path / "v.raw").read_bytes())
    for name in (*CONTENT, "longest"):
        flag(raw, name, SYSTEM)
    (tmp_path / "v.raw").write_bytes(raw)
    assert main(["cp", "-r", f"{tmp_path}/v.raw:/", str(tmp_path / "out"), "-q"]) == 3
    (line,) = capfd.readouterr().err.splitlines()
    # Linux makes no link that long; it is one all the same.
    assert "longest: left out: File name too long" in line
    copied = walk(tmp_path / "out")
    original = walk(source)
    del original[b"longest"]
    assert copied == original


def test_ordinary_files_are_not_read_to_see_whether_they_are_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader_for("ntfs")
    from diskkit.files.readers import ntfs

    source = tmp_path / "tree"
    source.mkdir()
    (source / "file").write_bytes(INTERIX + b"a\0")
    (source / "large").write_bytes(INTERIX + bytes(100_000))
    make_ntfs(tmp_path / "v.raw", source)
    raw = bytearray((tmp_path / "v.raw").read_bytes())
    flag(raw, "large", SYSTEM)
    (tmp_path / "v.raw").write_bytes(raw)

    def read(source: object, offset: int, length: int) -> bytes:
        raise AssertionError(source, offset, length)

    monkeypatch.setattr(ntfs, "read_from", read)
    with (
        diskkit.open_disk(tmp_path / "v.raw") as disk,
        open_reader("ntfs", BlockCache(find_volumes(disk).volume(1))) as fs,
    ):
        rows = dict(fs.scandir(fs.root))
        assert all(rows[name].is_file for name in (b"file", b"large"))


def record(*attributes: bytes, check: bytes = b"\7\0") -> bytes:
    """A file record of two sectors."""
    head = struct.pack("<4sHHQHHHH", b"FILE", 42, 3, 0, 1, 1, 56, 1).ljust(56, b"\0")
    raw = bytearray((head + b"".join(attributes) + b"\xff" * 4).ljust(1024, b"\0"))
    raw[42:48] = check + bytes(raw[510:512]) + bytes(raw[1022:1024])
    raw[510:512] = raw[1022:1024] = check
    return bytes(raw)


def attribute(kind: int, value: bytes, *, size: int | None = None, elsewhere: int = 0) -> bytes:
    padded = value.ljust(-(-len(value) // 8) * 8, b"\0")
    return (
        struct.pack(
            "<IIBBHHHIHH",
            kind,
            24 + len(padded),
            elsewhere,
            0,
            0,
            0,
            0,
            len(value) if size is None else size,
            24,
            0,
        )
        + padded
    )


def point(target: bytes, *, tag: int = 0xA000001D, version: int = 2, more: int = 0) -> bytes:
    return struct.pack("<IHHI", tag, 4 + len(target) + more, 0, version) + target


LONG = b"t" * 450
"""Beyond the end of the first sector, where two bytes are a check."""


@pytest.mark.parametrize(
    ("raw", "target"),
    [
        (record(attribute(0xC0, point(b"a"))), b"a"),
        (record(attribute(0x10, bytes(48)), attribute(0xC0, point(LONG))), LONG),
        (record(attribute(0x10, bytes(48))), None),
        (record(attribute(0xC0, point(b""))), None),
        (record(attribute(0xC0, point(b"a\0b"))), None),
        (record(attribute(0xC0, point(b"a", version=1))), None),
        (record(attribute(0xC0, point(b"a", tag=0xA000000C))), None),
        (record(attribute(0xC0, point(b"a", more=1))), None),
        (record(attribute(0xC0, b"short")), None),
        (record(attribute(0xC0, point(b"a"), size=1000)), None),
        (record(attribute(0xC0, point(b"abcd", more=8), size=24), b"b" * 40), None),
        (record(attribute(0xC0, point(b"a"), elsewhere=1)), None),
        (record(attribute(0xC0, point(b"a")))[:512], None),
        (record(attribute(0xC0, point(b"a"))).replace(b"FILE", b"BAAD"), None),
        (record(attribute(0xC0, point(b"a")))[:-2] + b"\0\0", None),
        (b"", None),
    ],
)
def test_records_are_judged(raw: bytes, target: bytes | None) -> None:
    assert wsl_target(raw) == target


@given(st.lists(st.tuples(st.integers(0, 1023), st.binary(max_size=8)), max_size=8))
def test_damaged_records_give_a_target_or_none(changes: list[tuple[int, bytes]]) -> None:
    raw = bytearray(record(attribute(0x10, bytes(48)), attribute(0xC0, point(LONG))))
    for at, value in changes:
        raw[at : at + len(value)] = value
    found = wsl_target(bytes(raw[:1024]))
    assert found is None or (found and b"\0" not in found)


@given(st.binary(max_size=40))
def test_any_content_gives_a_target_or_none(content: bytes) -> None:
    for raw in (content, INTERIX + content):
        found = interix_target(raw)
        assert found is None or (found and b"\0" not in found)
