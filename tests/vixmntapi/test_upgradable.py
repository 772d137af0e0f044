# SPDX-License-Identifier: Apache-2.0
"""A disk that is opened for writing under its readers."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

import diskkit as dk
from diskkit import vixdisklib as vix
from diskkit.errors import StorageError, UsageError
from diskkit.interfaces import OpenPolicy
from diskkit.testing import DiskCase, DiskSuite, WritableDiskSuite
from diskkit.vixmntapi import upgradable
from diskkit.vixmntapi.upgradable import UpgradableDisk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from diskkit.disk import Disk

SIZE = 1 << 20
READING, WRITING = OpenPolicy(), OpenPolicy(writable=True)


@pytest.fixture(autouse=True)
def _library() -> Iterator[None]:
    vix.Init(6, 7)
    yield
    vix.Exit()


def made(folder: Path, kind: str = "monolithicSparse") -> tuple[Path, bytes]:
    content = os.urandom(SIZE // 2) + bytes(SIZE // 2)
    (folder / "d.raw").write_bytes(content)
    with dk.open_disk(folder / "d.raw") as disk:
        dk.clone(disk, folder / "d.vmdk", kind)
    return folder / "d.vmdk", content


def upgraded(path: Path) -> Disk:
    disk = UpgradableDisk(str(path), WRITING, 0)
    disk.make_writable()
    return disk


class TestForReading(DiskSuite):
    @pytest.fixture
    def case(self, tmp_path: Path) -> DiskCase:
        path, content = made(tmp_path)
        return DiskCase(lambda: UpgradableDisk(str(path), READING, 0), content)


class TestForWriting(WritableDiskSuite):
    @pytest.fixture
    def case(self, tmp_path: Path) -> DiskCase:
        path, content = made(tmp_path)
        return DiskCase(lambda: upgraded(path), content)


@pytest.mark.parametrize(
    "kind", ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "vmfsThin"]
)
def test_it_is_the_same_disk_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path, content = made(tmp_path, kind)
    monkeypatch.chdir(tmp_path)
    with UpgradableDisk("d.vmdk", WRITING, 0) as disk:
        assert disk.path == "d.vmdk"
        monkeypatch.chdir("/")
        known = [disk.writable]
        with pytest.raises(UsageError, match="reading only"):
            disk.write(0, b"x")
        with dk.open_disk(path):  # others may read
            pass
        disk.make_writable()
        disk.make_writable()
        assert [*known, disk.writable] == [False, True]
        assert disk.read(0, SIZE) == content
        with pytest.raises(dk.LockedError):
            dk.open_disk(path)
        disk.write(SIZE - 5, b"after")
    with dk.open_disk(path) as again:
        assert again.read(0, SIZE) == content[:-5] + b"after"


def test_readers_wait_and_go_on(tmp_path: Path) -> None:
    path, content = made(tmp_path)
    wrong: list[object] = []
    stop = threading.Event()

    def read(disk: Disk) -> None:
        try:
            while not stop.is_set():
                if disk.read(4096, 4096) != content[4096:8192]:
                    wrong.append("bytes")
        except Exception as error:
            wrong.append(error)

    for _ in range(20):
        with UpgradableDisk(str(path), WRITING, 0) as disk:
            threads = [threading.Thread(target=read, args=(disk,)) for _ in range(3)]
            stop.clear()
            for thread in threads:
                thread.start()
            disk.make_writable()
            stop.set()
            for thread in threads:
                thread.join()
    assert wrong == []


def test_what_cannot_be_written_to_is_read_on(tmp_path: Path) -> None:
    path, content = made(tmp_path)
    with (
        UpgradableDisk(str(path), READING, 0) as disk,
        pytest.raises(UsageError, match="reading only"),
    ):
        disk.make_writable()
    with UpgradableDisk(str(path), WRITING, 0) as disk:
        with dk.open_disk(path), pytest.raises(dk.LockedError):
            disk.make_writable()
        assert not disk.writable
        assert disk.read(0, SIZE) == content
        disk.make_writable()  # the other one has gone


@pytest.mark.parametrize("fails", [False, True])
def test_a_disk_that_others_changed_meanwhile_is_read_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    path, _ = made(tmp_path)

    def after_another(name: str, *, format: str, policy: OpenPolicy) -> Disk:
        with dk.open_disk(name, format=format, policy=WRITING) as disk:
            disk.write(0, b"changed")
        if fails and policy.writable:
            raise StorageError(name, "No such luck")
        return dk.open_disk(name, format=format, policy=policy)

    with UpgradableDisk(str(path), WRITING, 0) as disk:
        monkeypatch.setattr(upgradable, "open_disk", after_another)
        with pytest.raises(StorageError, match="another program has changed it"):
            disk.make_writable()
        with pytest.raises(StorageError, match="another program has changed it"):
            disk.read(0, 512)
        monkeypatch.undo()
        with dk.open_disk(path, writable=True):  # and it holds no lock
            pass
