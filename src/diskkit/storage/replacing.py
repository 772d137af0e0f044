# SPDX-License-Identifier: Apache-2.0
"""A file's whole content replaced: whoever opens it, whenever, finds the old or the new."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from diskkit.errors import LockedError, StorageError
from diskkit.storage import locking
from diskkit.storage.local import LocalFile
from diskkit.storage.newfile import passing_name, sync_folder, write_errors
from diskkit.storage.writing import write_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from diskkit.interfaces import Storage


def replaced(old: Storage, data: bytes) -> LocalFile:
    """The file that took the place of `old`, with `data` in it: durable, open, and locked.

    `old`, which stays open, is the file that its name leads to; symbolic links stay. Owner and mode
    are kept. Raises `StorageError`, and then the old file is there still, but for an error after
    the new one got its name: the text says so.
    """
    return filled_anew(old, lambda fd: write_all(fd, data, 0))


def filled_anew(old: Storage, fill: Callable[[int], object]) -> LocalFile:
    """`replaced`, for more than fits into memory: `fill` writes it to a file descriptor.

    What `fill` raises is raised, and the old file stays.
    """
    real = os.path.realpath(old.name)
    temporary = passing_name(real)
    fd = -1
    try:
        with write_errors(old.name):
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            make_alike(fd, old)
            fill(fd)
            os.fsync(fd)
            # Locked before anybody can find it, so that nobody comes between.
            locking.hold(fd, old.name, write=True)
            _check_same(real, old)
            os.replace(temporary, real)
    except BaseException:
        if fd >= 0:
            os.close(fd)
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise
    new = LocalFile(fd, old.name)
    try:
        sync_folder(os.path.dirname(real))
    except OSError as error:
        new.close()
        text = f"it was replaced, but a power cut may undo that: {error.strerror}"
        raise StorageError(old.name, text, errno=error.errno) from error
    return new


def make_alike(fd: int, old: Storage) -> None:
    """Make the new file as accessible as the old one is."""
    assert old.descriptor is not None
    before, mine = os.fstat(old.descriptor), os.fstat(fd)
    if (before.st_uid, before.st_gid) != (mine.st_uid, mine.st_gid):
        try:
            os.fchown(fd, before.st_uid, before.st_gid)
        except PermissionError as error:
            owner = f"{before.st_uid}:{before.st_gid}"
            text = f"it belongs to {owner}, and a new file in its place would not: write as {owner}"
            raise StorageError(old.name, text, errno=error.errno) from error
    os.fchmod(fd, before.st_mode & 0o7777)


def _check_same(real: str, old: Storage) -> None:
    now = os.stat(real)
    if (now.st_dev, now.st_ino) != old.identity:
        raise LockedError(old.name, "another program replaced it just now")
