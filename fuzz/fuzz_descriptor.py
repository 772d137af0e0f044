# SPDX-License-Identifier: Apache-2.0
# Invariant: any bytes are a descriptor whose numbers are within bounds and which reads the same
# when read again, or a printable FormatError; never another exception.
"""The text descriptor, in its own file and embedded."""

from __future__ import annotations

from running import search, tolerate

from diskkit.formats.vmdk import descriptor


def one_input(data: bytes) -> None:
    """The first bit chooses between the two forms."""
    embedded = bool(data[:1] and data[0] & 1)
    text = data[1:]

    def read() -> None:
        found = descriptor.parse(text, path="disk.vmdk", at=512, embedded=embedded)
        assert 0 < found.capacity <= descriptor.MAX_BYTES_OF_DISK
        assert 0 < len(found.extents) <= descriptor.MAX_EXTENTS
        assert 0 <= found.cid < 1 << 32
        assert 0 <= found.parent_cid < 1 << 32
        for extent in found.extents:
            assert extent.kind in descriptor.EXTENT_TYPES
            assert 0 <= extent.offset <= descriptor.MAX_BYTES_OF_DISK
        again = descriptor.parse(text, path="disk.vmdk", at=512, embedded=embedded)
        assert vars(again) == vars(found)

    tolerate(read)
    descriptor.looks_like_descriptor(text)


if __name__ == "__main__":
    search(one_input)
