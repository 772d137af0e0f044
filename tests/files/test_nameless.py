# SPDX-License-Identifier: Apache-2.0
"""Files that are copied out are whole under their names, or not there, on every filesystem."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diskkit.storage import nameless
from diskkit.storage.nameless import named_when_whole

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = Path("/proc/self/fd")
WAYS = ["without a name", "passing name", "passing name, no links"]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    chosen: str = request.param
    if chosen != WAYS[0]:
        monkeypatch.setattr(nameless, "_NAMELESS", 0)
    if chosen == WAYS[2]:

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refuse)
    return chosen


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def names(path: Path) -> list[str]:
    return sorted(one.name for one in path.iterdir())


def test_a_file_has_its_name_when_it_is_whole(tmp_path: Path, folder: int, way: str) -> None:
    with named_when_whole(folder, b"n\xff") as fd:
        os.write(fd, b"whole")
        assert os.fsdecode(b"n\xff") not in names(tmp_path)
        assert len(names(tmp_path)) == (way != WAYS[0])
    assert names(tmp_path) == [os.fsdecode(b"n\xff")]
    made = tmp_path / os.fsdecode(b"n\xff")
    assert made.read_bytes() == b"whole"
    assert made.stat().st_mode & 0o777 == 0o600


def test_what_fails_leaves_nothing(tmp_path: Path, folder: int, way: str) -> None:
    def fail() -> None:
        with named_when_whole(folder, b"name") as fd:
            os.write(fd, b"half")
            raise KeyboardInterrupt

    before = list(FILES.iterdir())
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names(tmp_path) == []
    assert len(list(FILES.iterdir())) == len(before)


def test_nothing_is_replaced_unasked(tmp_path: Path, folder: int, way: str) -> None:
    def write(text: bytes, *, replace: bool) -> None:
        with named_when_whole(folder, b"name", replace=replace) as fd:
            os.write(fd, text)

    (tmp_path / "name").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write(b"new", replace=False)
    assert names(tmp_path) == ["name"]
    assert (tmp_path / "name").read_bytes() == b"old"
    write(b"new", replace=True)
    assert names(tmp_path) == ["name"]
    assert (tmp_path / "name").read_bytes() == b"new"


def test_a_link_is_replaced_and_not_followed(tmp_path: Path, folder: int, way: str) -> None:
    (tmp_path / "elsewhere").write_bytes(b"safe")
    (tmp_path / "name").symlink_to("elsewhere")
    with named_when_whole(folder, b"name", replace=True) as fd:
        os.write(fd, b"new")
    assert not (tmp_path / "name").is_symlink()
    assert (tmp_path / "elsewhere").read_bytes() == b"safe"
