# SPDX-License-Identifier: Apache-2.0
"""Volumes with changed bytes: the file stays as it is, changes lie over it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from files.chains import data

if TYPE_CHECKING:
    import random
    from pathlib import Path

MARKS = {
    "xfs": (b"XFSB", b"XAGF", b"XAGI", b"IN", b"XDB3", b"XDD3", b"IAB3", b"XARM", b"BMA3"),
    "ntfs": (b"FILE", b"INDX", b"\xeb\x52\x90NTFS"),
    "fat16": (),
    "fat32": (),
}
"""How structures begin that tell what they are; without any, the first megabyte has them."""
_SECTOR = 512
_VALUES = (b"\0", b"\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80", b"\1", b"../x")


class Spoiled:
    """A volume in a file, some bytes of which read otherwise."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._file).st_size
        self.changes: dict[int, bytes] = {}
        self.asked = 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        assert 0 <= offset <= offset + len(buffer) <= self.size
        assert os.preadv(self._file, [buffer], offset) == len(buffer)
        self.asked += len(buffer)
        end = offset + len(buffer)
        for at, value in self.changes.items():
            begin, stop = max(at, offset), min(at + len(value), end)
            if begin < stop:
                buffer[begin - offset : stop - offset] = value[begin - at : stop - at]

    def close(self) -> None:
        os.close(self._file)


def structures(path: Path, kind: str) -> list[int]:
    """Sectors in which the filesystem's own structures begin."""
    found = []
    marks = MARKS[kind]
    for at, chunk in data(path):
        for sector in range(0, len(chunk), _SECTOR):
            begins = chunk[sector : sector + 8]
            if begins.startswith(marks) if marks else at < 1 << 20 and any(begins):
                found.append(at + sector)
    return found


def spoil(volume: Spoiled, places: list[int], chance: random.Random) -> None:
    """Change a few fields: more often at the front of a structure, where most of them are."""
    volume.changes.clear()
    for _ in range(chance.choice((1, 3, 30))):
        # The superblock comes first: spoiled too often, nothing else would be looked at.
        at = places[0] if chance.random() < 0.1 else chance.choice(places)
        inside = chance.choice((chance.randrange(64), chance.randrange(_SECTOR - 8)))
        value = chance.choice((*_VALUES, chance.randbytes(4)))
        volume.changes[at + inside] = value
