# SPDX-License-Identifier: Apache-2.0
"""New files in a folder that is held open: whole under their names, or not there at all.

`newfile.py` does it for disks, by their paths. Here are many small files, whose names a guest made
up: nothing is looked up by a path, and a file has no name at all until it is whole, where the
filesystem can do that. It costs a few microseconds a file more than making it under its name.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAMELESS = getattr(os, "O_TMPFILE", 0)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_UNABLE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)


@contextmanager
def named_when_whole(folder: int, name: bytes, *, replace: bool = False) -> Iterator[int]:
    """A descriptor to write to, mode 0600; the file gets `name` in `folder` when all went well.

    Without `replace` a name that is there is refused, even one that appears meanwhile. Raises
    `OSError`.
    """
    fd, passing = _make(folder, replace=replace)
    try:
        yield fd
        if passing is None:
            # Only this way may users other than root give a name to what has none.
            os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=folder, follow_symlinks=True)
        elif replace:
            os.replace(passing, name, src_dir_fd=folder, dst_dir_fd=folder)
        else:
            _rename(folder, passing, name)
        passing = None
    finally:
        if passing is not None:
            os.unlink(passing, dir_fd=folder)
        os.close(fd)


def _make(folder: int, *, replace: bool) -> tuple[int, bytes | None]:
    """The file, and its passing name if it must have one."""
    if _NAMELESS and not replace and os.path.exists("/proc/self/fd"):
        try:
            flags = _NAMELESS | os.O_WRONLY | os.O_CLOEXEC
            return os.open(b".", flags, 0o600, dir_fd=folder), None
        except OSError as error:
            if error.errno not in _UNABLE:
                raise
    passing = b".%s.part" % os.urandom(8).hex().encode()
    return os.open(passing, _NEW, 0o600, dir_fd=folder), passing


def _rename(folder: int, passing: bytes, name: bytes) -> None:
    """Unlike a rename, a link never replaces what is there."""
    try:
        os.link(passing, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A filesystem without links.
        if _is_there(folder, name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        os.rename(passing, name, src_dir_fd=folder, dst_dir_fd=folder)
    else:
        os.unlink(passing, dir_fd=folder)


def _is_there(folder: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
