# SPDX-License-Identifier: Apache-2.0
"""The judge judged: known-bad orders of writes are caught, known-good ones are not."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from crash import Fault, Recording, State, faults, materialise, record, states
from diskkit.errors import StorageError
from diskkit.storage import punching
from diskkit.storage.newfile import new_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OLD, NEW = b"old" * 1000, b"new" * 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "disk"
    made.mkdir()
    (made / "file").write_bytes(OLD)
    return made


def _recorded(folder: Path, job: Callable[[], object]) -> Recording:
    with record(folder) as recording:
        job()
    return recording


def _make(path: Path, data: bytes, *, sync: bool) -> None:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.write(fd, data)
    if sync:
        os.fsync(fd)
    os.close(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def _replace(folder: Path, *, sync: bool, sync_folder: bool) -> None:
    _make(folder / "new", NEW, sync=sync)
    os.replace(folder / "new", folder / "file")
    if sync_folder:
        _sync_folder(folder)


def _bytes(state: State, folder: Path, name: str = "file") -> bytes | None:
    materialise(state, folder)
    path = folder / name
    return path.read_bytes() if path.exists() else None


def _found(recording: Recording, scratch: Path, name: str = "file") -> set[bytes | None]:
    return {_bytes(state, scratch, name) for state in states(recording, draws=20)}


def test_a_replacement_in_order_is_old_or_new(folder: Path, tmp_path: Path) -> None:
    log = _recorded(folder, lambda: _replace(folder, sync=True, sync_folder=True))
    assert _found(log, tmp_path / "s") == {OLD, NEW}
    assert {_bytes(s, tmp_path / "s") for s in states(log) if s.complete} == {NEW}


def test_a_rename_before_the_data_is_caught(folder: Path, tmp_path: Path) -> None:
    log = _recorded(folder, lambda: _replace(folder, sync=False, sync_folder=True))
    found = _found(log, tmp_path / "s")
    assert b"" in found
    assert found - {OLD, NEW, b""}, "parts of the new file"


def test_a_folder_that_was_not_synced_loses_the_new_name(folder: Path, tmp_path: Path) -> None:
    log = _recorded(folder, lambda: _replace(folder, sync=True, sync_folder=False))
    assert OLD in {_bytes(s, tmp_path / "s") for s in states(log) if s.complete}


def _grain_and_pointer(folder: Path, *, sync: bool) -> None:
    fd = os.open(folder / "file", os.O_RDWR)
    os.pwrite(fd, b"G" * 4096, 8192)
    if sync:
        os.fdatasync(fd)
    os.pwrite(fd, b"P", 0)
    os.fdatasync(fd)
    os.close(fd)


@pytest.mark.parametrize("sync", [True, False])
def test_a_pointer_before_its_data_is_caught(folder: Path, tmp_path: Path, sync: bool) -> None:
    log = _recorded(folder, lambda: _grain_and_pointer(folder, sync=sync))
    bad = [
        data
        for data in _found(log, tmp_path / "s")
        if data is not None and data[:1] == b"P" and data[8192:] != b"G" * 4096
    ]
    assert bool(bad) == (not sync)


def test_an_overwrite_in_place_is_seen_torn(folder: Path, tmp_path: Path) -> None:
    def job() -> None:
        fd = os.open(folder / "file", os.O_RDWR)
        os.pwrite(fd, b"X" * 1024, 512)
        os.fsync(fd)
        os.close(fd)

    seen = {
        tuple(data[i : i + 1] == b"X" for i in (512, 767, 768, 1023, 1024, 1279, 1280, 1535))
        for data in _found(_recorded(folder, job), tmp_path / "s")
        if data is not None
    }
    none, first, second = (False,) * 8, (True,) * 4 + (False,) * 4, (False,) * 4 + (True,) * 4
    assert {none, first, second, (True,) * 8} <= seen
    assert (True, True, False, False) + (False,) * 4 in seen, "half a sector"


def test_a_size_can_be_there_without_the_data(folder: Path, tmp_path: Path) -> None:
    def job() -> None:
        fd = os.open(folder / "file", os.O_RDWR)
        os.pwrite(fd, b"X" * 512, 8192)
        os.fsync(fd)
        os.close(fd)

    found = _found(_recorded(folder, job), tmp_path / "s")
    assert OLD.ljust(8704, b"\0") in found


def test_names_change_in_order_and_the_last_may_be_lost(folder: Path, tmp_path: Path) -> None:
    def job() -> None:
        os.link(folder / "file", folder / "second")
        os.unlink(folder / "file")
        os.rename(folder / "second", folder / "third")

    seen = set()
    for state in states(_recorded(folder, job)):
        materialise(state, tmp_path / "s")
        seen.add(tuple(sorted(p.name for p in (tmp_path / "s").iterdir())))
    assert seen == {("file",), ("file", "second"), ("second",), ("third",)}


def test_fsync_keeps_a_new_files_name_and_fdatasync_does_not(folder: Path, tmp_path: Path) -> None:
    for sync, may_miss in ((os.fsync, False), (os.fdatasync, True)):
        name = sync.__name__

        def job(name: str = name, sync: Callable[[int], None] = sync) -> None:
            fd = os.open(folder / name, os.O_CREAT | os.O_WRONLY)
            os.write(fd, NEW)
            getattr(os, sync.__name__)(fd)
            os.close(fd)

        log = _recorded(folder, job)
        last = {_bytes(s, tmp_path / "s", name) for s in states(log) if s.complete}
        assert (None in last) == may_miss
        assert NEW in last


def test_a_file_without_a_name_is_not_confused_with_the_one_that_has_it(
    folder: Path, tmp_path: Path
) -> None:
    def job() -> None:
        fd = os.open(folder / "file", os.O_RDWR)
        os.unlink(folder / "file")
        _make(folder / "file", NEW, sync=True)
        os.pwrite(fd, b"gone", 0)
        os.fsync(fd)
        os.close(fd)

    found = _found(_recorded(folder, job), tmp_path / "s")
    assert all(
        data is None or not data.startswith(b"gone") or data == b"gone" + OLD[4:] for data in found
    )
    assert NEW in found


def test_holes_sizes_and_links_come_out(folder: Path, tmp_path: Path) -> None:
    def job() -> None:
        fd = os.open(folder / "file", os.O_RDWR)
        os.ftruncate(fd, 1 << 40)
        os.pwrite(fd, b"far", (1 << 40) - 3)
        punching.erase(fd, 0, 1024, give_back=True)
        os.pwritev(fd, [b"a", b"b"], 4)
        os.posix_fallocate(fd, 0, 1 << 12)
        os.close(fd)
        os.symlink("file", folder / "arrow")
        os.link(folder / "file", folder / "other")

    log = _recorded(folder, job)
    last = [s for s in states(log) if s.complete and "lost" not in s.text]
    materialise(last[-1], tmp_path / "s")
    for name in ("file", "other", "arrow"):
        with (tmp_path / "s" / name).open("rb") as f:
            assert f.read(3002) == b"\0\0\0\0ab".ljust(1024, b"\0") + OLD[1024:] + b"\0\0"
            f.seek((1 << 40) - 3)
            assert f.read() == b"far"
    made = tmp_path / "s" / "file"
    assert made.stat().st_blocks < 100
    assert made.samefile(tmp_path / "s" / "other")


def test_a_change_that_went_past_is_noticed(folder: Path) -> None:
    with pytest.raises(AssertionError, match="nobody recorded"), record(folder):
        (folder / "file").write_bytes(NEW)
    with pytest.raises(AssertionError, match="nobody recorded"), record(folder):
        (folder / "extra").write_bytes(NEW)


def test_the_same_seed_gives_the_same_states(folder: Path) -> None:
    log = _recorded(folder, lambda: _replace(folder, sync=False, sync_folder=True))
    texts = [s.text for s in states(log, seed=7)]
    assert texts == [s.text for s in states(log, seed=7)]
    assert texts != [s.text for s in states(log, seed=8)]
    assert len(list(states(log, most=5))) <= 5


def _fresh(folder: Path) -> None:
    with new_file(os.fspath(folder / "made"), force=False, sync=True) as (fd, _):
        for at in range(0, 4096, 1024):
            view = memoryview(b"x" * 1024)
            while view:
                n = os.pwrite(fd, view, at)
                view, at = view[n:], at + n


@pytest.mark.parametrize("fault", [Fault.IO, Fault.NO_SPACE, Fault.FULL, Fault.SHORT_THEN_FULL])
def test_each_call_fails_once(folder: Path, tmp_path: Path, fault: Fault) -> None:
    calls = []
    for outcome in faults(folder, tmp_path, _fresh, fault):
        calls.append(outcome.call.split()[0])
        # A file whose name is there already when the last thing fails is removed again.
        left = sorted(p.name for p in outcome.folder.iterdir())
        if calls[-1] == "unlink":
            assert any(name.endswith(".part") for name in left) or isinstance(
                outcome.error, StorageError
            )
        elif calls[-1] != "link":  # Without links a rename does.
            assert isinstance(outcome.error, StorageError)
            assert outcome.error.errno == (errno.EIO if fault is Fault.IO else errno.ENOSPC)
            assert left == ["file"]
    assert calls.count("pwrite") == 4
    assert ("fsync" in calls) == (fault in (Fault.IO, Fault.NO_SPACE))


def test_a_short_write_is_continued_or_the_file_would_be_short(
    folder: Path, tmp_path: Path
) -> None:
    def careless(folder: Path) -> None:
        fd = os.open(folder / "file", os.O_RDWR)
        os.pwrite(fd, NEW, 0)
        os.close(fd)

    short = [
        (o.folder / "file").read_bytes() for o in faults(folder, tmp_path, careless, Fault.SHORT)
    ]
    assert short == [NEW[:1500] + OLD[1500:]]
    for outcome in faults(folder, tmp_path, _fresh, Fault.SHORT):
        assert outcome.error is None
        assert (outcome.folder / "made").read_bytes() == b"x" * 4096
