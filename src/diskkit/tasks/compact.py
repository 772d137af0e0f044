# SPDX-License-Identifier: Apache-2.0
"""Shrinking and defragmenting: the same content in less room, or in better order.

One link is changed, and only in how it is stored: its content, and so its content ID, stay, and
what is made of it (a child, a backup) still fits. Extents are done one after the other. A sparse
one is written anew beside the old file, read back, made durable, and takes its name
(rewrite.py); a thin flat one gets holes where it has zeros. So after a crash each extent is the
old one or the new one, both of the same content. docs/design/0007-order-of-maintenance.md.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diskkit.errors import UnsupportedFeature, UsageError
from diskkit.formats.vmdk import writing
from diskkit.formats.vmdk.sparse import SparseMap
from diskkit.formats.vmdk.writing.grains import check_unclean
from diskkit.interfaces import OpenPolicy
from diskkit.mapping import ranges_where
from diskkit.open import open_links
from diskkit.runs import State
from diskkit.storage.newfile import write_errors
from diskkit.storage.punching import give_back
from diskkit.tasks.rewrite import Plan, View, check_grain, filled_grains, rewrite
from diskkit.tasks.work import in_order
from diskkit.units import align_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from diskkit.formats.link import Extent, Link
    from diskkit.tasks.work import Progress

_BLOCK = 64 << 10
_READ = 4 << 20
UNCLEAN_AT = 72
"""Byte of a sparse header that says so."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What came of it. Sizes are bytes that the filesystem gives the link's files."""

    before: int
    after: int
    changed: list[str]
    """Files that were written anew, or got holes."""
    left: list[str]
    """Why other files were left alone, one line each."""
    seconds: float


def shrink(
    path: str | os.PathLike[str],
    *,
    policy: OpenPolicy | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Compacted:
    """Give back the room of what is all zeros in the disk, or the link of a chain, `path`.

    Sparse extents lose grains of zeros, and whatever belongs to nothing; thin flat ones get holes.
    Preallocated files are left alone. Needs free room for the largest extent's data. Raises
    `UsageError` or `UnsupportedFeature` for kinds that cannot shrink, `LockedError` if the disk is
    in use, `FormatError` if it is damaged, `StorageError`; the disk's content is the same always.
    """
    return _compact(path, policy, threads, progress, drop_zeros=True)


def defragment(
    path: str | os.PathLike[str],
    *,
    policy: OpenPolicy | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Compacted:
    """Put the grains of the disk, or the link of a chain, `path` into the order of the disk.

    Grains of zeros keep their entries. An extent in order without gaps, or a flat one, is left
    alone. Raises as `shrink` does.
    """
    return _compact(path, policy, threads, progress, drop_zeros=False)


def _compact(
    path: str | os.PathLike[str],
    policy: OpenPolicy | None,
    threads: int | None,
    progress: Progress | None,
    *,
    drop_zeros: bool,
) -> Compacted:
    began = time.monotonic()
    with opened(path, policy or OpenPolicy()) as link:
        for extent in link.extents:
            if isinstance(extent.map, SparseMap) and extent.line.access == "RW":
                check_grain(extent)
        before = link.physical_bytes
        changed: list[str] = []
        left: list[str] = []
        for number, extent in enumerate(link.extents):

            def step(done: int, start: int = extent.start) -> None:
                if progress is not None:
                    progress(start + done, link.capacity)

            reason = _one(link, number, threads, step, drop_zeros=drop_zeros)
            if extent.storage is None:
                continue
            if reason:
                left.append(f"{extent.storage.name}: {reason}")
            else:
                changed.append(extent.storage.name)
            step(extent.line.length)
        return Compacted(before, link.physical_bytes, changed, left, time.monotonic() - began)


@contextmanager
def opened(path: str | os.PathLike[str], policy: OpenPolicy) -> Iterator[Link]:
    """The link `path`, locked and open for writing, its parents read-only; judged.

    Raises `UnsupportedFeature` or `UsageError` for what is never stored otherwise.
    """
    # Children do not mind how their parent is stored.
    links = open_links(path, None, policy._replace(writable=True, force=True))
    try:
        leaf = links[0]
        if leaf.descriptor is None:
            raise UsageError(f"{leaf.path}: it is a raw image; only VMDK disks are maintained")
        # Its own grains are moved as they are: no parent is needed for that.
        writing.judge(leaf, policy._replace(single_link=False))
        for extent in leaf.extents:
            if extent.line.kind not in ("SPARSE", "FLAT", "VMFS", "ZERO"):
                raise UnsupportedFeature(
                    f"{extent.line.kind} extents are never stored anew",
                    path=leaf.path,
                    structure="descriptor",
                    field="extent type",
                    value=extent.line.kind,
                    advice="convert the disk, or commit it into its parent on its host",
                )
            if isinstance(extent.map, SparseMap) and extent.map.header.unclean:
                check_unclean(extent, UNCLEAN_AT)
        yield leaf
    finally:
        for link in links:
            link.close()


def _one(
    link: Link,
    number: int,
    threads: int | None,
    step: Callable[[int], None],
    *,
    drop_zeros: bool,
) -> str:
    """Compact one extent; returns why it was left alone, "" if it was not."""
    extent = link.extents[number]
    if extent.storage is None:
        return "it has no file"
    if extent.line.access != "RW":
        return "it is read-only"
    if not isinstance(extent.map, SparseMap):
        return _punch(link, extent, threads, step) if drop_zeros else "it has no grains to order"
    found = link.descriptor
    assert found is not None
    if _is_compact(extent) and not (drop_zeros and _has_zeros(extent, threads)):
        return "it has no zeros to drop" if drop_zeros else "it is in order already"
    text = found.raw if extent.storage is link.storage else b""
    has_parent = link.parent_hint is not None
    plan = Plan(extent.map.header.capacity, text, has_parent, drop_zeros)
    rewrite(link, number, plan, threads, step)
    return ""


def _is_compact(extent: Extent) -> bool:
    """Whether the grains follow each other in the file as in the disk, with nothing between."""
    of, storage = extent.map, extent.storage
    assert isinstance(of, SparseMap)
    assert storage is not None
    offset, place = 0, of.header.overhead
    while offset < of.length:
        table = of.scan(offset, of.length - offset)
        if (table.states == State.BAD).any():
            return False
        data = table.states == State.DATA
        sizes = -(-table.lengths[data] // of.granularity) * of.granularity
        ends = place + np.cumsum(sizes)
        if (table.positions[data] != ends - sizes).any():
            return False
        place = int(ends[-1]) if len(ends) else place
        offset = table.end
    return storage.size <= place


def _has_zeros(extent: Extent, threads: int | None) -> bool:
    """Whether any grain that has room is all zeros."""
    assert extent.storage is not None
    view = View(extent, extent.storage)

    def work(piece: tuple[int, int]) -> bool:
        data, states = view.read(*piece)
        return bool(((states == State.DATA) & ~filled_grains(data, len(states))).any())

    return any(found for _, found in in_order(view.pieces(), work, threads))


def _punch(link: Link, extent: Extent, threads: int | None, step: Callable[[int], None]) -> str:
    """Give back the room of zeros in a flat file; returns why it was left alone, "" if not."""
    storage, found = extent.storage, link.descriptor
    assert storage is not None
    assert found is not None
    thin = found.create_type == "vmfsThin" or found.ddb.get("thinProvisioned") == "1"
    if not thin and storage.physical_bytes >= storage.size:
        return "it is preallocated"
    fd = storage.descriptor
    assert fd is not None
    view = View(extent, storage)
    base, done = extent.line.offset, 0

    def work(begin: int) -> list[tuple[int, int]]:
        """[begin, end) of the zeros, in the disk."""
        count = min(_READ, align_up(view.length - begin, _BLOCK)) // _BLOCK
        data = np.zeros(count * _BLOCK, np.uint8)
        end = min(begin + len(data), view.length)
        view.chain.read_into(begin, data.data[: end - begin])
        blocks = filled_grains(data, count)
        edges = np.flatnonzero(np.diff(np.concatenate([[True], blocks, [True]]).astype(np.int8)))
        pairs = edges.reshape(-1, 2) * _BLOCK + begin
        return [(a, min(b, end)) for a, b in pairs.tolist()]

    with write_errors(storage.name):
        for begin, zeros in in_order(_stretches(view), work, threads):
            for first, last in zeros:
                if not any(storage.data_ranges(base + first, last - first)):
                    continue
                if not give_back(fd, base + first, last - first):
                    return "its filesystem cannot make holes"
                done += last - first
            step(min(begin + _READ, view.length))
        os.fdatasync(fd)
    return "" if done else "it has no zeros to drop"


def _stretches(view: View) -> Iterator[int]:
    """Where to look for zeros: what the filesystem says holds data, cut into pieces."""
    reach = 0
    tables = view.chain.tables(0, view.length)
    for begin, end in ranges_where(tables, State.HOLE, invert=True):
        first = max(reach, begin // _BLOCK * _BLOCK)
        for at in range(first, end, _READ):
            yield at
            reach = at + _READ
