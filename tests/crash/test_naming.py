# SPDX-License-Identifier: Apache-2.0
"""Renaming, moving, removing, describing anew: a crash or a failure leaves the old or the new."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import diskkit
from crash import Fault, faults, materialise, record, states
from diskkit.errors import DiskkitError
from makers import expected, hosted_sparse, sample_grain, split_sparse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Job = Callable[[Path], object]

CAPACITY = 512
GRAINS = {0: sample_grain(1), 3: sample_grain(2)}
QUIET = diskkit.OpenPolicy(allow=("/",), warn=lambda _: None)
CONTENT = expected(CAPACITY, GRAINS, 128)


def single(folder: Path) -> None:
    hosted_sparse(folder / "disk.vmdk", CAPACITY, GRAINS)


def split(folder: Path) -> None:
    split_sparse(folder / "disk.vmdk", CAPACITY, GRAINS, 256)
    text = (folder / "disk.vmdk").read_text()
    (folder / "disk.vmdk").write_text(text + 'changeTrackPath="disk-ctk.vmdk"\n')
    (folder / "disk-ctk.vmdk").write_bytes(b"tracks")


def child(folder: Path) -> None:
    hosted_sparse(folder / "base.vmdk", CAPACITY, {0: sample_grain(1)})
    hint = {"parent_cid": "12345678", "parent_hint": "base.vmdk", "cid": "2"}
    hosted_sparse(folder / "disk.vmdk", CAPACITY, {3: sample_grain(2)}, **hint)  # type: ignore[arg-type]


def rename(folder: Path) -> object:
    return diskkit.rename_disk(folder / "disk.vmdk", folder / "new.vmdk", policy=QUIET)


def move(folder: Path) -> object:
    return diskkit.rename_disk(folder / "disk.vmdk", folder / "there" / "new.vmdk", policy=QUIET)


def describe(folder: Path) -> None:
    diskkit.write_metadata(folder / "disk.vmdk", {"comment": "x" * 900, "uuid": "y"})


def remove(folder: Path) -> object:
    return diskkit.remove_disk(folder / "disk.vmdk", policy=QUIET)


def made(tmp_path: Path, make: Callable[[Path], None]) -> Path:
    folder = tmp_path / "before"
    (folder / "there").mkdir(parents=True)
    (folder / "there" / "keep").touch()
    make(folder)
    return folder


def disks(folder: Path) -> dict[str, bytes]:
    """Every disk of these names that is there; one that is must open."""
    found = {}
    for name in ("disk.vmdk", "new.vmdk", "there/new.vmdk"):
        if (folder / name).exists():
            with diskkit.open_disk(folder / name, policy=QUIET) as disk:
                found[name] = disk.read(0, disk.size)
    return found


def comments(folder: Path) -> tuple[str | None, str | None]:
    found = diskkit.read_metadata(folder / "disk.vmdk", policy=QUIET)
    return found.get("comment"), found.get("uuid")


JOBS = [(make, job) for make in (single, split, child) for job in (rename, move, describe)]


@pytest.mark.parametrize(("make", "job"), JOBS)
def test_a_crash_leaves_the_old_disk_or_the_new(
    tmp_path: Path, make: Callable[[Path], None], job: Job
) -> None:
    folder = made(tmp_path, make)
    with record(folder) as recording:
        job(folder)
    (new,) = disks(folder)
    seen = set()
    for state in states(recording, most=200, seed=6):
        materialise(state, tmp_path / "after")
        found = disks(tmp_path / "after")
        assert found, state.text
        assert set(found.values()) == {CONTENT}, state.text
        seen |= set(found)
        if state.complete:
            assert set(found) == {new}, state.text
        if job is describe:
            said = comments(tmp_path / "after")
            assert said in ((None, None), ("x" * 900, "y")), state.text
            seen.add(str(said[1]))
    assert seen == ({"disk.vmdk", "None", "y"} if job is describe else {"disk.vmdk", new})


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize(("make", "job"), JOBS)
def test_a_failure_is_told_and_leaves_the_old_disk_or_the_new(
    tmp_path: Path, make: Callable[[Path], None], job: Job, fault: Fault
) -> None:
    folder = made(tmp_path, make)
    for outcome in faults(folder, tmp_path, job, fault):
        where = f"{outcome.n}: {outcome.call}: {outcome.error}"
        assert outcome.error is None or isinstance(outcome.error, DiskkitError), where
        found = disks(outcome.folder)
        assert set(found.values()) == {CONTENT}, where
        if job is describe:
            assert comments(outcome.folder) in ((None, None), ("x" * 900, "y")), where


@pytest.mark.parametrize("make", [single, split, child])
def test_what_a_crash_leaves_of_a_removed_disk_is_whole_or_no_disk(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    folder = made(tmp_path, make)
    with record(folder) as recording:
        remove(folder)
    seen = set()
    for state in states(recording, most=100, seed=7):
        materialise(state, tmp_path / "after")
        found = disks(tmp_path / "after")
        assert set(found.values()) <= {CONTENT}, state.text
        seen.add(len(found))
        if state.complete:
            left = {p.name for p in (tmp_path / "after").iterdir()} - {"there", "base.vmdk"}
            assert left == set(), state.text
    assert seen == {0, 1}
