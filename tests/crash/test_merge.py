# SPDX-License-Identifier: Apache-2.0
"""Merging links: whatever is lost in a crash, the child or its parent holds it all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import diskkit
from crash import Fault, faults, materialise, record, states
from diskkit.errors import DiskkitError
from model.links import KINDS, model_of, some_grains, write_chain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECTORS = 900
QUIET = diskkit.OpenPolicy(warn=lambda _: None)
COMMITTED = (
    ("sparse-128", "sparse-8"),
    ("split-16", "sparse-16-lazy"),
    ("flat", "split-16"),
    ("sparse-8", "sparse-8", "sparse-128"),
    ("vmfs", "cowd-8"),
    ("vmfs", "cowd-1", "cowd-8"),
)
FLATTENED = (
    ("sparse-128", "sparse-8"),
    ("flat", "split-16"),
    ("sparse-16-lazy", "sparse-128", "split-16-lazy"),
)


def _make(folder: Path, chain: tuple[str, ...]) -> tuple[Path, bytes]:
    folder.mkdir()
    links = [
        (KINDS[name], some_grains(SECTORS, KINDS[name], n, dense=not n))
        for n, name in enumerate(chain)
    ]
    return write_chain(folder, SECTORS, links), bytes(model_of(SECTORS, links).content)


def _read(path: Path) -> bytes:
    with diskkit.open_disk(path, policy=QUIET) as disk:
        return disk.read(0, disk.size)


def _holder(folder: Path, leaf: Path) -> Path:
    """The child while it is there, then its parent."""
    number = int(leaf.stem.removeprefix("link"))
    child = folder / leaf.name
    return child if child.exists() else folder / f"link{number - 1}.vmdk"


JOBS: list[tuple[Callable[..., object], tuple[str, ...]]] = [
    *((diskkit.commit, chain) for chain in COMMITTED),
    *((diskkit.flatten, chain) for chain in FLATTENED),
]
NAMES = [f"{job.__name__}-{'-'.join(chain)}" for job, chain in JOBS]


@pytest.mark.parametrize(("job", "chain"), JOBS, ids=NAMES)
def test_a_crash_leaves_the_content_whole(
    job: Callable[..., object], chain: tuple[str, ...], tmp_path: Path
) -> None:
    leaf, content = _make(tmp_path / "disk", chain)
    with record(tmp_path / "disk") as recording:
        job(leaf, policy=QUIET)
    assert _read(_holder(leaf.parent, leaf)) == content
    number = 0
    for number, state in enumerate(states(recording, most=200, seed=5)):
        place = tmp_path / f"state{number}"
        materialise(state, place)
        assert _read(_holder(place, leaf)) == content, state.text
    assert number > 10


@pytest.mark.parametrize("fault", list(Fault), ids=lambda f: f.name)
@pytest.mark.parametrize(("job", "chain"), JOBS[1::3], ids=NAMES[1::3])
def test_a_failing_medium_leaves_the_content_whole(
    job: Callable[..., object], chain: tuple[str, ...], fault: Fault, tmp_path: Path
) -> None:
    leaf, content = _make(tmp_path / "disk", chain)
    hit = 0
    for outcome in faults(
        leaf.parent, tmp_path, lambda folder: job(folder / leaf.name, policy=QUIET), fault
    ):
        hit += 1
        assert outcome.error is None or isinstance(outcome.error, DiskkitError), outcome
        assert _read(_holder(outcome.folder, leaf)) == content, outcome
    assert hit > 5


@pytest.mark.parametrize("chain", COMMITTED, ids="-".join)
def test_the_parent_takes_the_content_and_its_id(chain: tuple[str, ...], tmp_path: Path) -> None:
    leaf, content = _make(tmp_path / "disk", chain)
    with diskkit.open_disk(leaf) as disk:
        cid = disk.info.cid
    done = diskkit.commit(leaf)
    assert done.path == str(_holder(leaf.parent, leaf))
    with diskkit.open_disk(done.path) as disk:
        assert disk.info.cid == cid
        assert disk.read(0, disk.size) == content
        assert len(disk.info.links) == len(chain) - 1
    assert not diskkit.check(done.path, policy=QUIET).problems
    assert not list(leaf.parent.glob(f"{leaf.stem}*"))


@pytest.mark.parametrize("chain", FLATTENED, ids="-".join)
def test_a_flattened_disk_needs_no_parent(chain: tuple[str, ...], tmp_path: Path) -> None:
    leaf, content = _make(tmp_path / "disk", chain)
    with diskkit.open_disk(leaf) as disk:
        cid = disk.info.cid
    diskkit.flatten(leaf)
    for path in leaf.parent.iterdir():
        if not path.name.startswith(leaf.stem):
            path.unlink()
    assert _read(leaf) == content
    with diskkit.open_disk(leaf) as disk:
        assert (disk.info.cid, len(disk.info.links)) == (cid, 1)
    assert not diskkit.check(leaf, policy=QUIET).problems


def test_what_would_break_others_is_refused(tmp_path: Path) -> None:
    leaf, _ = _make(tmp_path / "disk", ("sparse-8", "sparse-8"))
    base = leaf.with_name("link0.vmdk")
    with pytest.raises(diskkit.UsageError, match="no parent"):
        diskkit.commit(base)
    with pytest.raises(diskkit.UsageError, match="no parent"):
        diskkit.flatten(base, policy=QUIET._replace(force=True))
    diskkit.create_child(base, leaf.with_name("other.vmdk"))
    with pytest.raises(diskkit.ChainError, match=r"another child, other\.vmdk"):
        diskkit.commit(leaf)
    diskkit.create_child(leaf, leaf.with_name("third.vmdk"))
    with pytest.raises(diskkit.ChainError, match="is the parent of"):
        diskkit.commit(leaf)
    with diskkit.open_disk(base), pytest.raises(diskkit.LockedError):
        diskkit.commit(leaf.with_name("other.vmdk"), policy=QUIET._replace(force=True))
