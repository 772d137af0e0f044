# SPDX-License-Identifier: Apache-2.0
"""Disks of every kind that can be written, under random operations, against a bytearray."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import diskkit
from model.links import KINDS, Kind, model_of, write_chain
from model.test_chains import grains_of

if TYPE_CHECKING:
    from makers import Grains

SECTOR = 512
LEAVES = [k for k in KINDS.values() if not k.name.startswith("stream")]
PARENTS = [k for k in KINDS.values() if k.name != "raw"]
CHILDREN = [k for k in KINDS.values() if k.child]


@st.composite
def writable_chains(draw: st.DrawFn) -> tuple[int, list[tuple[Kind, Grains]]]:
    """A capacity, and up to four links, base first, of which the last can be written to."""
    capacity = draw(st.one_of(st.integers(1, 700), st.integers(2000, 9000)))
    depth = draw(st.integers(0, 3))
    kinds: list[Kind] = [draw(st.sampled_from(PARENTS if depth else LEAVES))]
    for _ in range(depth):
        other = {"cowd": "sesparse", "sesparse": "cowd"}.get(kinds[-1].esx)
        kinds.append(draw(st.sampled_from([k for k in CHILDREN if k.esx != other])))
    return capacity, [(kind, draw(grains_of(kind, capacity))) for kind in kinds]


class Writing(RuleBasedStateMachine):
    """One disk, opened and closed, written and read."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.disk: diskkit.Disk | None = None
        self.wrote = False
        self.cid: str | int | None = None

    @initialize(chain=writable_chains())
    def make(self, chain: tuple[int, list[tuple[Kind, Grains]]]) -> None:
        capacity, links = chain
        note(f"{capacity} sectors: {[kind.name for kind, _ in links]}")
        self.path = write_chain(self.folder, capacity, links)
        self.model = model_of(capacity, links).content
        self.below = {
            p: p.read_bytes() for p in self.folder.iterdir() if self.path.stem not in p.name
        }
        self.open()

    def open(self) -> None:
        self.disk = diskkit.open_disk(self.path, writable=True, experimental=True)
        self.cid = self.disk.info.cid
        self.wrote = False

    def span(self, place: float, length: int) -> tuple[int, int]:
        begin = min(int(place * len(self.model)), len(self.model) - 1)
        return begin, min(length, len(self.model) - begin)

    PLACES = st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1, exclude_max=True))
    LENGTHS = st.one_of(
        st.integers(1, 3 * SECTOR),
        st.sampled_from([SECTOR, 4096, 8192, 65536, 1 << 20]),
        st.integers(1, 600000),
    )

    @rule(place=PLACES, length=LENGTHS, aligned=st.booleans(), seed=st.integers(0, 99))
    def write(self, place: float, length: int, aligned: bool, seed: int) -> None:
        assert self.disk is not None
        begin, length = self.span(place, length)
        if aligned:
            begin -= begin % 4096
        data = random.Random(seed).randbytes(length)
        self.disk.write(begin, data)
        self.model[begin : begin + length] = data
        self.wrote = True

    @rule(place=PLACES, length=LENGTHS, aligned=st.booleans(), how=st.sampled_from("wzd"))
    def make_zero(self, place: float, length: int, aligned: bool, how: str) -> None:
        assert self.disk is not None
        begin, length = self.span(place, length)
        if aligned:
            begin -= begin % 65536
        if how == "w":
            self.disk.write(begin, bytes(length))
        elif how == "z":
            self.disk.zero(begin, length)
        else:
            self.disk.discard(begin, length)
        self.model[begin : begin + length] = bytes(length)
        self.wrote = True

    @rule(place=PLACES, length=LENGTHS)
    def read(self, place: float, length: int) -> None:
        assert self.disk is not None
        begin, length = self.span(place, length)
        assert self.disk.read(begin, length) == self.model[begin : begin + length]

    @rule()
    def flush(self) -> None:
        assert self.disk is not None
        self.disk.flush()

    @rule()
    def look_at_the_map(self) -> None:
        assert self.disk is not None
        reach = 0
        for run in self.disk.runs():
            assert run.offset == reach
            reach += run.length
            if run.state != diskkit.State.DATA:
                part = self.model[run.offset : reach]
                assert part.count(0) == len(part)
            elif run.path is not None and run.file_offset is not None:
                with Path(run.path).open("rb") as file:
                    file.seek(run.file_offset)
                    assert file.read(run.length) == self.model[run.offset : reach]
        assert reach == len(self.model)

    @precondition(lambda self: self.disk is not None)
    @rule()
    def reopen(self) -> None:
        assert self.disk is not None
        self.disk.close()
        self.examine()
        self.open()

    def examine(self) -> None:
        found = diskkit.check(self.path, data=True)
        # A note is of how the maker made the disk, not of what was done to it.
        assert not [p for p in found.problems if p.code != "note"]
        with diskkit.open_disk(self.path) as disk:
            assert disk.read(0, disk.size) == self.model
            if disk.info.cid is not None:
                assert (disk.info.cid != self.cid) == self.wrote
        for path, before in self.below.items():
            assert path.read_bytes() == before

    @invariant()
    def is_open(self) -> None:
        assert self.disk is not None

    def teardown(self) -> None:
        if self.disk is not None:
            self.disk.close()
            self.examine()
        shutil.rmtree(self.folder)


TestWriting = Writing.TestCase
