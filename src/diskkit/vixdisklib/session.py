# SPDX-License-Identifier: Apache-2.0
"""The library's life and its connections."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from diskkit.vixdisklib import constants as c
from diskkit.vixdisklib.codes import error_text
from diskkit.vixdisklib.config import OLD_PARAMS, Config, read_config
from diskkit.vixdisklib.failures import translated, vix_error
from diskkit.vixdisklib.library import Connection, library
from diskkit.vixdisklib.params import ConnectParams

if TYPE_CHECKING:
    from diskkit.vixdisklib.library import Log

_MOST_IDENTITY = 50
_OLD = (
    "connection parameters that the program declares itself are deprecated: use "
    "AllocateConnectParams; these have no QueryAllocatedBlocks and no first-class disks "
    f"(unless the configuration file says {OLD_PARAMS}=1)"
)

_told = False
"""Whether `_OLD` was logged since Init: programs connect often, and C ones have no warnings."""


def Init(
    majorVersion: int,
    minorVersion: int,
    log: Log | None = None,
    warn: Log | None = None,
    panic: Log | None = None,
    libDir: str | None = None,
) -> None:
    """Begin. `log`, `warn` and `panic` are called with one line each, from any thread.

    Versions up to 9.1 may be asked for; all get the same. `libDir` is not needed. Without
    callbacks, lines go to the logger "diskkit.vixdisklib".
    """
    InitEx(majorVersion, minorVersion, log, warn, panic, libDir, None)


def InitEx(
    majorVersion: int,
    minorVersion: int,
    log: Log | None = None,
    warn: Log | None = None,
    panic: Log | None = None,
    libDir: str | None = None,
    configFile: str | None = None,
) -> None:
    """`Init`, with a configuration file."""
    with translated():
        if majorVersion < 1 or minorVersion < 0:
            raise vix_error("INVALID_ARG", f"there is no version {majorVersion}.{minorVersion}")
        if majorVersion > c.MAJOR or (majorVersion == c.MAJOR and minorVersion > c.MINOR):
            text = f"version {majorVersion}.{minorVersion} was asked for"
            raise vix_error("NOT_SUPPORTED", f"{text}; the newest known is {c.MAJOR}.{c.MINOR}")
        global _told
        library.start(read_config(configFile) if configFile else Config(), log, warn, panic)
        _told = False
        library.log(f"diskkit speaks VixDiskLib {majorVersion}.{minorVersion} (libDir {libDir})")


def Exit() -> None:
    """End: close all that is open. May be called at any time."""
    library.stop()


def ListTransportModes() -> str:
    """The transports there are, separated by colons."""
    return c.TRANSPORTS[0]


def AllocateConnectParams() -> ConnectParams:
    """Empty parameters that have all features. May be called before `Init`."""
    return ConnectParams().copy()


def FreeConnectParams(connectParams: ConnectParams | None) -> None:
    """Give back what `AllocateConnectParams` or `GetConnectParams` gave; others are left alone."""
    if connectParams is not None and connectParams.allocated:
        connectParams.freed = True


def GetConnectParams(connection: int) -> ConnectParams:
    """A copy of the parameters of a connection."""
    with translated():
        params = library.connection(connection).params
        return params.copy() if params is not None else AllocateConnectParams()


def Connect(connectParams: ConnectParams | None = None) -> int:
    """Connect; None, or parameters without a server, are this machine. Returns the handle."""
    return _connect(connectParams, False, None, None)


def ConnectEx(
    connectParams: ConnectParams | None = None,
    readOnly: bool = False,
    snapshotRef: str | None = None,
    transportModes: str | None = None,
) -> int:
    """`Connect`; with `readOnly` every disk opened on the connection is.

    `transportModes` must be known names; on this machine there is only "file".
    """
    return _connect(connectParams, readOnly, snapshotRef, transportModes)


def _connect(
    connectParams: ConnectParams | None,
    readOnly: bool,
    snapshotRef: str | None,
    transportModes: str | None,
) -> int:
    with translated():
        library.check_ready()
        for mode in (transportModes or "file").split(":"):
            if mode not in c.TRANSPORTS:
                raise vix_error("INVALID_ARG", f"there is no transport {mode!r}")
        _check_params(connectParams)
        if snapshotRef:
            library.warn(f"snapshot {snapshotRef} has no meaning on a local connection")
        params = connectParams.copy() if connectParams is not None else None
        old = connectParams is not None and not connectParams.allocated
        old = old and not library.config.allow_old_params
        return library.add_connection(Connection(params, bool(readOnly), old))


def Disconnect(connection: int) -> None:
    """End a connection; disks still open on it are closed."""
    with translated():
        library.connection(connection)
        with library.lock:
            if library.connections.pop(connection, None) is None:
                raise vix_error("DISK_INVALID_CONNECTION")
            mine = [n for n, disk in library.disks.items() if disk.connection == connection]
            left = [library.disks.pop(n) for n in mine]
        for disk in left:
            library.warn(f"{disk.path}: was still open when its connection ended")
            library.close(disk)


def PrepareForAccess(connectParams: ConnectParams | None, identity: str) -> None:
    """Keep a virtual machine from being moved; nothing to do for disks of this machine."""
    _no_machine(connectParams, identity)


def EndAccess(connectParams: ConnectParams | None, identity: str) -> None:
    """Undo `PrepareForAccess`."""
    _no_machine(connectParams, identity)


def Cleanup(connectParams: ConnectParams | None) -> tuple[int, int]:
    """Remove what crashed programs left mounted: (removed, remaining), here nothing."""
    with translated():
        library.check_ready()
        _check_params(connectParams)
        return 0, 0


def GetErrorText(err: int, locale: str | None = None) -> str:
    """A short text for a code; never empty. May be called before `Init`."""
    return error_text(err)


def FreeErrorText(errMsg: str | None) -> None:
    """Nothing: texts are Python's."""


def _no_machine(params: ConnectParams | None, identity: str) -> None:
    with translated():
        library.check_ready()
        if not identity or len(identity) > _MOST_IDENTITY:
            raise vix_error("INVALID_ARG", f"an identity has 1 to {_MOST_IDENTITY} characters")
        _check_params(params)


def _check_params(params: ConnectParams | None) -> None:
    """Raise for what there is no way to connect to."""
    if params is None:
        return
    if params.freed:
        raise vix_error("INVALID_ARG", "the connection parameters were freed")
    if not params.allocated and not library.config.allow_old_params:
        global _told
        if not _told:
            _told = True
            library.warn(_OLD)
        if not params.warned:
            params.warned = True
            warnings.warn(_OLD, DeprecationWarning, stacklevel=4)
        if params.specType == c.VIXDISKLIB_SPEC_VSTORAGE_OBJECT:
            raise vix_error("NOT_SUPPORTED", f"a first-class disk was asked for, but {_OLD}")
    if params.serverName or params.specType != c.VIXDISKLIB_SPEC_VMX:
        what = f"connecting to {params.serverName}" if params.serverName else "this kind of disk"
        raise vix_error("NOT_SUPPORTED", f"{what} is not supported yet: only local disks are")
