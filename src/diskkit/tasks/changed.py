# SPDX-License-Identifier: Apache-2.0
"""What differs between two disks that are links of one chain, or points of one disk.

From metadata where it can: two disks that share a link differ at most where a link above the
shared one holds something. Two disks that share nothing are read and compared. The answer says
which it was; neither is ever taken for the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import merge
from typing import TYPE_CHECKING

from diskkit.chaindisk import ChainDisk
from diskkit.mapping import ranges_where
from diskkit.runs import Range, State, joined
from diskkit.tasks.compare import differences

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diskkit.disk import Disk
    from diskkit.tasks.work import Progress


@dataclass(frozen=True, slots=True)
class Changed:
    """Where `new` may differ from `old`. Iterate `ranges` once, while both disks are open."""

    capacity: int
    """Of the new disk, bytes."""
    method: str
    """"metadata": every byte outside `ranges` is known to be equal; inside, it was written to.
    "content": the disks share no link; both were read, and `ranges` are the units that differ."""
    ranges: Iterator[Range]
    """Ascending, apart from each other."""


def changed(
    old: Disk, new: Disk, *, threads: int | None = None, progress: Progress | None = None
) -> Changed:
    """The ranges in which `old` and `new` differ."""
    shared = _shared_link(old, new)
    if shared is None:
        found = differences(old, new, threads=threads, progress=progress)
        return Changed(new.size, "content", found)
    return Changed(new.size, "metadata", _written_above(old, new, *shared))


def _shared_link(old: Disk, new: Disk) -> tuple[int, int] | None:
    """How many links each disk has above the first one that both have."""
    if not isinstance(old, ChainDisk) or not isinstance(new, ChainDisk):
        return None
    known = {link.storage.identity: number for number, link in enumerate(new.chain.links)}
    for number, link in enumerate(old.chain.links):
        if link.storage.identity in known:
            return number, known[link.storage.identity]
    return None


def _written_above(old: Disk, new: Disk, links_old: int, links_new: int) -> Iterator[Range]:
    streams = [
        ranges_where(disk.tables(links=count), State.HOLE, invert=True)
        for disk, count in ((old, links_old), (new, links_new))
        if count
    ]
    for begin, end in joined(merge(*streams)):
        yield Range(begin, end - begin)
