# SPDX-License-Identifier: Apache-2.0
"""Second opinions: libvmdk and dissect on the disks of the conformance table that they know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from conformance.cases import CHAINS, SINGLES, Case
from makers.peers import dissect_raw
from peers.asking import libvmdk_raw

if TYPE_CHECKING:
    from pathlib import Path

# Neither knows raw images as VMDK, ZERO lines or extents whose data begins inside a file; libvmdk
# takes an entry of 1 for sector 1, knows no seSparse, refuses the stream shapes F and G and old
# names, and cannot read the last grain of a file that ends with the disk.
_NEITHER = ("raw", "custom", "partitioned", "neighbours", "flat-split-offset", "full-device")
_NOT_LIBVMDK = (
    "sesparse",
    "stream-F",
    "stream-G",
    "vmfsThin",
    "vmfsThick",
    "vmfsPre",
    "vmfsEager",
    "cowd",
)


def _is(case: Case, names: tuple[str, ...]) -> bool:
    return case.name.startswith(names)


def _has_words(case: Case) -> bool:
    """Whether entries of 1 may be in it."""
    return "SPARSE" in case.extents and not case.name.startswith("stream")


LIBVMDK = [c for c in SINGLES if not _is(c, _NEITHER + _NOT_LIBVMDK) and not _has_words(c)]
LIBVMDK += [c for c in SINGLES if c.name == "sparse-any-order"]


@pytest.mark.parametrize("case", LIBVMDK, ids=str)
def test_libvmdk_reads_the_same(tmp_path: Path, case: Case) -> None:
    built = case.build(tmp_path)
    theirs = libvmdk_raw(built.path)
    with built.open() as disk:
        assert disk.read(0, disk.size) == theirs == built.model.content


# dissect reads the parent under an unmapped seSparse grain, and has no answer for a capacity that
# is no multiple of what it reads at a time.
DISSECT = [
    *(
        c
        for c in SINGLES
        if not _is(c, (*_NEITHER, "sesparse")) and "whole" in c.name and c.name != "vmfs-offset"
    ),
    *(c for c in CHAINS if c.name.count("+") > 1 and "SESPARSE" not in c.extents),
]


@pytest.mark.parametrize("case", DISSECT, ids=str)
def test_dissect_reads_the_same(tmp_path: Path, case: Case) -> None:
    built = case.build(tmp_path)
    theirs = dissect_raw(built.path)
    with built.open() as disk:
        assert disk.read(0, disk.size) == theirs == built.model.content
