# SPDX-License-Identifier: Apache-2.0
"""A disk behind a cache is the same disk."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.filters.cached import CachedDisk
from diskkit.testing import DiskCase, DiskSuite, WritableDiskSuite

if TYPE_CHECKING:
    from pathlib import Path

    from diskkit.disk import Disk

SIZE = 3 << 20


def cached(path: Path, *, writable: bool = False, read_ahead: int = 0) -> CachedDisk:
    below = diskkit.open_disk(path, writable=writable)
    return CachedDisk(below, capacity=1 << 20, read_ahead=read_ahead)


def plain(path: Path, *, writable: bool = False, read_ahead: int = 0) -> Disk:
    return cached(path, writable=writable, read_ahead=read_ahead)


def made(folder: Path) -> tuple[Path, bytes]:
    path, content = folder / "disk.vmdk", bytearray(SIZE)
    diskkit.create_disk(path, SIZE, "monolithicSparse")
    dice = random.Random(1)
    with diskkit.open_disk(path, writable=True) as disk:
        for _ in range(6):
            offset, data = dice.randrange(SIZE - 70_000), dice.randbytes(dice.randrange(70_000))
            disk.write(offset, data)
            content[offset : offset + len(data)] = data
    return path, bytes(content)


class TestCached(DiskSuite):
    @pytest.fixture(params=[0, 1 << 20], ids=["", "ahead"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> DiskCase:
        path, content = made(tmp_path)
        return DiskCase(partial(plain, path, read_ahead=request.param), content)


class TestWrittenCached(WritableDiskSuite):
    @pytest.fixture(params=[0, 1 << 20], ids=["", "ahead"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> DiskCase:
        path, content = made(tmp_path)
        return DiskCase(partial(plain, path, writable=True, read_ahead=request.param), content)


def test_small_reads_are_kept(tmp_path: Path) -> None:
    path, content = made(tmp_path)
    with cached(path) as disk:
        for offset in range(0, 65536, 512):
            assert disk.read(offset, 512) == content[offset : offset + 512]
        assert (disk.counts.reads, disk.counts.bytes_read) == (1, 65536)
        assert disk.read(0, 1 << 20) == content[: 1 << 20]
        assert disk.counts.reads == 2


def test_what_was_zeroed_is_not_kept(tmp_path: Path) -> None:
    path, _ = made(tmp_path)
    with cached(path, writable=True) as disk:
        for work in (disk.zero, disk.discard):
            disk.write(1000, b"x" * 1000)
            assert disk.read(1500, 10) == b"x" * 10
            work(1400, 105)
            assert disk.read(1500, 10) == bytes(5) + b"x" * 5
