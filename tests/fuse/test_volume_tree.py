# SPDX-License-Identifier: Apache-2.0
"""A volume for the kernel, as a file: what was written is durable, or its failure is noted."""

from __future__ import annotations

import pytest

from diskkit.errors import StorageError
from diskkit.fuse.tree import VolumeTree
from diskkit.volumes import Segment, Volume
from diskkit.volumes.volume import Stripe
from nbd.memory import MemoryDisk

SIZE = 8192


class Flushing(MemoryDisk):
    """A disk that counts how often it was made durable, and may refuse it."""

    def __init__(self) -> None:
        super().__init__(bytes(SIZE))
        self.refuses = False

    def _flush(self) -> None:
        if self.refuses:
            raise StorageError(self.path, "No space left on device")
        self.flushed += 1


def over(*disks: Flushing) -> VolumeTree:
    """A volume that lies on all of them, one after the other."""
    segments = [
        Segment(number * SIZE, SIZE, [Stripe(disk, 0)], SIZE) for number, disk in enumerate(disks)
    ]
    volume = Volume(segments, number=1, name="vg/lv", type="lvm")
    return VolumeTree(disks, volume)


def test_what_lies_on_two_disks_is_durable_on_both() -> None:
    first, second = Flushing(), Flushing()
    file = over(first, second).open(2, writing=True)
    assert file.write(SIZE - 2, memoryview(b"both")) == 4
    file.flush()
    assert (first.flushed, second.flushed) == (1, 1)


def test_the_first_failure_is_noted() -> None:
    disk = Flushing()
    tree = over(disk)
    file = tree.open(2, writing=True)
    with pytest.raises(OSError, match="No space"):
        file.write(SIZE, memoryview(b"beyond the end"))
    assert tree.failure is None  # an answer to a question that makes no sense
    disk.refuses = True
    with pytest.raises(StorageError) as first:
        file.flush()
    with pytest.raises(StorageError):
        file.flush()
    assert tree.failure is first.value
