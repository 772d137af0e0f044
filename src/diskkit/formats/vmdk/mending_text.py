# SPDX-License-Identifier: Apache-2.0
"""What mends a descriptor: lost, contradicting the header, or with ids that do not fit."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from diskkit.errors import FormatError, printable
from diskkit.formats.vmdk import compose, descriptor, edit, layout
from diskkit.formats.vmdk.mending import Mend, Patch, Stage
from diskkit.units import SECTOR, ceil_div

if TYPE_CHECKING:
    from diskkit.formats.link import Link
    from diskkit.formats.vmdk.layout import SparseHeader
    from diskkit.formats.vmdk.mending import Plan
    from diskkit.interfaces import Storage

_CAPACITY_AT = 12


def lost_descriptor(storage: Storage, header: SparseHeader, name: str, plan: Plan) -> Mend | None:
    """A new descriptor for a single-file disk whose own cannot be read; None if there is none.

    `header` is the file's, `name` the file's name.
    """
    path, begin, size = storage.name, header.descriptor_offset, header.descriptor_size
    if not begin or begin + size > storage.size:
        return None
    old = storage.read(begin, min(size, layout.MAX_DESCRIPTOR_SECTORS * SECTOR))
    encrypted = any(k in old.lower() for k in (b"encryptionkeys", b"keyid", b"vmwarevmcrypt"))
    if encrypted:
        plan.leave("descriptor.lost", path, "what is left of the descriptor speaks of encryption")
        return None
    kind = "streamOptimized" if header.compressed else "monolithicSparse"
    identity = compose.new_identity()
    line = compose.extent_line(header.capacity, "SPARSE", name)
    disk = compose.NewDisk(kind, header.capacity, identity)
    text = compose.compose(disk, [line])
    if len(text) >= size:
        plan.leave("descriptor.lost", path, f"a new descriptor does not fit its {size} bytes")
        return None
    what = "is all zeros" if not any(old) else "cannot be read"
    message = (
        f"descriptor: {what}: written anew as {kind} from the header, with new ids; metadata is "
        "lost"
    )
    lossy = kind == "monolithicSparse"
    if lossy:
        message += ", and if the disk had a parent, nobody can know"
    patch = Patch(Stage.HEAD, begin, len(old), text.ljust(len(old), b"\0"))
    return Mend("descriptor.lost", path, message, lossy, (patch,))


def capacities(storage: Storage, header: SparseHeader, plan: Plan) -> Mend | None:
    """Make the header and the line of an embedded descriptor name one capacity.

    If the tables reach as far as the line says, nothing is given up by believing the line.
    """
    begin, size = header.descriptor_offset, header.descriptor_size
    if not begin:
        return None
    raw = storage.read(begin, size)
    try:
        found = descriptor.parse(raw, path=storage.name, at=begin, embedded=True)
    except FormatError:
        return None
    if len(found.extents) != 1 or found.capacity <= header.capacity or header.compressed:
        return None
    line, path = found.extents[0], storage.name
    mine, its = header.capacity // SECTOR, line.length // SECTOR
    wanted = ceil_div(line.length, header.table_entries * header.grain)
    if wanted == header.tables or wanted == _room_for_tables(header):
        text = (
            f"sparse header: capacity is {mine}, tables and descriptor say {its}: it becomes that"
        )
        patch = Patch(Stage.HEAD, _CAPACITY_AT, 8, struct.pack("<Q", its))
        return Mend("sparse-header.capacity", path, text, patches=(patch,))
    new = edit.edited(
        found,
        extents=[compose.extent_line(header.capacity, line.kind, line.name or "", line.access)],
    )
    text = f"descriptor: its extent line says {its} sectors, header and tables {mine}: it follows"
    first = next(i for i in range(len(new)) if new[i : i + 1] != raw[i : i + 1])
    body = new.ljust(len(found.raw), b"\0")[first:]
    patch = Patch(Stage.HEAD, begin + first, len(body), body)
    return Mend("sparse-header.capacity", path, text, lossy=True, patches=(patch,))


def _room_for_tables(header: SparseHeader) -> int:
    """How many tables lie between the directories, in VMware's layout; 0 if that cannot be told."""
    low, high = sorted((header.redundant_offset, header.directory_offset))
    if not low:
        return 0
    table = max(SECTOR, header.table_entries * 4)
    # The directory's own size follows from the number.
    room = high - low
    for count in (room // table, room // table - 1):
        if count > 0 and ceil_div(count * 4, SECTOR) * SECTOR + count * table == room:
            return count
    most = room // table
    for count in range(most, max(0, most - 64 - most // 256), -1):
        if ceil_div(count * 4, SECTOR) * SECTOR + count * table == room:
            return count
    return 0


def ids(link: Link, parent: Link | None, plan: Plan, *, fix_ids: bool) -> Mend | None:
    """Make the ids in the descriptor fit each other and, if asked, the parent's."""
    found = link.descriptor
    assert found is not None
    header: dict[str, str | None] = {}
    ddb: dict[str, str | None] = {}
    said = []
    long_id = {key.lower(): value for key, value in found.ddb.items()}.get("longcontentid", "")
    if long_id and found.cid and long_id[-8:].lower() != f"{found.cid:08x}":
        front = long_id[:24] if len(long_id) == 32 else ""
        fresh = compose.new_identity().long_content_id[:24]
        valid = len(front) == 24 and all(c in "0123456789abcdefABCDEF" for c in front)
        ddb["longContentID"] = (front if valid else fresh) + f"{found.cid:08x}"
        end = printable(long_id[-8:])
        said.append(f"longContentID ends in {end}, the CID {found.cid:08x} counts")
    if parent is not None and parent.cid is not None and parent.cid != found.parent_cid:
        text = f"parentCID is {found.parent_cid:08x}, its parent's content ID {parent.cid:08x}"
        if fix_ids:
            header["parentCID"] = f"{parent.cid:08x}"
            said.append(f"{text}: it becomes that")
        else:
            text += ": --fix-ids takes the parent for the right one; only you can know"
            plan.leave("descriptor.parentCID", link.path, text)
    if not said:
        return None
    if found.create_type == "streamOptimized":
        text = f"descriptor: {'; '.join(said)}: a stream's descriptor is written once; convert it"
        plan.leave("descriptor.longContentID", link.path, text, "warning")
        return None
    code = "descriptor.parentCID" if header else "descriptor.longContentID"
    new = edit.edited(found, header=header, ddb=ddb)
    return Mend(code, link.path, f"descriptor: {'; '.join(said)}", text=new)
