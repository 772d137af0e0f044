# SPDX-License-Identifier: Apache-2.0
"""Raw images: the bytes of the disk as they are, and no structure at all.

There is nothing to probe: a raw image is one because the caller, or the file's name, says so.
A guest must never choose the format by what it writes to its first sector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diskkit.errors import FormatError
from diskkit.formats.link import Extent, Link
from diskkit.formats.vmdk.descriptor import ExtentLine
from diskkit.formats.vmdk.flat import FlatMap
from diskkit.interfaces import WritableStorage

if TYPE_CHECKING:
    from diskkit.interfaces import OpenPolicy, Place, Storage


def open_link(storage: Storage, place: Place, policy: OpenPolicy) -> Link:
    """The whole file as one link without a parent. Takes over `storage`."""
    link = Link(storage.name, storage)
    link.capacity = storage.size
    if not storage.size:
        link.close()
        raise FormatError("an image of no bytes", path=storage.name, structure="raw image")
    line = ExtentLine("RW", storage.size, "FLAT", storage.name)
    link.extents.append(Extent(0, line, FlatMap(storage, 0, storage.size), storage))
    return link


def make_writable(link: Link, policy: OpenPolicy) -> None:
    """Its one extent is the file."""
    from diskkit.formats.vmdk.writing.flat import FlatWriter

    extent = link.extents[0]
    assert isinstance(link.storage, WritableStorage)
    writer = FlatWriter(link.storage, 0, link.capacity)
    link.extents[0] = extent._replace(writer=writer)
