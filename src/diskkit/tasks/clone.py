# SPDX-License-Identifier: Apache-2.0
"""Copying a disk into a new VMDK of any hosted kind, and making new empty ones.

The source's map says what to read; what is read and turns out to be zeros is not stored. Reading
and compressing run on a few threads, writing is in order. All files of the new disk appear when all
are whole, the descriptor last.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from diskkit.chaindisk import ChainDisk
from diskkit.errors import UsageError
from diskkit.formats.vmdk.compose import (
    ADAPTERS,
    NewDisk,
    compose,
    extent_line,
    extent_name,
    new_identity,
)
from diskkit.formats.vmdk.writers import (
    GRAIN,
    MOST_SPARSE,
    Grains,
    SparseWriter,
    StreamWriter,
    packer,
)
from diskkit.mapping import ranges_where
from diskkit.runs import State
from diskkit.storage.newfile import is_device, new_file, new_files, write_errors
from diskkit.storage.writing import append_all, write_all
from diskkit.tasks.copy import Copied, pour_all, verify_copy
from diskkit.tasks.work import in_order
from diskkit.units import SECTOR, align_up, ceil_div

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from diskkit.disk import Disk
    from diskkit.table import RunTable
    from diskkit.tasks.work import Progress

PART = 4192256 * SECTOR
"""Bytes of a split disk's part: VMware's classic 2047 MiB."""
PIECE = 32 * GRAIN
_ZEROS = 4 << 20
DEFAULT_LEVEL = 3
"""Of 0 to 9: docs/benchmarks.md says what each way costs."""


class Kind(NamedTuple):
    """One kind of disk that can be made."""

    extent: str
    """Type of its extents."""
    suffix: str
    """Of each extent's file, between base name and ".vmdk"; "" for a single-file disk."""
    part: int
    """Bytes an extent may have at most; 0 for all in one."""
    most: int
    """Largest capacity, bytes."""
    preallocated: bool = False
    thin: bool = False
    eager: bool = False
    """Zeros are written, so that no first touch of a block costs more than later ones."""


_MOST = (1 << 62) - SECTOR
KINDS = {
    "monolithicSparse": Kind("SPARSE", "", 0, MOST_SPARSE),
    "monolithicFlat": Kind("FLAT", "-flat", 0, _MOST),
    "twoGbMaxExtentSparse": Kind("SPARSE", "-s{:03d}", PART, PART * 8192),
    "twoGbMaxExtentFlat": Kind("FLAT", "-f{:03d}", PART, PART * 8192),
    "streamOptimized": Kind("SPARSE", "", 0, 1 << 54),
    "vmfs": Kind("VMFS", "-flat", 0, _MOST, preallocated=True),
    "vmfsEagerZeroedThick": Kind("VMFS", "-flat", 0, _MOST, preallocated=True, eager=True),
    "vmfsThin": Kind("VMFS", "-flat", 0, _MOST, thin=True),
}
"""By the name that `--type` takes."""


class Part(NamedTuple):
    """One extent of a disk being made."""

    begin: int
    """Guest byte at which it begins."""
    end: int
    name: str
    """Its file's name in the descriptor."""


def clone(
    disk: Disk,
    target: str | os.PathLike[str],
    kind: str,
    *,
    adapter: str | None = None,
    hw_version: str | None = None,
    level: int = DEFAULT_LEVEL,
    force: bool = False,
    verify: bool = False,
    sync: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Copied:
    """Copy `disk`, its chain flattened, into a new disk of `kind` (see `KINDS`), with new ids.

    `target` is the descriptor, or the single file, of the new disk; "-" writes a streamOptimized
    disk to standard output. Adapter and hardware version are the disk's unless given.
    `level` is how hard to compress a stream, 0 to 9. `force` replaces an existing file, for kinds
    that have only one. Raises as `convert` does.
    """
    began = time.monotonic()
    info = disk.info
    capacity = align_up(disk.size, SECTOR)
    spec = spec_of(
        kind,
        capacity,
        adapter or info.adapter_type or "lsilogic",
        hw_version or info.hw_version or "4",
    )
    job = Job(disk, kind, spec, threads, progress)
    written = deliver(job, os.fspath(target), level, force=force, verify=verify, sync=sync)
    seconds = time.monotonic() - began
    return Copied(disk.size, written, disk.size - written, verify, seconds)


def create_disk(
    target: str | os.PathLike[str],
    size: int,
    kind: str = "monolithicSparse",
    *,
    adapter: str = "lsilogic",
    hw_version: str = "4",
    sync: bool = True,
) -> None:
    """Make a new empty disk of `size` bytes, a multiple of 512. Existing files are refused."""
    if size <= 0 or size % SECTOR:
        raise UsageError(f"size {size}: a disk has a whole, positive number of 512-byte sectors")
    job = Job(None, kind, spec_of(kind, size, adapter, hw_version), None, None)
    to_files(job, os.fspath(target), 0, force=False, verify=False, sync=sync)


def deliver(job: Job, name: str, level: int, *, force: bool, verify: bool, sync: bool) -> int:
    """Make the new disk, in files or on standard output; returns the guest bytes stored."""
    if name != "-":
        return to_files(job, name, level, force=force, verify=verify, sync=sync)
    if job.kind != "streamOptimized" or verify:
        raise UsageError("standard output takes raw or streamOptimized, and no --verify")
    sys.stdout.flush()
    with write_errors("standard output"):
        out = os.dup(sys.stdout.fileno())
        try:
            return job.stream(lambda data: append_all(out, data), "stream.vmdk", level)
        finally:
            os.close(out)


def spec_of(kind: str, capacity: int, adapter: str, hw_version: str) -> NewDisk:
    """What a new disk shall say of itself. Raises `UsageError` for what it cannot be."""
    if kind not in KINDS:
        raise UsageError(f"type {kind!r} is not one of: raw, {', '.join(KINDS)}")
    if adapter not in ADAPTERS:
        raise UsageError(f"adapter {adapter!r} is not one of: {', '.join(ADAPTERS)}")
    if not (hw_version.isascii() and hw_version.isdecimal() and len(hw_version) < 4):
        raise UsageError(f"hardware version {hw_version!r} is not a small number")
    if capacity > KINDS[kind].most:
        advice = "choose a flat or a split kind"
        text = f"a {kind} disk has at most {KINDS[kind].most} bytes, not {capacity}"
        raise UsageError(f"{text} ({advice})")
    # ESXi writes "vmfs" for all of these alike (vmdk-formats, 1.5).
    create_type = "vmfs" if KINDS[kind].extent == "VMFS" else kind
    thin = KINDS[kind].thin
    return NewDisk(create_type, capacity, new_identity(), adapter, hw_version, thin)


def to_files(job: Job, name: str, level: int, *, force: bool, verify: bool, sync: bool) -> int:
    """Make all files of the disk; returns the guest bytes stored."""
    kind = KINDS[job.kind]
    if is_device(name):
        raise UsageError(f"{name}: is a device; only raw can be copied to one")
    folder, base = os.path.split(name)
    if not kind.suffix:
        with new_file(name, force=force, sync=sync) as (fd, temporary):
            if job.kind == "streamOptimized":
                written = job.stream(lambda data: append_all(fd, data), base, level)
            else:
                line = extent_line(job.spec.capacity, kind.extent, base)
                written = job.sparse(fd, name, 0, job.spec.capacity, compose(job.spec, [line]))
            if verify:
                job.verify(temporary)
        return written
    if force and os.path.lexists(name):
        raise UsageError(f"{name}: a disk of several files is not replaced; remove it first")
    planned = list(parts(kind, base, job.spec.capacity))
    lines = [extent_line(p.end - p.begin, kind.extent, p.name) for p in planned]
    names = [f"{folder}/{p.name}" if folder else p.name for p in planned]
    written = 0
    with new_files([*names, name], force=False, sync=sync) as made:
        for part, (fd, _), path in zip(planned, made, names, strict=False):
            length = part.end - part.begin
            if kind.extent == "SPARSE":
                written += job.sparse(fd, path, part.begin, length, b"")
            else:
                written += job.flat(fd, part.begin, length, kind)
        append_all(made[-1][0], compose(job.spec, lines))
    if verify:
        try:
            job.verify(name)
        except BaseException:
            for path in (name, *names):
                Path(path).unlink()
            raise
    return written


def parts(kind: Kind, base: str, capacity: int) -> Iterator[Part]:
    """The extents of a new disk of `kind`, whose descriptor is to be named `base`."""
    size = kind.part or capacity
    for number in range(ceil_div(capacity, size)):
        name = extent_name(base, kind.suffix.format(number + 1))
        yield Part(number * size, min((number + 1) * size, capacity), name)


def lay_out(fd: int, length: int, kind: Kind) -> None:
    """Give the new file of a flat extent its size: a hole, room, or room with zeros written."""
    if kind.preallocated:
        os.posix_fallocate(fd, 0, length)
    os.ftruncate(fd, length)
    if kind.eager:
        zeros = memoryview(bytes(min(length, _ZEROS)))
        for at in range(0, length, _ZEROS):
            write_all(fd, zeros[: length - at], at)


class Job:
    """One copy: where from, what to, how."""

    def __init__(
        self,
        disk: Disk | None,
        kind: str,
        spec: NewDisk,
        threads: int | None,
        progress: Progress | None,
    ) -> None:
        self.disk, self.kind, self.spec = disk, kind, spec
        self._threads, self._progress = threads, progress

    @property
    def _lone(self) -> bool:
        """Whether this is one link of a chain: what it does not hold is its parent's to say."""
        return (
            isinstance(self.disk, ChainDisk) and self.disk.chain.links[-1].parent_hint is not None
        )

    def stream(self, put: Callable[[bytes], object], name: str, level: int) -> int:
        """A streamOptimized disk; returns the guest bytes stored."""
        line = extent_line(self.spec.capacity, "SPARSE", name)
        writer = StreamWriter(put, self.spec.capacity, compose(self.spec, [line]))
        stored = 0
        for grains in self.grains(0, self.spec.capacity, packer(level)):
            writer.write(grains)
            stored += int(grains.filled.sum()) * GRAIN
        writer.finish()
        return min(stored, self.spec.capacity)

    def sparse(self, fd: int, name: str, begin: int, length: int, descriptor: bytes) -> int:
        """A hosted sparse extent; returns the guest bytes stored."""
        writer = SparseWriter(fd, name, length, descriptor)
        stored = sum(writer.write(grains) for grains in self.grains(begin, length, None))
        writer.finish()
        return min(stored, length)

    def flat(self, fd: int, begin: int, length: int, kind: Kind) -> int:
        """A flat extent; what is zero stays as the kind has it."""
        lay_out(fd, length, kind)
        if self.disk is None:
            return 0
        tables = self.disk.stored(begin, min(length, self.disk.size - begin))
        return pour_all(self.disk, tables, fd, self._threads, self._progress, begin)

    def grains(
        self, begin: int, length: int, pack: Callable[[memoryview], bytes] | None
    ) -> Iterator[Grains]:
        """The grains of an extent that may hold anything, read and judged, in order."""
        if self.disk is None:
            return

        def work(first: int) -> Grains:
            return self._read(begin, first, min(PIECE // GRAIN, whole - first), pack)

        whole = ceil_div(length, GRAIN)
        for first, grains in in_order(self._pieces(begin, length), work, self._threads):
            if grains.filled.any() or grains.zeroed is not None:
                yield grains
            self._report(begin + min(first * GRAIN + PIECE, length))

    def _pieces(self, begin: int, length: int) -> Iterator[int]:
        """Numbers of the first grains of pieces that hold any bytes, ascending."""
        assert self.disk is not None
        reach = 0
        length = min(length, self.disk.size - begin)
        if self._lone:
            found = ranges_where(self.disk.tables(begin, length), State.HOLE, invert=True)
        else:
            found = filled_ranges(self.disk.stored(begin, length))
        for start, end in found:
            first = max(reach, (start - begin) // PIECE)
            reach = max(reach, ceil_div(end - begin, PIECE))
            yield from range(first * (PIECE // GRAIN), reach * (PIECE // GRAIN), PIECE // GRAIN)

    def _read(
        self, begin: int, first: int, count: int, pack: Callable[[memoryview], bytes] | None
    ) -> Grains:
        """Read `count` grains, find those that are not zeros, and compress them if asked."""
        assert self.disk is not None
        data = np.zeros(count * GRAIN, np.uint8)
        view = data.data
        offset = begin + first * GRAIN
        self.disk.read_into(offset, view[: min(len(view), self.disk.size - offset)])
        grains = judged(first, data, pack)
        if pack is None and self._lone:
            zeroed = ~grains.filled & self._held(offset, count)
            return grains._replace(zeroed=zeroed if zeroed.any() else None)
        return grains

    def _held(self, offset: int, count: int) -> NDArray[np.bool_]:
        """Which of `count` grains are held in full, be it as zeros."""
        assert self.disk is not None
        held = np.ones(count, bool)
        end = min(offset + count * GRAIN, self.disk.size)
        tables = self.disk.tables(offset, end - offset)
        for begin, stop in ranges_where(tables, State.HOLE):
            held[(begin - offset) // GRAIN : ceil_div(stop - offset, GRAIN)] = False
        return held

    def verify(self, path: str) -> None:
        """Read the new disk back."""
        assert self.disk is not None
        verify_copy(self.disk, path, self._threads, "vmdk")

    def _report(self, done: int) -> None:
        if self._progress is not None and self.disk is not None:
            self._progress(min(done, self.disk.size), self.disk.size)


def judged(
    first: int, data: NDArray[np.uint8], pack: Callable[[memoryview], bytes] | None
) -> Grains:
    """Whole grains in a row: which are not zeros, and these compressed if asked."""
    view = data.data
    filled = np.asarray(data.view(np.uint64).reshape(len(data) // GRAIN, -1).any(axis=1))
    chosen = np.flatnonzero(filled).tolist() if pack else []
    packed = [pack(view[i * GRAIN : (i + 1) * GRAIN]) for i in chosen] if pack else []
    return Grains(first, view, filled, packed)


def filled_ranges(tables: Iterator[RunTable]) -> Iterator[tuple[int, int]]:
    """[begin, end) of every stretch that holds bytes."""

    def two_states() -> Iterator[RunTable]:
        for table in tables:
            empty = table.states < State.DATA
            yield table._replace(states=np.where(empty, np.uint8(State.HOLE), table.states))

    return ranges_where(two_states(), State.HOLE, invert=True)
