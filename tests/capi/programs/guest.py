# SPDX-License-Identifier: Apache-2.0
"""A Python program that uses the C library through ctypes: each of the 43 functions, once at least.

usage: guest.py LIBRARY. It must run on any Python, with nothing installed.
"""

from __future__ import annotations

import ctypes as c
import sys
import threading
from typing import Any

U64, P, TEXT, U32, BOOL = c.c_uint64, c.c_void_p, c.c_char_p, c.c_uint32, c.c_char
OUT = c.POINTER(P)
LOG = c.CFUNCTYPE(None, TEXT, P)
PROGRESS = c.CFUNCTYPE(BOOL, P, c.c_int)
COMPLETED = c.CFUNCTYPE(None, P, U64)
ASYNC, TOO_SMALL = 25000, 24
CALLS: dict[
    str, tuple[Any, ...]
] = {  # arguments; the result is a code, where nothing else is said below
    "Init": (U32, U32, P, P, P, TEXT),
    "InitEx": (U32, U32, P, LOG, P, TEXT, TEXT),
    "Exit": (),
    "ListTransportModes": (),
    "Connect": (P, OUT),
    "ConnectEx": (P, BOOL, TEXT, TEXT, OUT),
    "Disconnect": (P,),
    "PrepareForAccess": (P, TEXT),
    "EndAccess": (P, TEXT),
    "Cleanup": (P, P, P),
    "AllocateConnectParams": (),
    "GetConnectParams": (P, OUT),
    "FreeConnectParams": (P,),
    "Create": (P, TEXT, P, PROGRESS, P),
    "CreateChild": (P, TEXT, c.c_int, P, P),
    "Open": (P, TEXT, U32, OUT),
    "Close": (P,),
    "GetInfo": (P, OUT),
    "FreeInfo": (P,),
    "GetTransportMode": (P,),
    "Unlink": (P, TEXT),
    "Rename": (TEXT, TEXT),
    "Read": (P, U64, U64, P),
    "Write": (P, U64, U64, P),
    "ReadAsync": (P, U64, U64, P, COMPLETED, P),
    "WriteAsync": (P, U64, U64, P, COMPLETED, P),
    "Flush": (P,),
    "Wait": (P,),
    "QueryAllocatedBlocks": (P, U64, U64, U64, OUT),
    "FreeBlockList": (P,),
    "ReadMetadata": (P, TEXT, P, c.c_size_t, P),
    "WriteMetadata": (P, TEXT, TEXT),
    "GetMetadataKeys": (P, P, c.c_size_t, P),
    "Grow": (P, TEXT, U64, BOOL, P, P),
    "Shrink": (P, P, P),
    "Defragment": (P, P, P),
    "Clone": (P, TEXT, P, TEXT, P, P, P, BOOL),
    "SpaceNeededForClone": (P, c.c_int, c.POINTER(U64)),
    "CheckRepair": (P, TEXT, BOOL),
    "IsAttachPossible": (P, P),
    "Attach": (P, P),
    "GetErrorText": (U64, TEXT),
    "FreeErrorText": (P,),
}
RESULTS: dict[str, Any] = {
    name: None for name in CALLS if name.startswith("Free") or name == "Exit"
}
RESULTS |= {"FreeBlockList": U64, "AllocateConnectParams": c.c_void_p, "GetErrorText": P}
RESULTS |= {"ListTransportModes": TEXT, "GetTransportMode": TEXT}
used: set[str] = set()


class NewDisk(c.Structure):
    _fields_ = [
        ("kind", c.c_int),
        ("adapter", c.c_int),
        ("hardware", c.c_uint16),
        ("capacity", U64),
        ("sizes", U32 * 2),
    ]


class Library:
    def __init__(self, path: str) -> None:
        self.loaded = c.CDLL(path)
        for name, arguments in CALLS.items():
            function = getattr(self.loaded, f"VixDiskLib_{name}")
            function.argtypes, function.restype = arguments, RESULTS.get(name, U64)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - a function of C
        used.add(name)
        return getattr(self.loaded, f"VixDiskLib_{name}")


def ok(code: int, wanted: int = 0) -> None:
    if code != wanted:
        raise AssertionError(f"code {code}, not {wanted}: {text_of(code)}")


def text_of(code: int) -> str:
    text = vix.GetErrorText(code, None)
    found = c.string_at(text).decode()
    vix.FreeErrorText(text)
    return found


def opened(of: c.c_void_p, path: bytes, flags: int = 0) -> c.c_void_p:
    disk = P()
    ok(vix.Open(of, path, flags, disk))
    return disk


def connections() -> c.c_void_p:
    params, of, copy, count = vix.AllocateConnectParams(), P(), P(), U32(7)
    ok(vix.ConnectEx(params, b"\0", b"", b"file", of))
    ok(vix.GetConnectParams(of, copy))
    vix.FreeConnectParams(copy)
    ok(vix.PrepareForAccess(params, b"me"))
    ok(vix.EndAccess(params, b"me"))
    ok(vix.Cleanup(params, c.byref(count), None))
    vix.FreeConnectParams(params)
    ok(vix.Disconnect(of))
    assert (count.value, vix.ListTransportModes()) == (0, b"file")
    ok(vix.Connect(None, of))
    return of


def data(disk: c.c_void_p, sector: int) -> None:
    done: list[int] = []
    callback = COMPLETED(lambda _, code: done.append(code))
    buffer = c.create_string_buffer(512)
    for i in range(100):
        content = bytes([sector, i]) * 256
        ok(vix.Write(disk, sector, 1, content))
        ok(vix.Read(disk, sector, 1, buffer))
        assert buffer.raw == content
    ok(vix.WriteAsync(disk, sector, 1, b"z" * 512, callback, None), ASYNC)
    ok(vix.ReadAsync(disk, sector, 1, buffer, callback, None), ASYNC)
    ok(vix.Wait(disk))
    assert (done, buffer.raw) == ([0, 0], b"z" * 512)


def blocks(disk: c.c_void_p) -> None:
    found = P()
    ok(vix.QueryAllocatedBlocks(disk, 0, 2048, 128, found))
    count = U32.from_address(found.value or 0).value
    runs = list((U64 * (2 * count)).from_address((found.value or 0) + 8))
    ok(vix.FreeBlockList(found))
    assert runs == [0, 128], runs


def metadata(disk: c.c_void_p) -> None:
    buffer, size = c.create_string_buffer(4096), c.c_size_t()
    ok(vix.WriteMetadata(disk, b"note", b"text"))
    ok(vix.ReadMetadata(disk, b"note", None, 0, c.byref(size)), TOO_SMALL)
    ok(vix.ReadMetadata(disk, b"note", buffer, size, None))
    assert (buffer.value, size.value) == (b"text", 5)
    ok(vix.GetMetadataKeys(disk, buffer, 4096, c.byref(size)))
    assert b"note" in buffer.raw[: size.value].split(b"\0")


def upkeep(of: c.c_void_p, disk: c.c_void_p) -> None:
    info, room = P(), U64()
    ok(vix.Flush(disk))
    ok(vix.Shrink(disk, None, None))
    ok(vix.Defragment(disk, None, None))
    ok(vix.SpaceNeededForClone(disk, 1, room))
    ok(vix.GetInfo(disk, info))
    assert U64.from_address((info.value or 0) + 24).value == 2048
    vix.FreeInfo(info)
    assert vix.GetTransportMode(disk) == b"file"
    ok(vix.CreateChild(disk, b"c.vmdk", 1, None, None))
    ok(vix.Close(disk))
    base, child = opened(of, b"d.vmdk", 4), opened(of, b"c.vmdk", 4 | 2)
    ok(vix.IsAttachPossible(base, child))
    ok(vix.Attach(base, child))
    ok(vix.Close(child))
    ok(vix.Clone(of, b"n.vmdk", of, b"c.vmdk", None, None, None, b"\0"))
    ok(vix.Grow(of, b"n.vmdk", 4096, b"\1", None, None))
    ok(vix.CheckRepair(of, b"n.vmdk", b"\0"))
    ok(vix.Rename(b"n.vmdk", b"m.vmdk"))
    ok(vix.Unlink(of, b"m.vmdk"))


def interrupted() -> bool:
    """Whether ^C still reaches this program."""
    try:
        c.pythonapi.PyErr_SetInterrupt()
        for _ in range(10**7):
            pass
    except KeyboardInterrupt:
        return True
    return False


def main() -> int:
    percents: list[int] = []
    warned: list[int] = []
    warn = LOG(lambda *_: warned.append(1))
    code = vix.InitEx(8, 0, None, warn, None, None, None)
    if code:
        print(code, text_of(code))
        return 3
    of = connections()
    new = NewDisk(1, 3, 7, 2048)

    def count(_: int, percent: int) -> bytes:
        percents.append(percent)
        return b"\1"

    progress = PROGRESS(count)
    ok(vix.Create(of, b"d.vmdk", c.byref(new), progress, None))
    assert (percents[0], percents[-1]) == (0, 100)
    disk = opened(of, b"d.vmdk")
    threads = [threading.Thread(target=data, args=(disk, n)) for n in range(4)]
    for thread in threads:
        thread.start()
    data(disk, 5)
    for thread in threads:
        thread.join()
    blocks(disk)
    metadata(disk)
    upkeep(of, disk)
    warned.clear()
    ok(vix.Unlink(of, b"none.vmdk"), 4)
    assert warned
    assert "none.vmdk" in text_of(4)
    assert interrupted()
    vix.Exit()
    ok(vix.Init(6, 7, None, None, None, None))
    vix.Exit()
    assert used >= set(CALLS), set(CALLS) - used
    assert len(CALLS) == 43
    print("all good")
    return 0


vix = Library(sys.argv[1])
if __name__ == "__main__":
    sys.exit(main())
