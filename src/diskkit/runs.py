# SPDX-License-Identifier: Apache-2.0
"""What a map is made of: `State`, `Run`, `Range`. Pure, and free of numpy so that it loads fast.

Contract of every sequence of runs diskkit hands out: ascending, contiguous, covering exactly the
range asked for, neighbours that say the same merged, and no guest data read to make it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class State(IntEnum):
    """What one link of a chain, or a whole chain, says of a range."""

    HOLE = 0
    """Not here: ask the parent; reads as zeros where no link has it."""
    ZERO = 1
    """Known to be zeros here, whatever a parent holds."""
    DATA = 2
    """Bytes lie in a file, as they are."""
    PACKED = 3
    """Bytes lie in a file, compressed: ask the map to load them. Inside diskkit only."""
    BAD = 4
    """No bytes can be had; the map explains why. Inside diskkit only."""

    def __str__(self) -> str:
        """The word used in JSON and on screen: "hole", "zero", "data"."""
        return self.name.lower()


class Run(NamedTuple):
    """A stretch of a disk that is in one state. All numbers are bytes."""

    offset: int
    length: int
    state: State
    """DATA, ZERO or HOLE."""
    link: int
    """The link that decides: 0 is the leaf. For a HOLE, the base: every link was asked."""
    path: str | None
    """The file that holds the bytes as they are; None for zeros, holes and compressed data."""
    file_offset: int | None
    """Where in `path` the run begins; None exactly when `path` is."""


def joined(intervals: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Ascending [begin, end) intervals with those that touch or overlap made one."""
    held: tuple[int, int] | None = None
    for begin, end in intervals:
        if held is not None and begin <= held[1]:
            held = held[0], max(held[1], end)
            continue
        if held is not None:
            yield held
        held = begin, end
    if held is not None:
        yield held


class Range(NamedTuple):
    """A stretch of a disk, in bytes."""

    offset: int
    length: int
