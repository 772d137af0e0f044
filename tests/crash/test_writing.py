# SPDX-License-Identifier: Apache-2.0
"""A crash at any moment of writing: the disk opens, holds what was flushed, and nothing foreign."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

import diskkit
from crash.faults import Fault, faults
from crash.recorder import Recording, record
from crash.states import materialise, states
from model.links import KINDS, model_of, some_grains, write_chain

if TYPE_CHECKING:
    from pathlib import Path

SECTORS = 1400
CHAINS = (
    ("sparse-8",),
    ("sparse-128",),
    ("sparse-16-lazy",),
    ("sparse-16-gtes2-single",),
    ("split-16",),
    ("split-16-lazy",),
    ("flat",),
    ("flat-split-offset",),
    ("vmfsThin",),
    ("raw",),
    ("sparse-128", "sparse-16-lazy"),
    ("flat", "split-16"),
    ("vmfs", "cowd-1"),
    ("vmfs", "cowd-8", "cowd-8"),
    ("vmfs", "sesparse"),
)
IDS = ["-".join(chain) for chain in CHAINS]


COPIES = {"sparse-8", "sparse-128", "sparse-16-lazy", "split-16", "split-16-lazy"}
"""Kinds whose tables have redundant copies."""


class Step(NamedTuple):
    """One thing that was done to the disk."""

    begun: int
    """Operations recorded when it began."""
    ended: int
    offset: int
    data: bytes
    """What it wrote; nothing for a flush."""


def _make(folder: Path, chain: tuple[str, ...]) -> tuple[Path, bytearray]:
    links = [
        (KINDS[name], some_grains(SECTORS, KINDS[name], n, dense=not n))
        for n, name in enumerate(chain)
    ]
    return write_chain(folder, SECTORS, links), model_of(SECTORS, links).content


def _work(disk: diskkit.Disk, seed: int, count: int, recording: Recording | None) -> list[Step]:
    """Random writes, zeros, discards and flushes."""
    rng = random.Random(seed)
    steps = []

    def now() -> int:
        return len(recording.operations) if recording is not None else 0

    for _ in range(count):
        begun = now()
        offset = rng.randrange(disk.size)
        length = min(rng.choice([300, 512, 4096, 20000, 70000, 200000]), disk.size - offset)
        action = rng.random()
        data = bytes(length)
        if action < 0.55:
            data = rng.randbytes(length)
            disk.write(offset, data)
        elif action < 0.65:
            disk.zero(offset, length)
        elif action < 0.75:
            disk.discard(offset, length)
        else:
            data = b""
            disk.flush()
        steps.append(Step(begun, now(), offset, data))
    return steps


def _check(content: bytes, before: bytes, steps: list[Step], point: int) -> None:
    """Every byte is what it was at the last flush that had ended, or what was written since."""
    flushed = bytearray(before)
    done = max((i + 1 for i, s in enumerate(steps) if not s.data and s.ended <= point), default=0)
    for step in steps[:done]:
        flushed[step.offset : step.offset + len(step.data)] = step.data
    found = np.frombuffer(content, np.uint8)
    right = found == np.frombuffer(flushed, np.uint8)
    for step in steps[done:]:
        if step.begun <= point and step.data:
            where = slice(step.offset, step.offset + len(step.data))
            right[where] |= found[where] == np.frombuffer(step.data, np.uint8)
    assert right.all(), f"byte {int((~right).argmax())} is foreign or lost"


def _writable(path: Path) -> bool:
    """Whether it can be written to: every table of it, so that all are compared."""
    try:
        with diskkit.open_disk(path, writable=True, experimental=True) as disk:
            for offset in range(0, disk.size, 512):
                disk.read(offset, 1)
    except diskkit.FormatError:
        return False
    return True


def _repaired(path: Path) -> bytes:
    """What it holds after a repair, which makes it a disk to write to again."""
    done = diskkit.repair(path)
    assert done.ok, done
    assert _writable(path)
    found = diskkit.check(path, data=True)
    assert found.ok, found.problems
    assert "not closed cleanly" not in str(found.problems)
    with diskkit.open_disk(path) as disk:
        return disk.read(0, disk.size)


@pytest.mark.parametrize("chain", CHAINS, ids=IDS)
def test_a_crash_loses_nothing_that_was_flushed(chain: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    path, before = _make(folder, chain)
    with (
        record(folder) as recording,
        diskkit.open_disk(path, writable=True, experimental=True) as disk,
    ):
        steps = _work(disk, len(chain) * 7 + 1, 24, recording)
        final = disk.read(0, disk.size)
    mended = 0
    for number, state in enumerate(states(recording, most=300, seed=3, draws=20)):
        place = tmp_path / f"state{number}"
        materialise(state, place)
        with diskkit.open_disk(place / path.name) as disk:
            content = disk.read(0, disk.size)
        refused = not _writable(place / path.name)
        mended += refused
        if refused or (number % 10 == 0 and path.suffix == ".vmdk"):
            # Only what was not flushed may change with that.
            content = _repaired(place / path.name)
        if state.complete:
            assert content == final, state.text
        try:
            _check(content, bytes(before), steps, state.point)
        except AssertionError as error:
            raise AssertionError(f"{state.text}: {error}") from None
    assert number > 20
    # Two copies of the tables can be caught disagreeing; one cannot.
    assert bool(mended) == (chain[-1] in COPIES)


@pytest.mark.parametrize("fault", list(Fault), ids=lambda f: f.name)
@pytest.mark.parametrize("chain", CHAINS[::2], ids=IDS[::2])
def test_a_medium_that_fails_costs_no_flushed_data(
    chain: tuple[str, ...], fault: Fault, tmp_path: Path
) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    path, before = _make(folder, chain)
    done: list[Step] = []

    def work(copy: Path) -> None:
        done.clear()
        with diskkit.open_disk(copy / path.name, writable=True, experimental=True) as disk:
            rng = random.Random(5)
            for _ in range(4):
                for _ in range(3):
                    offset = rng.randrange(disk.size - 80000)
                    data = rng.randbytes(rng.choice([512, 5000, 70000]))
                    done.append(Step(0, 0, offset, data))
                    disk.write(offset, data)
                done.append(Step(0, 0, 0, b""))
                disk.flush()
                done[-1] = Step(0, -1, 0, b"")

    hit = 0
    for outcome in faults(folder, tmp_path, work, fault):
        hit += 1
        if outcome.error is not None:
            assert isinstance(outcome.error, diskkit.DiskkitError), outcome
        steps = [Step(0, 0 if s.ended == -1 else 1, s.offset, s.data) for s in done]
        with diskkit.open_disk(outcome.folder / path.name, warn=print) as disk:
            content = disk.read(0, disk.size)
        _check(content, bytes(before), steps, 0)
        assert not [f for f in outcome.folder.iterdir() if f.name.startswith(".")], outcome
    assert hit > 10
