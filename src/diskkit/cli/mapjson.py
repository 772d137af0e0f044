# SPDX-License-Identifier: Apache-2.0
"""The map as JSON, millions of runs at a time.

All rows of a document have one width: numbers are padded with blanks, which JSON allows, so that a
batch of rows is one matrix of characters and no Python code runs per run.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from diskkit.mapping import merged_tables
from diskkit.runs import State
from diskkit.table import DATA

if TYPE_CHECKING:
    from typing import BinaryIO

    from numpy.typing import NDArray

    from diskkit.disk import Disk
    from diskkit.table import Int64, RunTable

_BATCH = 1 << 14
_GROUP = 10_000
_FULL = np.frombuffer(b"".join(b"%04d" % n for n in range(_GROUP)), np.uint32)
_PADDED = np.frombuffer(b"    " + b"".join(b"%4d" % n for n in range(1, _GROUP)), np.uint32)
"""Four digits as one number: with leading zeros, and with leading blanks."""


def write_map(disk: Disk, out: BinaryIO) -> None:
    """Write the JSON document of `diskkit map --json`."""
    rows = _Rows(disk)
    out.write(b'{"capacity": %d, "runs": [\n' % disk.size)
    data_bytes = 0
    for table in merged_tables(disk.tables(), disk.alike()):
        data_bytes += int(table.lengths[table.states == DATA].sum())
        for begin in range(0, len(table.starts), _BATCH):
            batch = table.rows(begin, begin + _BATCH)
            text = rows.text(batch)
            if batch.end == disk.size:
                text[-1, -2] = ord(" ")  # no comma after the last row
            out.write(text.data)
    out.write(b'], "data_bytes": %d}\n' % data_bytes)


class _Rows:
    """Turns tables into rows of text for one disk."""

    def __init__(self, disk: Disk) -> None:
        self._sources = disk.sources
        self._digits = -(-len(str(_largest(disk))) // 4) * 4
        self._names = [s.name for s in disk.sources]
        self._has_file = np.array([name is not None for name in self._names])
        self._path_width = max(len(json.dumps(name)) for name in self._names)
        self._known: dict[int, NDArray[np.uint8]] = {}
        self._places: list[int] = []

    def text(self, table: RunTable) -> NDArray[np.uint8]:
        """One row of characters per run, each ending in a comma and a line feed."""
        in_file = (table.states == DATA) & (table.positions >= 0) & self._has_file[table.sources]
        keys = (table.sources * 4 + table.states) * 2 + in_file
        kinds, which = np.unique(keys, return_inverse=True)
        matrix = np.stack([self._template(int(key)) for key in kinds])
        rows: NDArray[np.uint8] = matrix[which]
        self._put(rows, 0, table.starts)
        self._put(rows, 1, table.lengths)
        if in_file.all():
            self._put(rows, 2, table.positions)
        elif in_file.any():
            part = rows[in_file]
            self._put(part, 2, table.positions[in_file])
            rows[in_file] = part
        return rows

    def _put(self, rows: NDArray[np.uint8], place: int, values: Int64) -> None:
        begin = self._places[place]
        rows[:, begin : begin + self._digits] = _decimal(values, self._digits)

    def _template(self, key: int) -> NDArray[np.uint8]:
        if key not in self._known:
            self._known[key] = self._make_template(key)
        return self._known[key]

    def _make_template(self, key: int) -> NDArray[np.uint8]:
        state, source = State(key // 2 % 4), key // 8
        blank = " " * self._digits
        path = json.dumps(self._names[source]) if key % 2 else "null"
        offset = blank if key % 2 else "null".rjust(self._digits)
        link = self._sources[source].link
        parts = [
            '{"offset":',
            f'{blank}, "length":',
            f'{blank}, "state": {f"{json.dumps(str(state))},":<8}"link": {link:>3}, '
            f'"path": {path + ",":<{self._path_width + 1}} "file_offset":',
            offset + "},\n",
        ]
        self._places = [
            len(parts[0]),
            len(parts[0]) + len(parts[1]),
            len(parts[0]) + len(parts[1]) + len(parts[2]),
        ]
        return np.frombuffer("".join(parts).encode("ascii"), np.uint8)


def _largest(disk: Disk) -> int:
    """No number in the map is larger."""
    return max(disk.size, *(s.size for s in disk.sources))


def _decimal(values: Int64, digits: int) -> NDArray[np.uint8]:
    """Each value as `digits` (a multiple of 4) characters, padded on the left with blanks."""
    groups = np.empty((len(values), digits // 4), np.uint32)
    rest = values
    for column in range(digits // 4 - 1, -1, -1):
        higher = rest // _GROUP
        low = rest - higher * _GROUP
        groups[:, column] = np.where(higher == 0, _PADDED[low], _FULL[low])
        rest = higher
    text = groups.view(np.uint8)
    text[values == 0, -1] = ord("0")
    return text
