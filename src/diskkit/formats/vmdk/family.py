# SPDX-License-Identifier: Apache-2.0
"""Which disks beside a disk are its children: nothing in a parent says that it is one.

A child records the content ID that its parent had, so the first write into the parent makes the
child unusable. Children elsewhere than in the parent's own folder are not found.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from diskkit import formats
from diskkit.errors import ChainError, DiskkitError, FormatError, StorageError
from diskkit.formats.vmdk import descriptor, layout
from diskkit.interfaces import OpenPolicy
from diskkit.storage import newfile
from diskkit.storage.local import LocalPlace
from diskkit.units import SECTOR

if TYPE_CHECKING:
    from collections.abc import Iterator

_HINT = b"parentfilenamehint"
_ANYWHERE = OpenPolicy(allow=("/",))
_FLAT = ("FLAT", "VMFS")
_PLACE = struct.Struct("<QQ")
_PLACE_AT = 28


def refuse_parent(path: str) -> None:
    """Raise `ChainError` if a disk that lies beside `path` is its child."""
    children = children_of(path)
    if not children:
        return
    more = f" and of {len(children) - 1} more" if len(children) > 1 else ""
    raise ChainError(
        f"is the parent of {os.path.basename(children[0])}{more}: writing into it makes its "
        "children unusable",
        path=path,
        structure="chain",
        advice="--force writes nevertheless; commit the child, or write into it",
    )


def children_of(path: str) -> list[str]:
    """The VMDKs in the folder of the file `path` that have it as their parent, by name.

    Takes no lock, and reads little of each file: its first sector, and its descriptor if it has
    one. What a flat extent or a raw image holds is a guest's to choose, so neither is ever taken
    for a VMDK. Raises `StorageError` if the folder cannot be read, or a file named .vmdk in it.
    """
    real = os.path.realpath(path)
    me = _identity(real)
    hints: dict[str, str] = {}
    flat: set[str] = set()
    folder = os.path.dirname(real)
    for found in _descriptors(folder):
        hint, extents = _said(found.text)
        flat |= extents
        if hint is not None and found.file != me:
            hints[found.name] = hint
    return [
        os.path.join(folder, name)
        for name, hint in sorted(hints.items())
        if name not in flat and _parent(os.path.join(folder, name), hint) == me
    ]


def others_using(path: str, names: set[str]) -> list[str]:
    """The other descriptors in the folder of the file `path` that name one of these extents."""
    real = os.path.realpath(path)
    me = _identity(real)
    folder = os.path.dirname(real)
    users = []
    for found in _descriptors(folder):
        if found.embedded or found.file == me:
            continue
        try:
            extents = descriptor.parse(found.text).extents
        except FormatError:
            continue
        if any(os.path.normpath(e.name) in names for e in extents if e.name):
            users.append(os.path.join(folder, found.name))
    return sorted(users)


def _identity(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        raise StorageError(path, f"cannot be read: {error}") from error
    return found.st_dev, found.st_ino


def _parent(child: str, hint: str) -> tuple[int, int] | None:
    try:
        return _identity(LocalPlace(child, _ANYWHERE).find_parent(hint))
    except DiskkitError:
        return None


class _Found(NamedTuple):
    """A file that has a descriptor."""

    name: str
    file: tuple[int, int]
    text: bytes
    embedded: bool


def _descriptors(folder: str) -> Iterator[_Found]:
    """Every file in a folder that has a descriptor, or may have one."""
    try:
        with os.scandir(folder) as entries:
            files = [e.name for e in entries if e.is_file()]
    except OSError as error:
        text = f"its folder cannot be searched for children: {error.strerror}"
        raise StorageError(folder, text, errno=error.errno) from error
    for name in files:
        if newfile.is_passing(name) or formats.choose(name, None) != "vmdk":
            continue
        path = os.path.join(folder, name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            continue
        except OSError as error:
            if not name.lower().endswith(".vmdk"):
                continue
            text = f"it may be a child, and cannot be read: {error.strerror}"
            raise StorageError(path, text, errno=error.errno) from error
        try:
            found = os.fstat(fd)
            content, embedded = _text(fd, found.st_size)
        except OSError as error:
            text = f"it may be a child, and cannot be read: {error.strerror}"
            raise StorageError(path, text, errno=error.errno) from error
        finally:
            os.close(fd)
        if content:
            yield _Found(name, (found.st_dev, found.st_ino), content, embedded)


def _text(fd: int, size: int) -> tuple[bytes, bool]:
    """The descriptor in an open file, empty if it has none, and whether it is an extent's."""
    head = os.pread(fd, SECTOR, 0)
    if head[:4] == layout.MAGIC_SPARSE and len(head) == SECTOR:
        at, sectors = _PLACE.unpack_from(head, _PLACE_AT)
        if not 0 < at * SECTOR < size:
            return b"", True
        length = min(sectors * SECTOR, descriptor.MAX_BYTES, size - at * SECTOR)
        return os.pread(fd, length, at * SECTOR).partition(b"\0")[0], True
    if size > descriptor.MAX_BYTES or b"\0" in head:
        return b"", False
    text = head if size <= SECTOR else os.pread(fd, size, 0)
    return text if b"version" in text.lower() else b"", False


def _said(text: bytes) -> tuple[str | None, set[str]]:
    """The hint in a descriptor, and the names of its flat extents.

    A descriptor that diskkit would not open is read for these all the same: its disk may be opened
    by a program that is less strict.
    """
    if _HINT not in text.lower() and b"FLAT" not in text and b"VMFS" not in text:
        return None, set()
    try:
        found = descriptor.parse(text)
    except FormatError:
        return _hint(text), set()
    flat = {e.name for e in found.extents if e.kind in _FLAT and e.name is not None}
    return found.parent_hint, flat


def _hint(text: bytes) -> str | None:
    for line in text.splitlines():
        key, equals, value = line.partition(b"=")
        if equals and key.strip().lower() == _HINT:
            return os.fsdecode(value.strip().strip(b'"'))
    return None
