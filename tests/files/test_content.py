# SPDX-License-Identifier: Apache-2.0
"""Bytes of large files: read ahead in order, made room for, and wrong where they are wrong."""

from __future__ import annotations

import errno
import os
import random
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from diskkit import StorageError
from diskkit.files.content import LARGE, PIECE, pieces
from diskkit.files.filesystem import Extent, Node
from diskkit.storage import room
from volumes.tables import Memory

if TYPE_CHECKING:
    from pathlib import Path

SIZE = LARGE * 2 + 12345
CONTENT = random.Random(1).randbytes(SIZE)
NODE = Node(1, 0o100644, SIZE, 1, 0, 0, 0, 0, 0, 0, 0, 0)


def reader(extents: list[Extent]) -> Any:  # noqa: ANN401 - it has only what is asked for
    return SimpleNamespace(kind="none", extents=lambda id, stream: extents)


def assembled(extents: list[Extent], size: int) -> tuple[bytes, list[tuple[int, int]]]:
    """What the pieces say, and what room was made for."""
    asked: list[tuple[int, int]] = []
    found = bytearray(size)
    last = 0
    volume = Memory(CONTENT)
    for at, part in pieces(
        reader(extents), volume, NODE, before=lambda offset, length: asked.append((offset, length))
    ):
        assert at >= last
        assert any(begin <= at and at + len(part) <= begin + n for begin, n in asked)
        found[at : at + len(part)] = part
        last = at + len(part)
    return bytes(found), asked


def test_scattered_file_is_put_together() -> None:
    chance = random.Random(2)
    extents: list[Extent] = []
    wanted = b""
    while len(wanted) < SIZE * 2:
        length = chance.choice((1, 512, 70_000, PIECE, PIECE + 1, 3 * PIECE))
        place = chance.choice((-1, chance.randrange(SIZE - length)))
        extents.append(Extent(length, place))
        wanted += bytes(length) if place < 0 else CONTENT[place : place + length]
    found, asked = assembled(extents, len(wanted))
    assert found == wanted
    assert sum(n for _, n in asked) == sum(e.length for e in extents if e.offset >= 0)


def test_small_file_starts_no_thread() -> None:
    before = threading.active_count()
    for _ in pieces(reader([Extent(5, 7), Extent(9, -1)]), Memory(CONTENT), NODE):
        assert threading.active_count() == before


@pytest.mark.parametrize("bad", [0, 3, 8])
def test_bytes_that_cannot_be_had_end_it_in_their_turn(bad: int) -> None:
    class Damaged(Memory):
        def read_into(self, offset: int, buffer: memoryview) -> None:
            if offset // PIECE >= bad:
                raise StorageError("disk.vmdk", "the medium is gone")
            super().read_into(offset, buffer)

    got = []
    before = threading.active_count()

    def read() -> None:
        for at, part in pieces(reader([Extent(SIZE, 0)]), Damaged(CONTENT), NODE):
            assert part == CONTENT[at : at + len(part)]
            got.append(at)

    with pytest.raises(StorageError, match="the medium is gone"):
        read()
    assert got == [n * PIECE for n in range(bad)]
    assert threading.active_count() == before


def test_reader_who_leaves_early_leaves_nothing_behind() -> None:
    before = threading.active_count()
    found = pieces(reader([Extent(SIZE, 0)]), Memory(CONTENT), NODE)
    assert next(found)[0] == 0
    found.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_room_is_made_where_that_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []
    kinds = iter(["ext4", "tmpfs"])
    monkeypatch.setattr(room, "filesystem", lambda fd: next(kinds))
    monkeypatch.setattr(
        room, "allocate", lambda fd, mode, at, length: asked.append((mode, at, length))
    )
    with (tmp_path / "file").open("wb") as f:
        for _ in range(2):
            monkeypatch.setattr(room, "_known", {})
            room.make_room(f.fileno(), 0, 1000)
            room.make_room(f.fileno(), 5, 64 << 20)
        assert asked == [(0, 5, 64 << 20)]


def test_no_room_is_an_error_and_no_fallocate_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = errno.ENOSPC

    def refuse(fd: int, mode: int, at: int, length: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(room, "filesystem", lambda fd: "ext4")
    monkeypatch.setattr(room, "_known", {})
    monkeypatch.setattr(room, "allocate", refuse)
    with (tmp_path / "file").open("wb") as f:
        with pytest.raises(OSError, match="No space left"):
            room.make_room(f.fileno(), 0, 64 << 20)
        number = errno.EOPNOTSUPP
        room.make_room(f.fileno(), 0, 64 << 20)
