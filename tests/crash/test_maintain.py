# SPDX-License-Identifier: Apache-2.0
"""Growing, shrinking, defragmenting, making, copying: a crash or a failure leaves old or new."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

import diskkit
from crash import Fault, State, faults, materialise, record, states
from diskkit.errors import DiskkitError
from diskkit.storage.newfile import new_file
from diskkit.tasks import clone as cloning
from diskkit.tasks import grow as growing
from makers import expected, hosted_sparse, sample_grain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from makers import Grains

    Job = Callable[[Path], object]

MIB = 1 << 20
PART = 2 * MIB
"""Of split disks here, so that little ones have several parts."""
CAPACITY = 128 * 40
NEW = 6 * MIB
_QUIET = diskkit.OpenPolicy(warn=lambda text: None)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {
        name: kind._replace(part=PART) if kind.part else kind
        for name, kind in cloning.KINDS.items()
    }
    for module in (cloning, growing):
        monkeypatch.setattr(module, "KINDS", kinds)


def _grains() -> Grains:
    made: Grains = {i: sample_grain(i) for i in (9, 3, 0, 27, 4)}
    return {**made, 5: bytes(65536), 7: bytes(65536), 8: "zero"}


def _monolithic(folder: Path) -> bytes:
    order = [9, 3, 0, 27, 4, 5, 7]
    hosted_sparse(folder / "disk.vmdk", CAPACITY, _grains(), order=order)
    return expected(CAPACITY, _grains(), 128)


def _child(folder: Path) -> bytes:
    base: Grains = {i: sample_grain(100 + i) for i in range(12)}
    hosted_sparse(folder / "base.vmdk", CAPACITY, base)
    hosted_sparse(
        folder / "disk.vmdk",
        CAPACITY,
        _grains(),
        order=[9, 3, 0, 27, 4, 5, 7],
        parent_cid="12345678",
        parent_hint="base.vmdk",
        cid="00000002",
    )
    return expected(CAPACITY, _grains(), 128, expected(CAPACITY, base, 128))


def _split(folder: Path) -> bytes:
    _monolithic(folder)
    return _copied(folder, "twoGbMaxExtentSparse")


def _copied(folder: Path, kind: str) -> bytes:
    """Two grains swapped, so that there is something to put in order."""
    if not (folder / "disk.vmdk").exists():
        _monolithic(folder)
    with diskkit.open_disk(folder / "disk.vmdk") as disk:
        content = disk.read(0, disk.size)
        diskkit.clone(disk, folder / "copy.vmdk", kind)
    (folder / "disk.vmdk").unlink()
    text = (folder / "copy.vmdk").read_text()
    (folder / "copy.vmdk").unlink()
    (folder / "disk.vmdk").write_text(text)
    for file in list(folder.iterdir()):
        if "Sparse" in kind and file.name != "disk.vmdk":
            with file.open("ab") as out:
                out.write(b"leaked" * 30_000)
    return content


def _flat(kind: str) -> Callable[[Path], bytes]:
    return lambda folder: _copied(folder, kind)


MAKERS: dict[str, Callable[[Path], bytes]] = {
    "monolithicSparse": _monolithic,
    "twoGbMaxExtentSparse": _split,
    "monolithicFlat": _flat("monolithicFlat"),
    "twoGbMaxExtentFlat": _flat("twoGbMaxExtentFlat"),
    "vmfs": _flat("vmfs"),
    "vmfsThin": _flat("vmfsThin"),
}


def _shrink(folder: Path) -> object:
    return diskkit.shrink(folder / "disk.vmdk", policy=_QUIET)


def _defragment(folder: Path) -> object:
    return diskkit.defragment(folder / "disk.vmdk", policy=_QUIET)


def _grow(folder: Path) -> object:
    return diskkit.grow(folder / "disk.vmdk", NEW, policy=_QUIET)


def _content(folder: Path, name: str = "disk.vmdk") -> bytes:
    with diskkit.open_disk(folder / name, policy=_QUIET) as disk:
        return disk.read(0, disk.size)


def _errors(folder: Path) -> list[object]:
    found = diskkit.check(folder / "disk.vmdk", data=True)
    return [p for p in found.problems if p.severity == "error"]


JOBS = [
    *((kind, job) for kind in MAKERS for job in (_shrink, _grow)),
    ("monolithicSparse", _defragment),
    ("twoGbMaxExtentSparse", _defragment),
    ("child", _shrink),
    ("child", _defragment),
]


def _made(tmp_path: Path, kind: str) -> tuple[Path, bytes]:
    folder = tmp_path / "before"
    folder.mkdir()
    make = _child if kind == "child" else MAKERS[kind]
    return folder, make(folder)


def _wanted(content: bytes, job: Job) -> set[bytes]:
    return {content, content.ljust(NEW, b"\0")} if job is _grow else {content}


@pytest.mark.parametrize(("kind", "job"), JOBS)
def test_a_crash_leaves_the_old_disk_or_the_new(tmp_path: Path, kind: str, job: Job) -> None:
    folder, content = _made(tmp_path, kind)
    wanted = _wanted(content, job)
    with record(folder) as recording:
        job(folder)
    seen = set()
    for state in states(recording, most=150, seed=3):
        materialise(state, tmp_path / "after")
        found = _content(tmp_path / "after")
        assert found in wanted, state.text
        assert _errors(tmp_path / "after") == [], state.text
        seen.add(len(found))
        if state.complete:
            assert len(found) == max(map(len, wanted)), state.text
    assert seen == {len(w) for w in wanted}


@pytest.mark.parametrize("kind", MAKERS)
def test_growing_goes_on_after_a_crash(tmp_path: Path, kind: str) -> None:
    folder, content = _made(tmp_path, kind)
    with record(folder) as recording:
        _grow(folder)
    for state in states(recording, most=60, seed=4):
        materialise(state, tmp_path / "after")
        if len(_content(tmp_path / "after")) < NEW:
            _grow(tmp_path / "after")
        assert _content(tmp_path / "after") == content.ljust(NEW, b"\0"), state.text
        assert _errors(tmp_path / "after") == [], state.text


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize(("kind", "job"), JOBS)
def test_a_failure_is_told_and_leaves_the_old_disk_or_the_new(
    tmp_path: Path, kind: str, job: Job, fault: Fault
) -> None:
    folder, content = _made(tmp_path, kind)
    wanted = _wanted(content, job)
    for outcome in faults(folder, tmp_path, job, fault):
        where = f"{outcome.n}: {outcome.call}: {outcome.error}"
        assert outcome.error is None or isinstance(outcome.error, DiskkitError), where
        found = _content(outcome.folder)
        assert found in wanted, where
        assert _errors(outcome.folder) == [], where
        if outcome.error is None:
            assert len(found) == max(map(len, wanted)), where
        assert "unlink" in outcome.call or not _passing(outcome.folder), where


def _passing(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.endswith(".part")]


NEW_KINDS = ["monolithicSparse", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"]


def _create(kind: str) -> Job:
    def job(folder: Path) -> None:
        if kind != "streamOptimized":
            diskkit.create_disk(folder / "new.vmdk", NEW, kind)
            return
        with diskkit.open_disk(folder / "disk.vmdk") as disk:
            diskkit.clone(disk, folder / "new.vmdk", kind, sync=True)

    return job


def _copy(kind: str) -> Job:
    def job(folder: Path) -> None:
        with diskkit.open_disk(folder / "disk.vmdk") as disk:
            diskkit.clone(disk, folder / "new.vmdk", kind, sync=True)

    return job


@pytest.mark.parametrize("make", [_create, _copy])
@pytest.mark.parametrize("kind", NEW_KINDS)
def test_a_new_disk_is_whole_as_soon_as_its_name_is_there(
    tmp_path: Path, kind: str, make: Callable[[str], Job]
) -> None:
    folder, content = _made(tmp_path, "monolithicSparse")
    with record(folder) as recording:
        make(kind)(folder)
    size = NEW if make is _create and kind != "streamOptimized" else len(content)
    wanted = bytes(size) if size == NEW else content
    named = 0
    for state in states(recording, most=150, seed=5):
        if state.complete:
            assert "new.vmdk" in state.names, state.text
        if "new.vmdk" not in state.names:
            continue
        named += 1
        materialise(state, tmp_path / "after")
        assert _content(tmp_path / "after", "new.vmdk") == wanted, state.text
    assert named


@pytest.mark.parametrize("fault", [Fault.IO, Fault.NO_SPACE, Fault.FULL, Fault.SHORT_THEN_FULL])
@pytest.mark.parametrize("kind", NEW_KINDS)
def test_a_failed_copy_leaves_nothing(tmp_path: Path, kind: str, fault: Fault) -> None:
    folder, content = _made(tmp_path, "monolithicSparse")
    for outcome in faults(folder, tmp_path, _copy(kind), fault):
        where = f"{outcome.n}: {outcome.call}: {outcome.error}"
        if outcome.error is None:
            assert _content(outcome.folder, "new.vmdk") == content, where
            continue
        assert isinstance(outcome.error, DiskkitError), where
        if "unlink" not in outcome.call:
            assert [p.name for p in outcome.folder.iterdir()] == ["disk.vmdk"], where


def test_the_judge_sees_a_grow_that_forgets_to_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were a new part not durable before the descriptor names it, a state would show it."""
    folder, _ = _made(tmp_path, "twoGbMaxExtentSparse")
    monkeypatch.setattr(
        growing, "new_file", lambda path, force, sync: new_file(path, force=force, sync=False)
    )
    with record(folder) as recording:
        _grow(folder)
    assert not all(_opens(state, tmp_path / "after") for state in states(recording, most=300))


def _opens(state: State, folder: Path) -> bool:
    materialise(state, folder)
    try:
        return bool(_content(folder))
    except DiskkitError:
        return False


def test_the_makers_make_what_they_say(tmp_path: Path) -> None:
    for kind in MAKERS:
        (tmp_path / kind).mkdir()
        content = MAKERS[kind](tmp_path / kind)
        assert _content(tmp_path / kind) == content
        shutil.rmtree(tmp_path / kind)
