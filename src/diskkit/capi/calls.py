# SPDX-License-Identifier: Apache-2.0
"""What the C library calls: `diskkit.vixdisklib` with arguments and answers that C can handle.

One function per function of C, named in `csrc/python.h`. Arguments are numbers, texts or None, and
memoryviews of the program's memory, which are released before the answer. The answer is a code,
or the bytes of what the program gets. Nothing is raised: the C side would not know what to say.
"""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING, Any

from diskkit import vixdisklib as vix
from diskkit.capi.answers import ended, failed, guarded, last_failure, number, speak_by, tell, text
from diskkit.capi.mntcalls import mnt_close as mnt_close
from diskkit.capi.mntcalls import mnt_dismount as mnt_dismount
from diskkit.capi.mntcalls import mnt_exit as mnt_exit
from diskkit.capi.mntcalls import mnt_init as mnt_init
from diskkit.capi.mntcalls import mnt_mount as mnt_mount
from diskkit.capi.mntcalls import mnt_open as mnt_open
from diskkit.capi.mntcalls import mnt_os_info as mnt_os_info
from diskkit.capi.mntcalls import mnt_set_info as mnt_set_info
from diskkit.capi.mntcalls import mnt_volume_info as mnt_volume_info
from diskkit.capi.mntcalls import mnt_volumes as mnt_volumes
from diskkit.capi.standard_error import spare
from diskkit.vixdisklib import constants as c
from diskkit.vixdisklib.codes import NUMBERS
from diskkit.vixdisklib.codes import error_text as text_of
from diskkit.vixdisklib.library import library
from diskkit.vixdisklib.transfer import read_sectors, write_sectors

if TYPE_CHECKING:
    from collections.abc import Callable

    Answer = int | bytes
    Progress = Callable[[int], object] | None
    View = memoryview | None

VERSION = 1
"""Of the calls; the C side has the same number."""

_OK, _ASYNC = NUMBERS["VIX_OK"], NUMBERS["VIX_ASYNC"]
_REFUSED = {
    NUMBERS[f"VIX_E_{name}"]
    for name in (
        "INVALID_ARG",
        "DISK_INVAL",
        "DISK_NOINIT",
        "DISK_OUTOFRANGE",
        "FILE_READ_ONLY",
    )
}
"""Codes of calls that never began to move data."""


def start(
    version: int,
    say: Callable[[int, bytes], object],
    keep: Callable[[int, int, int, int, int, bool], object],
    forget: Callable[[int], object],
) -> None:
    """Be ready: `say` gives a line to the program; the others are those of csrc/stretch.c.

    Raises RuntimeError if the C side is of another age.
    """
    if version != VERSION:
        raise RuntimeError(f"the library speaks version {version}, the package {VERSION}")
    speak_by(say)
    library.keep, library.forget = keep, forget
    spare(say)
    # Now, while no signal can reach the threads that numpy starts.
    import numpy as np

    np.zeros(1)


# --- Life of the library ----------------------------------------------------------------------


@guarded("VixDiskLib_InitEx")
def init(major: int, minor: int, wanted: int, folder: str | None, config: str | None) -> None:
    """`wanted` has bit 0 if the program takes log lines, bit 1 for warnings."""
    speak = [functools.partial(tell, level) if wanted >> level & 1 else None for level in (0, 1)]
    vix.InitEx(major, minor, speak[0], speak[1], None, folder, config)


exit = guarded("VixDiskLib_Exit")(vix.Exit)


@guarded("VixDiskLib_ListTransportModes")
def list_transport_modes() -> bytes:
    """As text."""
    return vix.ListTransportModes().encode()


@guarded("VixDiskLib_GetErrorText")
def error_text(code: int) -> bytes:
    """The text of a code, with the reason if it is what this thread's last failure returned."""
    text, detail = text_of(code), last_failure(code)
    if detail and detail != text:
        text = f"{text} ({detail})"
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace")


# --- Connections ------------------------------------------------------------------------------


def _params(
    whose: int,
    vmx: str | None,
    server: str | None,
    thumb: str | None,
    kind: int,
    user: str | None,
    password: str | None,
    cookie: str | None,
    key: str | None,
    port: int,
    nfc: int,
    spec: int,
    id: str | None,
    datastore: str | None,
    last: str | None,
) -> vix.ConnectParams | None:
    """`whose` is 0: none were given; 1: the program declared them; 2: they were allocated here."""
    if not whose:
        return None
    made = vix.ConnectParams(vmx, server, thumb, kind, user, password, cookie, key, port, nfc, spec)
    made.id, made.datastoreMoRef = id, datastore
    if spec == c.VIXDISKLIB_SPEC_DATASTORE:
        made.diskFolder = last
    else:
        made.ssId = last
    made.warned = True  # what Python's warnings are for is not this program
    return made.copy() if whose > 1 else made


@guarded("VixDiskLib_Connect")
def connect(read_only: int, snapshot: str | None, modes: str | None, *params: Any) -> bytes:  # noqa: ANN401
    """The handle."""
    made = _params(*params)
    return number(vix.ConnectEx(made, bool(read_only), snapshot or None, modes or None))


@guarded("VixDiskLib_Disconnect")
def disconnect(connection: int) -> None:
    """A code."""
    vix.Disconnect(connection)


@guarded("VixDiskLib_PrepareForAccess")
def prepare(identity: str, *params: Any) -> None:  # noqa: ANN401
    """A code."""
    vix.PrepareForAccess(_params(*params), identity)


@guarded("VixDiskLib_EndAccess")
def end_access(identity: str, *params: Any) -> None:  # noqa: ANN401
    """A code."""
    vix.EndAccess(_params(*params), identity)


@guarded("VixDiskLib_Cleanup")
def cleanup(*params: Any) -> bytes:  # noqa: ANN401
    """Two numbers of 32 bits."""
    return struct.pack("=II", *vix.Cleanup(_params(*params)))


@guarded("VixDiskLib_GetConnectParams")
def get_connect_params(connection: int) -> bytes:
    """Four numbers of 32 bits, then ten texts, each with its length; all ones are NULL."""
    p = vix.GetConnectParams(connection)
    last = p.diskFolder if p.specType == c.VIXDISKLIB_SPEC_DATASTORE else p.ssId
    texts = (p.vmxSpec, p.serverName, p.thumbPrint, p.userName, p.password, p.cookie, p.key)
    packed = struct.pack("=IIII", p.credType, p.specType, p.port, p.nfcHostPort)
    return packed + b"".join(map(text, (*texts, p.id, p.datastoreMoRef, last)))


# --- Disks ------------------------------------------------------------------------------------


def _create_params(
    given: int, kind: int, adapter: int, version: int, size: int, sector: int
) -> vix.CreateParams | None:
    return vix.CreateParams(kind, adapter, version, size, sector) if given else None


@guarded("VixDiskLib_Create")
def create(connection: int, path: str, *rest: Any) -> None:  # noqa: ANN401
    """A code. `rest`: six numbers of `_create_params`, then progress."""
    params = _create_params(*rest[:6])
    vix.Create(connection, path, params, rest[6])  # type: ignore[arg-type]  # NULL is refused


@guarded("VixDiskLib_CreateChild")
def create_child(handle: int, path: str, kind: int, progress: Progress) -> None:
    """A code."""
    vix.CreateChild(handle, path, kind, progress)


@guarded("VixDiskLib_Open")
def open(connection: int, path: str, flags: int) -> bytes:
    """The handle."""
    return number(vix.Open(connection, path, flags))


@guarded("VixDiskLib_Close")
def close(handle: int) -> None:
    """A code."""
    vix.Close(handle)


@guarded("VixDiskLib_GetInfo")
def get_info(handle: int) -> bytes:
    """Numbers as in `InfoAnswer` of the C side, then two texts, each with a NUL."""
    i = vix.GetInfo(handle)
    sizes = (i.logicalSectorSize, i.physicalSectorSize)
    links = (i.adapterType, i.numLinks)
    there = (i.parentFileNameHint is not None, i.uuid is not None)
    fixed = struct.pack("=6IQii4I", *i.biosGeo, *i.physGeo, i.capacity, *links, *sizes, *there)
    return fixed + ended((i.parentFileNameHint or "", i.uuid or ""))


@guarded("VixDiskLib_GetTransportMode")
def get_transport_mode(handle: int) -> bytes:
    """Which of the known transports, as a number of 64 bits."""
    return number(c.TRANSPORTS.index(vix.GetTransportMode(handle)))


@guarded("VixDiskLib_Unlink")
def unlink(connection: int, path: str) -> None:
    """A code."""
    vix.Unlink(connection, path)


@guarded("VixDiskLib_Rename")
def rename(old: str, new: str) -> None:
    """A code."""
    vix.Rename(old, new)


# --- Data -------------------------------------------------------------------------------------


def read(handle: int, start: int, count: int, view: View, odd: int) -> int:
    """A code. `odd` is how far the buffer is from where a sector may begin."""
    try:
        read_sectors(handle, start, count, view, odd)
        return _OK
    except BaseException as error:
        return failed("VixDiskLib_Read", error)
    finally:
        if view is not None:
            view.release()


def write(handle: int, start: int, count: int, view: View, odd: int) -> int:
    """A code."""
    try:
        write_sectors(handle, start, count, view, odd)
        return _OK
    except BaseException as error:
        return failed("VixDiskLib_Write", error)
    finally:
        if view is not None:
            view.release()


def read_later(handle: int, start: int, count: int, view: View, odd: int) -> int:
    """A code if it is refused; else VIX_ASYNC with the code of the reading above bit 32."""
    return _later(read(handle, start, count, view, odd))


def write_later(handle: int, start: int, count: int, view: View, odd: int) -> int:
    """The same, for writing."""
    return _later(write(handle, start, count, view, odd))


def _later(code: int) -> int:
    return code if code in _REFUSED else _ASYNC | code << 32


@guarded("VixDiskLib_Flush")
def flush(handle: int) -> None:
    """A code."""
    vix.Flush(handle)


def wait(handle: int) -> Answer:
    """A code. Most often there is nothing to wait for."""
    found = library.disks.get(handle)
    if found is None or found.pending or found.attached:
        return _wait(handle)
    return _OK


_wait = guarded("VixDiskLib_Wait")(vix.Wait)


@guarded("VixDiskLib_QueryAllocatedBlocks")
def allocated_blocks(handle: int, start: int, count: int, chunk: int) -> bytes:
    """Pairs of numbers of 64 bits."""
    import numpy as np

    return np.array(vix.QueryAllocatedBlocks(handle, start, count, chunk), np.uint64).tobytes()


# --- Metadata ---------------------------------------------------------------------------------


@guarded("VixDiskLib_ReadMetadata")
def read_metadata(handle: int, key: str) -> bytes:
    """The value; whether the program's buffer holds it is the C side's business."""
    return vix.ReadMetadata(handle, key).encode("utf-8", "surrogateescape")


@guarded("VixDiskLib_WriteMetadata")
def write_metadata(handle: int, key: str, value: str) -> None:
    """A code."""
    vix.WriteMetadata(handle, key, value)


@guarded("VixDiskLib_GetMetadataKeys")
def metadata_keys(handle: int) -> bytes:
    """Each with a NUL."""
    return ended(vix.GetMetadataKeys(handle))


# --- Maintenance ------------------------------------------------------------------------------


@guarded("VixDiskLib_Grow")
def grow(connection: int, path: str, size: int, geometry: int, progress: Progress) -> None:
    """A code."""
    vix.Grow(connection, path, size, bool(geometry), progress)


@guarded("VixDiskLib_Shrink")
def shrink(handle: int, progress: Progress) -> None:
    """A code."""
    vix.Shrink(handle, progress)


@guarded("VixDiskLib_Defragment")
def defragment(handle: int, progress: Progress) -> None:
    """A code."""
    vix.Defragment(handle, progress)


@guarded("VixDiskLib_Clone")
def clone(to: int, path: str, of: int, source: str, over: int, *rest: Any) -> None:  # noqa: ANN401
    """A code. `rest`: six numbers of `_create_params`, then progress."""
    vix.Clone(to, path, of, source, _create_params(*rest[:6]), rest[6], bool(over))


@guarded("VixDiskLib_SpaceNeededForClone")
def space_needed(handle: int, kind: int) -> bytes:
    """A number of 64 bits."""
    return number(vix.SpaceNeededForClone(handle, kind))


@guarded("VixDiskLib_CheckRepair")
def check_repair(connection: int, path: str, repair: int) -> None:
    """A code."""
    vix.CheckRepair(connection, path, bool(repair))


@guarded("VixDiskLib_IsAttachPossible")
def is_attach_possible(parent: int, child: int) -> None:
    """A code."""
    vix.IsAttachPossible(parent, child)


@guarded("VixDiskLib_Attach")
def attach(parent: int, child: int) -> None:
    """A code."""
    vix.Attach(parent, child)
