# SPDX-License-Identifier: Apache-2.0
"""A disk as a Python file object, for whatever reads files: parsers, hashers, archivers."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from diskkit.chain import Chain

_BUFFER = 1 << 20


class _Reader(io.RawIOBase):
    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._chain.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        view = view[: max(0, min(len(view), self._chain.size - self._at))]
        self._chain.read_into(self._at, view)
        self._at += len(view)
        return len(view)


def open_reader(chain: Chain) -> io.BufferedReader:
    """A buffered reader over the whole disk."""
    return io.BufferedReader(_Reader(chain), _BUFFER)
