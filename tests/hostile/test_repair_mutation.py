# SPDX-License-Identifier: Apache-2.0
"""Damage by chance: a repair takes no grain from anybody who could read it right."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit import DiskkitError, OpenPolicy
from hostile.images import GRAIN_BYTES, SAMPLES, SECTOR, get, truncate, u32
from makers import expected, hosted_sparse, poke, sample_grain

if TYPE_CHECKING:
    from pathlib import Path

_QUIET = OpenPolicy(warn=lambda text: None)
_SEEDS = 150


def _grains(path: Path) -> list[bytes | None]:
    """Each grain, None where it cannot be read."""
    found: list[bytes | None] = []
    try:
        disk = diskkit.open_disk(path, policy=_QUIET)
    except DiskkitError:
        return found
    with disk:
        for at in range(0, disk.size, GRAIN_BYTES):
            try:
                found.append(disk.read(at, min(GRAIN_BYTES, disk.size - at)))
            except DiskkitError:
                found.append(None)
    return found


def _damaged(path: Path, dice: random.Random) -> list[bytes]:
    """A disk with damaged directories and tables; what its grains were."""
    gtes, capacity = dice.choice((4, 16, 512)), 10 * 128 + dice.choice((0, 24))
    grains = {i: sample_grain(i) for i in dice.sample(range(10), 5)}
    lazy, redundant = dice.random() < 0.4, dice.random() < 0.8
    hosted_sparse(path, capacity, grains, gtes=gtes, lazy_tables=lazy, redundant=redundant)
    size, places = path.stat().st_size // SECTOR, []
    for directory in ("gdOffset", "rgdOffset") if redundant else ("gdOffset",):
        for index in range(-(-capacity // (128 * gtes))):
            at = get(path, directory) * SECTOR + 4 * index
            places.append(at)
            if table := u32(path, at) * SECTOR:
                places += [table + 4 * dice.randrange(gtes) for _ in range(3)]
    for _ in range(dice.choice((1, 1, 2, 3, 6))):
        other = u32(path, dice.choice(places))
        value = dice.choice((0, 1, 2, 5, 0xFFFFFFFF, dice.randrange(size), other))
        poke(path, dice.choice(places), "<I", value)
    if dice.random() < 0.2:
        truncate(path, -dice.choice((512, 4096, 65536)))
    whole = expected(capacity, grains, 128)
    return [whole[at : at + GRAIN_BYTES] for at in range(0, len(whole), GRAIN_BYTES)]


def test_nothing_that_could_be_read_is_lost(tmp_path: Path) -> None:
    mended = 0
    for seed in range(_SEEDS):
        path = tmp_path / f"disk{seed}.vmdk"
        truth = _damaged(path, random.Random(seed))
        before = _grains(path)
        done = diskkit.repair(path, policy=_QUIET)
        after = _grains(path)
        assert len(after) == len(before), seed
        for old, new, right in zip(before, after, truth, strict=True):
            assert new == old or old != right, (seed, done.plan)
        mended += bool(done.plan) and done.ok
        if done.ok:
            assert diskkit.repair(path, policy=_QUIET).plan == [], seed
    assert mended > _SEEDS / 3


@pytest.mark.parametrize("kind", sorted(SAMPLES))
def test_any_damage_ends_in_a_report_or_a_clear_error(kind: str, tmp_path: Path) -> None:
    path = SAMPLES[kind].make(tmp_path)
    good = {p: p.read_bytes() for p in tmp_path.iterdir()}
    for seed in range(25):
        dice = random.Random(seed)
        for file in tmp_path.iterdir():
            if file not in good:
                file.unlink()
        for file, old in good.items():
            file.write_bytes(old)
        file = dice.choice(sorted(good))
        bad = bytearray(good[file])
        for _ in range(dice.choice((1, 4, 40))):
            bad[dice.randrange(min(len(bad), dice.choice((600, 70000))))] = dice.randrange(256)
        file.write_bytes(bad)
        for lossy in (False, True):
            done = None
            with suppress(DiskkitError):
                done = diskkit.repair(path, lossy=lossy, policy=_QUIET)
            for step in done.plan if done else ():
                assert step.message.isprintable(), seed
