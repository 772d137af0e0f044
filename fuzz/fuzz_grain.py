# SPDX-License-Identifier: Apache-2.0
# Invariant: a grain inflates to what zlib says, within its bounds, or is a printable FormatError;
# zlib accepting a grain whole means that diskkit does too.
"""Markers and compressed grains of streams."""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache

from running import search, tolerate

from diskkit.formats.vmdk import layout, stream
from diskkit.interfaces import Storage

GRAIN = 8 * 512


class Memory(Storage):
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        """`data` is the whole file."""
        self.name, self.identity, self.size, self._data = "disk.vmdk", "memory", len(data), data

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer`; a driver never asks for more than there is."""
        part = self._data[offset : offset + len(buffer)]
        assert len(part) == len(buffer), "read beyond the end"
        buffer[:] = part

    def close(self) -> None:
        """Nothing to give back."""


@lru_cache
def header(*, markers: bool) -> layout.SparseHeader:
    """A stream's header; only what a grain's reader looks at is true."""
    flags = layout.FLAG_COMPRESSED | (layout.FLAG_MARKERS if markers else 0)
    return layout.SparseHeader(3, flags, 1 << 30, GRAIN, 512, 512, 512, 0, 1024, 4096, 0, 1)


def one_input(data: bytes) -> None:
    """The first byte chooses the form, the bytes needed and the place; the rest is the file."""
    choice = data[0] if data else 0
    place = 512 * (choice >> 4)
    need = GRAIN if choice & 2 else 512
    storage = Memory(bytes(place) + data[1:])
    if storage.size < place + 16:
        return  # a table entry that points so near the end is refused before
    of = header(markers=bool(choice & 1))
    found: list[bytes] = []
    error = tolerate(lambda: found.append(stream.load_grain(storage, of, 0, place, need)))
    expected = whole(data[1:], markers=of.markers, need=need)
    assert (error is None) == (expected is not None), f"{error}, but zlib: {expected is not None}"
    if error is None:
        assert found == [expected]


def whole(data: bytes, *, markers: bool, need: int) -> bytes | None:
    """What the standard library makes of a grain; None if it is not one."""
    address, size, skip = 0, int.from_bytes(data[:4], "little"), 4
    if markers:
        (address, size), skip = struct.unpack_from("<QI", data), 12
    if address or not 0 < size <= 2 * GRAIN or skip + size > len(data):
        return None
    engine = zlib.decompressobj()
    try:
        out = engine.decompress(data[skip : skip + size], GRAIN + 1)
    except zlib.error:
        return None
    fits = need <= len(out) <= GRAIN
    return out if engine.eof and not engine.unused_data and fits else None


if __name__ == "__main__":
    search(one_input)
