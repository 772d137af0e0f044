# SPDX-License-Identifier: Apache-2.0
"""A repair that is interrupted or fails, anywhere, and is done again, ends well; undoing, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import diskkit
from crash import Fault, faults, materialise, record, states
from hostile.images import (
    GRAIN_BYTES,
    SECTOR,
    content,
    cowd_chain,
    get,
    hosted_chain,
    mono,
    mono_bytes,
    packed,
    put,
    split,
    table_entry,
    truncate,
    u32,
)
from makers import poke, sample_grain, text_replace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BOTH = ("gdOffset", "rgdOffset")
_QUIET = diskkit.OpenPolicy(warn=lambda text: None)
LOSSY = {"cut stream", "lost descriptor"}


def _tables(folder: Path) -> bytes:
    disk = mono(folder, unclean=True)
    poke(disk, table_entry(disk, 2), "<I", 5)
    poke(disk, table_entry(disk, 9, "rgdOffset"), "<I", 5)
    text_replace(disk, 'ddb.virtualHWVersion = "7"', f'ddb.longContentID = "{"ab" * 16}"')
    return mono_bytes()


def _directory(folder: Path) -> bytes:
    disk = mono(folder, unclean=True)
    poke(disk, get(disk, "gdOffset") * SECTOR, "<I", 0xFFFFFFFF)
    with disk.open("ab") as f:
        f.write(b"x" * (4 * GRAIN_BYTES))
    return mono_bytes()


def _lazy(folder: Path) -> bytes:
    disk = mono(folder, lazy_tables=True)
    # Not where the layout would have it, and full of what is no table.
    poke(disk, get(disk, "gdOffset") * SECTOR, "<I", u32(disk, table_entry(disk, 2)) + 3)
    return mono_bytes()


def _shared(folder: Path) -> bytes:
    disk = mono(folder)
    place = u32(disk, table_entry(disk, 2))
    for directory in BOTH:
        for index in (5, 6):
            poke(disk, table_entry(disk, index, directory), "<I", place + index - 5)
    return content(disk)


def _leaked(folder: Path) -> bytes:
    disk = mono(folder, unclean=True)
    with disk.open("ab") as f:
        f.write(b"x" * (4 * GRAIN_BYTES))
    for directory in BOTH:
        poke(disk, table_entry(disk, 10, directory), "<I", 77777)
    return mono_bytes()


def _split(folder: Path) -> bytes:
    disk = split(folder)
    for number in (1, 3):
        part = folder / f"disk-s00{number}.vmdk"
        put(part, "uncleanShutdown", 1)
        poke(part, table_entry(part, 1, BOTH[number // 2]), "<I", 5)
    text_replace(disk, 'ddb.virtualHWVersion = "7"', f'ddb.longContentID = "{"ab" * 16}"')
    return mono_bytes()


def _stream(variant: str) -> Callable[[Path], bytes]:
    def make(folder: Path) -> bytes:
        disk = packed(folder, variant)  # type: ignore[arg-type]
        if variant == "B":
            poke(disk, table_entry(disk, 2), "<I", 99999)
        else:
            truncate(disk, -3 * SECTOR)
        disk.rename(folder / "disk.vmdk")
        return mono_bytes()

    return make


def _cut(folder: Path) -> bytes:
    disk = packed(folder, "A")
    with diskkit.open_disk(disk) as opened:
        table = opened.chain.links[0].extents[0].map.scan(0, opened.size)
    truncate(disk, int(table.positions.max()) + 100)
    disk.rename(folder / "disk.vmdk")
    return mono_bytes({0: sample_grain(1), 2: sample_grain(2)})


def _cowd(folder: Path) -> bytes:
    disk = cowd_chain(folder, unclean=True)
    wanted = content(disk)
    extent = folder / "child-delta.vmdk"
    poke(extent, 28, "<I", u32(extent, 28) - 20)
    disk.rename(folder / "disk.vmdk")
    return wanted


def _lost(folder: Path) -> bytes:
    disk = mono(folder)
    with disk.open("r+b") as f:
        f.seek(SECTOR)
        f.write(bytes(20 * SECTOR))
    return mono_bytes()


def _parent(folder: Path) -> bytes:
    disk = hosted_chain(folder)
    wanted = content(disk)
    text_replace(folder / "parent.vmdk", "CID=aaaaaaaa", "CID=bbbbbbbb")
    disk.rename(folder / "disk.vmdk")
    return wanted


DAMAGES: dict[str, Callable[[Path], bytes]] = {
    "tables": _tables,
    "directory": _directory,
    "lazy tables": _lazy,
    "shared grains": _shared,
    "leaked": _leaked,
    "split": _split,
    "stream A": _stream("A"),
    "stream B": _stream("B"),
    "stream E": _stream("E"),
    "cut stream": _cut,
    "redo log": _cowd,
    "lost descriptor": _lost,
    "parent's id": _parent,
}


def _repair(folder: Path, damage: str) -> diskkit.tasks.repair.Repaired:  # type: ignore[name-defined]
    return diskkit.repair(
        folder / "disk.vmdk", lossy=damage in LOSSY, fix_ids=damage == "parent's id", policy=_QUIET
    )


def _well(folder: Path, wanted: bytes, where: str) -> None:
    assert content(folder / "disk.vmdk") == wanted, where
    found = diskkit.check(folder / "disk.vmdk", data=True)
    assert found.ok, (where, found.problems)
    assert "not closed cleanly" not in str(found.problems), where


@pytest.mark.parametrize("damage", DAMAGES)
def test_interrupted_and_done_again(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    wanted = DAMAGES[damage](folder)
    assert diskkit.repair(folder / "disk.vmdk", dry_run=True).plan or damage == "parent's id"
    with record(folder) as recording:
        assert _repair(folder, damage).ok
    _well(folder, wanted, damage)
    count = 0
    for state in states(recording, most=150, seed=1):
        materialise(state, tmp_path / "after")
        if state.complete:
            _well(tmp_path / "after", wanted, state.text)
        done = _repair(tmp_path / "after", damage)
        assert done.ok, (state.text, done)
        _well(tmp_path / "after", wanted, state.text)
        count += 1
    assert count > 5


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("damage", DAMAGES)
def test_failed_and_done_again(damage: str, fault: Fault, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    wanted = DAMAGES[damage](folder)
    hit = 0
    for outcome in faults(folder, tmp_path, lambda copy: _repair(copy, damage), fault):
        hit += 1
        where = f"{outcome.n}: {outcome.call}: {outcome.error}"
        assert outcome.error is None or isinstance(outcome.error, diskkit.DiskkitError), where
        done = _repair(outcome.folder, damage)
        assert done.ok, (where, done)
        _well(outcome.folder, wanted, where)
    assert hit


@pytest.mark.parametrize("damage", ["tables", "leaked", "shared grains", "split", "stream A"])
def test_undoing_is_undone_again(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    DAMAGES[damage](folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    backup = _repair(folder, damage).backup
    assert backup is not None
    name = backup.rpartition("/")[2]
    with record(folder) as recording:
        diskkit.undo_repair(folder / "disk.vmdk", backup)
    force = diskkit.OpenPolicy(force=True)
    for state in states(recording, most=60, seed=2):
        after = tmp_path / "after"
        materialise(state, after)
        diskkit.undo_repair(after / "disk.vmdk", after / name, policy=force)
        now = {p.name: p.read_bytes() for p in after.iterdir() if p.name != name}
        assert now == before, state.text


def test_an_interrupted_repair_is_undone_only_when_forced(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    _tables(folder)
    before = (folder / "disk.vmdk").read_bytes()
    seen = 0
    for outcome in faults(folder, tmp_path, lambda copy: _repair(copy, "tables"), Fault.IO):
        backup = outcome.folder / "disk.vmdk.before-repair"
        if outcome.error is None or not backup.exists() or b'"after"' in backup.read_bytes():
            continue
        with pytest.raises(diskkit.UsageError, match="interrupted"):
            diskkit.undo_repair(outcome.folder / "disk.vmdk", backup)
        force = diskkit.OpenPolicy(force=True)
        diskkit.undo_repair(outcome.folder / "disk.vmdk", backup, policy=force)
        assert (outcome.folder / "disk.vmdk").read_bytes() == before, outcome
        seen += 1
    assert seen > 3
