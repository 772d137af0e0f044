# SPDX-License-Identifier: Apache-2.0
"""Making parts of a file read as zeros without writing them, where the filesystem can."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from diskkit.storage.writing import write_all

if TYPE_CHECKING:
    from collections.abc import Callable

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10
_UNABLE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)
_PIECE = 4 << 20


def erase(fd: int, offset: int, length: int, *, give_back: bool) -> None:
    """Make a range that lies inside the file read as zeros, with or without keeping its room."""
    if not length:
        return
    mode = _KEEP_SIZE | (_PUNCH_HOLE if give_back else _ZERO_RANGE)
    try:
        allocate(fd, mode, offset, length)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
        zeros = memoryview(bytes(min(length, _PIECE)))
        end = offset + length
        while offset < end:
            part = zeros[: end - offset]
            write_all(fd, part, offset)
            offset += len(part)


def give_back(fd: int, offset: int, length: int) -> bool:
    """Make a range read as zeros and take no room; False where the filesystem cannot.

    Unlike `erase` it never writes the zeros. Raises `OSError`.
    """
    try:
        allocate(fd, _KEEP_SIZE | _PUNCH_HOLE, offset, length)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
        return False
    return True


def allocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2), which Python's own module does not offer with a mode. Raises `OSError`."""
    call = _fallocate()
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    while call(fd, mode, offset, length):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


@cache
def _fallocate() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        found: Any = ctypes.CDLL(None, use_errno=True).fallocate64
    except (OSError, AttributeError):
        return None
    found.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    found.restype = ctypes.c_int
    call: Callable[..., int] = found
    return call
