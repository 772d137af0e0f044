# SPDX-License-Identifier: Apache-2.0
"""The VixDiskLib interface as Python functions: the names and rules of VDDK 6.7, no pointers.

    from diskkit import vixdisklib as vix

    vix.Init(6, 7)
    connection = vix.Connect(None)
    disk = vix.Open(connection, "disk.vmdk", vix.VIXDISKLIB_FLAG_OPEN_READ_ONLY)
    buffer = bytearray(8 * 512)
    vix.Read(disk, 0, 8, buffer)
    vix.Close(disk)
    vix.Disconnect(connection)
    vix.Exit()

Handles are numbers. A call returns its result, or raises `VixError` with a code and a text. All are
safe to use from many threads at once. Sectors are 512 bytes. docs/vixdisklib.md compares every
function with VDDK's. New programs are better served by `diskkit.open_disk`, which this is made of.
"""

from __future__ import annotations

from diskkit.vixdisklib.codes import NUMBERS
from diskkit.vixdisklib.constants import *  # noqa: F403 - every name in it is the interface's
from diskkit.vixdisklib.disks import (
    Close,
    Create,
    CreateChild,
    FreeInfo,
    GetInfo,
    GetTransportMode,
    Open,
    Rename,
    Unlink,
)
from diskkit.vixdisklib.failures import VixError
from diskkit.vixdisklib.metadata import GetMetadataKeys, ReadMetadata, WriteMetadata
from diskkit.vixdisklib.params import Block, ConnectParams, CreateParams, Geometry, Info
from diskkit.vixdisklib.session import (
    AllocateConnectParams,
    Cleanup,
    Connect,
    ConnectEx,
    Disconnect,
    EndAccess,
    Exit,
    FreeConnectParams,
    FreeErrorText,
    GetConnectParams,
    GetErrorText,
    Init,
    InitEx,
    ListTransportModes,
    PrepareForAccess,
)
from diskkit.vixdisklib.transfer import (
    Flush,
    FreeBlockList,
    QueryAllocatedBlocks,
    Read,
    ReadAsync,
    Wait,
    Write,
    WriteAsync,
)
from diskkit.vixdisklib.upkeep import (
    Attach,
    CheckRepair,
    Clone,
    Defragment,
    Grow,
    IsAttachPossible,
    Shrink,
    SpaceNeededForClone,
)

FUNCTIONS = (
    Init,
    InitEx,
    Exit,
    ListTransportModes,
    Connect,
    ConnectEx,
    Disconnect,
    PrepareForAccess,
    EndAccess,
    Cleanup,
    AllocateConnectParams,
    GetConnectParams,
    FreeConnectParams,
    Create,
    CreateChild,
    Open,
    Close,
    GetInfo,
    FreeInfo,
    GetTransportMode,
    Unlink,
    Rename,
    Read,
    Write,
    ReadAsync,
    WriteAsync,
    Flush,
    Wait,
    QueryAllocatedBlocks,
    FreeBlockList,
    ReadMetadata,
    WriteMetadata,
    GetMetadataKeys,
    Grow,
    Shrink,
    Defragment,
    Clone,
    SpaceNeededForClone,
    CheckRepair,
    IsAttachPossible,
    Attach,
    GetErrorText,
    FreeErrorText,
)
"""All 43, in the order of the C headers."""

__all__ = [
    "FUNCTIONS",
    "Block",
    "ConnectParams",
    "CreateParams",
    "Geometry",
    "Info",
    "VixError",
]
__all__ += [f.__name__ for f in FUNCTIONS]
__all__ += [name for name in globals() if name.startswith("VIXDISKLIB_")]


def __getattr__(name: str) -> int:
    """The codes: `VIX_OK`, `VIX_ASYNC`, `VIX_E_...`."""
    if name in NUMBERS:
        return NUMBERS[name]
    raise AttributeError(f"module 'diskkit.vixdisklib' has no attribute {name!r}")
