# SPDX-License-Identifier: Apache-2.0
"""Random chains of random kinds against a bytearray."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given, note
from hypothesis import strategies as st

import diskkit
from diskkit.testing import check_runs, cut_runs
from makers import sample_grain
from model.links import KINDS, Kind, grain_count, joined, model_of, write_chain

if TYPE_CHECKING:
    from makers import Grain, Grains

_CHILDREN = [kind for kind in KINDS.values() if kind.child]
_BASES = [kind for kind in KINDS.values() if kind.name != "raw"]
_MIB = 2048

CAPACITIES = st.one_of(
    st.integers(1, 600),
    st.integers(600, 4 * _MIB),
    # Around the edge of a table of 1-, 8- and 16-sector grains, and of a window.
    st.sampled_from([4096, 8192, 2 * _MIB, 16 * _MIB, 32 * _MIB]).flatmap(
        lambda edge: st.integers(edge - 130, edge + 130)
    ),
)


@st.composite
def grains_of(draw: st.DrawFn, kind: Kind, capacity: int) -> Grains:
    """A few single grains and stretches of them, near the ends and anywhere."""
    count = grain_count(capacity, kind)
    most = 6 if kind.grain > 128 else 40
    place = st.one_of(
        st.integers(0, count - 1),
        st.sampled_from([0, count - 1, max(0, count - 2), min(count - 1, kind.grain)]),
    )
    found: dict[int, Grain] = {}
    for begin, length, content in draw(
        st.lists(
            st.tuples(
                place,
                st.integers(1, 12),
                st.sampled_from(["data", "data", "noise", "nul", *kind.words]),
            ),
            max_size=8,
        )
    ):
        for index in range(begin, min(begin + length, count)):
            if content in kind.words:
                found[index] = content  # type: ignore[assignment]
            elif sum(isinstance(g, bytes) for g in found.values()) < most:
                noise = content == "noise"
                data = sample_grain(draw(st.integers(0, 9)), kind.grain, noise=noise)
                found[index] = bytes(len(data)) if content == "nul" else data
    return found


@st.composite
def chains(draw: st.DrawFn) -> tuple[int, list[tuple[Kind, Grains]]]:
    """A capacity, and the links from the base on."""
    capacity = draw(CAPACITIES)
    depth = draw(st.integers(0, 5))
    kinds = [draw(st.sampled_from(_BASES if depth else list(KINDS.values())))]
    for _ in range(depth):
        other = {"cowd": "sesparse", "sesparse": "cowd"}.get(kinds[-1].esx)
        kinds.append(draw(st.sampled_from([k for k in _CHILDREN if k.esx != other])))
    return capacity, [(kind, draw(grains_of(kind, capacity))) for kind in kinds]


@given(chains(), st.integers(0, 1 << 30))
def test_a_chain_is_what_its_links_make_it(
    chain: tuple[int, list[tuple[Kind, Grains]]], seed: int
) -> None:
    capacity, links = chain
    note(" <- ".join(f"{kind.name}:{sorted(grains)}" for kind, grains in links))
    model = model_of(capacity, links)
    with tempfile.TemporaryDirectory() as folder:
        leaf = write_chain(Path(folder), capacity, links)
        with diskkit.open_disk(leaf) as disk:
            assert disk.size == capacity * 512
            runs = list(disk.runs())
            check_runs(runs, 0, disk.size)
            assert joined(runs) == model.runs()
            for chunk in (512, 65536, 3 << 16, 1 << 26):
                assert list(disk.allocated(chunk=chunk)) == model.allocated(chunk)
            assert disk.read(0, disk.size) == model.content
            dice = random.Random(seed)
            for _ in range(10):
                offset = dice.randrange(disk.size)
                length = dice.randrange(min(disk.size - offset, 200_000) + 1)
                assert disk.read(offset, length) == model.content[offset : offset + length]
                assert list(disk.runs(offset, length)) == cut_runs(runs, offset, length)
