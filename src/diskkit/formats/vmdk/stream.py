# SPDX-License-Identifier: Apache-2.0
"""Compressed grains of streamOptimized extents: random access to one grain.

A grain is a marker (address, size) and a zlib stream, checked whole: address, both sizes and the
Adler-32. Rules: docs/formats/stream.md. Reading a stream in one pass, from a pipe, is sequence.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diskkit.formats.vmdk import layout
from diskkit.units import SECTOR

if TYPE_CHECKING:
    from diskkit.formats.vmdk.layout import SparseHeader
    from diskkit.interfaces import Storage

_GUESS = 4096
"""Bytes read to see a marker; a well-compressed grain comes along."""


def load_grain(
    storage: Storage, header: SparseHeader, offset: int, position: int, need: int
) -> bytes:
    """The grain whose marker lies at `position`, for guest `offset`; at least `need` bytes."""
    rules = layout.Rules("grain marker", storage.name, position)
    head = storage.read(position, min(_GUESS, storage.size - position))
    skip, size = _judge(rules, header, head, offset)
    _check_end(rules, storage, position, skip, size)
    body = head[skip : skip + size]
    if len(body) < size:
        body = storage.read(position + skip, size)
    return inflate(body, need, header.grain, rules, skip)


def check_marker(storage: Storage, header: SparseHeader, offset: int, position: int) -> None:
    """Raise unless a grain's marker fits guest `offset` and its data ends inside the file."""
    rules = layout.Rules("grain marker", storage.name, position)
    head = storage.read(position, min(16, storage.size - position))
    skip, size = _judge(rules, header, head, offset)
    _check_end(rules, storage, position, skip, size)


def _check_end(rules: layout.Rules, storage: Storage, position: int, skip: int, size: int) -> None:
    if position + skip + size > storage.size:
        rules.fail("size", skip - 4, size, "the grain ends beyond the end of the file")


def _judge(rules: layout.Rules, header: SparseHeader, head: bytes, offset: int) -> tuple[int, int]:
    """Where a grain's data begins after its marker's place, and its size."""
    if header.markers:
        marker = layout.parse_marker(head)
        if not marker.size:
            rules.fail("size", 8, 0, "a grain table entry points here, but it is no grain")
        if marker.value * SECTOR != offset:
            text = f"the grain table puts this grain at sector {offset // SECTOR}"
            rules.fail("address", 0, marker.value, text)
        skip, size = 12, marker.size
    else:
        skip, size = 4, int.from_bytes(head[:4], "little")
    check_size(rules, header, size, skip)
    return skip, size


def check_size(rules: layout.Rules, header: SparseHeader, size: int, skip: int) -> None:
    """A compressed grain takes between 1 byte and twice the grain."""
    if not 1 <= size <= 2 * header.grain:
        text = f"a compressed grain has 1 to {2 * header.grain} bytes"
        rules.fail("size", skip - 4, size, text)


def inflate(
    body: bytes | memoryview, need: int, grain: int, rules: layout.Rules, skip: int
) -> bytes:
    """Inflate one grain: a whole zlib stream of `need` to `grain` bytes, and nothing after it."""
    from isal import igzip_lib

    # isal does not look at the window size; whoever reads with zlib would refuse the file.
    if body[0] >> 4 > 7:
        rules.fail("data", skip, None, "not a whole zlib stream (invalid window size)")
    # This one of isal's engines lets other threads run meanwhile.
    engine = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_ZLIB)
    try:
        # One byte of room more than a grain shows a stream that does not end there.
        out = engine.decompress(body, grain + 1)
    except igzip_lib.IsalError as error:  # type: ignore[misc]  # its stub types a class as a value
        rules.fail("data", skip, None, f"not a whole zlib stream ({error})")
    if len(out) > grain:
        rules.fail("data", skip, None, f"inflates to more than the {grain} bytes of a grain")
    if not engine.eof:
        rules.fail("data", skip, None, "the zlib stream ends too early")
    if engine.unused_data:
        text = f"{len(engine.unused_data)} bytes follow the zlib stream"
        rules.fail("data", skip, None, text)
    if len(out) < need:
        rules.fail("data", skip, None, f"inflates to {len(out)} bytes, the grain needs {need}")
    return out
