# SPDX-License-Identifier: Apache-2.0
"""Extents without tables: FLAT, VMFS and ZERO, and those whose data cannot be had.

The holes of a flat file, as its filesystem tells them, are holes of the disk: that is what makes
a thin VMFS disk thin. A flat extent ends its chain, so such a hole reads as zeros.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from diskkit.errors import FormatError, UnsupportedFeature
from diskkit.interfaces import BlockMap
from diskkit.runs import State

if TYPE_CHECKING:
    from diskkit.formats.vmdk.opening import Opening
    from diskkit.interfaces import Storage
    from diskkit.table import RunTable

_RANGES_PER_SCAN = 1 << 16


class FlatMap(BlockMap):
    """`length` guest bytes stored as they are, from byte `base` of a file."""

    granularity = 1

    def __init__(self, storage: Storage, base: int, length: int) -> None:
        """What lies beyond the end of the file reads as zeros; the opener has judged that."""
        self.length = length
        self._storage = storage
        self._base = base
        self._stored = max(0, min(length, storage.size - base))

    def scan(self, offset: int, length: int) -> RunTable:
        """DATA where the filesystem has data, holes elsewhere."""
        from diskkit.table import from_rows

        end = offset + length
        rows: list[tuple[int, State, int]] = []
        reach = offset
        stored = max(0, min(end, self._stored) - offset)
        ranges = self._storage.data_ranges(self._base + offset, stored)
        for begin, stop in islice(ranges, _RANGES_PER_SCAN):
            if begin - self._base > reach:
                rows.append((reach, State.HOLE, 0))
            rows.append((begin - self._base, State.DATA, begin))
            reach = stop - self._base
        if len(rows) >= _RANGES_PER_SCAN:
            end = reach
        elif reach < end:
            rows.append((reach, State.HOLE, 0))
        return from_rows(rows, end)


class ConstantMap(BlockMap):
    """A whole extent in one state: ZERO, or BAD for a reason."""

    granularity = 1

    def __init__(self, length: int, state: State, error: FormatError | None = None) -> None:
        """`error` explains a BAD extent."""
        self.length = length
        self._state = state
        self._error = error

    def scan(self, offset: int, length: int) -> RunTable:
        """One row."""
        from diskkit.table import single

        return single(offset, length, self._state)

    def explain(self, offset: int) -> FormatError:
        """The reason given at construction."""
        assert self._error is not None
        return self._error


def open_flat(opening: Opening) -> BlockMap:
    """FLAT and VMFS: the file must hold what the line says."""
    line, storage = opening.line, opening.storage
    assert storage is not None
    if line.offset + line.length > storage.size:
        problem = f"needs {line.offset + line.length} bytes, the file has {storage.size}"
        if not opening.policy.allow_truncated:
            raise FormatError(
                problem,
                path=storage.name,
                structure="flat extent",
                field="length",
                value=line.length,
                advice="the file was cut short; allow truncated files to read zeros there",
            )
        opening.policy.warning(f"{storage.name}: flat extent: {problem}; the rest reads as zeros")
    return FlatMap(storage, line.offset, line.length)


def open_zero(opening: Opening) -> BlockMap:
    """ZERO: reads as zeros, stored nowhere."""
    return ConstantMap(opening.line.length, State.ZERO)


def refused(opening: Opening, reason: str, advice: str = "") -> BlockMap:
    """An extent whose data cannot be had here."""
    line = opening.line
    error = UnsupportedFeature(
        reason,
        path=opening.path,
        structure="descriptor",
        field=f"{line.access} {line.kind} extent",
        value=line.name,
        advice=advice,
    )
    return ConstantMap(line.length, State.BAD, error)


def open_mapping(opening: Opening) -> BlockMap:
    """VMFSRDM and its kin: a pointer to a device, which only its ESXi host can follow."""
    reason = "a raw device mapping: the data lies on a device, not in this file"
    return refused(opening, reason, "read the device itself, or convert the disk on its host")


def open_vsan(opening: Opening) -> BlockMap:
    """VSANSPARSE: an object of a vSAN datastore."""
    reason = "a vSAN object: its data cannot be read as a file"
    return refused(opening, reason, "copy or export the disk on its host")
