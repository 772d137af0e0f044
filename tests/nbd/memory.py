# SPDX-License-Identifier: Apache-2.0
"""A disk in memory that does what a test wants."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from diskkit.disk import Disk, Source
from diskkit.errors import StorageError
from diskkit.runs import State
from diskkit.table import single

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from threading import Barrier, Event

    from diskkit.info import DiskInfo
    from diskkit.table import RunTable


SIZE = 3 << 20
CONTENT = random.Random(1).randbytes(1 << 20) + bytes(1 << 20) + random.Random(2).randbytes(1 << 20)


class MemoryDisk(Disk):
    """A disk in memory whose every move a test can make fail, or wait."""

    def __init__(self, content: bytes) -> None:
        self.path, self.size = "memory", len(content)
        self.writable = True
        self.content = bytearray(content)
        self.bad: range = range(0)
        self.error: Exception = StorageError("memory", "is bad there", errno=5)
        self.flushed = 0
        self.gate: Event | None = None
        self.together: Barrier | None = None

    @property
    def info(self) -> DiskInfo:
        raise NotImplementedError

    @property
    def sources(self) -> Sequence[Source]:
        return (Source(0),)

    def _touch(self, offset: int, length: int) -> None:
        if self.gate is not None:
            assert self.gate.wait(30)
        if self.together is not None:
            self.together.wait(30)
        if offset < self.bad.stop and offset + length > self.bad.start:
            raise self.error

    def _fill(self, offset: int, buffer: memoryview) -> None:
        self._touch(offset, len(buffer))
        buffer[:] = self.content[offset : offset + len(buffer)]

    def _scan(self, offset: int, length: int, links: int | None) -> Iterator[RunTable]:
        self._touch(offset, length)
        yield single(offset, length, State.DATA, offset)

    def _write(self, offset: int, data: memoryview) -> None:
        self._touch(offset, len(data))
        self.content[offset : offset + len(data)] = data

    def _zero(self, offset: int, length: int, *, give_back: bool) -> None:
        self._touch(offset, length)
        self.content[offset : offset + length] = bytes(length)

    def _flush(self) -> None:
        self.flushed += 1

    def close(self) -> None:
        pass
