# SPDX-License-Identifier: Apache-2.0
"""The binary structures of hosted sparse extents and streams: unpack and validate. Pure.

Every field is checked here, against its own rules and against the size of the file, before any
other code computes with it; nothing is allocated in proportion to a claimed size. The structures
are described in docs/formats/ (hosted-sparse, stream). Little-endian throughout.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import NamedTuple, NoReturn

from diskkit.errors import FormatError
from diskkit.units import SECTOR, align_up, ceil_div

MAGIC_SPARSE = b"KDMV"
MAGIC_UNFINISHED = b"kdmv"
MAGIC_COWD = b"COWD"
MAGIC_SESPARSE = struct.pack("<Q", 0xCAFEBABE)

MAX_GRAIN = (1 << 21) * SECTOR
"""Largest grain read, bytes: 1 GiB (qemu's bound too)."""
MAX_PACKED_GRAIN = 16 << 20
"""Largest compressed grain read, bytes: a whole one must fit in memory."""
MAX_TABLES = 32 << 20
"""Most grain directory entries."""
MAX_SECTORS = 1 << 54
"""Sectors that no disk and no place in a file reaches: their bytes must fit 63 bits."""
MAX_DESCRIPTOR_SECTORS = 20480

FLAG_NEWLINES = 1 << 0
FLAG_REDUNDANT = 1 << 1
FLAG_ZEROED = 1 << 2
FLAG_COMPRESSED = 1 << 16
FLAG_MARKERS = 1 << 17
_KNOWN_INCOMPATIBLE = FLAG_COMPRESSED | FLAG_MARKERS

GD_AT_END = 0xFFFFFFFFFFFFFFFF
_NEWLINES = b"\n \r\n"

MARKER_EOS, MARKER_GT, MARKER_GD, MARKER_FOOTER, MARKER_PROGRESS = range(5)


class Rules:
    """Raises the error of one structure, field by field."""

    def __init__(self, structure: str, path: str, at: int = 0) -> None:
        """`at` is where in the file the structure begins."""
        self.structure, self.path, self.at = structure, path, at

    def error(
        self, field: str, at: int | None, value: object, problem: str, advice: str = ""
    ) -> FormatError:
        """The error for `field`, `at` bytes into the structure."""
        return FormatError(
            problem,
            path=self.path,
            structure=self.structure,
            field=field,
            offset=None if at is None else self.at + at,
            value=value,
            advice=advice,
        )

    def fail(
        self, field: str, at: int | None, value: object, problem: str, advice: str = ""
    ) -> NoReturn:
        """Raise it."""
        raise self.error(field, at, value, problem, advice)


class SparseHeader(NamedTuple):
    """Header (or footer) of a hosted sparse extent. Offsets and sizes in bytes."""

    version: int
    flags: int
    capacity: int
    grain: int
    """Guest bytes per grain."""
    descriptor_offset: int
    descriptor_size: int
    table_entries: int
    """Grain table entries per table."""
    redundant_offset: int
    """Redundant grain directory; 0 for none."""
    directory_offset: int
    """Grain directory; `GD_AT_END * 512` when only the footer knows."""
    overhead: int
    """Where the first grain may lie."""
    unclean: int
    compression: int

    @property
    def at_end(self) -> bool:
        """Whether the grain directory's place is told by the footer only."""
        return self.directory_offset == GD_AT_END * SECTOR

    @property
    def compressed(self) -> bool:
        """Whether grains are compressed."""
        return bool(self.flags & FLAG_COMPRESSED)

    @property
    def markers(self) -> bool:
        """Whether compressed grains carry their address."""
        return bool(self.flags & FLAG_MARKERS)

    @property
    def tables(self) -> int:
        """Entries of the grain directory."""
        return ceil_div(self.capacity, self.table_entries * self.grain)

    @property
    def directory_size(self) -> int:
        """Bytes of the grain directory, in whole sectors."""
        return align_up(self.tables * 4, SECTOR)


_SPARSE = struct.Struct("<4sIIQQQQIQQQB4sH")


def parse_sparse_header(
    data: bytes, path: str, *, structure: str = "sparse header", at: int = 0
) -> SparseHeader:
    """Unpack 512 bytes and check every field that can be judged without the file."""
    rules = Rules(structure, path, at)
    if len(data) < SECTOR:
        rules.fail("size", None, len(data), "the file ends inside the 512 bytes of the header")
    magic, *numbers, unclean, newlines, compression = _SPARSE.unpack_from(data)
    if magic != MAGIC_SPARSE:
        _refuse_magic(rules, magic)
    version, flags, capacity, grain, d_off, d_size, entries, rgd, gd, overhead = numbers
    _check_flags(rules, version, flags, newlines, compression)
    if not 1 <= grain <= 1 << 21 or grain & (grain - 1):
        rules.fail("grainSize", 20, grain, "must be a power of two from 1 to 2097152 sectors")
    if flags & FLAG_COMPRESSED and grain * SECTOR > MAX_PACKED_GRAIN:
        rules.fail("grainSize", 20, grain, "compressed grains may have 32768 sectors at most")
    if not 1 <= entries <= 512 or entries & (entries - 1):
        rules.fail("numGTEsPerGT", 44, entries, "must be a power of two from 1 to 512")
    if not capacity:
        rules.fail("capacity", 12, capacity, "an extent of no sectors")
    check_tables(rules, 12, capacity, entries * grain)
    if unclean > 1:
        rules.fail("uncleanShutdown", 72, unclean, "must be 0 or 1")
    return SparseHeader(
        version,
        flags,
        capacity * SECTOR,
        grain * SECTOR,
        d_off * SECTOR,
        d_size * SECTOR,
        entries,
        rgd * SECTOR if flags & FLAG_REDUNDANT else 0,
        gd * SECTOR,
        overhead * SECTOR,
        unclean,
        compression,
    )


def check_tables(rules: Rules, at: int, capacity: int, cover: int) -> int:
    """How many tables of `cover` sectors a capacity needs: a bounded number."""
    tables = ceil_div(capacity, cover)
    if tables > MAX_TABLES:
        text = f"needs {tables} grain tables, more than {MAX_TABLES}"
        rules.fail("capacity", at, capacity, text)
    if capacity >= MAX_SECTORS:
        rules.fail("capacity", at, capacity, "more than 2^63 bytes")
    return tables


def _refuse_magic(rules: Rules, magic: bytes) -> NoReturn:
    if magic == MAGIC_UNFINISHED or magic == b"vmdk":
        text = "an unfinished stream: its writer stopped before the end"
        rules.fail("magic", 0, magic, text, "make the file again")
    if magic == MAGIC_SPARSE[::-1]:
        rules.fail("magic", 0, magic, "the bytes are in big-endian order")
    rules.fail("magic", 0, magic, f"is not {MAGIC_SPARSE!r}")


def _check_flags(rules: Rules, version: int, flags: int, newlines: bytes, algorithm: int) -> None:
    if not 1 <= version <= 3:
        rules.fail("version", 4, version, "only versions 1, 2 and 3 are known")
    if unknown := flags >> 16 << 16 & ~_KNOWN_INCOMPATIBLE:
        text = f"unknown incompatible flags {unknown:#x}: the file needs a newer reader"
        rules.fail("flags", 8, f"{flags:#x}", text)
    if flags & FLAG_MARKERS and not flags & FLAG_COMPRESSED:
        text = "markers (bit 17) without compression (bit 16)"
        rules.fail("flags", 8, f"{flags:#x}", text)
    if flags & FLAG_NEWLINES and newlines != _NEWLINES:
        text = "the newline bytes were altered: the file was damaged by a text-mode transfer"
        rules.fail("newline bytes", 73, newlines, text, "copy it again in binary mode")
    if algorithm > 1:
        rules.fail("compressAlgorithm", 77, algorithm, "only 0 (none) and 1 (deflate) are known")
    if flags & FLAG_COMPRESSED and algorithm != 1:
        text = "the flags say compressed, but no algorithm is named"
        rules.fail("compressAlgorithm", 77, algorithm, text)


def check_sparse_layout(header: SparseHeader, size: int, path: str, *, at: int = 0) -> list[str]:
    """Check the places of all regions against each other and the file's `size` in bytes.

    Returns warnings. `at` is where the header (or footer) lies, for messages.
    """
    rules = Rules("sparse header" if not at else "footer", path, at)
    descriptor = ("descriptorOffset", 28, header.descriptor_offset, header.descriptor_size)
    directory = ("gdOffset", 56, header.directory_offset, header.directory_size)
    regions = [("header", 0, 0, SECTOR)]
    if header.descriptor_offset or header.descriptor_size:
        if header.descriptor_size > MAX_DESCRIPTOR_SECTORS * SECTOR:
            sectors = header.descriptor_size // SECTOR
            rules.fail("descriptorSize", 36, sectors, f"more than {MAX_DESCRIPTOR_SECTORS} sectors")
        if header.descriptor_offset:
            regions.append(descriptor)
    if not header.at_end:
        regions.append(directory)
    if header.redundant_offset:
        regions.append(("rgdOffset", 48, header.redundant_offset, header.directory_size))
    for name, field_at, begin, length in regions[1:]:
        if begin < SECTOR:
            rules.fail(name, field_at, begin // SECTOR, "overlaps the header")
        if begin + length > size:
            text = f"with {length} bytes it ends beyond the file's {size} bytes"
            rules.fail(name, field_at, begin // SECTOR, text)
    ordered = sorted(regions, key=lambda r: r[2])
    for before, after in pairwise(ordered):
        if before[2] + before[3] > after[2]:
            text = f"overlaps the region of {before[0]}"
            rules.fail(after[0], after[1], after[2] // SECTOR, text)
    _check_overhead(rules, header, size, regions)
    return _sparse_warnings(header)


def _check_overhead(
    rules: Rules, header: SparseHeader, size: int, regions: list[tuple[str, int, int, int]]
) -> None:
    sectors = header.overhead // SECTOR
    if not header.overhead:
        rules.fail("overHead", 64, sectors, "no room for the header itself")
    if header.overhead > size:
        rules.fail("overHead", 64, sectors, f"lies beyond the file's {size} bytes")
    for name, _, begin, length in regions:
        # A stream's directory may come after its grains; then all of it lies beyond the overhead.
        if begin < header.overhead < begin + length:
            rules.fail("overHead", 64, sectors, f"lies inside the region of {name}")
        if name in ("header", "descriptorOffset") and begin >= header.overhead:
            rules.fail("overHead", 64, sectors, f"lies before the region of {name}")
        if not header.compressed and begin >= header.overhead:
            rules.fail("overHead", 64, sectors, f"lies before the region of {name}")


def _sparse_warnings(header: SparseHeader) -> list[str]:
    warnings = []
    if header.unclean:
        warnings.append("not closed cleanly (uncleanShutdown is set); run check before writing")
    if header.flags & FLAG_REDUNDANT and not header.redundant_offset:
        warnings.append("redundant tables are announced, but rgdOffset is 0")
    if header.compression and not header.compressed:
        warnings.append("compressAlgorithm is 1, but the flags say not compressed")
    if not header.compressed and header.capacity > 1 << 41:
        warnings.append("larger than 2 TiB, which VMware's products refuse for this kind")
    return warnings


def compare_footer(header: SparseHeader, footer: SparseHeader, path: str, at: int) -> None:
    """A footer, at byte `at`, repeats its header but for the directory's place, which it knows."""
    rules = Rules("footer", path, at)
    if footer.at_end:
        rules.fail("gdOffset", 56, "at end", "the footer does not know it either")
    for attribute, name, field_at, unit in (
        ("version", "version", 4, 1),
        ("flags", "flags", 8, 1),
        ("capacity", "capacity", 12, SECTOR),
        ("grain", "grainSize", 20, SECTOR),
        ("descriptor_offset", "descriptorOffset", 28, SECTOR),
        ("descriptor_size", "descriptorSize", 36, SECTOR),
        ("table_entries", "numGTEsPerGT", 44, 1),
    ):
        mine, its = getattr(header, attribute) // unit, getattr(footer, attribute) // unit
        if mine != its:
            rules.fail(name, field_at, its, f"disagrees with the header's {mine}")


class Marker(NamedTuple):
    """The first 16 bytes of a stream's marker."""

    value: int
    """A grain's address in sectors; else how many follow, which is not to be trusted."""
    size: int
    """Compressed bytes of a grain; 0 for a metadata marker."""
    kind: int
    """`MARKER_…`, for metadata markers."""


_MARKER = struct.Struct("<QII")


def parse_marker(data: bytes | memoryview, at: int = 0) -> Marker:
    """Unpack a marker; its fields are the caller's to judge."""
    return Marker(*_MARKER.unpack_from(data, at))
