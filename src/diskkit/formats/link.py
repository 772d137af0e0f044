# SPDX-License-Identifier: Apache-2.0
"""`Link`: one link of a chain, opened: what it says of itself, and the map of its extents."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from diskkit.formats.vmdk.descriptor import Descriptor, ExtentLine
    from diskkit.interfaces import BlockMap, BlockWriter, Storage
    from diskkit.table import RunTable


NO_PARENT = 0xFFFFFFFF
"""The parent's content ID in a link that has none."""


class Extent(NamedTuple):
    """One stretch of a link."""

    start: int
    """Guest byte at which it begins."""
    line: ExtentLine
    map: BlockMap
    storage: Storage | None
    """Its file; None where it has none, or where it may not be read."""
    writer: BlockWriter | None = None
    """What changes it, in a link that is being written to."""


class Link:
    """One link. `extents` cover [0, capacity) in order."""

    capacity = 0
    descriptor: Descriptor | None = None
    """None for a raw image."""

    def __init__(self, path: str, storage: Storage) -> None:
        """`storage` is the file it is opened by: the descriptor, or the single file."""
        self.path = path
        self.storage = storage
        self.extents: list[Extent] = []
        self.storages = [storage]
        """Every open file, `storage` first."""
        self.renew: Callable[[], None] = _nothing
        """Gives the link a new content ID, durably: called before its first change."""
        self._starts: list[int] = []

    @property
    def parent_hint(self) -> str | None:
        """The name of the parent as written, or None for a base."""
        return self.descriptor.parent_hint if self.descriptor else None

    @property
    def create_type(self) -> str:
        """The kind of disk, "raw" for a bare image."""
        return self.descriptor.create_type if self.descriptor else "raw"

    @property
    def cid(self) -> int | None:
        """The content ID; None for a bare image."""
        return self.descriptor.cid if self.descriptor else None

    @property
    def parent_cid(self) -> int:
        """The content ID the parent must have; `NO_PARENT` for a base."""
        return self.descriptor.parent_cid if self.descriptor else NO_PARENT

    @property
    def physical_bytes(self) -> int:
        """Room that its files take."""
        return sum(s.physical_bytes for s in self.storages)

    def scan(self, offset: int, length: int) -> RunTable:
        """`BlockMap.scan` over all extents; a row's source is its extent's number."""
        if len(self._starts) != len(self.extents):
            self._starts = [e.start for e in self.extents]
        index = bisect_right(self._starts, offset) - 1
        extent = self.extents[index]
        inside = offset - extent.start
        of = extent.writer or extent.map
        piece = of.scan(inside, min(length, of.length - inside))
        return piece.moved(extent.start, index)

    def close(self) -> None:
        """Close its files."""
        for storage in self.storages:
            storage.close()


def _nothing() -> None:
    """A link without ids has none to renew."""
