# SPDX-License-Identifier: Apache-2.0
"""Disks with a volume group whose volume is an image, wherever its segments are to lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from volumes.tables import PE_START, Part, lvm_text, put_pv

if TYPE_CHECKING:
    from collections.abc import Sequence

EXTENT = 1 << 20
NAME = "vg0/root"


class Run(NamedTuple):
    """A segment: so many extents of the volume from the first on, and where they lie."""

    disk: int
    first: int
    extents: int


def layouts(image: bytes) -> dict[str, list[Run]]:
    """Ways to lay the image out; the first needs one disk, and so does the second."""
    count = len(image) // EXTENT
    half = count // 2
    return {
        "one segment": [Run(0, 2, count)],
        "two segments": [Run(0, half + 3, half), Run(0, 1, count - half)],
        "two disks": [Run(1, 0, half), Run(0, 3, count - half)],
    }


def group(image: bytes, runs: Sequence[Run]) -> list[bytes]:
    """The disks, which are physical volumes without a partition table."""
    assert len(image) == EXTENT * sum(run.extents for run in runs)
    disks = range(1 + max(run.disk for run in runs))
    parts, begin = [], 0
    for run in runs:
        parts.append(Part(begin, run.extents, [(run.disk, run.first)]))
        begin += run.extents
    text = lvm_text({"root": parts}, pvs=disks, extent_sectors=EXTENT // 512)
    made = []
    for number in disks:
        last = max(run.first + run.extents for run in runs if run.disk == number)
        raw = bytearray(PE_START * 512 + (last + 1) * EXTENT)
        put_pv(raw, 0, len(raw), number, text)
        for part, run in zip(parts, runs, strict=True):
            if run.disk == number:
                at, source = PE_START * 512 + run.first * EXTENT, part.start * EXTENT
                length = run.extents * EXTENT
                raw[at : at + length] = image[source : source + length]
        made.append(bytes(raw))
    return made
