# SPDX-License-Identifier: Apache-2.0
"""Files inside of disks, without mounting and without root.

`open_filesystem(volume)` gives a `FileSystem`. The readers of filesystems parse hostile bytes in C,
so they run in a process of their own (`process.py`), which has nothing but a socket.
"""

from diskkit.files.filesystem import Extent, FileSystem, Node
from diskkit.files.guest import GuestOS, detect
from diskkit.files.opening import open_filesystem, why_unreadable

__all__ = [
    "Extent",
    "FileSystem",
    "GuestOS",
    "Node",
    "detect",
    "open_filesystem",
    "why_unreadable",
]
