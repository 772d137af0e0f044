# SPDX-License-Identifier: Apache-2.0
"""What a disk is, as data: the answer of `diskkit info`. Reads nothing beyond what opening read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from diskkit.formats.link import NO_PARENT
from diskkit.units import SECTOR

if TYPE_CHECKING:
    from diskkit.formats.link import Link


class Geometry(NamedTuple):
    """The shape the guest's firmware is told; informational."""

    cylinders: int
    heads: int
    sectors: int


class ExtentInfo(NamedTuple):
    """One extent of a link; lengths and offsets in bytes."""

    path: str | None
    kind: str
    access: str
    offset: int
    """Where in the disk it begins."""
    length: int
    grain_size: int | None
    file_offset: int
    """Where in its file it begins."""


class LinkInfo(NamedTuple):
    """One link; content IDs as 8 hex digits."""

    path: str
    create_type: str
    cid: str | None
    parent_cid: str | None
    parent_hint: str | None
    physical_bytes: int
    extents: list[ExtentInfo]


class DiskInfo(NamedTuple):
    """What a disk is. The fields are the keys of `diskkit info --json`."""

    path: str
    format: str
    create_type: str
    capacity: int
    cid: str | None
    parent_cid: str | None
    adapter_type: str | None
    hw_version: str | None
    uuid: str | None
    geometry: Geometry | None
    encrypted: bool
    physical_bytes: int
    links: list[LinkInfo]
    """links[0] is the leaf, the last one the base."""
    metadata: dict[str, str]
    """The disk database of the leaf, and of its parents where the leaf is silent."""

    def as_dict(self) -> dict[str, Any]:
        """The JSON document."""
        return plain(self)


def plain(record: NamedTuple) -> dict[str, Any]:
    """A record, and the records in it, as dicts and lists."""
    return {
        key: [plain(item) for item in value]
        if isinstance(value, list)
        else plain(value)
        if hasattr(value, "_asdict")
        else value
        for key, value in record._asdict().items()
    }


def describe(path: str, links: list[Link]) -> DiskInfo:
    """Everything known of an opened chain."""
    metadata: dict[str, str] = {}
    for link in links:
        if link.descriptor:
            metadata = {**link.descriptor.ddb, **metadata}
    keys = {key.lower(): value for key, value in metadata.items()}
    leaf = links[0]
    return DiskInfo(
        path=path,
        format="vmdk" if leaf.descriptor else "raw",
        create_type=leaf.create_type,
        capacity=leaf.capacity,
        cid=_hex(leaf.cid),
        parent_cid=_parent_cid(leaf),
        adapter_type=keys.get("adaptertype"),
        hw_version=keys.get("virtualhwversion"),
        uuid=keys.get("uuid"),
        geometry=_geometry(keys),
        encrypted=any(link.descriptor and link.descriptor.encrypted for link in links),
        physical_bytes=sum(link.physical_bytes for link in links),
        links=[describe_link(link) for link in links],
        metadata=metadata,
    )


def describe_bare(path: str, kind: str, capacity: int) -> DiskInfo:
    """A disk of which no more than its capacity is known; it takes no room here."""
    link = LinkInfo(path, kind, None, None, None, 0, [])
    return DiskInfo(
        path=path,
        format=kind,
        create_type=kind,
        capacity=capacity,
        cid=None,
        parent_cid=None,
        adapter_type=None,
        hw_version=None,
        uuid=None,
        geometry=None,
        encrypted=False,
        physical_bytes=0,
        links=[link],
        metadata={},
    )


def describe_link(link: Link) -> LinkInfo:
    """One link."""
    extents = [
        ExtentInfo(
            path=e.storage.name if e.storage else e.line.name,
            kind=e.line.kind,
            access=e.line.access,
            offset=e.start,
            length=e.line.length,
            grain_size=e.map.granularity if e.map.granularity >= SECTOR else None,
            file_offset=e.line.offset,
        )
        for e in link.extents
    ]
    return LinkInfo(
        link.path,
        link.create_type,
        _hex(link.cid),
        _parent_cid(link),
        link.parent_hint,
        link.physical_bytes,
        extents,
    )


def _hex(cid: int | None) -> str | None:
    return None if cid is None else f"{cid:08x}"


def _parent_cid(link: Link) -> str | None:
    return None if link.parent_cid == NO_PARENT else _hex(link.parent_cid)


def _geometry(keys: dict[str, str]) -> Geometry | None:
    values = [keys.get(f"geometry.{name}", "") for name in ("cylinders", "heads", "sectors")]
    if not all(v.isascii() and v.isdecimal() and len(v) < 20 for v in values):
        return None
    return Geometry(*(int(v) for v in values))
