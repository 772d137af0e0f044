# SPDX-License-Identifier: Apache-2.0
"""seSparse extents (`-sesparse.vmdk`). Not verified against a real file.

Rules: docs/formats/sesparse.md. Unmapped grains (type 1) read as zeros, as the guest that
unmapped them was promised; a journal that was not applied makes the data unreadable here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diskkit.formats.vmdk import esx
from diskkit.formats.vmdk.layout import Rules
from diskkit.formats.vmdk.tablemap import TableMap
from diskkit.runs import State
from diskkit.units import SECTOR, ceil_div

if TYPE_CHECKING:
    from diskkit.formats.vmdk.esx import SeSparseHeader
    from diskkit.formats.vmdk.grains import Entries, Judged
    from diskkit.formats.vmdk.opening import Opening
    from diskkit.interfaces import BlockMap
    from diskkit.table import Int64, UInt8

DIRECTORY_MARK = 0x10000000


class SeSparseScheme:
    """u64 entries: a type in the top four bits, then a rotated grain index."""

    width = 8
    entries = esx.SE_TABLE_ENTRIES
    grain = esx.SE_GRAIN
    problems: tuple[str, ...] = (
        "",
        "an entry of type 0 must be all zeros",
        "types above 3 are not known",
        "the grain lies beyond the grain area or the end of the file",
        "the high half must be 0x10000000",
        "the table index lies beyond the grain tables",
        "another directory entry names the same table",
    )

    def __init__(self, header: SeSparseHeader, size: int, length: int, truncated: bool) -> None:
        """`size` is the file's."""
        self.length = length
        self.tables = ceil_div(length, self.entries * self.grain)
        self.directory_offset = header.directory.offset
        self.header = header
        self.size = size
        self._truncated = truncated

    def judge_directory(self, entries: Entries) -> tuple[Int64, UInt8]:
        """An index into the grain tables, marked as such."""
        import numpy as np

        index = (entries & np.uint64(0xFFFFFFFF)).astype(np.int64)
        mark = (entries >> np.uint64(32)).astype(np.int64)
        used = entries != 0
        reasons = np.zeros(len(entries), np.uint8)
        reasons[used & (index >= self.header.tables.size // esx.SE_TABLE_SIZE)] = 5
        reasons[used & (mark != DIRECTORY_MARK)] = 4
        places = self.header.tables.offset + index * esx.SE_TABLE_SIZE
        return np.where(used, places, 0), reasons

    def judge(self, entries: Entries, need: Int64 | int) -> Judged:
        """0 asks the parent, 1 unmapped, 2 zero, 3 a grain."""
        import numpy as np

        from diskkit.formats.vmdk.grains import Judged

        kind = (entries >> np.uint64(60)).astype(np.uint8)
        high = (entries >> np.uint64(48)) & np.uint64(0xFFF)
        low = (entries & np.uint64(0x0000FFFFFFFFFFFF)) << np.uint64(12)
        index = (high | low).astype(np.int64)
        grains = self.header.grains
        filled = kind == 3
        most = grains.size // self.grain
        positions = np.where(filled, grains.offset + np.minimum(index, most) * self.grain, 0)
        states = np.array([State.HOLE, State.ZERO, State.ZERO, State.DATA], np.uint8)[kind & 3]
        reasons = np.zeros(states.shape, np.uint8)
        reasons[(kind == 0) & (entries != 0)] = 1
        reasons[kind > 3] = 2
        reasons[filled & (index >= most)] = 3
        beyond = filled & (positions + need > self.size)
        if self._truncated:
            states[filled & (positions >= self.size)] = State.ZERO
        else:
            reasons[beyond] = 3
        return Judged(states, positions, reasons)


def open_sesparse(opening: Opening) -> BlockMap:
    """SESPARSE."""
    storage, line, policy = opening.storage, opening.line, opening.policy
    assert storage is not None
    path = storage.name
    head = storage.read(0, min(SECTOR, storage.size))
    header = esx.parse_sesparse_header(head, storage.size, path)
    if header.capacity != line.length:
        text = f"the descriptor's extent line says {line.length // SECTOR}"
        sectors = header.capacity // SECTOR
        Rules("seSparse header", path).fail("capacity", 16, sectors, text)
    at = header.volatile.offset
    replay = esx.parse_sesparse_volatile(storage.read(at, SECTOR), at, path)
    if replay:
        raise esx.sesparse_replay_error(path, at, replay)
    scheme = SeSparseScheme(header, storage.size, line.length, policy.allow_truncated)
    return TableMap(storage, scheme, policy)
