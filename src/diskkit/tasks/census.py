# SPDX-License-Identifier: Apache-2.0
"""How full each part of a disk is: the map reduced to a fixed number of cells, for pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diskkit.runs import State

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from diskkit.disk import Disk
    from diskkit.table import RunTable


@dataclass(frozen=True, slots=True)
class Census:
    """Bytes per cell and kind. Cell i covers guest bytes edges[i] to edges[i + 1]."""

    edges: NDArray[np.int64]
    """Shape (cells + 1,)."""
    data: NDArray[np.int64]
    """Shape (links, cells): bytes of data that each link holds for the disk."""
    zero: NDArray[np.int64]
    """Shape (cells,): bytes that some link knows to be zero."""
    runs: int
    """Rows of the map, for a sense of how scattered it is."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Bytes in each cell."""
        return np.diff(self.edges)

    @property
    def share(self) -> NDArray[np.float64]:
        """Share of each cell that is data, 0 to 1."""
        share: NDArray[np.float64] = self.data.sum(axis=0) / self.sizes
        return share

    @property
    def owner(self) -> NDArray[np.int64]:
        """The link that holds most of each cell's data; -1 where there is none."""
        return np.where(self.data.any(axis=0), self.data.argmax(axis=0), -1)


def take_census(disk: Disk, cells: int) -> Census:
    """Count the map of `disk` into at most `cells` cells of equal size, whole sectors each."""
    sectors = -(-disk.size // 512)
    cells = max(1, min(cells, sectors))
    edges = np.array([sectors * i // cells * 512 for i in range(cells)] + [disk.size], np.int64)
    link_of = np.array([s.link for s in disk.sources], np.int64)
    data = np.zeros((disk.link_count, cells), np.int64)
    zero = np.zeros(cells, np.int64)
    runs = 0
    for table in disk.tables():
        runs += len(table.starts)
        owner = np.where(table.states >= State.DATA, link_of[table.sources], -1)
        for link in np.unique(owner[owner >= 0]).tolist():
            data[link] += _per_cell(table, owner == link, edges)
        zero += _per_cell(table, table.states == State.ZERO, edges)
    return Census(edges, data, zero, runs)


def _per_cell(
    table: RunTable, chosen: NDArray[np.bool_], edges: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Bytes of the chosen rows in each cell."""
    lengths = np.where(chosen, table.lengths, 0)
    before = np.cumsum(lengths) - lengths
    at = np.clip(edges, table.offset, table.end)
    row = np.searchsorted(table.starts, at, "right") - 1
    inside = np.minimum(at - table.starts[row], lengths[row])
    counted: NDArray[np.int64] = np.diff(before[row] + inside)
    return counted
