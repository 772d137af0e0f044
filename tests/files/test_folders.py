# SPDX-License-Identifier: Apache-2.0
"""Names are found as by reading a directory from its beginning, which is done once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskkit import FormatError
from diskkit.files.readers.folders import Folders, upper
from diskkit.files.readers.libyal import LibraryReader, lost
from diskkit.volumes import find_volumes
from files.guests import make
from files.test_copies import reader_for
from files.test_process import NODE
from volumes.tables import Memory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = st.text("aAbBéÉ", max_size=2).map(str.encode)


@given(st.lists(st.tuples(NAMES, st.integers()), max_size=8), NAMES, st.booleans())
def test_the_first_exact_match_wins_then_the_first_that_means_the_same(
    rows: list[tuple[bytes, int]], name: bytes, alike: bool
) -> None:
    wanted = next((id for own, id in rows if own == name), None)
    if wanted is None and alike:
        text = name.decode().upper()
        wanted = next((id for own, id in rows if own.decode().upper() == text), None)
    folders = Folders()
    for _ in range(2):
        assert folders.look(1, name, lambda: rows, upper if alike else None) == wanted


def test_a_directory_is_read_once_and_memory_is_bounded() -> None:
    folders, read = Folders(most=10), []

    def rows(folder: int) -> list[tuple[bytes, int]]:
        read.append(folder)
        return [(b"%d" % n, folder * 100 + n) for n in range(4 if folder < 9 else 30)]

    def look(folder: int) -> int | None:
        return folders.look(folder, b"3", lambda: rows(folder))

    assert [look(n) for n in (1, 2, 1, 2)] == [103, 203, 103, 203]
    assert read == [1, 2]
    look(1)
    look(3)  # 2 was used least recently
    assert read == [1, 2, 3]
    look(1)
    look(2)
    assert read == [1, 2, 3, 2]
    assert [look(9), look(9)] == [903, 903]  # too large for the bound, and kept alone
    assert read == [1, 2, 3, 2, 9]
    look(1)
    assert read[-1] == 1
    assert folders._count == 4


def test_what_comes_before_damage_is_found_and_nothing_is_remembered() -> None:
    folders, good = Folders(), False

    def rows() -> Iterator[tuple[bytes, int]]:
        yield b"a", 1
        if not good:
            raise FormatError("damaged")
        yield b"b", 2

    assert folders.look(1, b"a", rows) == 1
    with pytest.raises(FormatError, match="damaged"):
        folders.look(1, b"b", rows)
    good = True
    assert folders.look(1, b"b", rows) == 2


def test_entries_without_a_name_are_found_by_what_they_are_listed_as() -> None:
    class Made(LibraryReader):
        def __init__(self) -> None:
            self.folders = Folders()

        def scandir(self, id: int) -> Iterator[tuple[bytes, object]]:  # type: ignore[override]
            yield b"?5", NODE._replace(id=50)  # this is its true name
            yield b"?7", lost("gone", 0)

        def stat(self, id: int) -> object:  # type: ignore[override]
            return NODE._replace(id=id, size=99)

    reader = Made()  # type: ignore[abstract]
    found = [reader.look(1, name, None) for name in (b"?5", b"?7", b"?9", b"x")]
    assert [node and (node.id, node.problem) for node in found] == [
        (50, ""),
        (0, "gone"),
        None,
        None,
    ]


@pytest.mark.parametrize("kind", ["ext4", "xfs", "ntfs", "fat32"])
def test_every_entry_is_found_by_its_name(tmp_path: Path, kind: str) -> None:
    reader_for(kind)
    path, _ = make(kind, tmp_path)
    (volume,) = find_volumes(Memory(path.read_bytes())).volumes
    from diskkit.files import open_filesystem
    from diskkit.files.walk import list_below, resolve

    with open_filesystem(volume) as fs:
        count = 0
        for listing in list_below(fs, resolve(fs, b"/"), recursive=True):
            folder = resolve(fs, listing.path).node.id
            for name, node in listing.rows:
                count += 1
                assert fs.lookup(folder, name) == node
                if kind in ("ntfs", "fat32"):
                    assert fs.lookup(folder, name.decode().upper().encode()) == node
            assert fs.lookup(folder, b"not there") is None
        assert count > 150
