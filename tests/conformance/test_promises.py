# SPDX-License-Identifier: Apache-2.0
"""Promises that no table of kinds reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import diskkit
from makers import write_descriptor
from model.links import write_holey

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", ["FLAT", "VMFS"])
def test_a_flat_child_never_shows_its_parent(tmp_path: Path, kind: str) -> None:
    """Only sparse kinds can be children: such a disk is refused, or ends its chain."""
    create_type, tail = ("monolithicFlat", " 0") if kind == "FLAT" else ("vmfs", "")
    write_holey(tmp_path / "base.bin", 256, {0: b"p" * 65536, 1: b"p" * 65536}, 128)
    write_holey(tmp_path / "child.bin", 256, {0: b"c" * 65536}, 128)
    line = f'RW 256 {kind} "base.bin"{tail}'
    write_descriptor(tmp_path / "base.vmdk", create_type, [line], cid="00000001")
    line = f'RW 256 {kind} "child.bin"{tail}'
    write_descriptor(
        tmp_path / "child.vmdk", create_type, [line], parent_cid="00000001", hint="base.vmdk"
    )
    try:
        disk = diskkit.open_disk(tmp_path / "child.vmdk")
    except diskkit.FormatError:
        return
    with disk:
        assert disk.read(65536, 65536) == bytes(65536)
        assert disk.read(0, 65536) == b"c" * 65536


def test_info_after_close_says_that_the_disk_is_closed(tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(bytes(512))
    disk = diskkit.open_disk(tmp_path / "disk.raw")
    disk.close()
    with pytest.raises(diskkit.UsageError):
        _ = disk.info
