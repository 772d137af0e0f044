# SPDX-License-Identifier: Apache-2.0
"""How much room a copy would take, from the map alone: no data is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import UsageError
from diskkit.formats.vmdk.writers import GRAIN, most_stream_bytes, sparse_bytes
from diskkit.runs import joined
from diskkit.tasks.clone import KINDS, filled_ranges, parts
from diskkit.units import SECTOR, align_down, align_up

if TYPE_CHECKING:
    from diskkit.disk import Disk

_BLOCK = 4096
_TABLE_COVER = 512 * GRAIN


class Needed(NamedTuple):
    """Room for a copy, in bytes of its filesystem."""

    bytes: int
    exact: bool
    """False for an upper bound: grains of zeros are not stored, and how well data compresses is
    known only when it is read."""


def space_needed(disk: Disk, kind: str) -> Needed:
    """What a copy of `disk` into `kind` ("raw", or one of `KINDS`) would take.

    Flat kinds are counted in blocks of 4096 bytes, without what the filesystem itself notes.
    """
    capacity = align_up(disk.size, SECTOR)
    if kind != "raw" and kind not in KINDS:
        raise UsageError(f"type {kind!r} is not one of: raw, {', '.join(KINDS)}")
    if kind == "streamOptimized":
        grains, tables = _units(disk, GRAIN), _units(disk, _TABLE_COVER)
        return Needed(most_stream_bytes(capacity, grains, tables), exact=False)
    if kind != "raw" and KINDS[kind].extent == "SPARSE":
        return _sparse(disk, kind, capacity)
    descriptor = 0 if kind == "raw" else _BLOCK
    if kind != "raw" and KINDS[kind].preallocated:
        return Needed(align_up(capacity, _BLOCK) + descriptor, exact=True)
    return Needed(_units(disk, _BLOCK) * _BLOCK + descriptor, exact=False)


def _sparse(disk: Disk, kind: str, capacity: int) -> Needed:
    spec = KINDS[kind]
    if not spec.suffix:
        return Needed(sparse_bytes(capacity, _units(disk, GRAIN), embedded=True), exact=False)
    fronts = (
        sparse_bytes(part.end - part.begin, 0, embedded=False)
        for part in parts(spec, "disk.vmdk", capacity)
    )
    # A part holds whole grains, so that counting them over the whole disk is right.
    total = sum(fronts) + _units(disk, GRAIN) * GRAIN + _BLOCK
    return Needed(total, exact=False)


def _units(disk: Disk, unit: int) -> int:
    """How many aligned units of the disk hold any bytes."""
    ranges = (
        (align_down(begin, unit), align_up(end, unit))
        for begin, end in filled_ranges(disk.stored())
    )
    return sum(end - begin for begin, end in joined(ranges)) // unit
