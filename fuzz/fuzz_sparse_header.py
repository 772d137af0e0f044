# SPDX-License-Identifier: Apache-2.0
# Invariant: an accepted header or footer has every region inside the file and apart from the
# others, and needs no more memory than its file has bytes; all else is a printable FormatError.
"""Header and footer of hosted sparse extents."""

from __future__ import annotations

from running import search, tolerate

from diskkit.formats.vmdk import layout

SECTOR = 512


def one_input(data: bytes) -> None:
    """A size of the file (8 bytes), a header (512) and perhaps a footer (512)."""
    size = int.from_bytes(data[:8], "little") >> 1
    head, foot = data[8 : 8 + SECTOR], data[8 + SECTOR : 8 + 2 * SECTOR]

    def read() -> None:
        header = layout.parse_sparse_header(head, "disk.vmdk")
        layout.check_sparse_layout(header, size, "disk.vmdk")
        if header.at_end:
            place = max(SECTOR, size - 2 * SECTOR)
            footer = layout.parse_sparse_header(foot, "disk.vmdk", structure="footer", at=place)
            layout.compare_footer(header, footer, "disk.vmdk", place)
            layout.check_sparse_layout(footer, size, "disk.vmdk", at=place)
            header = footer
        assert header.capacity < 1 << 63
        assert header.tables <= layout.MAX_TABLES
        assert header.directory_offset >= SECTOR
        assert header.directory_offset + header.directory_size <= size
        assert header.tables * 4 <= header.directory_size

    tolerate(read)


if __name__ == "__main__":
    search(one_input)
