# SPDX-License-Identifier: Apache-2.0
"""Writing flat extents: every byte has its place; there are no tables to keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diskkit.formats.vmdk.flat import FlatMap
from diskkit.interfaces import BlockWriter, WritableStorage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diskkit.formats.link import Extent, Link
    from diskkit.interfaces import OpenPolicy
    from diskkit.table import RunTable


class FlatWriter(BlockWriter):
    """`length` guest bytes from byte `base` of a file."""

    granularity = 1
    hides = True

    def __init__(self, storage: WritableStorage, base: int, length: int) -> None:
        """The file holds all of them."""
        self.storage = storage
        self.length = length
        self._base = base
        self._map = FlatMap(storage, base, length)

    def places(self, offset: int, length: int) -> Sequence[tuple[int, int, int]]:
        """One row."""
        return ((offset, offset + length, self._base + offset),)

    def scan(self, offset: int, length: int) -> RunTable:
        """What the filesystem says now."""
        return self._map.scan(offset, length)

    def commit(self) -> None:
        """The file is all there is."""
        self.storage.flush()


def write_flat(link: Link, extent: Extent, policy: OpenPolicy) -> BlockWriter:
    """FLAT and VMFS."""
    assert isinstance(extent.storage, WritableStorage)
    return FlatWriter(extent.storage, extent.line.offset, extent.line.length)
