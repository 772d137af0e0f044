# SPDX-License-Identifier: Apache-2.0
"""Writing hosted sparse extents: monolithicSparse and the parts of twoGbMaxExtentSparse.

uncleanShutdown is set, durably, before the first change and cleared after the last commit. Entries
that mean zeros need header flag bit 2 and version 2, which are durable before the first such entry.
Rules: vmdk-formats 2.2, 2.3, 2.8.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from diskkit.errors import UnsupportedFeature
from diskkit.formats.vmdk import layout
from diskkit.formats.vmdk.sparse import HostedScheme, SparseMap
from diskkit.formats.vmdk.writing.grains import GrainWriter, check_unclean
from diskkit.interfaces import ZEROS
from diskkit.units import SECTOR, align_up

if TYPE_CHECKING:
    from diskkit.formats.link import Extent, Link
    from diskkit.formats.vmdk.grains import Entries
    from diskkit.interfaces import BlockWriter, OpenPolicy
    from diskkit.table import Int64

_VERSION_AT, _UNCLEAN_AT = 4, 72
_KNOWN = layout.FLAG_NEWLINES | layout.FLAG_REDUNDANT | layout.FLAG_ZEROED


class HostedWriter(GrainWriter):
    """One hosted sparse extent."""

    hides = True
    limit = (1 << 32) * SECTOR
    """Table entries are 32-bit sector numbers."""

    def __init__(self, of: SparseMap) -> None:
        """The end of the file bounds what is in use."""
        super().__init__(of, max(of.storage.size, of.header.overhead))
        self._header = of.header

    def begin(self) -> None:
        """Set uncleanShutdown."""
        self.storage.write(_UNCLEAN_AT, b"\1")
        self.storage.flush()
        self.changing = True

    def finish(self) -> None:
        """Commit, cut what was reserved at the end, and clear uncleanShutdown."""
        self.commit()
        if self.storage.size > self._next:
            self.storage.resize(self._next)
            self.size_changed()
        self.storage.write(_UNCLEAN_AT, b"\0")
        self.storage.flush()
        self.changing = False

    def encode(self, places: Int64) -> Entries:
        """Sector numbers; 1 for zeros."""
        return np.where(places >= 0, places // SECTOR, places == ZEROS).astype("<u4")

    def prepare(self) -> None:
        """Announce zeroed entries in the header, if any come."""
        if self._header.flags & layout.FLAG_ZEROED:
            return
        if not any((self._kept[n] == ZEROS).any() for n in self._dirty):
            return
        flags = self._header.flags | layout.FLAG_ZEROED
        version = max(2, self._header.version)
        self.storage.write(_VERSION_AT, struct.pack("<II", version, flags))
        self._header = self._header._replace(flags=flags, version=version)
        for tables in (self.tables, self.tables.spare):
            if tables is not None:
                assert isinstance(tables.scheme, HostedScheme)
                tables.scheme.header = self._header

    def make_table(self, number: int) -> tuple[int, ...]:
        """Room at the end, for the redundant copy too: files whose tables come with their use."""
        copies = 2 if self.tables.spare is not None else 1
        size = align_up(self._entries * self.scheme.width, SECTOR)
        place = self.room(copies * size, SECTOR)
        return tuple(place + copy * size for copy in range(copies))

    def link_tables(self, made: dict[int, tuple[int, ...]]) -> None:
        """In the redundant directory first."""
        directories = [self.scheme.directory_offset]
        if self.tables.spare is not None:
            directories.append(self.tables.spare.scheme.directory_offset)
        for copy in reversed(range(len(directories))):
            for number, where in made.items():
                entry = struct.pack("<I", where[copy] // SECTOR)
                self.storage.write(directories[copy] + number * self.scheme.width, entry)

    def size_changed(self) -> None:
        """Both judges."""
        super().size_changed()
        if self.tables.spare is not None:
            self.tables.spare.scheme.size = self.storage.size


def write_sparse(link: Link, extent: Extent, policy: OpenPolicy) -> BlockWriter:
    """SPARSE."""
    of = extent.map
    assert isinstance(of, SparseMap)
    header = of.header

    def refused(field: str, value: object, problem: str, advice: str = "") -> UnsupportedFeature:
        return UnsupportedFeature(
            problem,
            path=of.storage.name,
            structure="sparse header",
            field=field,
            value=value,
            advice=advice,
        )

    if header.compressed:
        raise refused("flags", f"{header.flags:#x}", "compressed grains are written once")
    if header.version > 2:
        raise refused("version", header.version, "only versions 1 and 2 are written to")
    if unknown := header.flags & ~_KNOWN:
        raise refused("flags", f"{header.flags:#x}", f"flags {unknown:#x} are not known")
    if header.capacity > 1 << 41:
        raise refused("capacity", header.capacity // SECTOR, "too large to be written to")
    if header.unclean:
        check_unclean(extent, _UNCLEAN_AT)
    return HostedWriter(of)
