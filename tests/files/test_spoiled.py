# SPDX-License-Identifier: Apache-2.0
"""Structures of real filesystems that lie: files, or one clear error, and never for ever."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diskkit import DiskkitError
from diskkit.files.content import pieces
from diskkit.files.process import ProcessFileSystem
from diskkit.files.walk import list_below, resolve
from diskkit.volumes.identify import identify
from files.guests import MIB, make
from files.spoiled import MARKS, Spoiled, spoil, structures
from files.test_copies import reader_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diskkit.files.filesystem import Node

PATIENCE = 10.0


class Sample(NamedTuple):
    """A volume that tools made, and where its structures are."""

    kind: str
    volume: Spoiled
    places: list[int]


@pytest.fixture(scope="module", params=MARKS)
def sample(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sample]:
    kind = request.param
    reader_for(kind)
    path, _ = make(kind, tmp_path_factory.mktemp(kind))
    volume = Spoiled(path)
    yield Sample(kind, volume, structures(path, kind))
    volume.close()


def read_all(sample: Sample) -> int:
    """All that `ls -lR` and `cp -r` ask; returns how many entries there were."""
    count = 0
    with ProcessFileSystem(sample.kind, sample.volume, patience=PATIENCE) as fs:
        for listing in list_below(fs, resolve(fs, b"/"), recursive=True):
            for _, node in listing.rows[:40]:
                count += 1
                try:
                    read_one(fs, sample.volume, node)
                except DiskkitError:
                    # A file that is wrong must not keep the others from being read.
                    fs.stat(fs.root)
    return count


def read_one(fs: ProcessFileSystem, volume: Spoiled, node: Node) -> None:
    fs.xattrs(node.id)
    fs.streams(node.id)
    if node.is_link:
        fs.readlink(node.id)
    if not node.is_file or node.problem:
        return
    done = 0
    for offset, part in pieces(fs, volume, node):
        assert offset >= done
        done = offset + len(part)
        if done > MIB:
            return
    assert done <= node.size


def test_unspoiled_volume_is_read_whole(sample: Sample) -> None:
    sample.volume.changes.clear()
    assert len(sample.places) > 10
    assert read_all(sample) > 45


@given(st.integers(0, 2**32))
@settings(max_examples=settings().max_examples // 2)
def test_spoiled_structures_give_files_or_errors(sample: Sample, seed: int) -> None:
    spoil(sample.volume, sample.places, random.Random(seed))
    sample.volume.asked = 0
    said = ""
    try:
        identify(sample.volume)
        read_all(sample)
    except DiskkitError as error:
        said = str(error)
    # The library must find its way out by itself: patience is for what nobody saw.
    assert "did not answer" not in said
    assert sample.volume.asked < 400 * MIB
