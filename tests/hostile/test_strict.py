# SPDX-License-Identifier: Apache-2.0
"""Strict reading takes single self-contained files only, and no oddity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from diskkit import FormatError, open_disk
from makers import flat, hosted_sparse, poke, sample_grain, stream, text_replace, write_descriptor

if TYPE_CHECKING:
    from pathlib import Path


def test_ordinary_single_files_are_read(tmp_path: Path) -> None:
    hosted_sparse(tmp_path / "a.vmdk", 256, {0: sample_grain(1)})
    stream(tmp_path / "b.vmdk", 256, {0: sample_grain(1)}, variant="A")
    for name in ("a.vmdk", "b.vmdk"):
        with open_disk(tmp_path / name, strict=True) as disk:
            assert disk.read(0, 65536) == sample_grain(1)


def test_disks_of_several_files_are_refused(tmp_path: Path) -> None:
    flat(tmp_path / "a-flat.vmdk", bytes(4096))
    write_descriptor(tmp_path / "a.vmdk", "monolithicFlat", ['RW 8 FLAT "a-flat.vmdk" 0'])
    with pytest.raises(FormatError, match="createType is monolithicFlat: strict reading: only"):
        open_disk(tmp_path / "a.vmdk", strict=True)


def test_children_are_refused(tmp_path: Path) -> None:
    hosted_sparse(tmp_path / "a.vmdk", 256, {}, parent_cid="00000001", parent_hint="b.vmdk")
    with pytest.raises(FormatError, match="key is parentFileNameHint: strict reading"):
        open_disk(tmp_path / "a.vmdk", strict=True)


def test_slashes_in_names_are_refused(tmp_path: Path) -> None:
    hosted_sparse(tmp_path / "a.vmdk", 256, {})
    text_replace(tmp_path / "a.vmdk", '"a.vmdk"', '"x/a.vmdk"')
    open_disk(tmp_path / "a.vmdk").close()
    with pytest.raises(FormatError, match=r"extent file name is x/a\.vmdk: strict reading"):
        open_disk(tmp_path / "a.vmdk", strict=True)


def test_a_warning_is_an_error(tmp_path: Path) -> None:
    hosted_sparse(tmp_path / "a.vmdk", 256, {})
    poke(tmp_path / "a.vmdk", 72, "<B", 1)
    with pytest.raises(FormatError, match=r"not closed cleanly .*strict reading"):
        open_disk(tmp_path / "a.vmdk", strict=True)
