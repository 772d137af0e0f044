# SPDX-License-Identifier: Apache-2.0
"""The table of extent kinds against the cases: none without a case, and refused ones refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import diskkit
from conformance.cases import CASES, CHAINS, NEIGHBOURS, SINGLES
from diskkit.formats import FORMATS
from diskkit.formats.vmdk import EXTENT_KINDS
from diskkit.formats.vmdk.descriptor import CREATE_TYPES
from diskkit.testing import check_runs
from makers import cowd, hosted_sparse, sesparse, stream, write_descriptor
from model.links import joined

if TYPE_CHECKING:
    from pathlib import Path

REFUSED = {
    "VMFSRDM": ("vmfsRDM", 'RW 64 VMFSRDM "disk-rdm.vmdk"'),
    "VMFSRDMP": ("vmfsRDMP", 'RW 64 VMFSRDMP "disk-rdmp.vmdk"'),
    "VMFSRAW": ("vmfsRaw", 'RW 64 VMFSRAW "/vmfs/devices/disks/naa.1"'),
    "VSANSPARSE": ("vsanSparse", 'RW 64 VSANSPARSE "vsan://52a1"'),
}
"""Kinds whose data no program can reach off their host."""


def test_every_extent_kind_has_a_conformance_case() -> None:
    covered = frozenset[str]().union(*(case.extents for case in CASES))
    assert set(EXTENT_KINDS) == covered | set(REFUSED)
    assert not covered & set(REFUSED)


def test_every_format_has_a_conformance_case() -> None:
    names = {case.name.partition("-")[0] for case in SINGLES}
    assert set(FORMATS) == {"vmdk", "raw"}
    assert "raw" in names


def test_case_names_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("kind", REFUSED)
def test_kinds_without_reachable_data_open_but_refuse_to_read(tmp_path: Path, kind: str) -> None:
    create_type, line = REFUSED[kind]
    write_descriptor(tmp_path / "disk.vmdk", create_type, [line])
    with diskkit.open_disk(tmp_path / "disk.vmdk") as disk:
        assert disk.info.create_type == create_type
        assert disk.size == 64 * 512
        for use in (
            lambda: disk.read(0, 1),
            lambda: list(disk.runs()),
            lambda: list(disk.allocated()),
        ):
            with pytest.raises(diskkit.UnsupportedFeature):
                use()


@pytest.mark.parametrize("create_type", CREATE_TYPES)
def test_every_create_type_opens(tmp_path: Path, create_type: str) -> None:
    allowed = CREATE_TYPES[create_type] or frozenset({"ZERO"})
    kind = min(allowed)
    path = tmp_path / "disk.vmdk"
    if create_type == "monolithicSparse":
        hosted_sparse(path, 64, {}, grain_sectors=16)
    elif create_type == "streamOptimized":
        stream(path, 64, {}, grain_sectors=16)
    else:
        line = f'RW 64 {kind} "part.bin"' + (" 0" if kind == "FLAT" else "")
        write_descriptor(path, create_type, ["RW 64 ZERO" if kind == "ZERO" else line])
        _part(tmp_path / "part.bin", kind)
    with diskkit.open_disk(path) as disk:
        assert disk.info.create_type == create_type
        assert disk.size == 64 * 512


def _part(path: Path, kind: str) -> None:
    if kind in ("FLAT", "VMFS"):
        path.write_bytes(bytes(64 * 512))
    elif kind == "SPARSE":
        hosted_sparse(path, 64, {}, grain_sectors=16, descriptor=None)
    elif kind == "VMFSSPARSE":
        cowd(path, 64, {})
    elif kind == "SESPARSE":
        sesparse(path, 64, {})


def test_no_access_refuses_unless_zeros_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "flat.bin").write_bytes(b"x" * 16 * 512)
    lines = ['RW 8 FLAT "flat.bin" 0', 'NOACCESS 8 FLAT "flat.bin" 8']
    write_descriptor(tmp_path / "disk.vmdk", "monolithicFlat", lines)
    with diskkit.open_disk(tmp_path / "disk.vmdk") as disk:
        assert disk.read(0, 4096) == b"x" * 4096
        with pytest.raises(diskkit.UnsupportedFeature, match="NOACCESS"):
            disk.read(4095, 2)
    with diskkit.open_disk(tmp_path / "disk.vmdk", noaccess_zeros=True) as disk:
        assert disk.read(4095, 2) == b"x\0"


def test_neighbouring_extents_that_say_the_same_are_one_run(tmp_path: Path) -> None:
    built = NEIGHBOURS.build(tmp_path)
    with built.open() as disk:
        runs = list(disk.runs())
        assert joined(runs) == built.model.runs()
        check_runs(runs, 0, disk.size)


def test_chains_cover_every_child_over_every_parent() -> None:
    assert len(CHAINS) > 50


def test_single_link_reads_the_leaf_alone(tmp_path: Path) -> None:
    case = next(c for c in CHAINS if c.name == "sparse-128+flat")
    built = case.build(tmp_path)
    with built.open() as whole, built.open(single_link=True) as leaf:
        assert len(leaf.chain.links) == 1
        for run in leaf.runs():
            if run.state == diskkit.State.HOLE:
                assert not any(leaf.read(run.offset, run.length))
            else:
                assert leaf.read(run.offset, run.length) == whole.read(run.offset, run.length)
