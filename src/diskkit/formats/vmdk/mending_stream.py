# SPDX-License-Identifier: Apache-2.0
"""What mends a streamOptimized disk: tables, directory and footer made anew from the grains.

Every grain says where it belongs, so the tables of a stream can always be had from one look at its
markers, front to back. They are written behind the last grain, as ESXi writes them (variant A of
docs/formats/stream.md), and the header then says "at end".

A stream that was cut looks just like one whose end was damaged. It counts as whole if its end
marker, its directory's marker or its footer was found; otherwise it may have gone on, so making it
a disk is giving that up. So that an interrupted repair is not taken for a cut stream, the new
metadata is first written beyond its place, footer and all, then where it belongs.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from diskkit.errors import FormatError
from diskkit.formats.vmdk import layout
from diskkit.formats.vmdk.mending import Mend, Patch, Stage
from diskkit.formats.vmdk.stream import load_grain
from diskkit.units import SECTOR, align_up, ceil_div

if TYPE_CHECKING:
    from diskkit.formats.vmdk.layout import SparseHeader
    from diskkit.formats.vmdk.mending import Plan
    from diskkit.interfaces import Storage

_CHUNK = 1 << 20
_MOST_METADATA = 256 << 20
_MAGIC_AT, _FLAGS_AT, _RGD_AT, _GD_AT, _UNCLEAN_AT = 0, 8, 48, 56, 72
_CODE = "stream.tables"


def amended_header(head: bytes) -> bytes:
    """The header of a stream, as one whose directory is at its end."""
    out = bytearray(head)
    out[_MAGIC_AT : _MAGIC_AT + 4] = layout.MAGIC_SPARSE
    (flags,) = struct.unpack_from("<I", out, _FLAGS_AT)
    struct.pack_into("<I", out, _FLAGS_AT, flags & ~layout.FLAG_REDUNDANT)
    struct.pack_into("<QQ", out, _RGD_AT, 0, layout.GD_AT_END)
    out[_UNCLEAN_AT] = 0
    return bytes(out)


def is_stream(head: bytes) -> bool:
    """Whether a first sector is a stream's with addresses in its markers, finished or not."""
    if len(head) < SECTOR or head[:4] not in (layout.MAGIC_SPARSE, layout.MAGIC_UNFINISHED):
        return False
    wanted = layout.FLAG_COMPRESSED | layout.FLAG_MARKERS
    try:
        header = layout.parse_sparse_header(amended_header(head), "")
    except FormatError:
        return False
    return header.flags & wanted == wanted


class _Found(NamedTuple):
    """What one look at a stream found."""

    tables: dict[int, np.ndarray[tuple[int], np.dtype[np.uint32]]]
    grains: int
    end: int
    """Where the last grain ends, bytes."""
    whole: bool
    """Whether nothing followed the last grain but metadata."""
    doubles: int
    skipped: int
    """Bytes between grains that are neither grains nor metadata."""


def rebuild(storage: Storage, reason: str, plan: Plan) -> Mend | None:
    """The mend that gives a stream new tables; None, and a note in `plan`, if there is none."""
    path = storage.name
    head = amended_header(storage.read(0, SECTOR))
    header = layout.parse_sparse_header(head, path)
    if header.overhead > storage.size or header.overhead < SECTOR:
        plan.leave(_CODE, path, f"{reason}; and its header does not tell where grains begin")
        return None
    try:
        found = _Scan(storage, header).run()
    except MemoryError:
        plan.leave(_CODE, path, f"{reason}; too many tables to be made anew")
        return None
    if found.doubles:
        text = f"{reason}; {found.doubles} grains are there twice: nobody can know which counts"
        plan.leave(_CODE, path, text)
        return None
    whole = found.whole or _footer_at_end(storage, header)
    size, at = storage.size, found.end
    metadata = _metadata(head, header, found.tables, at)
    copy_at = align_up(max(size, at + len(metadata)), SECTOR)
    copy = _metadata(head, header, found.tables, copy_at)
    lost = ""
    if not whole:
        lost = "; it has no end: whatever followed its last whole grain is given up"
    if found.skipped:
        lost += f"; {found.skipped} bytes that are no whole grains are given up"
    text = f"{reason}: tables made anew from {found.grains} grains{lost}"
    patches = (
        Patch(Stage.ROOM, copy_at, len(copy), copy),
        Patch(Stage.TABLE, at, len(metadata), metadata),
        Patch(Stage.CLOSE, 0, SECTOR, head),
    )
    return Mend(_CODE, path, text, bool(lost), patches, at + len(metadata))


def _metadata(
    head: bytes,
    header: SparseHeader,
    tables: dict[int, np.ndarray[tuple[int], np.dtype[np.uint32]]],
    at: int,
) -> bytes:
    """Tables, directory, footer and end, to lie at byte `at`."""
    parts = []
    directory = np.zeros(header.tables, "<u4")
    size = align_up(header.table_entries * 4, SECTOR)
    for number in sorted(tables):
        parts.append(_marker(size // SECTOR, layout.MARKER_GT))
        directory[number] = at // SECTOR + 1
        parts.append(tables[number].tobytes().ljust(size, b"\0"))
        at += SECTOR + size
    body = directory.tobytes().ljust(header.directory_size, b"\0")
    footer = bytearray(head)
    struct.pack_into("<Q", footer, _GD_AT, at // SECTOR + 1)
    parts += [_marker(len(body) // SECTOR, layout.MARKER_GD), body]
    parts += [_marker(1, layout.MARKER_FOOTER), bytes(footer), bytes(SECTOR)]
    return b"".join(parts)


def _marker(value: int, kind: int) -> bytes:
    return struct.pack("<QII", value, 0, kind).ljust(SECTOR, b"\0")


def _footer_at_end(storage: Storage, header: SparseHeader) -> bool:
    """Whether the file ends in a footer that goes with the header, and an end marker."""
    at = storage.size // SECTOR * SECTOR - 3 * SECTOR
    if at < header.overhead:
        return False
    tail = storage.read(at, 3 * SECTOR)
    marker = layout.parse_marker(tail)
    if marker.size or marker.kind != layout.MARKER_FOOTER or any(tail[2 * SECTOR :]):
        return False
    try:
        footer = layout.parse_sparse_header(tail[SECTOR : 2 * SECTOR], "")
    except FormatError:
        return False
    return (footer.capacity, footer.grain) == (header.capacity, header.grain)


class _Scan:
    """One look at all markers."""

    def __init__(self, storage: Storage, header: SparseHeader) -> None:
        self.storage, self.header = storage, header
        self.tables: dict[int, np.ndarray[tuple[int], np.dtype[np.uint32]]] = {}
        self.grains = self.doubles = self.skipped = 0
        self.end = align_up(header.overhead, SECTOR)
        self.chunk, self.chunk_at = b"", 0
        self.last: tuple[layout.Marker, int] | None = None
        self.kept = 0

    def sector(self, at: int) -> bytes:
        if not self.chunk_at <= at < self.chunk_at + len(self.chunk) - 15:
            self.chunk_at = at
            self.chunk = self.storage.read(at, min(_CHUNK, self.storage.size - at))
        inside = at - self.chunk_at
        return self.chunk[inside : inside + SECTOR]

    def run(self) -> _Found:
        header, at, size = self.header, self.end, self.storage.size
        table = align_up(header.table_entries * 4, SECTOR)
        whole = lost = False
        while at + 16 <= size:
            sector = self.sector(at)
            marker = layout.parse_marker(sector)
            if marker.size and self.is_grain(marker, at, sure=lost):
                self.skipped += at - self.end if lost else 0
                at, lost, whole = self.grain(marker, at), False, False
                continue
            if marker.size == 0 and not any(sector[16:]):
                if marker.kind == layout.MARKER_EOS and not marker.value and not lost:
                    whole = True
                    break
                length = {
                    layout.MARKER_GT: table,
                    layout.MARKER_GD: header.directory_size,
                    layout.MARKER_FOOTER: SECTOR,
                    layout.MARKER_PROGRESS: 0,
                }.get(marker.kind)
                if length is not None:
                    whole = whole or marker.kind in (layout.MARKER_GD, layout.MARKER_FOOTER)
                    at += SECTOR + (0 if lost else length)
                    continue
            # From here on a grain counts only if its data are whole.
            lost = True
            at += SECTOR
        self.drop_cut()
        return _Found(self.tables, self.grains, self.end, whole, self.doubles, self.skipped)

    def drop_cut(self) -> None:
        """Take back the last grain if it is not whole: what lies behind it may not be its own."""
        if self.last is None or self.is_grain(*self.last, sure=True):
            return
        marker, at = self.last
        row, entry = divmod(marker.value * SECTOR // self.header.grain, self.header.table_entries)
        self.tables[row][entry] = 0
        if not self.tables[row].any():
            del self.tables[row]
        self.grains -= 1
        self.skipped += self.end - at
        self.end = at

    def is_grain(self, marker: layout.Marker, at: int, *, sure: bool) -> bool:
        header = self.header
        offset = marker.value * SECTOR
        if offset >= header.capacity or offset % header.grain:
            return False
        if marker.size > 2 * header.grain or at + 12 + marker.size > self.storage.size:
            return False
        if sure:
            try:
                need = min(header.grain, header.capacity - offset)
                load_grain(self.storage, header, offset, at, need)
            except FormatError:
                return False
        return True

    def grain(self, marker: layout.Marker, at: int) -> int:
        """Note it; where it ends."""
        number = marker.value * SECTOR // self.header.grain
        row, entry = divmod(number, self.header.table_entries)
        if row not in self.tables:
            self.kept += self.header.table_entries * 4
            if self.kept > _MOST_METADATA:
                raise MemoryError
            self.tables[row] = np.zeros(self.header.table_entries, "<u4")
        if self.tables[row][entry]:
            self.doubles += 1
        self.tables[row][entry] = at // SECTOR
        self.grains += 1
        self.last = marker, at
        self.end = at + ceil_div(12 + marker.size, SECTOR) * SECTOR
        return self.end
