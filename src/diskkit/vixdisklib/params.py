# SPDX-License-Identifier: Apache-2.0
"""What programs pass and get: parameters of connections and of new disks, answers about disks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from diskkit.vixdisklib import constants as c


@dataclass(slots=True)
class ConnectParams:
    """Where to connect to, and as whom.

    `AllocateConnectParams` makes one that has all features. One made by calling this class stands
    for a struct that a C program declares itself: it works, with a warning, as it did before 6.7.
    """

    vmxSpec: str | None = None
    serverName: str | None = None
    thumbPrint: str | None = None
    credType: int = 0
    userName: str | None = None
    password: str | None = field(default=None, repr=False)
    cookie: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)
    port: int = 0
    nfcHostPort: int = 0
    specType: int = c.VIXDISKLIB_SPEC_VMX
    id: str | None = None
    datastoreMoRef: str | None = None
    ssId: str | None = None
    diskFolder: str | None = None
    allocated: bool = field(default=False, init=False)
    """Whether it comes from `AllocateConnectParams` or `GetConnectParams`."""
    freed: bool = field(default=False, init=False)
    warned: bool = field(default=False, init=False)

    def copy(self) -> ConnectParams:
        """All values, as the library's own."""
        made = replace(self)
        made.allocated = True
        return made


@dataclass(frozen=True, slots=True)
class CreateParams:
    """A new disk. `capacity` is in sectors of 512 bytes; sector sizes of 0 mean 512."""

    diskType: int = c.VIXDISKLIB_DISK_MONOLITHIC_SPARSE
    adapterType: int = c.VIXDISKLIB_ADAPTER_SCSI_LSILOGIC
    hwVersion: int = c.VIXDISKLIB_HWVERSION_WORKSTATION_5
    capacity: int = 0
    logicalSectorSize: int = 0
    physicalSectorSize: int = 0


class Geometry(NamedTuple):
    """Cylinders, heads and sectors; zeros where the disk does not say."""

    cylinders: int
    heads: int
    sectors: int


class Info(NamedTuple):
    """The answer of `GetInfo`."""

    biosGeo: Geometry
    physGeo: Geometry
    capacity: int
    """Sectors."""
    adapterType: int
    numLinks: int
    parentFileNameHint: str | None
    uuid: str | None
    logicalSectorSize: int
    physicalSectorSize: int


class Block(NamedTuple):
    """A run of allocated chunks, in sectors from the start of the disk."""

    offset: int
    length: int
