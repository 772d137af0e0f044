# SPDX-License-Identifier: Apache-2.0
"""Growing a disk: more capacity, the same content, zeros behind it.

The descriptor says what the disk is, so it comes last; a crash before leaves the old disk:

1. The last extent is made to hold more than its line says. A flat file gets longer (readers stop
   where the line says); a sparse part is written anew with a larger capacity (rewrite.py), which
   readers put up with, because the line counts. Durable before the next step.
2. New parts are made, whole and durable, under the names that come next. Nothing names them yet.
3. The descriptor is replaced: extent lines, geometry, content ID.

A single-file disk has its descriptor inside: both are written anew, and replaced, in one step.
What a crash leaves of step 2 are empty parts: the next attempt replaces those, and nothing else.
docs/design/0007-order-of-maintenance.md.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import FormatError, UnsupportedFeature, UsageError
from diskkit.formats.vmdk import edit, redescribe, sparse
from diskkit.formats.vmdk.compose import extent_line
from diskkit.formats.vmdk.family import children_of
from diskkit.formats.vmdk.sparse import SparseMap
from diskkit.formats.vmdk.writers import SparseWriter
from diskkit.interfaces import OpenPolicy
from diskkit.runs import State
from diskkit.storage.local import open_file
from diskkit.storage.newfile import new_file, write_errors
from diskkit.tasks.clone import KINDS
from diskkit.tasks.compact import opened
from diskkit.tasks.rewrite import Plan, check_grain, rewrite
from diskkit.units import SECTOR

if TYPE_CHECKING:
    from diskkit.formats.link import Extent, Link
    from diskkit.formats.vmdk.descriptor import Descriptor
    from diskkit.interfaces import Storage
    from diskkit.storage.local import LocalFile
    from diskkit.tasks.clone import Kind
    from diskkit.tasks.work import Progress

_ALIASES = {
    "2GbMaxExtentSparse": "twoGbMaxExtentSparse",
    "2GbMaxExtentFlat": "twoGbMaxExtentFlat",
    "vmfsPreallocated": "vmfs",
    "vmfsEagerZeroedThick": "vmfs",
    "vmfsThick": "vmfs",
}
_IDE_MOST = 16383
_READ = 4 << 20


class Grown(NamedTuple):
    """What came of it, in bytes."""

    before: int
    after: int


class _New(NamedTuple):
    """A part to be made."""

    path: str
    line: str
    length: int


def grow(
    path: str | os.PathLike[str],
    size: int,
    update_geometry: bool = True,
    *,
    policy: OpenPolicy | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Grown:
    """Give the disk `path` a capacity of `size` bytes, more than it has, a multiple of 512.

    Only a disk without parent and without children grows: a chain's links have one capacity. It
    gets a new content ID; `update_geometry` recomputes its cylinders. A change tracking file no
    longer fits and is no longer named, with a warning. Raises `UsageError`, `UnsupportedFeature`
    for kinds that cannot grow, `LockedError`, `StorageError`; then the disk is as it was.
    """
    policy = policy or OpenPolicy()
    if size <= 0 or size % SECTOR:
        raise UsageError(f"size {size}: a disk has a whole, positive number of 512-byte sectors")
    with opened(path, policy) as link:
        kind = _judge(link, size)
        before = link.capacity
        if not kind.suffix:
            _grow_single(link, size, update_geometry, policy, threads, progress)
        else:
            _grow_parts(link, kind, size, update_geometry, policy, threads, progress)
    if progress is not None:
        progress(size, size)
    return Grown(before, size)


def _judge(link: Link, size: int) -> Kind:
    found = link.descriptor
    assert found is not None
    name = _ALIASES.get(found.create_type, found.create_type)
    if name not in KINDS:
        raise UnsupportedFeature(
            "a disk of this kind cannot grow",
            path=link.path,
            structure="descriptor",
            field="createType",
            value=found.create_type,
            advice="convert it",
        )
    if size <= link.capacity:
        text = f"it has {link.capacity} bytes already: disks grow, to more than that"
        raise UsageError(f"{link.path}: {text}")
    if size > KINDS[name].most:
        text = f"a {found.create_type} disk has at most {KINDS[name].most} bytes, not {size}"
        raise UsageError(f"{link.path}: {text} (convert it to a flat or a split kind)")
    if link.parent_hint is not None:
        text = "it has a parent, and the links of a chain have one capacity"
        raise UsageError(f"{link.path}: {text} (convert it, or commit it into its parent)")
    if children := children_of(link.path):
        text = f"it has children, which would no longer fit: {children[0]}"
        raise UsageError(f"{link.path}: {text}")
    last = link.extents[-1]
    if last.line.access != "RW" or last.line.kind != KINDS[name].extent or last.storage is None:
        text = f"its last extent, {last.line.access} {last.line.kind}, cannot grow"
        raise UsageError(f"{link.path}: {text}")
    if sum(e.storage is last.storage for e in link.extents) > 1:
        raise UsageError(f"{link.path}: its last extent shares its file with another")
    if isinstance(last.map, SparseMap):
        check_grain(last)
    return KINDS[name]


def _grow_single(
    link: Link,
    size: int,
    update_geometry: bool,
    policy: OpenPolicy,
    threads: int | None,
    progress: Progress | None,
) -> None:
    """A monolithicSparse disk: one new file."""
    text = _new_text(link, [_longer(link, size)], size, update_geometry, policy)

    def step(done: int) -> None:
        if progress is not None:
            progress(done, size)

    rewrite(link, 0, Plan(size, text, has_parent=False, drop_zeros=False), threads, step)


def _grow_parts(
    link: Link,
    kind: Kind,
    size: int,
    update_geometry: bool,
    policy: OpenPolicy,
    threads: int | None,
    progress: Progress | None,
) -> None:
    """A disk with a descriptor of its own."""
    found, last = link.descriptor, link.extents[-1]
    assert found is not None
    most = max(kind.part or size, last.line.length)
    length = min(size - last.start, most)
    parts = list(_parts(link, kind, last.start + length, size))
    lines = [_line(found, extent) for extent in link.extents[:-1]]
    lines += [_longer(link, length), *(part.line for part in parts)]
    # Made before anything is changed: it says whether the text can be written at all.
    text = _new_text(link, lines, size, update_geometry, policy)
    for part in parts:
        _judge_leftover(part, kind)

    def step(done: int) -> None:
        if progress is not None:
            progress(last.start + done, size)

    full = _is_full(last, found, kind)
    if length > last.line.length:
        if kind.extent == "SPARSE":
            plan = Plan(length, b"", has_parent=False, drop_zeros=False)
            rewrite(link, len(link.extents) - 1, plan, threads, step)
        else:
            _lengthen(last, length, full=full)
    for part in parts:
        with new_file(part.path, force=True, sync=True) as (fd, _):
            if kind.extent == "SPARSE":
                SparseWriter(fd, part.path, part.length, b"").finish()
            else:
                _give_size(fd, part.length, full=full)
    redescribe.replace(link, text)


def _is_full(extent: Extent, found: Descriptor, kind: Kind) -> bool:
    """Whether a flat disk has all its room from the start, so that it gets what it grows by too."""
    assert extent.storage is not None
    if kind.extent == "VMFS":
        return found.ddb.get("thinProvisioned") != "1" and found.create_type != "vmfsThin"
    return extent.storage.physical_bytes >= extent.storage.size


def _lengthen(extent: Extent, length: int, *, full: bool) -> None:
    """Make a flat file hold more, durably; on failure it gets its old size back."""
    storage = extent.storage
    assert storage is not None
    fd, end = storage.descriptor, extent.line.offset + extent.line.length
    assert fd is not None
    old = os.fstat(fd).st_size
    if old > end:
        _check_zeros(storage, end, old)
    with write_errors(storage.name):
        try:
            _give_size(fd, extent.line.offset + length, full=full)
            os.fsync(fd)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(fd, old)
            raise


def _give_size(fd: int, size: int, *, full: bool) -> None:
    if full:
        os.posix_fallocate(fd, 0, size)
    os.ftruncate(fd, size)


def _check_zeros(storage: Storage, begin: int, end: int) -> None:
    """What follows an extent in its file would become part of the disk: only zeros may."""
    for first, last in storage.data_ranges(begin, end - begin):
        for at in range(first, last, _READ):
            data = storage.read(at, min(_READ, last - at))
            if data.count(0) != len(data):
                text = "bytes that are not zeros follow the extent; they would come to light"
                raise UsageError(f"{storage.name}: {text}")


def _parts(link: Link, kind: Kind, begin: int, size: int) -> list[_New]:
    """The parts that hold [begin, size): named as the last one is, with the numbers that follow."""
    if begin >= size:
        return []
    name = link.extents[-1].line.name or ""
    letter = "s" if kind.extent == "SPARSE" else "f"
    known = re.fullmatch(rf"(.*)-{letter}(\d{{3,}})\.vmdk", name, re.DOTALL)
    if known is None:
        text = f"its last part is not named as parts are ({name}): the next would have no name"
        raise UsageError(f"{link.path}: {text}")
    storage = link.extents[-1].storage
    assert storage is not None
    folder = Path(storage.name).resolve().parent
    made, number = [], int(known[2])
    while begin < size:
        number += 1
        length = min(kind.part, size - begin)
        name = f"{known[1]}-{letter}{number:03d}.vmdk"
        line = extent_line(length, kind.extent, name)
        made.append(_New(os.fspath(folder / Path(name).name), line, length))
        begin += length
    return made


def _judge_leftover(part: _New, kind: Kind) -> None:
    """Raise unless the name of a new part is free, or held by what a crash left of growing."""
    try:
        mode = os.lstat(part.path).st_mode
    except FileNotFoundError:
        return
    problem = "is in the way of a new part, and is no regular file"
    if stat.S_ISREG(mode):
        try:
            with closing(open_file(part.path, write=True)) as file:
                if _is_empty(file, kind):
                    return
            problem = "is in the way of a new part, and is not an empty one"
        except FormatError as error:
            problem = f"is in the way of a new part, and is not an empty one: {error.problem}"
    raise UsageError(f"{part.path}: {problem}")


def _is_empty(file: LocalFile, kind: Kind) -> bool:
    """Whether an extent's file holds nothing that anybody wrote."""
    if kind.extent != "SPARSE":
        try:
            _check_zeros(file, 0, file.size)
        except UsageError:
            return False
        return file.size > 0
    policy = OpenPolicy(strict=True)
    header = sparse.read_header(file, policy)
    if header.compressed or sparse.read_descriptor(file, header):
        return False
    of = SparseMap(file, header, header.capacity, policy)
    offset = 0
    while offset < of.length:
        table = of.scan(offset, of.length - offset)
        if (table.states != State.HOLE).any():
            return False
        offset = table.end
    return True


def _line(found: Descriptor, extent: Extent) -> str:
    """An extent's line as it is."""
    return found.text.split("\n")[extent.line.line - 1].rstrip("\r")


def _longer(link: Link, length: int) -> str:
    """The line of the last extent with another length, in bytes."""
    assert link.descriptor is not None
    access, _, rest = _line(link.descriptor, link.extents[-1]).split(None, 2)
    return f"{access} {length // SECTOR} {rest}"


def _new_text(
    link: Link, lines: list[str], size: int, update_geometry: bool, policy: OpenPolicy
) -> bytes:
    """The descriptor of the grown disk."""
    found = link.descriptor
    assert found is not None
    header, ddb = edit.new_content_id(found)
    if update_geometry and (cylinders := _cylinders(found, size)):
        ddb["geometry.cylinders"] = str(cylinders)
    header |= edit.untracked(found)
    if found.change_track_path is not None:
        text = f"its change tracking ({found.change_track_path}) ends: it does not fit any more"
        policy.warning(f"{link.path}: {text}")
    return edit.edited(found, header=header, ddb=ddb, extents=lines)


def _cylinders(found: Descriptor, size: int) -> int:
    """As many as the disk has now, its heads and sectors as they are; 0 if it has none."""
    keys = {key.lower(): value for key, value in found.ddb.items()}
    values = [keys.get(f"geometry.{name}", "") for name in ("heads", "sectors")]
    if not all(v.isascii() and v.isdecimal() and 0 < int(v) < 1 << 16 for v in values):
        return 0
    cylinders = max(1, size // SECTOR // (int(values[0]) * int(values[1])))
    return min(cylinders, _IDE_MOST) if keys.get("adaptertype") == "ide" else cylinders
