# SPDX-License-Identifier: Apache-2.0
"""`OverlayDisk`: a disk over a disk. What is written goes to a scratch file; below stays untouched.

The scratch file is a link like any other, an empty child of the disk below, so it keeps its own map
of what was changed, in an order that a crash cannot hurt. It remembers what it was made over, and
is refused over anything else: mixed content is worse than none. Up to 2 TiB it is one file; larger
disks take the kind of child that can be as large, which has its extent in a second one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from diskkit.chain import resolve
from diskkit.disk import Disk, Source
from diskkit.errors import ChainError, UsageError
from diskkit.formats.vmdk import descriptor, edit
from diskkit.formats.vmdk.compose import (
    NewDisk,
    check_name,
    compose,
    extent_line,
    extent_name,
    new_identity,
)
from diskkit.formats.vmdk.fresh_esx import MOST_SESPARSE, SESPARSE_SUFFIX, write_empty_sesparse
from diskkit.formats.vmdk.writers import MOST_SPARSE, SparseWriter
from diskkit.info import describe_link
from diskkit.interfaces import OpenPolicy
from diskkit.livechain import LiveChain
from diskkit.runs import State
from diskkit.storage.newfile import new_file, new_files
from diskkit.storage.writing import append_all
from diskkit.table import overlay
from diskkit.units import SECTOR, align_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from diskkit.formats.link import Link
    from diskkit.info import DiskInfo
    from diskkit.table import RunTable

_KEY = "diskkit.overlayOf"
_NO_CID = "fffffffe"
"""The content ID that a child records of a parent that never was written (vmdk-formats 2.8)."""


def open_overlay(below: Disk, path: str, policy: OpenPolicy | None = None) -> OverlayDisk:
    """A writable disk that reads as `below` until it is written to; `path` keeps what is.

    A new file is made; one that an earlier overlay of the same disk left, even by being killed, is
    used again. Takes over `below`, unless this fails. Raises `UsageError` for a disk too large for
    an overlay, `ChainError` for a file that is no overlay of this disk as it is now, and what
    opening the file raises.
    """
    # seSparse is only experimental for files that others shall read.
    policy = (policy or OpenPolicy())._replace(
        writable=True, single_link=True, force=True, experimental=True
    )
    if not os.path.exists(path):  # noqa: PTH110 - as it was given
        _make(below, path)
    links = list(resolve(path, "vmdk", policy))
    try:
        _check(links[0], below)
        # The link is not alone: what it does not hold comes from the disk below.
        whole = policy._replace(single_link=False)
        return OverlayDisk(below, LiveChain(links, whole, _Below(below, links[0].capacity)))
    except BaseException:
        for link in links:
            link.close()
        raise


def _check(link: Link, below: Disk) -> None:
    """Raise unless `link` is an overlay of `below` as it is now."""
    ddb = link.descriptor.ddb if link.descriptor else {}
    was = {key.lower(): value for key, value in ddb.items()}.get(_KEY.lower())
    if was is None:
        problem = "is no overlay that diskkit made"
    elif was != _fingerprint(below):
        problem = f"was made over another disk, or over this one before it changed ({was})"
    elif link.capacity != align_up(below.size, SECTOR):
        problem = f"has {link.capacity} bytes, the disk below {below.size}"
    else:
        return
    advice = "remove it, or name another file"
    raise ChainError(problem, path=link.path, structure="overlay", advice=advice)


def _fingerprint(below: Disk) -> str:
    """What tells this content from another, as far as it can be told without reading it."""
    info = below.info
    if info.cid is not None:
        return f"content ID {info.cid}, {below.size} bytes"
    if info.format == "raw":
        changed = os.stat(below.path).st_mtime_ns  # noqa: PTH116 - as it was given
        return f"raw image of {below.size} bytes, changed {changed}"
    return f"{info.format} disk of {below.size} bytes"


def _make(below: Disk, path: str) -> None:
    """An empty child. Where the disk below is no VMDK, it can be opened over it alone."""
    capacity = align_up(below.size, SECTOR)
    base = os.path.basename(path)  # noqa: PTH119 - as it was given
    if capacity <= MOST_SPARSE:
        text = _text(below, "monolithicSparse", extent_line(capacity, "SPARSE", base))
        with new_file(path, force=False, sync=True) as (fd, _):
            SparseWriter(fd, path, capacity, text).finish()
        return
    if capacity > MOST_SESPARSE:
        problem = f"an overlay holds at most {MOST_SESPARSE} bytes, not {capacity}"
        raise UsageError(f"{path}: {problem}")
    extent = extent_name(path, SESPARSE_SUFFIX)
    if os.path.lexists(extent):
        problem = f"exists already, without {path} that it would belong to"
        raise UsageError(f"{extent}: {problem} (remove it, or name another file)")
    line = extent_line(capacity, "SESPARSE", extent_name(base, SESPARSE_SUFFIX))
    text = _text(below, "seSparse", line)
    with new_files([extent, path], force=False, sync=True) as ((inside, _), (outside, _)):
        write_empty_sesparse(inside, capacity)
        append_all(outside, text)


def _text(below: Disk, kind: str, line: str) -> bytes:
    """The descriptor."""
    info = below.info
    hint = os.path.realpath(below.path) if info.cid is not None else below.path
    capacity = align_up(below.size, SECTOR)
    return edit.edited(
        descriptor.parse(compose(NewDisk(kind, capacity, new_identity()), [line])),
        header={"parentCID": info.cid or _NO_CID, "parentFileNameHint": check_name(hint)},
        ddb={_KEY: _fingerprint(below)},
    )


class _Below:
    """The disk below, as long as the overlay: a link has whole sectors, a disk any size."""

    closed = False

    def __init__(self, disk: Disk, capacity: int) -> None:
        self._disk, self._capacity = disk, capacity

    def read(self, offset: int, length: int) -> bytes:
        """With zeros behind the disk's end."""
        n = max(0, min(length, self._disk.size - offset))
        return self._disk.read(offset, n).ljust(length, b"\0") if n else bytes(length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """What is read by users never reaches behind the disk's end."""
        self._disk.read_into(offset, buffer)

    def tables(self, offset: int, length: int) -> Iterator[RunTable]:
        """What the disk has; behind its end nothing is."""
        return self._disk.tables(offset, max(0, min(length, self._disk.size - offset)))


class OverlayDisk(Disk):
    """A disk whose changes go elsewhere. Its first link is the scratch file."""

    writable = True

    def __init__(self, below: Disk, top: LiveChain) -> None:
        """Take over both; `open_overlay` is the way to get one."""
        self.path = below.path
        self.size = below.size
        self.granularity = top.links[0].extents[0].map.granularity
        self.parallel = below.parallel
        self._below, self._top = below, top

    @property
    def info(self) -> DiskInfo:
        """The disk below with one link more."""
        self._top.check_open()
        info, link = self._below.info, describe_link(self._top.links[0])
        return info._replace(
            links=[link, *info.links], physical_bytes=info.physical_bytes + link.physical_bytes
        )

    @property
    def sources(self) -> Sequence[Source]:
        """The scratch file, then those of the disk below, a link further down."""
        storage = self._top.links[0].extents[0].storage
        assert storage is not None
        mine = Source(0, storage.name, storage.identity, storage.size)
        return [mine, *(s._replace(link=s.link + 1) for s in self._below.sources)]

    def _fill(self, offset: int, buffer: memoryview) -> None:
        self._top.read_into(offset, buffer)

    def _scan(self, offset: int, length: int, links: int | None) -> Iterator[RunTable]:
        if links is not None and links < 2:
            base = len(self._below.sources)
            for table in self._top.tables(offset, length):
                sources = np.where(table.states == State.HOLE, base, table.sources)
                yield table._replace(sources=sources)
            return
        deeper = None if links is None else links - 1
        yield from self._merged(
            offset, length, lambda at, n: self._below.tables(at, n, links=deeper)
        )

    def stored(self, offset: int = 0, length: int | None = None) -> Iterator[RunTable]:
        """`tables`, with what reads as zeros below turned to zeros."""
        return self._merged(*self._range(offset, length), self._below.stored)

    def _merged(
        self, offset: int, length: int, ask: Callable[[int, int], Iterator[RunTable]]
    ) -> Iterator[RunTable]:
        """Both maps as one; what is a hole above is asked of the disk below."""
        end = offset + length
        below: RunTable | None = None
        for top in self._top.tables(offset, length):
            while offset < top.end:
                rest = top.since(offset)
                if not (rest.states == State.HOLE).any():
                    yield rest
                    offset = rest.end
                    continue
                if below is None or below.end <= offset:
                    below = next(ask(offset, end - offset))
                    below = below._replace(sources=below.sources + 1)
                merged = overlay(rest, below.since(offset))
                yield merged
                offset = merged.end

    def _write(self, offset: int, data: memoryview) -> None:
        self._top.write(offset, data)

    def _zero(self, offset: int, length: int, *, give_back: bool) -> None:
        self._top.zero(offset, length, give_back=give_back)

    def zeroes_quickly(self, offset: int, length: int) -> bool:
        """For whole grains."""
        self._check(offset, length)
        return self._top.clears(offset, length)

    def _flush(self) -> None:
        self._top.flush()

    def close(self) -> None:
        """Make what was written durable, and close both."""
        try:
            self._top.close()
        finally:
            self._below.close()
