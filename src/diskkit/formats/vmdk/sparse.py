# SPDX-License-Identifier: Apache-2.0
"""Hosted sparse extents ("KDMV"): header, footer, directory and tables, their redundant copy.

Serves monolithicSparse, the split parts and streamOptimized alike: only what a table entry points
at differs, a grain as it is or a compressed one (stream.py). Rules: docs/formats/hosted-sparse.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diskkit.formats.vmdk import layout
from diskkit.formats.vmdk.tablemap import TableMap
from diskkit.runs import State
from diskkit.units import SECTOR, ceil_div

if TYPE_CHECKING:
    from diskkit.formats.vmdk.grains import Entries, Judged
    from diskkit.formats.vmdk.layout import SparseHeader
    from diskkit.formats.vmdk.opening import Opening
    from diskkit.interfaces import BlockMap, OpenPolicy, Storage
    from diskkit.table import Int64, UInt8

_FOOTER_SEARCH = 8 << 10
"""How far before the end of the file a footer is looked for: archives pad with zeros."""


class HostedScheme:
    """u32 sector numbers; 1 means zeros where the header's flag bit 2 says so."""

    width = 4
    problems: tuple[str, ...] = (
        "",
        "1 means zeros, but flag bit 2 does not allow it",
        "lies before the first grain (overHead)",
        "lies beyond the end of the file",
        "overlaps the header, the descriptor or a directory",
        "the table lies beyond the end of the file",
        "another directory entry names the same table",
    )

    def __init__(
        self, header: SparseHeader, size: int, length: int, directory_offset: int, truncated: bool
    ) -> None:
        """`directory_offset` is the one to use, primary or redundant; `size` the file's."""
        self.length = length
        self.grain = header.grain
        self.entries = header.table_entries
        self.tables = ceil_div(length, self.grain * self.entries)
        self.directory_offset = directory_offset
        self.header = header
        self.size = size
        self._truncated = truncated
        regions = (
            (0, SECTOR),
            (header.descriptor_offset, header.descriptor_size),
            (header.directory_offset, header.directory_size),
            (header.redundant_offset, header.directory_size),
        )
        self._taken = [(at, at + n) for at, n in regions if at or n == SECTOR]

    def judge_directory(self, entries: Entries) -> tuple[Int64, UInt8]:
        """A table lies wholly inside the file and outside every other structure."""
        import numpy as np

        places = entries.astype(np.int64) * SECTOR
        ends = places + self.entries * self.width
        reasons = np.zeros(len(places), np.uint8)
        for begin, end in self._taken:
            reasons[(places != 0) & (places < end) & (ends > begin)] = 4
        reasons[(places != 0) & (ends > self.size)] = 5
        return places, reasons

    def judge(self, entries: Entries, need: Int64 | int) -> Judged:
        """A grain lies at or after overHead and wholly inside the file."""
        from diskkit.formats.vmdk.grains import sector_entries

        header = self.header
        filled = State.PACKED if header.compressed else State.DATA
        # A compressed grain's own size is known once it is loaded; its marker must be there.
        need = 16 if header.compressed else need
        truncated = self._truncated and not header.compressed
        judged = sector_entries(entries, header.overhead, self.size, need, filled, truncated)
        ones = entries == 1
        if ones.any():
            judged.states[ones] = State.ZERO
            judged.reasons[ones] = 0 if header.flags & layout.FLAG_ZEROED else 1
        return judged


class SparseMap(TableMap):
    """One hosted sparse extent."""

    def __init__(
        self, storage: Storage, header: SparseHeader, length: int, policy: OpenPolicy
    ) -> None:
        """`length` is the guest bytes the descriptor gives the extent."""

        def scheme(at: int) -> HostedScheme:
            return HostedScheme(header, storage.size, length, at, policy.allow_truncated)

        spare = scheme(header.redundant_offset) if header.redundant_offset else None
        super().__init__(storage, scheme(header.directory_offset), policy, spare)
        self.header = header

    def load(self, offset: int, position: int) -> bytes:
        """Inflate the grain at guest `offset`."""
        from diskkit.formats.vmdk.stream import load_grain

        need = min(self.header.grain, self.length - offset)
        return load_grain(self.storage, self.header, offset, position, need)


def read_header(storage: Storage, policy: OpenPolicy) -> SparseHeader:
    """The header that counts: the one at the start, or a stream's footer. Checked."""
    path = storage.name
    head = storage.read(0, min(SECTOR, storage.size))
    header = layout.parse_sparse_header(head, path)
    at = 0
    if header.at_end:
        layout.check_sparse_layout(header, storage.size, path)
        header, at = _read_footer(storage, header)
    for warning in layout.check_sparse_layout(header, storage.size, path, at=at):
        policy.warning(f"{path}: {warning}")
    return header


def _read_footer(storage: Storage, header: SparseHeader) -> tuple[SparseHeader, int]:
    """Find the footer near the end and hold it against the header."""
    begin = max(SECTOR, storage.size - _FOOTER_SEARCH)
    begin += -begin % SECTOR
    tail = storage.read(begin, max(0, storage.size - begin))
    rules = layout.Rules("footer", storage.name)
    for at in range(len(tail) // SECTOR * SECTOR - 2 * SECTOR, -1, -SECTOR):
        marker = layout.parse_marker(tail, at)
        if marker.size == 0 and marker.kind == layout.MARKER_FOOTER:
            break
    else:
        text = "the header says that the grain directory is at the end, but there is no footer"
        rules.fail("marker", None, None, text, "the file was cut short; copy it again")
    place = begin + at + SECTOR
    footer = layout.parse_sparse_header(
        tail[at + SECTOR : at + 2 * SECTOR], storage.name, structure="footer", at=place
    )
    layout.compare_footer(header, footer, storage.name, place)
    return footer, place


def read_descriptor(storage: Storage, header: SparseHeader) -> bytes:
    """The embedded descriptor's area; empty if there is none, or if it is all zeros."""
    if not header.descriptor_offset or not header.descriptor_size:
        return b""
    size = min(header.descriptor_size, layout.MAX_DESCRIPTOR_SECTORS * SECTOR)
    area = storage.read(header.descriptor_offset, size)
    return area if area.strip(b"\0") else b""


def open_sparse(opening: Opening) -> BlockMap:
    """SPARSE."""
    storage, line = opening.storage, opening.line
    assert storage is not None
    header = opening.header or read_header(storage, opening.policy)
    if header.capacity < line.length:
        text = f"the descriptor's extent line needs {line.length // SECTOR} sectors"
        sectors = header.capacity // SECTOR
        layout.Rules("sparse header", storage.name).fail("capacity", 12, sectors, text)
    if header.capacity > line.length:
        opening.policy.warning(
            f"{storage.name}: the header's capacity is larger than the extent line's "
            f"{line.length // SECTOR} sectors; the line counts"
        )
    return SparseMap(storage, header, line.length, opening.policy)
