# SPDX-License-Identifier: Apache-2.0
"""Everything that can be done to a disk that diskkit made, in any order, against a bytearray."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

import diskkit
from diskkit.tasks.clone import KINDS

QUIET = diskkit.OpenPolicy(warn=lambda _: None, experimental=True)
MADE = [kind for kind in KINDS if kind != "streamOptimized"]
HOSTED = ("monolithicSparse", "twoGbMaxExtentSparse")
MOST_SECTORS = 3000


class Maintaining(RuleBasedStateMachine):
    """A chain of up to four links, written, snapshot, merged, resized, renamed, copied."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.chain: list[Path] = []
        self.kinds: list[str] = []
        self.content = bytearray()
        self.count = 0

    @property
    def leaf(self) -> Path:
        return self.chain[-1]

    def name(self) -> Path:
        self.count += 1
        return self.folder / f"disk{self.count}.vmdk"

    @initialize(kind=st.sampled_from(MADE), sectors=st.integers(1, MOST_SECTORS // 2))
    def create(self, kind: str, sectors: int) -> None:
        note(f"{kind} of {sectors} sectors")
        self.chain, self.kinds = [self.name()], [kind]
        self.content = bytearray(sectors * 512)
        diskkit.create_disk(self.leaf, len(self.content), kind, sync=False)

    @rule(seed=st.integers(0, 9999), count=st.integers(1, 6))
    def write(self, seed: int, count: int) -> None:
        rng = random.Random(seed)
        with diskkit.open_disk(self.leaf, writable=True, policy=QUIET) as disk:
            for _ in range(count):
                begin = rng.randrange(len(self.content))
                begin -= rng.choice((0, begin % 512, begin % 65536))
                n = min(rng.choice((1, 512, 4096, 65536, 200000)), len(self.content) - begin)
                data = bytes(n)
                if (how := rng.randrange(4)) < 2:
                    data = rng.randbytes(n)
                    disk.write(begin, data)
                elif how == 2:
                    disk.zero(begin, n)
                else:
                    disk.discard(begin, n)
                self.content[begin : begin + n] = data
                if rng.random() < 0.2:
                    disk.flush()

    @precondition(lambda self: len(self.chain) < 4)
    @rule(pick=st.integers(0, 1))
    def snapshot(self, pick: int) -> None:
        if self.kinds[0].startswith("vmfs"):
            below = self.kinds[-1]
            kind = below if len(self.chain) > 1 else ("vmfsSparse", "seSparse")[pick]
        else:
            kind = HOSTED[pick]
        child = self.name()
        diskkit.create_child(self.leaf, child, kind, policy=QUIET, experimental=True, sync=False)
        self.chain.append(child)
        self.kinds.append(kind)

    @precondition(lambda self: len(self.chain) > 1)
    @rule()
    def commit(self) -> None:
        done = diskkit.commit(self.leaf, policy=QUIET)
        assert not self.leaf.exists()
        self.chain.pop()
        self.kinds.pop()
        assert Path(done.path) == self.leaf

    @precondition(lambda self: len(self.chain) > 1 and self.kinds[-1] in HOSTED)
    @rule()
    def flatten(self) -> None:
        diskkit.flatten(self.leaf, policy=QUIET)
        for path in reversed(self.chain[:-1]):
            diskkit.remove_disk(path, policy=QUIET)
        self.chain, self.kinds = [self.leaf], [self.kinds[-1]]

    @precondition(lambda self: self.kinds[-1] not in ("vmfsSparse", "seSparse"))
    @rule(shrink=st.booleans())
    def compact(self, shrink: bool) -> None:
        (diskkit.shrink if shrink else diskkit.defragment)(self.leaf, policy=QUIET)

    @precondition(lambda self: len(self.chain) == 1 and len(self.content) < MOST_SECTORS * 512)
    @rule(more=st.integers(1, 300))
    def grow(self, more: int) -> None:
        diskkit.grow(self.leaf, len(self.content) + more * 512, policy=QUIET)
        self.content += bytes(more * 512)

    @rule()
    def rename(self) -> None:
        new = self.name()
        diskkit.rename_disk(self.leaf, new, policy=QUIET)
        self.chain[-1] = new

    @rule(kind=st.sampled_from(MADE))
    def copy(self, kind: str) -> None:
        new = self.name()
        with diskkit.open_disk(self.leaf, policy=QUIET) as disk:
            diskkit.clone(disk, new, kind)
        for path in reversed(self.chain):
            diskkit.remove_disk(path, policy=QUIET)
        self.chain, self.kinds = [new], [kind]

    @rule()
    def examine(self) -> None:
        assert not diskkit.check(self.leaf, policy=QUIET, data=True).problems
        with diskkit.open_disk(self.leaf, policy=QUIET) as disk:
            assert disk.size == len(self.content)
            assert len(disk.info.links) == len(self.chain)
            assert disk.read(0, disk.size) == self.content
        assert {p.name.split(".")[0].split("-")[0] for p in self.folder.iterdir()} == {
            p.stem for p in self.chain
        }

    def teardown(self) -> None:
        try:
            if self.chain:
                self.examine()
        finally:
            shutil.rmtree(self.folder)


TestMaintaining = Maintaining.TestCase
