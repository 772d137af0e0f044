# SPDX-License-Identifier: Apache-2.0
"""Putting a new descriptor in place of a link's, so that a crash leaves the old one or the new.

A descriptor in a file of its own is written to a new file, which is locked, made durable, and then
renamed over the old.

One inside a sparse extent shares that file with the grains, so it has to change in place. A write
of one sector happens wholly or not at all; several may be torn, and between two flushes any of them
may come first. If a few bytes next to each other change, only they are written.
Otherwise the header, itself one sector, says which text counts. With the old text at the area's
begin (readers such as qemu look for content IDs there and nowhere else):

1. Write the new text, and zeros up to a sector's end, at the end of the area; flush. The header
   names the begin, where the old text ends in a NUL before the sectors written now.
2. Let the header name that copy alone; flush. Before the flush one of the two headers is there, and
   both texts are whole.
3. Write the new text, and zeros up to the copy, at the begin; flush. The header names the copy.
4. Let the header name the whole area again; flush. Both texts are the new one, and the text at the
   begin ends in a NUL before the copy.
5. Zero the copy; flush. Nobody reads it: the text ends before it.

So both texts need room next to each other; a text that leaves none is refused. A crash between 2
and 4 leaves a header that names a copy, with nothing between itself and the copy that another
structure would claim; such a link is opened as any other, and its next change begins with step 3.
"""

from __future__ import annotations

import fcntl
import os
import struct
from array import array
from contextlib import suppress
from sys import byteorder
from typing import TYPE_CHECKING, cast

from diskkit.errors import StorageError, UsageError
from diskkit.formats.vmdk import descriptor, layout
from diskkit.storage.replacing import replaced
from diskkit.units import SECTOR, align_up

if TYPE_CHECKING:
    from diskkit.formats.link import Link
    from diskkit.interfaces import Storage, WritableStorage

_PLACE = struct.Struct("<QQ")
_PLACE_AT = 28
"""Where in the header the descriptor's offset and size are."""
_PIECE = 1 << 20
_PIECE_OF_SECTOR = SECTOR // 2
"""What is written in place without a second thought: less than the medium's unit, to be safe."""


def replace(link: Link, text: bytes) -> None:
    """Make `text` the descriptor of a link that is open for writing, durably.

    `link.descriptor` is read anew; the link's extents are not. Raises `UsageError` if the link has
    no descriptor, is not open for writing, or has no room for the text; `FormatError` if the text
    is no descriptor. Then, and with most `StorageError`s, the old one stays.
    """
    if link.descriptor is None:
        raise UsageError(f"{link.path}: a raw image has no descriptor")
    embedded = link.storage.read(0, min(4, link.storage.size)) == layout.MAGIC_SPARSE
    found = descriptor.parse(text, path=link.path, at=SECTOR * embedded, embedded=embedded)
    _check_writable(link.storage)
    if embedded:
        _Area(cast("WritableStorage", link.storage)).replace(text)
    else:
        _replace_file(link, text)
    link.descriptor = found


def _check_writable(storage: Storage) -> None:
    fd = storage.descriptor
    if fd is None or fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
        raise UsageError(f"{storage.name}: it is not open for writing")


def _replace_file(link: Link, text: bytes) -> None:
    old = link.storage
    link.storage = link.storages[link.storages.index(old)] = replaced(old, text)
    old.close()


class _Area:
    """Where an extent's header says the descriptor is. All in bytes."""

    def __init__(self, storage: WritableStorage) -> None:
        self.storage = storage
        self.head = storage.read(0, SECTOR)
        header = layout.parse_sparse_header(self.head, storage.name)
        if header.compressed or header.at_end:
            text = "a streamOptimized disk is written once; convert it to change its descriptor"
            raise UsageError(f"{storage.name}: {text}")
        self.header = header
        self.begin = header.descriptor_offset
        self.end = header.descriptor_offset + header.descriptor_size

    def replace(self, text: bytes) -> None:
        old = self.storage.read(self.begin, self.end - self.begin)
        # The first NUL has to be inside: readers go on until they meet it.
        need = align_up(len(text) + 1, SECTOR)
        if self.begin > SECTOR and self.free_before() and need <= self.begin - SECTOR:
            self.move_home(text)
            return
        used = align_up(len(old.partition(b"\0")[0]) + 1, SECTOR)
        new = text.ljust(len(old), b"\0")
        if need > len(old):
            raise self.no_room(len(text), used, len(old))
        if self.in_one(_PIECE_OF_SECTOR, old, new):
            return
        if max(used, need) + need > len(old):
            if self.in_one(SECTOR, old, new):
                return
            raise self.no_room(len(text), used, len(old))
        copy = self.end - need
        self.put(copy, text.ljust(need, b"\0"))
        self.name(copy, need)
        self.put(self.begin, text.ljust(copy - self.begin, b"\0"))
        self.name(self.begin, len(old))
        self.put(copy, bytes(need))

    def in_one(self, unit: int, old: bytes, new: bytes) -> bool:
        """Write the change if it lies in one unit; False if it does not."""
        changed = [i for i in range(len(old)) if old[i] != new[i]]
        if not changed:
            return True
        low, high = changed[0], changed[-1] + 1
        if low // unit != (high - 1) // unit:
            return False
        try:
            self.put(self.begin + low, new[low:high])
        except StorageError:
            with suppress(StorageError):
                self.put(self.begin + low, old[low:high])
            raise
        return True

    def move_home(self, text: bytes) -> None:
        """Finish what a crash interrupted: the header names a copy at the area's end."""
        copy, end = self.begin, self.end
        self.put(SECTOR, text.ljust(copy - SECTOR, b"\0"))
        self.name(SECTOR, end - SECTOR)
        self.put(copy, bytes(end - copy))

    def put(self, at: int, data: bytes) -> None:
        self.storage.write(at, data)
        self.storage.flush()

    def name(self, at: int, size: int) -> None:
        """Let the header name another place."""
        place = _PLACE.pack(at // SECTOR, size // SECTOR)
        self.head = self.head[:_PLACE_AT] + place + self.head[_PLACE_AT + _PLACE.size :]
        self.put(0, self.head)

    def free_before(self) -> bool:
        """Whether no structure lies between the header and the text."""
        header = self.header
        for directory in (header.directory_offset, header.redundant_offset):
            if 0 < directory < self.begin:
                return False
            for at in range(0, header.directory_size if directory else 0, _PIECE):
                size = min(_PIECE, header.directory_size - at)
                entries = array("I", self.storage.read(directory + at, size))
                if byteorder == "big":
                    entries.byteswap()
                if any(0 < e < self.begin // SECTOR for e in entries):
                    return False
        return True

    def no_room(self, length: int, used: int, room: int) -> UsageError:
        text = (
            f"the descriptor would have {length} bytes; the file has {room} for it, and to survive "
            f"a crash both the old text ({used} with its padding) and the new one must fit"
        )
        advice = "remove metadata, or convert the disk: a new one has the usual room"
        return UsageError(f"{self.storage.name}: {text} ({advice})")
