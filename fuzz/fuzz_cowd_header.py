# SPDX-License-Identifier: Apache-2.0
# Invariant: an accepted header has its directory inside the file, as many tables as its capacity
# needs, and a free pointer between the directory and the end; all else is a printable FormatError.
"""Header of ESX redo logs."""

from __future__ import annotations

from running import search, tolerate

from diskkit.formats.vmdk import esx


def one_input(data: bytes) -> None:
    """A size of the file (8 bytes) and a header (2048)."""
    size = int.from_bytes(data[:8], "little") >> 1

    def read() -> None:
        header = esx.parse_cowd_header(data[8 : 8 + 2048], size, "disk-delta.vmdk")
        end = header.directory_offset + header.tables * 4
        assert 2048 <= header.directory_offset < end <= size
        assert end <= header.free < size + 512
        cover = esx.COWD_TABLE_ENTRIES * header.grain
        assert (header.tables - 1) * cover < header.capacity <= header.tables * cover

    tolerate(read)


if __name__ == "__main__":
    search(one_input)
