# SPDX-License-Identifier: Apache-2.0
"""Disks: made, opened, described, renamed, removed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from diskkit.tasks.child import create_child
from diskkit.tasks.clone import create_disk
from diskkit.tasks.remove import remove_disk
from diskkit.tasks.rename import rename_disk
from diskkit.vixdisklib import constants as c
from diskkit.vixdisklib.failures import translated, vix_error
from diskkit.vixdisklib.library import Handle, library
from diskkit.vixdisklib.params import CreateParams, Geometry, Info
from diskkit.vixdisklib.steps import percent

if TYPE_CHECKING:
    from diskkit.interfaces import OpenPolicy
    from diskkit.vixdisklib.library import Connection
    from diskkit.vixdisklib.steps import ProgressFunc

_SECTOR = c.VIXDISKLIB_SECTOR_SIZE
_KNOWN_FLAGS = 0x3F0 | 7


def Create(
    connection: int,
    path: str,
    createParams: CreateParams,
    progressFunc: ProgressFunc | None = None,
) -> None:
    """Make a new empty disk. Existing files are refused."""
    with translated():
        library.connection(connection)
        check_path(path)
        check_new(path)
        if createParams is None:
            raise vix_error("INVALID_ARG", "the parameters of the new disk are NULL")
        kind = c.KINDS.get(createParams.diskType)
        adapter = c.ADAPTERS.get(createParams.adapterType)
        if kind is None or adapter is None:
            what = "disk type" if kind is None else "adapter type"
            value = createParams.diskType if kind is None else createParams.adapterType
            raise vix_error("INVALID_ARG", f"no new disk can have {what} {value}")
        if createParams.logicalSectorSize not in (0, _SECTOR):
            text = f"sectors of {createParams.logicalSectorSize} bytes: a VMDK has {_SECTOR}"
            raise vix_error("NOT_SUPPORTED", text)
        size = createParams.capacity * _SECTOR
        step = percent(progressFunc)
        create_disk(path, size, kind, adapter=adapter, hw_version=hw_version(createParams))
        step(1, 1)
        library.log(f"{path}: created, {createParams.capacity} sectors, {kind}")


def CreateChild(
    diskHandle: int,
    childPath: str,
    diskType: int,
    progressFunc: ProgressFunc | None = None,
) -> None:
    """Make an empty child of an open disk. The handle is read-only from then on."""
    with translated():
        handle = library.disk(diskHandle)
        check_path(childPath)
        check_new(childPath)
        if diskType not in c.CHILD_KINDS:
            raise vix_error("INVALID_ARG", f"no child can have disk type {diskType}")
        step = percent(progressFunc)
        with handle.set_aside():
            create_child(handle.path, childPath, c.CHILD_KINDS[diskType], policy=library.policy())
        step(1, 1)
        library.log(f"{childPath}: created, a child of {handle.path}")


def Open(connection: int, path: str, flags: int = 0) -> int:
    """Open a disk with its parents; returns its handle.

    A disk that cannot be written to as a whole (a stream, a parent of others) is opened for
    reading, with a warning, although writing was asked for; writing into it then fails.
    """
    with translated():
        of = library.connection(connection)
        check_path(path)
        policy = policy_of(of, flags)
        unbuffered = bool(flags & c.VIXDISKLIB_FLAG_OPEN_UNBUFFERED)
        handle = Handle(path, policy, connection, of.old, unbuffered)
        number = library.add_disk(handle)
        library.log(f"{path}: opened as {number}")
        return number


def Close(diskHandle: int) -> None:
    """Make a disk durable and close it; the handle is gone even if that fails."""
    with translated():
        library.check_ready()
        if not diskHandle:
            raise vix_error("INVALID_ARG", "the disk handle is NULL")
        handle = library.disks.get(diskHandle)
        if handle is not None:
            handle.wait()
        with library.lock:
            handle = library.disks.pop(diskHandle, None)
        if handle is None:
            raise vix_error("DISK_INVAL", f"{diskHandle} is not the handle of an open disk")
        if not handle.attached:
            handle.close()
            if handle.lost is not None:
                raise handle.lost
            library.log(f"{handle.path}: closed")


def GetInfo(diskHandle: int) -> Info:
    """What a disk is."""
    with translated(), library.disk(diskHandle).using() as disk:
        found = disk.info
        keys = {key.lower(): value for key, value in found.metadata.items()}
        physical = _geometry(keys, "geometry.", ("cylinders", "heads", "sectors"))
        bios = _geometry(keys, "geometry.bios", ("cylinders", "heads", "sectors"))
        numbers = {name: number for number, name in c.ADAPTERS.items()}
        return Info(
            biosGeo=bios if any(bios) else physical,
            physGeo=physical,
            capacity=disk.size // _SECTOR,
            adapterType=numbers.get(
                (found.adapter_type or "").lower(), c.VIXDISKLIB_ADAPTER_UNKNOWN
            ),
            numLinks=len(found.links),
            parentFileNameHint=found.links[0].parent_hint,
            uuid=found.uuid,
            logicalSectorSize=_SECTOR,
            physicalSectorSize=_SECTOR,
        )


def FreeInfo(info: Info | None) -> None:
    """Nothing: answers are Python's."""


def GetTransportMode(diskHandle: int) -> str:
    """How the disk is reached."""
    with translated():
        library.disk(diskHandle)
        return c.TRANSPORTS[0]


def Unlink(connection: int, path: str) -> None:
    """Remove one link of a disk with all its files; a parent of others is refused."""
    with translated():
        library.connection(connection)
        check_path(path)
        remove_disk(path, policy=library.policy())
        library.log(f"{path}: removed")


def Rename(srcFileName: str, dstFileName: str) -> None:
    """Rename a disk with all its files, or move it on its filesystem."""
    with translated():
        library.check_ready()
        check_path(srcFileName)
        check_path(dstFileName)
        if not os.path.lexists(srcFileName):
            raise vix_error("FILE_NOT_FOUND", f"{srcFileName}: there is no such file")
        check_new(dstFileName)
        rename_disk(srcFileName, dstFileName, policy=library.policy())
        library.log(f"{srcFileName}: is now {dstFileName}")


def policy_of(connection: Connection, flags: int) -> OpenPolicy:
    """How disks are opened by these flags: for writing, unless they or the connection bar it."""
    packing = flags & c.VIXDISKLIB_FLAG_OPEN_COMPRESSION_MASK
    if flags & ~_KNOWN_FLAGS or packing & (packing - 1):
        raise vix_error("INVALID_ARG", f"open flags {flags:#x}: unknown, or do not go together")
    read_only = connection.read_only or bool(flags & c.VIXDISKLIB_FLAG_OPEN_READ_ONLY)
    single = bool(flags & c.VIXDISKLIB_FLAG_OPEN_SINGLE_LINK)
    return library.policy(writable=not read_only, single_link=single)


def check_path(path: str) -> None:
    """Raise for a path that is missing."""
    if not path:
        raise vix_error("INVALID_ARG", "the path is NULL or empty")


def check_new(path: str) -> None:
    """Raise if there is a file of that name."""
    if os.path.lexists(path):
        raise vix_error("FILE_ALREADY_EXISTS", f"{path}: exists already")


def hw_version(params: CreateParams) -> str:
    """The hardware version of a new disk as its descriptor says it."""
    return str(params.hwVersion or c.VIXDISKLIB_HWVERSION_WORKSTATION_5)


def _geometry(keys: dict[str, str], prefix: str, names: tuple[str, str, str]) -> Geometry:
    values = [keys.get(prefix + name, "") for name in names]
    if not all(v.isascii() and v.isdecimal() and int(v[:11]) < 1 << 32 for v in values):
        return Geometry(0, 0, 0)
    return Geometry(*map(int, values))
