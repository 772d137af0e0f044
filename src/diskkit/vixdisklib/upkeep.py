# SPDX-License-Identifier: Apache-2.0
"""What changes how a disk is stored, copies it, checks it, or gives it another parent."""

from __future__ import annotations

import os
from contextlib import ExitStack
from secrets import token_hex
from typing import TYPE_CHECKING

from diskkit.chain import Chain, pair_problems
from diskkit.chaindisk import ChainDisk
from diskkit.errors import UsageError
from diskkit.open import open_disk
from diskkit.tasks.check import check
from diskkit.tasks.clone import KINDS, clone
from diskkit.tasks.compact import defragment, shrink
from diskkit.tasks.grow import grow
from diskkit.tasks.lineage import check_kinds
from diskkit.tasks.remove import remove_disk
from diskkit.tasks.rename import rename_disk
from diskkit.tasks.repair import repair as mend
from diskkit.tasks.space import space_needed
from diskkit.vixdisklib import constants as c
from diskkit.vixdisklib.codes import NUMBERS
from diskkit.vixdisklib.disks import check_new, check_path, hw_version
from diskkit.vixdisklib.failures import from_exception, translated, vix_error
from diskkit.vixdisklib.library import library
from diskkit.vixdisklib.steps import percent

if TYPE_CHECKING:
    from diskkit.disk import Disk
    from diskkit.formats.link import Link
    from diskkit.problem import Problem
    from diskkit.vixdisklib.params import CreateParams
    from diskkit.vixdisklib.steps import ProgressFunc

_SECTOR = c.VIXDISKLIB_SECTOR_SIZE
_ALIASES = {
    "2GbMaxExtentSparse": "twoGbMaxExtentSparse",
    "2GbMaxExtentFlat": "twoGbMaxExtentFlat",
    "vmfsSparse": "monolithicSparse",
    "seSparse": "monolithicSparse",
}


def Grow(
    connection: int,
    path: str,
    capacity: int,
    updateGeometry: bool,
    progressFunc: ProgressFunc | None = None,
) -> None:
    """Give a disk that is not open a capacity of so many sectors, more than it has."""
    with translated():
        library.connection(connection)
        check_path(path)
        step = percent(progressFunc)
        size = capacity * _SECTOR
        grow(path, size, bool(updateGeometry), policy=library.policy(), progress=step)
        step(1, 1)


def Shrink(diskHandle: int, progressFunc: ProgressFunc | None = None) -> None:
    """Give back the room of zeros; preallocated files are left alone."""
    with translated():
        handle = library.disk(diskHandle)
        handle.check_writable()
        step = percent(progressFunc)
        with handle.set_aside():
            shrink(handle.path, policy=library.policy(), progress=step)
        step(1, 1)


def Defragment(diskHandle: int, progressFunc: ProgressFunc | None = None) -> None:
    """Put the grains of a sparse disk in order; flat ones are left alone."""
    with translated():
        handle = library.disk(diskHandle)
        handle.check_writable()
        step = percent(progressFunc)
        with handle.set_aside():
            defragment(handle.path, policy=library.policy(), progress=step)
        step(1, 1)


def Clone(
    dstConnection: int,
    dstPath: str,
    srcConnection: int,
    srcPath: str,
    vixCreateParams: CreateParams | None = None,
    progressFunc: ProgressFunc | None = None,
    overWrite: bool = False,
) -> None:
    """Copy a disk with its parents into one new disk.

    Type, adapter and hardware version are those of `vixCreateParams`, or the source's without it;
    the capacity is the source's. `overWrite` replaces a disk when the copy is whole.
    """
    with translated():
        library.connection(dstConnection)
        library.connection(srcConnection)
        check_path(dstPath)
        check_path(srcPath)
        if not overWrite:
            check_new(dstPath)
        step = percent(progressFunc)
        with open_disk(srcPath, format="vmdk", policy=library.policy()) as disk:
            asked = c.VIXDISKLIB_DISK_UNKNOWN
            adapter = version = None
            if vixCreateParams is not None:
                asked = vixCreateParams.diskType
                adapter = c.ADAPTERS.get(vixCreateParams.adapterType)
                version = hw_version(vixCreateParams)
            kind = _kind(disk, asked)
            moved = _put_aside(dstPath, KINDS[kind].suffix) if overWrite else None
            try:
                clone(
                    disk,
                    dstPath,
                    kind,
                    adapter=adapter,
                    hw_version=version,
                    force=overWrite and moved is None,
                    sync=True,
                    progress=step,
                )
            except BaseException:
                if moved is not None:
                    rename_disk(moved, dstPath, policy=library.policy())
                raise
        if moved is not None:
            remove_disk(moved, force=True, policy=library.policy())
        step(1, 1)
        library.log(f"{dstPath}: cloned from {srcPath}")


def SpaceNeededForClone(diskHandle: int, cloneDiskType: int) -> int:
    """Bytes that a clone would take at most; `UNKNOWN` is the disk's own type."""
    with translated(), library.disk(diskHandle).using() as disk:
        return space_needed(disk, _kind(disk, cloneDiskType)).bytes


def CheckRepair(connection: int, filename: str, repair: bool) -> None:
    """Check a disk with its parents; `repair` mends the named link, keeping the old bytes.

    Returns if there is no error (left). Raises `DISK_NEEDSREPAIR`, after a repair
    `DISK_CANTREPAIR`, with the first error in the text; the log has all.
    """
    with translated():
        library.connection(connection)
        check_path(filename)
        errors = _errors(check(filename, format="vmdk", policy=library.policy()).problems)
        if not errors:
            return
        if errors[0].code == "file":
            raise vix_error("DISK_INVALIDDISK", str(errors[0]))
        if not repair:
            raise vix_error("DISK_NEEDSREPAIR", f"{len(errors)} errors, the first: {errors[0]}")
        done = mend(filename, policy=library.policy())
        for one in done.plan:
            library.log(f"{one.where}: {'repaired' if one.done else 'left'}: {one.message}")
        if done.backup is not None:
            library.warn(f"{filename}: repaired; {done.backup} holds what it was before")
        left = _errors(done.remaining)
        if left:
            raise vix_error("DISK_CANTREPAIR", f"{len(left)} errors remain, first: {left[0]}")


def IsAttachPossible(parent: int, child: int) -> None:
    """Raise unless `Attach` of these two open disks would be possible."""
    with translated():
        upper, lower = library.disk(parent), library.disk(child)
        if upper is lower:
            raise vix_error("INVALID_ARG", "a disk cannot be its own parent")
        with upper.using() as base, lower.using() as leaf:
            _check_pair(base.chain.links, leaf.chain.links)


def Attach(parent: int, child: int) -> None:
    """Put the open disk `child`, opened as a single link, on the open disk `parent`.

    The child's handle reads both then; the parent's may only be closed. Nothing is written: on the
    medium the child stays as it is.
    """
    with translated():
        IsAttachPossible(parent, child)
        upper, lower = library.disk(parent), library.disk(child)
        lower.wait()
        upper.wait()
        if upper.joined:
            raise vix_error("NOT_SUPPORTED", f"{upper.path}: has an attached parent itself")
        with ExitStack() as stack:
            # Always in the same order: two threads may attach the two to each other.
            first, second = sorted((upper, lower), key=lambda handle: handle.number)
            held = {id(first): stack.enter_context(first.alone())}
            held[id(second)] = stack.enter_context(second.alone())
            base, leaf = held[id(upper)], held[id(lower)]
            _check_pair(base.chain.links, leaf.chain.links)
            if upper.writable:
                base.close()
                reading = upper.policy._replace(writable=False)
                base = open_disk(upper.path, format="vmdk", policy=reading)
            lower.joined = True
            links = [*leaf.chain.links, *base.chain.links]
            lower.replace(ChainDisk(lower.path, Chain(links)))
            upper.replace(None)
            upper.attached = True


def _check_pair(parents: list[Link], children: list[Link]) -> None:
    bottom, top = children[-1], parents[0]
    if bottom.parent_hint is None:
        both = top.parent_hint is None
        code = "DISK_ATTACH_ROOTLINK" if both else "DISK_INVALIDCHAIN"
        raise vix_error(code, f"{bottom.path}: is a base, and has no parent")
    if bottom.capacity != top.capacity:
        text = f"{bottom.path} has {bottom.capacity} bytes, {top.path} {top.capacity}"
        raise vix_error("DISK_CAPACITY_MISMATCH", text)
    try:
        check_kinds(bottom.create_type, top)
    except UsageError as error:
        raise vix_error("DISK_INVALIDCHAIN", str(error)) from error
    except Exception as error:
        raise vix_error("DISK_PARENT_NOTALLOWED", str(error)) from error
    for problem in pair_problems(bottom, top):
        found = from_exception(problem)
        if found.code == NUMBERS["VIX_E_DISK_OPENPARENT"]:
            raise vix_error("DISK_INVALIDCHAIN", found.text) from problem
        raise found from problem


def _kind(disk: Disk, asked: int) -> str:
    """What to make of a disk."""
    if asked != c.VIXDISKLIB_DISK_UNKNOWN:
        if asked not in c.KINDS:
            raise vix_error("INVALID_ARG", f"no new disk can have disk type {asked}")
        return c.KINDS[asked]
    own = disk.info.create_type
    kind = _ALIASES.get(own, own)
    return kind if kind in KINDS else "vmfs"


def _errors(problems: list[Problem]) -> list[Problem]:
    """Those that make data wrong; all are logged."""
    for problem in problems:
        library.warn(str(problem))
    return [p for p in problems if p.severity == "error"]


def _put_aside(path: str, suffix: str) -> str | None:
    """Rename the disk that is to be replaced; None if there is none, or it is replaced whole."""
    if not os.path.lexists(path):
        return None
    with open_disk(path, format="vmdk", policy=library.policy(single_link=True)) as disk:
        single = len(disk.chain.links[0].storages) == 1
    if single and not suffix:
        return None
    folder, base = os.path.split(path)
    name = f"{base.removesuffix('.vmdk')}-{token_hex(4)}.vmdk"
    aside = f"{folder}/{name}" if folder else name
    rename_disk(path, aside, policy=library.policy())
    return aside
