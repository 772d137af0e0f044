# SPDX-License-Identifier: Apache-2.0
"""Small disks that the tests of copying, comparing and checking share."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from makers import expected, hosted_sparse, sample_grain, stream

if TYPE_CHECKING:
    from pathlib import Path

    from makers import Grains, Variant

CAPACITY = 128 * 40 + 24
"""Sectors: forty grains and a bit."""


class Made(NamedTuple):
    path: Path
    content: bytes


def sparse(folder: Path, name: str = "base.vmdk", seed: int = 0) -> Made:
    grains = {i: sample_grain(seed + i) for i in (0, 1, 2, 7, 9, 30, 40)}
    hosted_sparse(folder / name, CAPACITY, grains)
    return Made(folder / name, expected(CAPACITY, grains, 128))


def child(folder: Path, base: Made, name: str = "child.vmdk") -> Made:
    """Rewrites grains 1 and 20, zeroes grain 7."""
    grains: Grains = {1: sample_grain(101), 7: "zero", 20: sample_grain(120)}
    hosted_sparse(
        folder / name,
        CAPACITY,
        grains,
        parent_cid="12345678",
        parent_hint=base.path.name,
        cid="00000002",
    )
    return Made(folder / name, expected(CAPACITY, grains, 128, base.content))


def packed(folder: Path, variant: Variant, name: str = "stream.vmdk") -> Made:
    grains = {i: sample_grain(i, noise=i % 2 == 0) for i in (0, 3, 4, 5, 31, 40)}
    stream(folder / name, CAPACITY, grains, variant=variant)
    return Made(folder / name, expected(CAPACITY, grains, 128))
