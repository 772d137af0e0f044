# SPDX-License-Identifier: Apache-2.0
"""What the C library calls: `diskkit.vixdisklib` with arguments and answers that C can handle.

One function per function of C, named in `csrc/python.h`. Arguments are numbers, texts or None, and
memoryviews of the program's memory, which are released before the answer. The answer is a code,
or the bytes of what the program gets. Nothing is raised: the C side would not know what to say.
"""

from __future__ import annotations

import _thread
import functools
import signal
import struct
import threading
from typing import TYPE_CHECKING, Any

from diskkit import vixdisklib as vix
from diskkit.vixdisklib import constants as c
from diskkit.vixdisklib.codes import NUMBERS
from diskkit.vixdisklib.codes import error_text as text_of
from diskkit.vixdisklib.failures import VixError, from_exception
from diskkit.vixdisklib.library import library
from diskkit.vixdisklib.transfer import read_sectors, write_sectors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Answer = int | bytes
    Progress = Callable[[int], object] | None
    View = memoryview | None

VERSION = 1
"""Of the calls; the C side has the same number."""

_OK, _ASYNC, _FAIL = NUMBERS["VIX_OK"], NUMBERS["VIX_ASYNC"], NUMBERS["VIX_E_FAIL"]
_EXPECTED = {
    NUMBERS[f"VIX_E_{name}"] for name in ("BUFFER_TOOSMALL", "DISK_KEY_NOTFOUND", "DISK_OUTOFRANGE")
}
"""Answers that programs ask for on purpose: no reason to warn."""
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
_NUL = b"\0"

_say: Callable[[int, bytes], object]
_last = threading.local()


def start(
    version: int,
    say: Callable[[int, bytes], object],
    keep: Callable[[int, int, int, int, int], object],
    forget: Callable[[int], object],
) -> None:
    """Be ready: `say` gives a line to the program; the others are those of csrc/stretch.c.

    Raises RuntimeError if the C side is of another age.
    """
    if version != VERSION:
        raise RuntimeError(f"the library speaks version {version}, the package {VERSION}")
    global _say
    _say = say
    library.keep, library.forget = keep, forget
    # Now, while no signal can reach the threads that numpy starts.
    import numpy as np

    np.zeros(1)


def _failed(name: str, error: BaseException) -> int:
    """The code of an error, after telling about it."""
    if isinstance(error, KeyboardInterrupt):
        _thread.interrupt_main(signal.SIGINT)  # for the Python program around us
        error = VixError(NUMBERS["VIX_E_CANCELLED"])
    elif not isinstance(error, Exception):
        error = VixError(_FAIL, f"{type(error).__name__}: {error}")
    failure = from_exception(error)
    _last.code, _last.text = failure.code, failure.text
    tell = library.log if failure.code in _EXPECTED else library.warn
    if name == "InitEx" and not library.ready:
        tell = functools.partial(_line, 1)  # the library did not take the program's functions
    tell(f"VixDiskLib_{name}: {failure.text}")
    return failure.code or _FAIL


def _guarded(name: str) -> Callable[[Callable[..., Any]], Callable[..., Answer]]:
    """Errors become codes, None becomes VIX_OK; `name` is the function's in C."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Answer]:
        @functools.wraps(function)
        def call(*arguments: Any) -> Answer:  # noqa: ANN401 - as many as the function takes
            try:
                answer = function(*arguments)
                return _OK if answer is None else answer
            except BaseException as error:
                try:
                    return _failed(name, error)
                except BaseException:
                    return _FAIL

        return call

    return wrap


# --- Life of the library ----------------------------------------------------------------------


@_guarded("InitEx")
def init(major: int, minor: int, wanted: int, folder: str | None, config: str | None) -> None:
    """`wanted` has bit 0 if the program takes log lines, bit 1 for warnings."""
    speak = [functools.partial(_line, level) if wanted >> level & 1 else None for level in (0, 1)]
    vix.InitEx(major, minor, speak[0], speak[1], None, folder, config)


def _line(level: int, text: str) -> None:
    _say(level, text.replace("\0", "\\0").encode("utf-8", "backslashreplace") + b"\n")


exit = _guarded("Exit")(vix.Exit)


@_guarded("ListTransportModes")
def list_transport_modes() -> bytes:
    """As text."""
    return vix.ListTransportModes().encode()


@_guarded("GetErrorText")
def error_text(code: int) -> bytes:
    """The text of a code, with the reason if it is what this thread's last failure returned."""
    text = text_of(code)
    detail = getattr(_last, "text", "") if getattr(_last, "code", None) == code else ""
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


@_guarded("Connect")
def connect(read_only: int, snapshot: str | None, modes: str | None, *params: Any) -> bytes:  # noqa: ANN401
    """The handle."""
    made = _params(*params)
    return _number(vix.ConnectEx(made, bool(read_only), snapshot or None, modes or None))


@_guarded("Disconnect")
def disconnect(connection: int) -> None:
    """A code."""
    vix.Disconnect(connection)


@_guarded("PrepareForAccess")
def prepare(identity: str, *params: Any) -> None:  # noqa: ANN401
    """A code."""
    vix.PrepareForAccess(_params(*params), identity)


@_guarded("EndAccess")
def end_access(identity: str, *params: Any) -> None:  # noqa: ANN401
    """A code."""
    vix.EndAccess(_params(*params), identity)


@_guarded("Cleanup")
def cleanup(*params: Any) -> bytes:  # noqa: ANN401
    """Two numbers of 32 bits."""
    return struct.pack("=II", *vix.Cleanup(_params(*params)))


@_guarded("GetConnectParams")
def get_connect_params(connection: int) -> bytes:
    """Four numbers of 32 bits, then ten texts, each with its length; all ones are NULL."""
    p = vix.GetConnectParams(connection)
    last = p.diskFolder if p.specType == c.VIXDISKLIB_SPEC_DATASTORE else p.ssId
    texts = (p.vmxSpec, p.serverName, p.thumbPrint, p.userName, p.password, p.cookie, p.key)
    packed = struct.pack("=IIII", p.credType, p.specType, p.port, p.nfcHostPort)
    return packed + b"".join(map(_text, (*texts, p.id, p.datastoreMoRef, last)))


def _text(text: str | None) -> bytes:
    if text is None:
        return b"\xff\xff\xff\xff"
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack("=I", len(raw)) + raw + _NUL


def _number(value: int) -> bytes:
    return struct.pack("=Q", value)


# --- Disks ------------------------------------------------------------------------------------


def _create_params(
    given: int, kind: int, adapter: int, version: int, size: int, sector: int
) -> vix.CreateParams | None:
    return vix.CreateParams(kind, adapter, version, size, sector) if given else None


@_guarded("Create")
def create(connection: int, path: str, *rest: Any) -> None:  # noqa: ANN401
    """A code. `rest`: six numbers of `_create_params`, then progress."""
    params = _create_params(*rest[:6])
    vix.Create(connection, path, params, rest[6])  # type: ignore[arg-type]  # NULL is refused


@_guarded("CreateChild")
def create_child(handle: int, path: str, kind: int, progress: Progress) -> None:
    """A code."""
    vix.CreateChild(handle, path, kind, progress)


@_guarded("Open")
def open(connection: int, path: str, flags: int) -> bytes:
    """The handle."""
    return _number(vix.Open(connection, path, flags))


@_guarded("Close")
def close(handle: int) -> None:
    """A code."""
    vix.Close(handle)


@_guarded("GetInfo")
def get_info(handle: int) -> bytes:
    """Numbers as in `InfoAnswer` of the C side, then two texts, each with a NUL."""
    i = vix.GetInfo(handle)
    sizes = (i.logicalSectorSize, i.physicalSectorSize)
    links = (i.adapterType, i.numLinks)
    there = (i.parentFileNameHint is not None, i.uuid is not None)
    fixed = struct.pack("=6IQii4I", *i.biosGeo, *i.physGeo, i.capacity, *links, *sizes, *there)
    return fixed + _ended((i.parentFileNameHint or "", i.uuid or ""))


@_guarded("GetTransportMode")
def get_transport_mode(handle: int) -> bytes:
    """Which of the known transports, as a number of 64 bits."""
    return _number(c.TRANSPORTS.index(vix.GetTransportMode(handle)))


@_guarded("Unlink")
def unlink(connection: int, path: str) -> None:
    """A code."""
    vix.Unlink(connection, path)


@_guarded("Rename")
def rename(old: str, new: str) -> None:
    """A code."""
    vix.Rename(old, new)


def _ended(texts: Iterable[str]) -> bytes:
    return b"".join(
        text.replace("\0", "").encode("utf-8", "surrogateescape") + _NUL for text in texts
    )


# --- Data -------------------------------------------------------------------------------------


def read(handle: int, start: int, count: int, view: View, odd: int) -> int:
    """A code. `odd` is how far the buffer is from where a sector may begin."""
    try:
        read_sectors(handle, start, count, view, odd)
        return _OK
    except BaseException as error:
        return _failed_safely("Read", error)
    finally:
        if view is not None:
            view.release()


def write(handle: int, start: int, count: int, view: View, odd: int) -> int:
    """A code."""
    try:
        write_sectors(handle, start, count, view, odd)
        return _OK
    except BaseException as error:
        return _failed_safely("Write", error)
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


def _failed_safely(name: str, error: BaseException) -> int:
    try:
        return _failed(name, error)
    except BaseException:
        return _FAIL


@_guarded("Flush")
def flush(handle: int) -> None:
    """A code."""
    vix.Flush(handle)


def wait(handle: int) -> Answer:
    """A code. Most often there is nothing to wait for."""
    found = library.disks.get(handle)
    if found is None or found.pending or found.attached:
        return _wait(handle)
    return _OK


_wait = _guarded("Wait")(vix.Wait)


@_guarded("QueryAllocatedBlocks")
def allocated_blocks(handle: int, start: int, count: int, chunk: int) -> bytes:
    """Pairs of numbers of 64 bits."""
    import numpy as np

    return np.array(vix.QueryAllocatedBlocks(handle, start, count, chunk), np.uint64).tobytes()


# --- Metadata ---------------------------------------------------------------------------------


@_guarded("ReadMetadata")
def read_metadata(handle: int, key: str) -> bytes:
    """The value; whether the program's buffer holds it is the C side's business."""
    return vix.ReadMetadata(handle, key).encode("utf-8", "surrogateescape")


@_guarded("WriteMetadata")
def write_metadata(handle: int, key: str, value: str) -> None:
    """A code."""
    vix.WriteMetadata(handle, key, value)


@_guarded("GetMetadataKeys")
def metadata_keys(handle: int) -> bytes:
    """Each with a NUL."""
    return _ended(vix.GetMetadataKeys(handle))


# --- Maintenance ------------------------------------------------------------------------------


@_guarded("Grow")
def grow(connection: int, path: str, size: int, geometry: int, progress: Progress) -> None:
    """A code."""
    vix.Grow(connection, path, size, bool(geometry), progress)


@_guarded("Shrink")
def shrink(handle: int, progress: Progress) -> None:
    """A code."""
    vix.Shrink(handle, progress)


@_guarded("Defragment")
def defragment(handle: int, progress: Progress) -> None:
    """A code."""
    vix.Defragment(handle, progress)


@_guarded("Clone")
def clone(to: int, path: str, of: int, source: str, over: int, *rest: Any) -> None:  # noqa: ANN401
    """A code. `rest`: six numbers of `_create_params`, then progress."""
    vix.Clone(to, path, of, source, _create_params(*rest[:6]), rest[6], bool(over))


@_guarded("SpaceNeededForClone")
def space_needed(handle: int, kind: int) -> bytes:
    """A number of 64 bits."""
    return _number(vix.SpaceNeededForClone(handle, kind))


@_guarded("CheckRepair")
def check_repair(connection: int, path: str, repair: int) -> None:
    """A code."""
    vix.CheckRepair(connection, path, bool(repair))


@_guarded("IsAttachPossible")
def is_attach_possible(parent: int, child: int) -> None:
    """A code."""
    vix.IsAttachPossible(parent, child)


@_guarded("Attach")
def attach(parent: int, child: int) -> None:
    """A code."""
    vix.Attach(parent, child)
