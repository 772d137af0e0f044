# SPDX-License-Identifier: Apache-2.0
"""Room for what is about to be written, where asking for it first makes the writes cheaper.

ext4 otherwise reserves it page by page, within each write: 1 GiB takes a third less time so
(measured: 0.14 s for 0.21). On tmpfs it takes longer, for the pages are made and cleared at once.
"""

from __future__ import annotations

import errno
import os

from diskkit.storage.kernelcopy import filesystem
from diskkit.storage.punching import allocate

PAYING = frozenset({"ext4"})
"""Filesystems, as the mount table names them, that this was measured on."""
_LONG = 4 << 20
_UNABLE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)
_known: dict[int, bool] = {}


def make_room(fd: int, offset: int, length: int) -> None:
    """Get room for a range of the file `fd` that is about to be written, if that pays.

    Raises `OSError` where there is no room left.
    """
    if length < _LONG:
        return
    device = os.fstat(fd).st_dev
    if device not in _known:
        _known[device] = filesystem(fd) in PAYING
    if not _known[device]:
        return
    try:
        allocate(fd, 0, offset, length)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
