# SPDX-License-Identifier: Apache-2.0
"""LVM2: a physical volume's label and metadata, and the logical volumes they describe.

Rules (lvm2's on-disk format): a label "LABELONE" in one of the first four sectors, with a CRC over
the rest of its sector; it lists where metadata areas lie. An area begins with a header of 512 bytes
that points at the current text in the ring behind it. The CRC is CRC-32 with another start value
and no final inversion.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import FormatError, UnsupportedFeature
from diskkit.units import SECTOR
from diskkit.volumes import lvmtext
from diskkit.volumes.reading import read_at
from diskkit.volumes.volume import Segment, Stripe, Volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from diskkit.interfaces import Readable
    from diskkit.volumes.lvmtext import Section

LABEL_SECTORS = 4
MAX_TEXT = 16 << 20
"""Bytes of metadata text believed; a text of a megabyte describes some thousand volumes."""
MAX_SEGMENTS = 100_000
MAX_STRIPES = 128
"""lvm2's own limit."""

_CRC_START = 0xF597A6CF
_AREA_MAGIC = b" LVM2 x[5A%r0N*>"
_AREA_HEADER = 512


class PhysicalVolume(NamedTuple):
    """One label, and the newest text found by it."""

    uuid: str
    """32 letters, without the hyphens that lvm2 prints."""
    source: Readable
    text: str | None
    """None if it has no metadata area of its own."""


def crc(data: bytes) -> int:
    """lvm2's checksum."""
    return zlib.crc32(data, _CRC_START ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def find_label(start: bytes) -> int | None:
    """The sector, 0 to 3, in which the first 2048 bytes hold a label."""
    for number in range(LABEL_SECTORS):
        sector = start[number * SECTOR : (number + 1) * SECTOR]
        if sector[:8] == b"LABELONE" and sector[24:32] == b"LVM2 001":
            return number
    return None


def read_physical(source: Readable) -> PhysicalVolume:
    """The label of a physical volume and its text. Raises `FormatError`."""
    start = read_at(source, 0, min(LABEL_SECTORS * SECTOR, source.size))
    number = find_label(start)
    if number is None:
        raise FormatError("no label in the first four sectors", structure="LVM label")
    sector = start[number * SECTOR : (number + 1) * SECTOR]
    _, own, found, offset = struct.unpack_from("<8sQII", sector)
    where = number * SECTOR
    if own != number:
        raise _wrong("LVM label", "sector", where + 8, own, f"it is sector {number}")
    if len(sector) < SECTOR or crc(sector[20:]) != found:
        raise _wrong("LVM label", "CRC", where + 16, f"{found:08x}", "the label has another")
    if not 32 <= offset <= SECTOR - 40:
        raise _wrong("LVM label", "offset", where + 20, offset, "outside of the sector")
    uuid = sector[offset : offset + 32].decode("ascii", "replace")
    errors: list[FormatError] = []
    texts: list[str] = []
    for begin, length in _areas(sector, offset + 40, where):
        try:
            text = _area_text(source, begin, length)
        except FormatError as error:
            errors.append(error)
            continue
        if text is not None:
            texts.append(text)
    if errors and not texts:
        raise errors[0]
    return PhysicalVolume(uuid, source, texts[0] if texts else None)


def _areas(sector: bytes, place: int, where: int) -> list[tuple[int, int]]:
    """Metadata areas: the second of two lists, each ended by a zero pair."""
    lists: list[list[tuple[int, int]]] = [[], []]
    for rows in lists:
        while True:
            if place + 16 > SECTOR:
                raise _wrong("LVM label", "areas", where + place, None, "the list has no end")
            begin, length = struct.unpack_from("<QQ", sector, place)
            place += 16
            if not begin:
                break
            rows.append((begin, length))
    return lists[1]


def _area_text(source: Readable, begin: int, length: int) -> str | None:
    """The current text of one metadata area, or None if it is unused."""
    if length <= _AREA_HEADER or begin + length > source.size:
        raise _wrong("LVM label", "metadata area", begin, length, "outside of the volume")
    header = read_at(source, begin, _AREA_HEADER)
    found, magic, version, own, size = struct.unpack_from("<I16sIQQ", header)
    if magic != _AREA_MAGIC:
        raise _wrong("LVM metadata area", "magic", begin + 4, magic, "not LVM2's")
    if crc(header[4:]) != found:
        raise _wrong("LVM metadata area", "CRC", begin, f"{found:08x}", "the header has another")
    if version != 1:
        raise _wrong("LVM metadata area", "version", begin + 20, version, "only 1 is known")
    if own != begin or not _AREA_HEADER < size <= length:
        raise _wrong("LVM metadata area", "size", begin + 32, size, "not that of the area")
    at, count, text_crc, flags = struct.unpack_from("<QQII", header, 40)
    if not at or not count or flags & 1:
        return None
    if not _AREA_HEADER <= at < size or count > min(size - _AREA_HEADER, MAX_TEXT):
        raise _wrong("LVM metadata area", "text", begin + 40, (at, count), "outside of the area")
    tail = min(count, size - at)
    raw = read_at(source, begin + at, tail)
    if tail < count:
        raw += read_at(source, begin + _AREA_HEADER, count - tail)
    if crc(raw) != text_crc:
        raise _wrong("LVM metadata text", "CRC", begin + at, f"{text_crc:08x}", "it has another")
    return raw.rstrip(b"\0").decode("utf-8", "replace")


def _wrong(structure: str, field: str, offset: int, value: object, rule: str) -> FormatError:
    return FormatError(rule, structure=structure, field=field, offset=offset, value=value)


# --- from text to volumes ---------------------------------------------------------------------


class LogicalVolume(NamedTuple):
    """One visible logical volume."""

    group: str
    name: str
    uuid: str
    size: int
    segments: list[Segment]
    problem: FormatError | None


def logical_volumes(
    physical: Iterable[PhysicalVolume], warn: Callable[[str], None]
) -> list[LogicalVolume]:
    """The visible logical volumes of all groups that these physical volumes belong to."""
    by_uuid: dict[str, PhysicalVolume] = {}
    for pv in physical:
        if pv.uuid in by_uuid:
            warn(f"physical volume {pv.uuid}: there twice, the first is used")
        by_uuid.setdefault(pv.uuid, pv)
    newest: dict[str, tuple[int, str, Section]] = {}
    for pv in by_uuid.values():
        if pv.text is None:
            continue
        try:
            name, group = _group_of(lvmtext.parse(pv.text))
            uuid, number = _text(group, "id", name), _int(group, "seqno", name)
        except FormatError as error:
            warn(str(error))
            continue
        if uuid not in newest or newest[uuid][0] < number:
            newest[uuid] = number, name, group
    found: list[LogicalVolume] = []
    for _, name, group in newest.values():
        try:
            found += _volumes_of(name, group, by_uuid)
        except FormatError as error:
            warn(str(error))
    return found


def as_volume(found: LogicalVolume, number: int) -> Volume:
    """A logical volume as what users read from."""
    volume = Volume(
        found.segments,
        number=number,
        name=f"{found.group}/{found.name}",
        type="lvm",
        size=found.size,
        problem=found.problem,
    )
    volume.type_name = "LVM logical volume"
    volume.part_uuid = found.uuid
    return volume


def _group_of(text: Section) -> tuple[str, Section]:
    groups = [(k, v) for k, v in text.items() if isinstance(v, dict)]
    if len(groups) != 1:
        raise FormatError(f"{len(groups)} volume groups in one text", structure="LVM metadata text")
    _check_name(groups[0][0], "volume group")
    return groups[0]


def _check_name(name: str, what: str) -> None:
    """Names become file names: only lvm2's own letters, without the slash."""
    if "/" in name or name in (".", "..") or len(name) > 127:
        raise _bad(what, "name", name, "not a name that lvm2 gives")


def _volumes_of(
    name: str, group: Section, by_uuid: dict[str, PhysicalVolume]
) -> list[LogicalVolume]:
    extent = _int(group, "extent_size", name) * SECTOR
    if not 0 < extent <= 1 << 50:
        raise _bad(f"volume group {name}", "extent_size", extent, "not a size")
    members = _sections(group, "physical_volumes", name)
    found: list[LogicalVolume] = []
    for label, section in _sections(group, "logical_volumes", name, optional=True).items():
        if not isinstance(section, dict):
            continue
        _check_name(label, "logical volume")
        status = section.get("status")
        if not (isinstance(status, list) and "VISIBLE" in status):
            continue
        where = f"logical volume {name}/{label}"
        problem: FormatError | None = None
        segments: list[Segment] = []
        size = 0
        try:
            rows = _ordered_segments(section, where)
            size = sum(_int(row, "extent_count", where) for row in rows) * extent
            segments = _segments(rows, extent, members, by_uuid, where)
        except FormatError as error:
            problem = error
        uuid = section.get("id")
        identity = uuid if isinstance(uuid, str) else ""
        found.append(LogicalVolume(name, label, identity, size, segments, problem))
    return found


def _ordered_segments(section: Section, where: str) -> list[Section]:
    rows = [v for k, v in section.items() if k.startswith("segment") and isinstance(v, dict)]
    if not 0 < len(rows) <= MAX_SEGMENTS:
        raise _bad(where, "segments", len(rows), f"not 1 to {MAX_SEGMENTS}")
    for row in rows:
        if _int(row, "extent_count", where) <= 0:
            raise _bad(where, "extent_count", row["extent_count"], "not positive")
    return sorted(rows, key=lambda row: _int(row, "start_extent", where))


def _segments(
    rows: list[Section],
    extent: int,
    members: Section,
    by_uuid: dict[str, PhysicalVolume],
    where: str,
) -> list[Segment]:
    segments: list[Segment] = []
    at = 0
    for row in rows:
        if _int(row, "start_extent", where) * extent != at:
            raise _bad(where, "start_extent", row["start_extent"], "leaves a gap or overlaps")
        length = _int(row, "extent_count", where) * extent
        kind = _text(row, "type", where)
        if kind not in ("striped", "linear"):
            raise UnsupportedFeature(
                "only linear and striped segments can be read",
                structure=where,
                field="type",
                value=kind,
                advice="activate it on a system with lvm2",
            )
        stripes = _stripes(row, length, extent, members, by_uuid, where)
        unit = _int(row, "stripe_size", where) * SECTOR if len(stripes) > 1 else length
        if unit <= 0 or length % (unit * len(stripes)):
            raise _bad(where, "stripe_size", unit, f"does not divide {length} bytes")
        segments.append(Segment(at, length, stripes, unit))
        at += length
    return segments


def _stripes(
    row: Section,
    length: int,
    extent: int,
    members: Section,
    by_uuid: dict[str, PhysicalVolume],
    where: str,
) -> list[Stripe]:
    named = row.get("stripes")
    if not isinstance(named, list) or len(named) % 2 or not 0 < len(named) <= 2 * MAX_STRIPES:
        raise _bad(where, "stripes", named, "not a list of pairs")
    count = len(named) // 2
    stripes = []
    for label, first in zip(named[::2], named[1::2], strict=True):
        member = members.get(label) if isinstance(label, str) else None
        if not isinstance(member, dict) or not isinstance(first, int) or first < 0:
            raise _bad(where, "stripes", (label, first), "names no physical volume and extent")
        uuid = _text(member, "id", where).replace("-", "")
        pv = by_uuid.get(uuid)
        if pv is None:
            raise UnsupportedFeature(
                f"a part lies on physical volume {label} ({member['id']}), which is not here",
                structure=where,
                advice="name all disks of the volume group",
            )
        begin = _int(member, "pe_start", where) * SECTOR + first * extent
        if begin < 0 or begin + length // count > pv.source.size:
            raise _bad(where, "stripes", (label, first), f"beyond the end of {label}")
        stripes.append(Stripe(pv.source, begin))
    return stripes


def _bad(structure: str, field: str, value: object, rule: str) -> FormatError:
    return FormatError(rule, structure=structure, field=field, value=value)


def _int(section: Section, key: str, where: str) -> int:
    value = section.get(key)
    if not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise _bad(where, key, value, "not a number")
    return value


def _text(section: Section, key: str, where: str) -> str:
    value = section.get(key)
    if not isinstance(value, str):
        raise _bad(where, key, value, "not a text")
    return value


def _sections(section: Section, key: str, where: str, *, optional: bool = False) -> Section:
    value = section.get(key, {} if optional else None)
    if not isinstance(value, dict):
        raise _bad(where, key, value, "not a section")
    return value
