# SPDX-License-Identifier: Apache-2.0
# Invariant: the regions of an accepted header ascend, do not overlap and lie inside the file (the
# grain area may reach beyond it, but not beyond 2^63 bytes); all else is a printable FormatError.
"""Both headers of seSparse extents."""

from __future__ import annotations

from running import search, tolerate

from diskkit.formats.vmdk import esx
from diskkit.formats.vmdk.layout import MAX_TABLES

SECTOR = 512


def one_input(data: bytes) -> None:
    """A size of the file (8 bytes), the constant header (512) and the volatile one (512)."""
    size = int.from_bytes(data[:8], "little") >> 1
    constant, volatile = data[8 : 8 + SECTOR], data[8 + SECTOR : 8 + 2 * SECTOR]

    def read() -> None:
        header = esx.parse_sesparse_header(constant, size, "disk-sesparse.vmdk")
        end = SECTOR
        for region in (
            header.volatile,
            header.directory,
            header.tables,
            header.bitmap,
            header.back_map,
        ):
            assert end <= region.offset <= region.end <= size
            end = region.end
        assert end <= header.grains.offset <= size
        assert header.grains.end < 1 << 63
        assert header.volatile.size >= SECTOR
        tables = -(-header.capacity // (esx.SE_TABLE_ENTRIES * esx.SE_GRAIN))
        assert 0 < tables <= min(MAX_TABLES, header.directory.size // 8)

    tolerate(read)
    if len(volatile) == SECTOR:
        tolerate(lambda: esx.parse_sesparse_volatile(volatile, SECTOR, "disk-sesparse.vmdk"))


if __name__ == "__main__":
    search(one_input)
