# SPDX-License-Identifier: Apache-2.0
"""Writing all of something, and writing little things together."""

from __future__ import annotations

import os

LONG = 1 << 20
"""Bytes that are worth a write of their own."""


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`; a short write is continued, an error raised as it is."""
    done = os.pwrite(fd, data, offset)
    if done < len(data):
        view = memoryview(data)
        while done < len(view):
            done += os.pwrite(fd, view[done:], offset + done)


def append_all(fd: int, data: bytes | memoryview) -> None:
    """The same where the file, or the pipe, stands."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class Gather:
    """Collects what is written next to each other, so that it is written in few large pieces.

    Large writes get large pages in the page cache, which costs a fraction of many small ones.
    """

    def __init__(self, out: int) -> None:
        """`out` is a file descriptor."""
        self._out = out
        self._buffer = memoryview(bytearray(LONG))
        self._begin = self._used = 0

    def room(self, start: int, length: int) -> memoryview:
        """Where to put up to `length` bytes meant for `start`; the caller fills all of it."""
        if self._used == len(self._buffer) or start != self._begin + self._used:
            self.flush()
            self._begin = start
        part = self._buffer[self._used : self._used + length]
        self._used += len(part)
        return part

    def flush(self) -> None:
        """Write what was collected."""
        write_all(self._out, self._buffer[: self._used], self._begin)
        self._begin, self._used = self._begin + self._used, 0
