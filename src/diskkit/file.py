# SPDX-License-Identifier: Apache-2.0
"""A disk as a Python file object, for whatever reads files: parsers, hashers, archivers."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from diskkit.interfaces import Readable

_BUFFER = 1 << 20


class _Reader(io.RawIOBase):
    def __init__(self, disk: Readable) -> None:
        self._disk = disk
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._disk.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        view = view[: max(0, min(len(view), self._disk.size - self._at))]
        if view:  # seeking beyond the end is fine, and there is nothing to read
            self._disk.read_into(self._at, view)
        self._at += len(view)
        return len(view)


def open_reader(disk: Readable) -> io.BufferedReader:
    """A buffered reader over the whole disk."""
    return io.BufferedReader(_Reader(disk), _BUFFER)
