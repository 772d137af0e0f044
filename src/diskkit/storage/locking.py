# SPDX-License-Identifier: Apache-2.0
"""Locks that keep a writer apart from everyone else, qemu's programs included.

They are the kernel's locks on open files, so they end with the process that held them: a dead
process leaves nothing behind to be judged. The bytes locked are those by which qemu's programs tell
each other what they do (qemu, docs/system/qemu-block-drivers, "Disk image file locking"): byte
100+n says "I use permission n", byte 200+n "I bear nobody else with permission n". Everybody marks
first and looks then, so of two that come at once at least one goes away.

A reader bears no writer, and a writer neither readers nor writers: what is read does not change.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING

from diskkit.errors import LockedError

if TYPE_CHECKING:
    from collections.abc import Iterable

_READ, _WRITE, _RESIZE = 0, 1, 3
_USES, _BARS = 100, 200
_SET, _GET = getattr(fcntl, "F_OFD_SETLK", None), getattr(fcntl, "F_OFD_GETLK", None)
_RECORD = struct.Struct("hhqqi4x")
_NO_LOCKS = (errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY)


def hold(fd: int, name: str, *, write: bool) -> bool:
    """Lock an open file until it is closed, for reading or for writing.

    Returns whether it is locked: False where the filesystem, or the system, has no such locks.
    Raises `LockedError` if somebody uses the file in a way that does not go with it. Never waits.
    """
    if _SET is None or _GET is None:
        return _hold_whole(fd, name, write=write)
    uses = (_READ, _WRITE, _RESIZE) if write else (_READ,)
    try:
        # Not all of qemu's readers bar writers, so a writer bars them.
        bars = (_READ, _WRITE, _RESIZE) if write else (_WRITE, _RESIZE)
        _mark(fd, [*(_USES + n for n in uses), *(_BARS + n for n in bars)])
        written = _taken(fd, [_USES + _WRITE, _USES + _RESIZE])
        barred = _taken(fd, [_BARS + n for n in uses])
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    if written or barred:
        raise LockedError(name, f"another program {'writes' if written else 'reads'} it")
    return True


def _mark(fd: int, places: Iterable[int]) -> None:
    assert _SET is not None
    for at in places:
        fcntl.fcntl(fd, _SET, _RECORD.pack(fcntl.F_RDLCK, os.SEEK_SET, at, 1, 0))


def _taken(fd: int, places: Iterable[int]) -> bool:
    """Whether another open file has a mark at one of `places`."""
    assert _GET is not None
    for at in places:
        asked = _RECORD.pack(fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0)
        found = _RECORD.unpack(fcntl.fcntl(fd, _GET, asked))
        if found[0] != fcntl.F_UNLCK:
            return True
    return False


def _hold_whole(fd: int, name: str, *, write: bool) -> bool:
    """Where there are no locks on parts of open files: one on the whole, for diskkit alone."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if write else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LockedError(name, "another program uses it") from None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def product_lock(path: str) -> str:
    """The lock that a VMware hosted product keeps beside a disk it has open; "" if there is none.

    These are folders named after the file. What is in them is not public, so nobody but the
    product can tell a lock from one that a crash left: not verified against VMware.
    """
    folder = path + ".lck"
    try:
        held = any(name.endswith(".lck") for name in os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return folder if held else ""
