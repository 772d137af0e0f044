# SPDX-License-Identifier: Apache-2.0
"""Writing descriptors: ids, geometry and text as VMware's tools write them. Pure but for chance.

Rules: docs/formats/descriptor.md. No escape is known for a quote, so names that need one are
refused before any file is made.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import UsageError
from diskkit.formats.link import NO_PARENT
from diskkit.units import SECTOR

if TYPE_CHECKING:
    from collections.abc import Iterable

ADAPTERS = ("lsilogic", "buslogic", "ide", "legacyESX")
_RESERVED_IDS = (0, NO_PARENT, NO_PARENT - 1)
_GIB_SECTORS = (1 << 30) // SECTOR


class Identity(NamedTuple):
    """What makes a disk this disk."""

    cid: int
    long_content_id: str
    """32 hex digits, the last eight those of the CID."""
    uuid: str


class NewDisk(NamedTuple):
    """What a new disk shall say of itself."""

    create_type: str
    capacity: int
    """Bytes, whole sectors."""
    identity: Identity
    adapter: str = "lsilogic"
    hw_version: str = "4"
    thin: bool = False


def new_identity() -> Identity:
    """Fresh ids from the system's source of chance; none that has a meaning of its own."""
    chance = random.SystemRandom()
    cid = 0
    while cid in _RESERVED_IDS:
        cid = chance.getrandbits(32)
    # An NAA id of type 6 with VMware's company number, 00:0C:29, and chance for the rest.
    octets = f"6000c29{chance.getrandbits(100):025x}"
    pairs = [octets[i : i + 2] for i in range(0, 32, 2)]
    uuid = " ".join(pairs[:8]) + "-" + " ".join(pairs[8:])
    return Identity(cid, f"{chance.getrandbits(96):024x}{cid:08x}", uuid)


def geometry(capacity: int, adapter: str) -> tuple[int, int, int]:
    """Cylinders, heads and sectors that the guest's firmware is told; informational."""
    sectors = capacity // SECTOR
    if adapter == "ide":
        return max(1, min(sectors // (16 * 63), 16383)), 16, 63
    if sectors < _GIB_SECTORS:
        heads, per_track = 64, 32
    elif sectors < 2 * _GIB_SECTORS:
        heads, per_track = 128, 32
    else:
        heads, per_track = 255, 63
    return max(1, sectors // (heads * per_track)), heads, per_track


def check_name(name: str) -> str:
    """`name`, if it can stand between quotes in a descriptor; else `UsageError`."""
    if '"' in name or not name.isprintable() or name != name.strip():
        text = "a quote, a control character, or a blank at its end"
        raise UsageError(f"name {name!r} cannot be written into a descriptor: it holds {text}")
    return name


def extent_line(length: int, kind: str, name: str, access: str = "RW") -> str:
    """One line of the extent description; `length` in bytes."""
    offset = " 0" if kind == "FLAT" else ""
    return f'{access} {length // SECTOR} {kind} "{check_name(name)}"{offset}'


def extent_name(descriptor: str, suffix: str) -> str:
    """What the file of an extent is called beside its descriptor."""
    return f"{descriptor.removesuffix('.vmdk')}{suffix}.vmdk"


def compose(disk: NewDisk, extents: Iterable[str]) -> bytes:
    """The descriptor's text, in UTF-8."""
    cylinders, heads, sectors = geometry(disk.capacity, disk.adapter)
    ddb = {
        "adapterType": disk.adapter,
        "geometry.cylinders": str(cylinders),
        "geometry.heads": str(heads),
        "geometry.sectors": str(sectors),
        "longContentID": disk.identity.long_content_id,
        "uuid": disk.identity.uuid,
        "virtualHWVersion": disk.hw_version,
    }
    if disk.thin:
        ddb["thinProvisioned"] = "1"
    lines = [
        "# Disk DescriptorFile",
        "version=1",
        'encoding="UTF-8"',
        f"CID={disk.identity.cid:08x}",
        f"parentCID={NO_PARENT:08x}",
        'isNativeSnapshot="no"',
        f'createType="{disk.create_type}"',
        "",
        "# Extent description",
        *extents,
        "",
        "# The Disk Data Base",
        "#DDB",
        "",
        *(f'ddb.{key} = "{value}"' for key, value in sorted(ddb.items())),
    ]
    return ("\n".join(lines) + "\n").encode()
