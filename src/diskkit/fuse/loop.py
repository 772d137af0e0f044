# SPDX-License-Identifier: Apache-2.0
"""Loop devices: a file as a block device, by the kernel's own calls (uapi/linux/loop.h)."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from struct import Struct
from typing import NamedTuple

from diskkit.errors import StorageError

_CONTROL = "/dev/loop-control"
_GET_FREE, _CONFIGURE, _GET_STATUS = 0x4C82, 0x4C0A, 0x4C05
_READ_ONLY, _AUTOCLEAR, _DIRECT = 1, 4, 16
_INFO = Struct("=5Q4I64s64s32s2Q")
"""device, inode, rdevice, offset, sizelimit; number, encryption (2), flags; name, ..."""
_CONFIG = Struct(f"=II{_INFO.size}s64x")
_NAME_FIELD = 9
_TRIES = 64
"""Others may take the free device that the kernel named; so often in a row they do not."""


class NoLoop(StorageError):
    """No loop device can be had."""


class Loop(NamedTuple):
    """A loop device that is given back when nobody has it open any more."""

    device: int
    """An open descriptor that keeps it until it is mounted."""
    path: str


def check_usable() -> None:
    """Raise `NoLoop` where loop devices cannot be had."""
    try:
        os.close(os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        text = f"no loop devices here: {error.strerror}"
        raise NoLoop(_CONTROL, text, errno=error.errno) from None


def attach(file: int, label: bytes, *, read_only: bool) -> Loop:
    """A free loop device over the open `file`, past the page cache where the kernel can do that.

    It carries `label`, at most 63 bytes, so that it can be told from any other later. Raises
    `NoLoop` if there is none.
    """
    flags = _AUTOCLEAR | _DIRECT | (_READ_ONLY if read_only else 0)
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, label, b"", b"", 0, 0)
    config = _CONFIG.pack(file, 0, info)
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    path = _CONTROL
    try:
        for _ in range(_TRIES):
            path = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
            mode = os.O_RDONLY if read_only else os.O_RDWR
            device = os.open(path, mode | os.O_CLOEXEC)
            try:
                # Bytes, not a bytearray: with those Python keeps its lock, and the kernel may ask
                # us about the file meanwhile.
                fcntl.ioctl(device, _CONFIGURE, config)
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise
            else:
                return Loop(device, path)
    except OSError as error:
        text = f"no loop device can be had: {error.strerror}"
        raise NoLoop(path, text, errno=error.errno) from None
    finally:
        os.close(control)
    raise NoLoop(_CONTROL, "no loop device is free")


def label_of(path: str) -> bytes | None:
    """The label that `attach` gave the device at `path`; None if it is not in use, or is none."""
    try:
        device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not stat.S_ISBLK(os.fstat(device).st_mode):
            return None
        found = fcntl.ioctl(device, _GET_STATUS, bytes(_INFO.size))
    except OSError:
        return None
    finally:
        os.close(device)
    label: bytes = _INFO.unpack(found)[_NAME_FIELD]
    return label.rstrip(b"\0")
