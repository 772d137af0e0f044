# SPDX-License-Identifier: Apache-2.0
"""What mends a disk: a plan of changed bytes, and the files as they would be once it is done.

A plan is made by looking only. Its patches are in stages, each of which is durable before the next:
new bytes that nothing points at, tables before directories, the redundant copy before the primary,
the header's marks last. So a repair that is interrupted leaves a disk that can be repaired again.

What is done for each kind is in mending_hosted, mending_stream, mending_cowd and mending_text.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from diskkit.interfaces import Place, Storage
from diskkit.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST = 1 << 16
"""Mends of one plan; the rest waits for the next run."""
_LISTED = 10


class Stage(IntEnum):
    """What has to be durable before what."""

    HEAD = 0
    """What makes the file open at all."""
    ROOM = 1
    """Bytes that nothing points at yet."""
    REDUNDANT_TABLE = 2
    TABLE = 3
    REDUNDANT_DIRECTORY = 4
    DIRECTORY = 5
    SIZE = 6
    CLOSE = 7
    """Marks that say that all is well."""


class Patch(NamedTuple):
    """Bytes that change in one file."""

    stage: Stage
    offset: int
    """Where, bytes."""
    length: int
    data: bytes | None
    """The new bytes; None to copy them from `source`, in the same file."""
    source: int = -1
    """For a copy: where from. What lies beyond the file's end there counts as zeros."""


class Mend(NamedTuple):
    """One thing that a repair does."""

    code: str
    """The stable short name of what is wrong, as `check` has it where it finds it."""
    where: str
    """The file."""
    message: str
    """One line: what is wrong, and what is done."""
    lossy: bool = False
    """Whether something that may have been there is given up: done on request only."""
    patches: tuple[Patch, ...] = ()
    size: int | None = None
    """The size that the file is cut to."""
    text: bytes | None = None
    """The descriptor that takes the place of the link's."""


class Plan:
    """What one repair would do, and what it has to leave."""

    def __init__(self, *, lossy: bool) -> None:
        """`lossy` allows mends that give something up."""
        self.lossy = lossy
        self.mends: list[Mend] = []
        self.left: list[Problem] = []
        self._counts: dict[tuple[str, str], int] = {}
        self.cut = False
        """Whether there is more to do than one plan holds."""

    def add(self, mend: Mend) -> bool:
        """Whether it will be done: not without leave if it is lossy."""
        if mend.lossy and not self.lossy:
            text = f"{mend.message}: only with --lossy"
            self.left.append(Problem(mend.code, "error", mend.where, text))
            self.mends.append(mend)
            return False
        if len(self.mends) >= _MOST:
            if not self.cut:
                text = f"more than {_MOST} things to mend: repair it again for the rest"
                self.left.append(Problem("repair.more", "error", mend.where, text))
            self.cut = True
            return False
        self.mends.append(mend)
        return True

    def leave(self, code: str, where: str, message: str, severity: str = "error") -> None:
        """Note what is not mended; of a kind only the first few."""
        count = self._counts[code, where] = self._counts.get((code, where), 0) + 1
        if count <= _LISTED:
            self.left.append(
                Problem(code, "error" if severity == "error" else "warning", where, message)
            )

    def hopeless(self, where: str) -> bool:
        """Whether errors of a file remain."""
        return any(p.severity == "error" and p.where == where for p in self.left)

    @property
    def chosen(self) -> list[Mend]:
        """What will be done."""
        return [m for m in self.mends if self.lossy or not m.lossy]


class View(Storage):
    """A file as it would be with some patches. Closing it leaves the file open."""

    def __init__(self, base: Storage) -> None:
        """`base` stays the caller's."""
        self.base = base
        self.name, self.identity, self.size = base.name, base.identity, base.size
        self._patches: list[tuple[int, bytes]] = []

    def patch(self, offset: int, data: bytes) -> None:
        """Let these bytes be there."""
        self._patches.append((offset, data))
        self.size = max(self.size, offset + len(data))

    def apply(self, mend: Mend) -> None:
        """Let all be as after a mend; copies are not seen."""
        for patch in mend.patches:
            if patch.data is not None:
                self.patch(patch.offset, patch.data)
        if mend.size is not None:
            self.size = mend.size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """The file's bytes, with the patches over them in their order."""
        end = offset + len(buffer)
        inside = max(0, min(end, self.base.size) - offset)
        if inside < len(buffer) and end > self.size:
            self.base.read_into(offset, buffer)  # raises
        if inside:
            self.base.read_into(offset, buffer[:inside])
        buffer[inside:] = bytes(len(buffer) - inside)
        for at, data in self._patches:
            low, high = max(at, offset), min(at + len(data), end)
            if low < high:
                buffer[low - offset : high - offset] = data[low - at : high - at]

    @property
    def physical_bytes(self) -> int:
        """Never less than its size: what is patched lies in no hole."""
        return self.size if self._patches else self.base.physical_bytes

    def close(self) -> None:
        """Nothing: whoever opened the file closes it."""


class Views(Place):
    """The files of one link, each opened once, as they would be."""

    def __init__(self, place: Place, write: Callable[[str], bool]) -> None:
        """`write` tells by an extent's name whether it is opened for writing."""
        self._place, self._write = place, write
        self.opened: dict[str, View] = {}

    def open_extent(self, name: str, *, write: bool = False) -> Storage:
        """The file as it would be; opened when first asked for, for writing or not."""
        if name not in self.opened:
            found = self._place.open_extent(name, write=self._write(name))
            self.opened[name] = View(found)
        return self.opened[name]

    def find_parent(self, hint: str) -> str:
        """As ever."""
        return self._place.find_parent(hint)


def pieces_of(patches: list[Patch]) -> list[tuple[int, int]]:
    """The ranges that patches change, as ascending (begin, end), joined."""
    found: list[list[int]] = []
    for begin, end in sorted((p.offset, p.offset + p.length) for p in patches):
        if found and begin <= found[-1][1]:
            found[-1][1] = max(found[-1][1], end)
        else:
            found.append([begin, end])
    return [(a, b) for a, b in found]
