# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.runs import State
from diskkit.tasks.census import take_census
from tasks.images import child, packed, sparse

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("cells", [1, 7, 64, 1000, 10**6])
def test_every_byte_is_counted_in_its_cell_once(tmp_path: Path, cells: int) -> None:
    top = child(tmp_path, sparse(tmp_path))
    with diskkit.open_disk(top.path) as disk:
        census = take_census(disk, cells)
        edges = census.edges.tolist()
        assert edges[0] == 0
        assert edges[-1] == disk.size
        data = [[0] * len(census.sizes) for _ in disk.chain.links]
        zero = [0] * len(census.sizes)
        for cell, (begin, end) in enumerate(itertools.pairwise(edges)):
            for run in disk.runs(begin, end - begin):
                if run.state == State.DATA:
                    data[run.link][cell] += run.length
                elif run.state == State.ZERO:
                    zero[cell] += run.length
        assert census.data.tolist() == data
        assert census.zero.tolist() == zero


def test_compressed_data_counts_by_the_guest_bytes(tmp_path: Path) -> None:
    made = packed(tmp_path, "A")
    with diskkit.open_disk(made.path) as disk:
        total = sum(r.length for r in disk.runs() if r.state == State.DATA)
        assert int(take_census(disk, 10).data.sum()) == total
