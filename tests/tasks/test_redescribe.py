# SPDX-License-Identifier: Apache-2.0
"""A descriptor is replaced whole, wherever it lives, and however far a crash lets it come."""

from __future__ import annotations

import os
import struct
from itertools import chain, combinations
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.errors import LockedError, UsageError
from diskkit.formats.vmdk.edit import edited, new_content_id
from diskkit.formats.vmdk.redescribe import replace
from diskkit.interfaces import OpenPolicy
from diskkit.open import open_links
from diskkit.storage.local import LocalFile, open_file
from makers import flat, stream, text_replace, write_descriptor

from .images import sparse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from diskkit.formats.link import Link

SECTOR = 512


def leaf(path: Path) -> Link:
    return open_links(path, policy=OpenPolicy(writable=True))[0]


def own(folder: Path, **how: str) -> Path:
    flat(folder / "d-flat.vmdk", bytes(SECTOR * 8))
    lines = ['RW 8 FLAT "d-flat.vmdk" 0']
    write_descriptor(folder / "d.vmdk", "monolithicFlat", lines, **how)  # type: ignore[arg-type]
    return folder / "d.vmdk"


def change(path: Path, **ddb: str) -> bytes:
    link = leaf(path)
    assert link.descriptor is not None
    text = edited(link.descriptor, ddb=ddb)
    replace(link, text)
    assert link.descriptor.ddb.items() >= ddb.items()
    link.close()
    return text


@pytest.mark.parametrize("how", [{}, {"eol": "\r\n"}, {"encoding": "GBK", "codec": "gbk"}])
def test_own_file_holds_the_new_text(tmp_path: Path, how: dict[str, str]) -> None:
    path = own(tmp_path, **how)
    path.chmod(0o640)
    text = change(path, comment="x")
    assert path.read_bytes() == text
    assert path.stat().st_mode & 0o777 == 0o640
    assert {p.name for p in tmp_path.iterdir()} == {"d.vmdk", "d-flat.vmdk"}


def test_symbolic_link_stays_one(tmp_path: Path) -> None:
    path = own(tmp_path)
    (tmp_path / "other").mkdir()
    alias = tmp_path / "other" / "alias.vmdk"
    alias.symlink_to(path)
    text = change(alias, comment="x")
    assert alias.is_symlink()
    assert path.read_bytes() == text


def test_new_own_file_is_locked(tmp_path: Path) -> None:
    path = own(tmp_path)
    link = leaf(path)
    assert link.descriptor is not None
    replace(link, edited(link.descriptor, ddb={"a": "b"}))
    with pytest.raises(LockedError):
        open_file(os.fspath(path))
    assert link.storage.identity == LocalFile(os.open(path, os.O_RDONLY), "").identity
    link.close()
    open_file(os.fspath(path)).close()


def test_own_file_that_another_program_replaced_is_left_alone(tmp_path: Path) -> None:
    path = own(tmp_path)
    link = leaf(path)
    path.rename(tmp_path / "moved.vmdk")
    path.write_bytes(b"theirs")
    with pytest.raises(LockedError, match="replaced"):
        replace(link, link.storage.read(0, link.storage.size))
    link.close()
    assert path.read_bytes() == b"theirs"
    assert len(list(tmp_path.iterdir())) == 3


def test_failed_rename_leaves_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = own(tmp_path)
    before = path.read_bytes()
    link = leaf(path)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(diskkit.StorageError, match="No space"):
        replace(link, before + b"# more\n")
    link.close()
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_not_open_for_writing(tmp_path: Path) -> None:
    link = open_links(own(tmp_path))[0]
    with pytest.raises(UsageError, match="not open for writing"):
        replace(link, link.storage.read(0, link.storage.size))
    link.close()


def test_raw_image_has_no_descriptor(tmp_path: Path) -> None:
    (tmp_path / "d.raw").write_bytes(bytes(SECTOR))
    link = leaf(tmp_path / "d.raw")
    with pytest.raises(UsageError, match="no descriptor"):
        replace(link, b"")
    link.close()


def test_text_that_is_no_descriptor_is_not_written(tmp_path: Path) -> None:
    path = own(tmp_path)
    before = path.read_bytes()
    link = leaf(path)
    with pytest.raises(diskkit.FormatError):
        replace(link, b"version=1\n")
    link.close()
    assert path.read_bytes() == before


def test_streams_are_written_once(tmp_path: Path) -> None:
    stream(tmp_path / "s.vmdk", 128, {})
    link = open_links(tmp_path / "s.vmdk")[0]
    link.close()
    link.storage = open_file(os.fspath(tmp_path / "s.vmdk"), write=True)
    assert link.descriptor is not None
    with pytest.raises(UsageError, match="written once"):
        replace(link, edited(link.descriptor, ddb={"a": "b"}))
    link.storage.close()


# --- Inside a sparse extent -----------------------------------------------------------------------


class Recorded(LocalFile):
    """Notes what is written between flushes."""

    def __init__(self, path: Path) -> None:
        super().__init__(os.open(path, os.O_RDWR), os.fspath(path))
        self.epochs: list[list[tuple[int, bytes]]] = [[]]

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self.epochs[-1].append((offset, bytes(data)))
        super().write(offset, data)

    def flush(self) -> None:
        self.epochs.append([])
        super().flush()


def recorded(path: Path) -> tuple[Link, Recorded]:
    link = open_links(path, policy=OpenPolicy(single_link=True))[0]
    link.close()
    link.storage = found = Recorded(path)
    link.storages = [found]
    return link, found


def crashes(before: bytes, epochs: list[list[tuple[int, bytes]]]) -> Iterator[bytes]:
    """Every medium that a power cut can leave: sectors of the running epoch, in any selection."""
    medium = bytearray(before)
    for epoch in epochs:
        sectors = [
            (at + i, data[i : i + SECTOR])
            for at, data in epoch
            for i in range(0, len(data), SECTOR)
            if medium[at + i : at + i + SECTOR] != data[i : i + SECTOR]
        ]
        for chosen in subsets(sectors):
            torn = bytearray(medium)
            for at, data in chosen:
                torn[at : at + len(data)] = data
            yield bytes(torn)
        for at, data in epoch:
            medium[at : at + len(data)] = data


def subsets(items: list[tuple[int, bytes]]) -> Iterable[tuple[tuple[int, bytes], ...]]:
    return chain.from_iterable(combinations(items, n) for n in range(len(items) + 1))


def texts(path: Path, media: Iterable[bytes]) -> Iterator[str]:
    for medium in media:
        path.write_bytes(medium)
        link = open_links(path, policy=OpenPolicy(single_link=True, warn=lambda _: None))[0]
        assert link.descriptor is not None
        yield link.descriptor.text
        link.close()


def qemu_like(path: Path) -> None:
    """A content ID of seven digits, and what the longer text left behind its end."""
    text_replace(path, "CID=12345678\n", "CID=52db3b7\n")


@pytest.mark.parametrize("crash_again", [False, True])
def test_any_crash_leaves_the_old_or_the_new_text(tmp_path: Path, crash_again: bool) -> None:
    disk = sparse(tmp_path)
    qemu_like(disk.path)
    link, storage = recorded(disk.path)
    before = disk.path.read_bytes()
    assert link.descriptor is not None
    changes = new_content_id(link.descriptor)
    new = edited(link.descriptor, header=changes.header, ddb={"comment": "x" * 700})
    old = link.descriptor.text
    replace(link, new)
    link.close()
    assert len(storage.epochs) == 6
    media = set(crashes(before, storage.epochs))
    probe = tmp_path / "probe.vmdk"
    found = set(texts(probe, media))
    assert found == {old, new.decode()}
    if not crash_again:
        return
    last = 0
    for medium in media:
        probe.write_bytes(medium)
        link, storage = recorded(probe)
        assert link.descriptor is not None
        was = link.descriptor.text
        after = edited(link.descriptor, header={"CID": "77777777"}, ddb={"again": "y" * 500})
        replace(link, after)
        link.close()
        again = set(texts(tmp_path / "probe2.vmdk", crashes(medium, storage.epochs)))
        assert again <= {was, after.decode()}
        last += 1
        head = probe.read_bytes()[: 21 * SECTOR]
        assert struct.unpack_from("<QQ", head, 28) == (1, 20)
        assert head[SECTOR:].rstrip(b"\0") == after
    assert last > 20
    assert diskkit.check(disk.path).ok


def test_change_within_one_sector_is_one_write(tmp_path: Path) -> None:
    disk = sparse(tmp_path)
    link, storage = recorded(disk.path)
    assert link.descriptor is not None
    replace(link, edited(link.descriptor, header={"CID": "87654321"}))
    link.close()
    at = 512 + disk.path.read_bytes()[512:].index(b"87654321")
    assert storage.epochs == [[(at, b"8765432")], []] or storage.epochs == [[(at, b"87654321")], []]
    with diskkit.open_disk(disk.path) as opened:
        assert opened.read(0, opened.size) == disk.content
        assert opened.info.cid == "87654321"


def test_text_that_leaves_no_room_is_refused(tmp_path: Path) -> None:
    disk = sparse(tmp_path)
    before = disk.path.read_bytes()
    link = leaf(disk.path)
    assert link.descriptor is not None
    for size in (10, 11, 19, 21):
        text = edited(link.descriptor, ddb={"a": "b"}, header={"z": "y" * (size * SECTOR - 512)})
        with pytest.raises(UsageError, match=r"must fit .*convert"):
            replace(link, text + b"#" * (size * SECTOR - len(text)))
    link.close()
    assert disk.path.read_bytes() == before


def test_old_text_that_leaves_no_room_for_a_copy_is_not_touched(tmp_path: Path) -> None:
    disk = sparse(tmp_path)
    short = disk.path.read_bytes()[SECTOR : 21 * SECTOR].rstrip(b"\0")
    with disk.path.open("r+b") as f:
        f.seek(SECTOR)
        f.write(short.ljust(15 * SECTOR, b"#"))
    before = disk.path.read_bytes()
    link = leaf(disk.path)
    with pytest.raises(UsageError, match="must fit"):
        replace(link, short.ljust(8 * SECTOR, b"#") + b"\n#")
    link.close()
    assert disk.path.read_bytes() == before


def test_largest_text_that_fits(tmp_path: Path) -> None:
    disk = sparse(tmp_path)
    link = leaf(disk.path)
    assert link.descriptor is not None
    text = link.storage.read(SECTOR, 20 * SECTOR).rstrip(b"\0").ljust(10 * SECTOR - 1, b"#")
    replace(link, text)
    link.close()
    assert disk.path.read_bytes()[SECTOR : 21 * SECTOR].rstrip(b"\0") == text
    with diskkit.open_disk(disk.path) as opened:
        assert opened.read(0, opened.size) == disk.content


def test_tables_before_the_text_are_never_written_over(tmp_path: Path) -> None:
    disk = sparse(tmp_path)
    content = bytearray(disk.path.read_bytes())
    # The header says that the text begins at sector 11, and the redundant directory at sector 1.
    content[11 * SECTOR : 21 * SECTOR] = content[SECTOR : 11 * SECTOR]
    content[SECTOR : 6 * SECTOR] = content[21 * SECTOR : 26 * SECTOR]
    struct.pack_into("<QQIQ", content, 28, 11, 10, 512, 1)
    struct.pack_into("<I", content, SECTOR, 2)
    disk.path.write_bytes(content)
    tables = bytes(content[SECTOR : 11 * SECTOR])
    change(disk.path, comment="x" * 600)
    assert disk.path.read_bytes()[SECTOR : 11 * SECTOR] == tables
    assert diskkit.check(disk.path).ok
