# SPDX-License-Identifier: Apache-2.0
"""The disks that the suites are run over: every kind, custom mixes, and chains."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import diskkit
from diskkit.testing import DiskCase
from makers import Grains, hosted_sparse, sample_grain, write_descriptor
from model.links import (
    DATA,
    KINDS,
    Kind,
    Model,
    model_of,
    some_grains,
    write_chain,
    write_holey,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Built:
    """A disk on the filesystem, and what it must be."""

    path: Path
    model: Model
    options: dict[str, Any] = field(default_factory=dict)

    def open(self, **more: Any) -> diskkit.Disk:  # noqa: ANN401 - the policy's own types
        return diskkit.open_disk(self.path, **{**self.options, **more})

    def disk_case(self) -> DiskCase:
        return DiskCase(self.open, bytes(self.model.content))


@dataclass(frozen=True)
class Case:
    """One disk of the table."""

    name: str
    extents: frozenset[str]
    """Extent types it exercises."""
    build: Callable[[Path], Built]

    def __str__(self) -> str:
        return self.name


def _kind_case(kind: Kind, capacity: int, label: str, *, dense: bool = False) -> Case:
    def build(folder: Path) -> Built:
        links = [(kind, some_grains(capacity, kind, 1, dense=dense))]
        return Built(write_chain(folder, capacity, links), model_of(capacity, links))

    return Case(f"{kind.name}-{label}", kind.extents, build)


def _chain_case(names: tuple[str, ...], capacity: int) -> Case:
    """`names` are kinds, base first."""
    kinds = [KINDS[name] for name in names]

    def build(folder: Path) -> Built:
        links = []
        for number, kind in enumerate(kinds):
            grains = some_grains(capacity, kind, number + 1)
            # Each link but the base leaves out what the others have, a different part each time.
            if number:
                grains = {i: g for i, g in grains.items() if (i + number) % 4 or isinstance(g, str)}
            links.append((kind, grains))
        return Built(write_chain(folder, capacity, links), model_of(capacity, links))

    extents = frozenset[str]().union(*(k.extents for k in kinds))
    return Case("+".join(reversed(names)), extents, build)


# --- mixes that only a descriptor can say ---------------------------------------------------------


def _custom(folder: Path) -> Built:
    """Flat with offsets, zeros, sparse, read-only and no-access lines in one disk."""
    grains: Grains = {0: sample_grain(1, 16), 2: "zero", 3: sample_grain(2, 16, noise=True)}
    hosted_sparse(folder / "part.vmdk", 16 * 9, grains, grain_sectors=16, descriptor=None)
    flat: Grains = {0: sample_grain(3), 2: sample_grain(4)}
    write_holey(folder / "flat.bin", 128 * 4, flat, 128, skip=128)
    write_holey(folder / "vmfs.bin", 128, {0: sample_grain(5)}, 128)
    model = Model(128 + 16 * 9 + 24 + 128 * 2 + 128 + 128 * 2 + 40)
    model.depth = 1
    at = _lay(model, 0, {0: "zero"}, 128, 128)
    at = _lay(model, at, grains, 16, 16 * 9)
    at = _lay(model, at, {0: "zero"}, 24, 24)
    at = _lay(model, at, {0: flat[2]}, 128, 128 * 2)
    at = _lay(model, at, {0: sample_grain(5)}, 128, 128)
    at = _lay(model, at, {0: flat[0]}, 128, 128 * 2)
    _lay(model, at, {0: "zero"}, 40, 40)
    lines = [
        "RDONLY 128 ZERO",
        f'RW {16 * 9} SPARSE "part.vmdk"',
        "RW 24 ZERO ",
        f'RDONLY {128 * 2} FLAT "flat.bin" {128 * 3}',
        'RW 128 VMFS "vmfs.bin" 0',
        f'RW {128 * 2} FLAT "flat.bin" 128',
        'NOACCESS 40 FLAT "not-there.bin" 0',
    ]
    write_descriptor(folder / "disk.vmdk", "custom", lines)
    return Built(folder / "disk.vmdk", model, {"noaccess_zeros": True})


def _partitioned(folder: Path) -> Built:
    """Like partitionedDevice: a private table, hidden space, a partition's own file."""
    table, partition = sample_grain(1), sample_grain(2) + sample_grain(3)
    write_holey(folder / "disk-pt.vmdk", 128, {0: table}, 128)
    write_holey(folder / "sda1.img", 256, {0: partition}, 256, skip=2048)
    lines = [
        'RW 63 FLAT "disk-pt.vmdk" 0',
        "RW 1985 ZERO",
        'RW 256 FLAT "sda1.img" 2048 Partition0 60001',
        'RW 65 FLAT "disk-pt.vmdk" 63',
    ]
    write_descriptor(folder / "disk.vmdk", "partitionedDevice", lines)
    model = Model(63 + 1985 + 256 + 65)
    model.depth = 1
    at = _lay(model, 0, {0: table}, 63, 63)
    at = _lay(model, at, {0: "zero"}, 1985, 1985)
    at = _lay(model, at, {0: partition}, 256, 256)
    _lay(model, at, {0: table[63 * 512 :]}, 65, 65)
    return Built(folder / "disk.vmdk", model)


def _zeros_side_by_side(folder: Path) -> Built:
    """Two ZERO lines, then two flat lines that go on in one file: neighbours that say the same."""
    write_holey(folder / "flat.bin", 256, {0: sample_grain(1), 1: sample_grain(2)}, 128)
    lines = ["RW 8 ZERO", "RW 9 ZERO", 'RW 100 FLAT "flat.bin" 0', 'RW 156 FLAT "flat.bin" 100']
    write_descriptor(folder / "disk.vmdk", "custom", lines)
    model = Model(17 + 256)
    model.depth = 1
    _lay(model, 0, {0: "zero"}, 17, 17)
    _lay(model, 17, {0: sample_grain(1), 1: sample_grain(2)}, 128, 256)
    return Built(folder / "disk.vmdk", model)


def _lay(model: Model, at: int, grains: Grains, grain: int, sectors: int) -> int:
    """Put one extent into the model at sector `at`; returns where the next one begins."""
    part = Model(sectors)
    part.push(grains, grain)
    model.content[at * 512 : (at + sectors) * 512] = part.content
    model.states[at : at + sectors] = part.states
    model.links[at : at + sectors] = part.links
    return at + sectors


def _short_tail(folder: Path) -> Built:
    """The file ends with the disk, inside the last grain."""
    grains: Grains = {0: sample_grain(1), 1: sample_grain(2)}
    hosted_sparse(folder / "disk.vmdk", 200, grains, short_tail=True)
    model = Model(200)
    model.push(grains, 128)
    return Built(folder / "disk.vmdk", model)


def _any_order(folder: Path) -> Built:
    """Grains that lie in the file in no order."""
    grains: Grains = {i: sample_grain(i, 16) for i in range(40) if i % 7}
    order = sorted(grains, key=lambda i: i * 29 % 41)
    hosted_sparse(folder / "disk.vmdk", 16 * 40, grains, grain_sectors=16, order=order)
    model = Model(16 * 40)
    model.push(grains, 16)
    return Built(folder / "disk.vmdk", model)


def _large(folder: Path) -> Built:
    """Several windows and tables, with data across their edges; nearly all of it empty."""
    capacity = 3 * 65536 + 1000
    edges = (0, 511, 512, 513, 1023, 1024, 1535, 1536, 1543)
    grains: Grains = {i: sample_grain(i) for i in edges}
    grains = {**grains, 514: "zero", 1025: "zero"}
    hosted_sparse(folder / "disk.vmdk", capacity, grains)
    model = Model(capacity)
    model.push(grains, 128)
    return Built(folder / "disk.vmdk", model)


def _huge_flat(folder: Path) -> Built:
    """Thin and larger than a window, its data across the edge."""
    capacity = 2 * 65536 + 128
    grains: Grains = {i: sample_grain(i) for i in (511, 512, 700, 1023, 1024)}
    links = [(KINDS["vmfsThin"], grains)]
    return Built(write_chain(folder, capacity, links), model_of(capacity, links))


_MIXES = (
    Case("custom-mix", frozenset({"SPARSE", "FLAT", "VMFS", "ZERO"}), _custom),
    Case("partitioned", frozenset({"FLAT", "ZERO"}), _partitioned),
    Case("sparse-short-tail", frozenset({"SPARSE"}), _short_tail),
    Case("sparse-any-order", frozenset({"SPARSE"}), _any_order),
    Case("sparse-many-windows", frozenset({"SPARSE"}), _large),
    Case("vmfsThin-many-windows", frozenset({"VMFS"}), _huge_flat),
)

NEIGHBOURS = Case("neighbours", frozenset({"ZERO", "FLAT"}), _zeros_side_by_side)


def _capacity(kind: Kind) -> int:
    """Enough grains for more than one table of the small kinds, and few of the large ones."""
    return min(kind.grain * 600, max(3000, kind.grain * 14))


_ONE_SECTOR = ("raw", "sparse-128", "split-16", "flat", "stream-A-16", "cowd-1", "sesparse")
_ALIKE = ("vmfsThick", "vmfsPreallocated", "vmfsEagerZeroedThick", "sesparse-technote-name")
"""Other names for a kind that is tested in all ways."""

SINGLES = (
    *(_kind_case(kind, _capacity(kind), "whole") for kind in KINDS.values()),
    *(
        _kind_case(k, _capacity(k) - 5, "partial", dense=True)
        for k in KINDS.values()
        if k.name not in _ALIKE
    ),
    *(_kind_case(KINDS[k], 1, "one-sector") for k in _ONE_SECTOR),
    *_MIXES,
)

_CHILDREN = ("sparse-16-lazy", "sparse-128", "split-16", "cowd-1", "cowd-8", "sesparse")
_PARENTS = ("flat", "flat-split", "vmfs", "vmfsThin", "stream-A-16", *_CHILDREN)
_DEEP = (
    ("flat", "sparse-16-lazy", "split-16"),
    ("split-16", "split-16", "sparse-128"),
    ("vmfsThin", "cowd-1", "cowd-8", "cowd-1"),
    ("vmfs", "sesparse", "sesparse", "sesparse"),
    ("stream-B-16", "sparse-128", "split-16-lazy", "sparse-16-gtes128"),
    ("flat-split-offset", "sparse-2048", "sparse-8", "split-128-old-name"),
    ("vmfs", "sesparse", "sparse-128", "split-16"),
    ("flat", "sparse-8", "sparse-8", "sparse-8", "sparse-8"),
)


def _fit(child: str, parent: str) -> bool:
    return {KINDS[child].esx, KINDS[parent].esx} != {"cowd", "sesparse"}


CHAINS = (
    *(
        _chain_case((parent, child), 16 * 230 - 3)
        for child in _CHILDREN
        for parent in _PARENTS
        if _fit(child, parent)
    ),
    *(_chain_case(names, 128 * 40 - 1) for names in _DEEP),
)

CASES = (*SINGLES, *CHAINS)
__all__ = ["CASES", "CHAINS", "DATA", "NEIGHBOURS", "SINGLES", "Built", "Case"]
