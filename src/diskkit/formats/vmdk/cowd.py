# SPDX-License-Identifier: Apache-2.0
"""ESX redo logs ("COWD", vmfsSparse, `-delta.vmdk`). Not verified against a real file.

Rules: docs/formats/cowd.md. An entry of 1 reads as zeros: sector 1 lies in the header, so it
cannot be data (qemu reads it as data nevertheless).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diskkit.formats.vmdk import esx
from diskkit.formats.vmdk.layout import Rules
from diskkit.formats.vmdk.tablemap import TableMap
from diskkit.runs import State
from diskkit.units import SECTOR, align_up

if TYPE_CHECKING:
    from diskkit.formats.vmdk.esx import CowdHeader
    from diskkit.formats.vmdk.grains import Entries, Judged
    from diskkit.formats.vmdk.opening import Opening
    from diskkit.interfaces import BlockMap
    from diskkit.table import Int64, UInt8


class CowdScheme:
    """u32 sector numbers below freeSector; tables of 4096, made on demand."""

    width = 4
    entries = esx.COWD_TABLE_ENTRIES
    problems: tuple[str, ...] = (
        "",
        "",
        "lies inside the header or the directory",
        "lies beyond what is allocated (freeSector) or beyond the end of the file",
        "the table lies inside the header or the directory",
        "the table lies beyond what is allocated (freeSector) or beyond the end of the file",
        "another directory entry names the same table",
    )

    def __init__(self, header: CowdHeader, size: int, length: int, truncated: bool) -> None:
        """`size` is the file's."""
        self.length = length
        self.grain = header.grain
        self.tables = header.tables
        self.directory_offset = header.directory_offset
        self.low = header.directory_offset + align_up(header.tables * self.width, SECTOR)
        """Where the directory ends, bytes: nothing else lies before it."""
        self.size = size
        self.free = header.free
        """Where what is allocated ends, bytes."""
        self.unclean = header.unclean
        self._truncated = truncated

    def judge_directory(self, entries: Entries) -> tuple[Int64, UInt8]:
        """A table lies between the directory and the end of what is allocated."""
        import numpy as np

        places = entries.astype(np.int64) * SECTOR
        reasons = np.zeros(len(places), np.uint8)
        reasons[(places != 0) & (places < self.low)] = 4
        high = min(self.free, self.size)
        reasons[(places != 0) & (places + self.entries * self.width > high)] = 5
        return places, reasons

    def judge(self, entries: Entries, need: Int64 | int) -> Judged:
        """0 asks the parent, 1 is zeros, else a grain."""
        from diskkit.formats.vmdk.grains import sector_entries

        high = self.size if self._truncated else min(self.free, self.size)
        judged = sector_entries(entries, self.low, high, need, State.DATA, self._truncated)
        ones = entries == 1
        if ones.any():
            judged.states[ones] = State.ZERO
            judged.reasons[ones] = 0
        return judged


def open_cowd(opening: Opening) -> BlockMap:
    """VMFSSPARSE."""
    storage, line, policy = opening.storage, opening.line, opening.policy
    assert storage is not None
    head = storage.read(0, min(2048, storage.size))
    header = esx.parse_cowd_header(
        head, storage.size, storage.name, truncated=policy.allow_truncated
    )
    if header.free > align_up(storage.size, SECTOR):
        policy.warning(f"{storage.name}: cut short; what is missing reads as zeros")
    if header.capacity != line.length:
        text = f"the descriptor's extent line says {line.length // SECTOR}"
        sectors = header.capacity // SECTOR
        Rules("COWD header", storage.name).fail("numSectors", 12, sectors, text)
    if header.unclean:
        policy.warning(f"{storage.name}: not closed cleanly (uncleanShutdown is set)")
    scheme = CowdScheme(header, storage.size, line.length, policy.allow_truncated)
    return TableMap(storage, scheme, policy)
