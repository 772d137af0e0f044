# SPDX-License-Identifier: Apache-2.0
"""Writing ESX redo logs (COWD). Not verified against VMware.

freeSector moves, durably, before any entry points beyond where it was: at no moment does an entry
lie outside what the header calls allocated, and what a crash leaves is only room that belongs to
nothing. Entries of 1 are read as zeros but never written (vmdk-formats 3.1): a zeroed grain over a
parent's data is stored as zeros.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from diskkit.formats.vmdk import esx
from diskkit.formats.vmdk.cowd import CowdScheme
from diskkit.formats.vmdk.tablemap import TableMap
from diskkit.formats.vmdk.writing.grains import GrainWriter, check_unclean
from diskkit.interfaces import ZEROS
from diskkit.units import SECTOR, align_up

if TYPE_CHECKING:
    from diskkit.formats.link import Extent, Link
    from diskkit.formats.vmdk.grains import Entries
    from diskkit.interfaces import BlockWriter, OpenPolicy
    from diskkit.table import Int64

_FREE_AT, _UNCLEAN_AT = 28, 1648
_FILE_UNIT = 4096
"""Files seen are multiples of this many bytes."""


class CowdWriter(GrainWriter):
    """One redo log."""

    hides = False
    limit = (1 << 32) * SECTOR - SECTOR

    def __init__(self, of: TableMap, scheme: CowdScheme) -> None:
        """The end of the file and freeSector, whichever is later, bound what is in use."""
        super().__init__(of, max(of.storage.size, scheme.free))
        self._scheme = scheme

    @property
    def alignment(self) -> int:
        """Grains follow each other, and tables, sector by sector."""
        return SECTOR

    def begin(self) -> None:
        """Set uncleanShutdown."""
        self.storage.write(_UNCLEAN_AT, struct.pack("<I", 1))
        self.storage.flush()
        self.changing = True

    def finish(self) -> None:
        """Commit, cut what was reserved at the end, and clear uncleanShutdown."""
        self.commit()
        end = align_up(self._next, _FILE_UNIT)
        if self.storage.size != end:
            self.storage.resize(end)
            self.size_changed()
        self.storage.write(_UNCLEAN_AT, struct.pack("<I", 0))
        self.storage.flush()
        self.changing = False

    def encode(self, places: Int64) -> Entries:
        """Sector numbers; what was 1, for zeros, stays so."""
        return np.where(places >= 0, places // SECTOR, places == ZEROS).astype("<u4")

    def make_table(self, number: int) -> tuple[int, ...]:
        """Where the next grain would go."""
        return (self.room(esx.COWD_TABLE_ENTRIES * 4, SECTOR),)

    def announce(self) -> None:
        """freeSector, before any entry needs it."""
        if self._next > self._scheme.free:
            self.storage.write(_FREE_AT, struct.pack("<I", self._next // SECTOR))
            self.storage.flush()
            self._scheme.free = self._next

    def link_tables(self, made: dict[int, tuple[int, ...]]) -> None:
        """There is one directory."""
        for number, (place,) in made.items():
            entry = struct.pack("<I", place // SECTOR)
            self.storage.write(self.scheme.directory_offset + number * 4, entry)


def write_cowd(link: Link, extent: Extent, policy: OpenPolicy) -> BlockWriter:
    """VMFSSPARSE."""
    of = extent.map
    assert isinstance(of, TableMap)
    scheme = of.tables.scheme
    assert isinstance(scheme, CowdScheme)
    if scheme.unclean:
        check_unclean(extent, _UNCLEAN_AT)
    return CowdWriter(of, scheme)
