# SPDX-License-Identifier: Apache-2.0
"""`StorageSuite` over the places where bytes live."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from diskkit.storage.local import open_file
from diskkit.testing import MemoryStorage, StorageCase, StorageSuite

if TYPE_CHECKING:
    from pathlib import Path

SIZES = (1, 511, 512, 300_001)


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> int:
    assert isinstance(request.param, int)
    return request.param


class TestLocalFile(StorageSuite):
    @pytest.fixture
    def case(self, tmp_path: Path, size: int) -> StorageCase:
        data = random.Random(size).randbytes(size)
        (tmp_path / "file").write_bytes(data)
        return StorageCase(lambda: open_file(os.fspath(tmp_path / "file")), data)


class TestFileWithHoles(StorageSuite):
    @pytest.fixture
    def case(self, tmp_path: Path) -> StorageCase:
        content = bytearray(10 << 20)
        with (tmp_path / "file").open("wb") as f:
            f.truncate(len(content))
            for at in (65536, 3 << 20, (3 << 20) + 4096, (9 << 20) - 100):
                f.seek(at)
                f.write(b"x" * 5000)
                content[at : at + 5000] = b"x" * 5000
        return StorageCase(lambda: open_file(os.fspath(tmp_path / "file")), bytes(content))


class TestMemoryStorage(StorageSuite):
    @pytest.fixture
    def case(self, size: int) -> StorageCase:
        data = random.Random(size).randbytes(size)
        return StorageCase(lambda: MemoryStorage(data), data)


def test_holes_are_left_out(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as f:
        f.truncate(10 << 20)
        f.seek(1 << 20)
        f.write(b"x" * 65536)
    storage = open_file(os.fspath(tmp_path / "file"))
    assert list(storage.data_ranges(0, 10 << 20)) == [(1 << 20, (1 << 20) + 65536)]
    assert storage.physical_bytes < 1 << 20
    storage.close()


def test_two_files_are_not_the_same(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x")
    (tmp_path / "two").write_bytes(b"x")
    (tmp_path / "alias").symlink_to("one")
    one, two, alias = (open_file(os.fspath(tmp_path / n)) for n in ("one", "two", "alias"))
    assert one.identity != two.identity
    assert one.identity == alias.identity
    for storage in (one, two, alias):
        storage.close()
