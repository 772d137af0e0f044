# SPDX-License-Identifier: Apache-2.0
"""Every kind of link, written by the makers from the same description: grains by index.

`Kind.write` makes one link named `<stem>.vmdk`; `Model` says what a chain of such links must be,
kept in the plainest way there is: a bytearray, and a state and a link for each sector.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol

from makers import (
    Grains,
    Variant,
    cowd,
    hosted_sparse,
    sample_grain,
    sesparse,
    split_sparse,
    stream,
    write_descriptor,
)
from makers.common import SECTOR, round_up

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

HOLE, ZERO, DATA = range(3)


@dataclass(frozen=True)
class Ids:
    """What ties a link to its parent."""

    cid: str = "00000001"
    parent_cid: str = "ffffffff"
    hint: str | None = None


class Writer(Protocol):
    """Writes one link."""

    def __call__(self, path: Path, capacity: int, grains: Grains, ids: Ids) -> None: ...


@dataclass(frozen=True)
class Kind:
    """One way to store a link."""

    name: str
    grain: int
    """Sectors per grain."""
    write: Writer
    extents: frozenset[str]
    """The extent types it exercises."""
    words: tuple[str, ...] = ()
    """Grains that are words, and are explicit zeros."""
    child: bool = False
    """Whether it may have a parent."""
    esx: str = ""
    """"cowd" or "sesparse": these do not mix."""


def _hosted(
    path: Path,
    capacity: int,
    grains: Grains,
    ids: Ids,
    **options: Any,  # noqa: ANN401 - handed on to the maker
) -> None:
    hosted_sparse(
        path,
        capacity,
        grains,
        cid=ids.cid,
        parent_cid=ids.parent_cid,
        parent_hint=ids.hint,
        **options,
    )


def _split(
    path: Path,
    capacity: int,
    grains: Grains,
    ids: Ids,
    part: int,
    **options: Any,  # noqa: ANN401 - handed on to the maker
) -> None:
    split_sparse(
        path,
        capacity,
        grains,
        part,
        cid=ids.cid,
        parent_cid=ids.parent_cid,
        parent_hint=ids.hint,
        **options,
    )


def _stream(
    path: Path,
    capacity: int,
    grains: Grains,
    ids: Ids,
    variant: Variant,
    grain: int,
    level: int,
    short_tail: bool = False,
) -> None:
    stream(
        path,
        capacity,
        grains,
        variant=variant,
        grain_sectors=grain,
        cid=ids.cid,
        level=level,
        short_tail=short_tail,
    )


def _cowd(path: Path, capacity: int, grains: Grains, ids: Ids, grain: int) -> None:
    extent = path.with_name(f"{path.stem}-delta.vmdk")
    cowd(extent, capacity, grains, grain_sectors=grain, zero_as_entry=True)
    _describe(path, "vmfsSparse", [f'RW {capacity} VMFSSPARSE "{extent.name}"'], ids)


def _sesparse(
    path: Path, capacity: int, grains: Grains, ids: Ids, create_type: str = "seSparse"
) -> None:
    extent = path.with_name(f"{path.stem}-sesparse.vmdk")
    # Last grains first: then no number in the tables follows from the address.
    order = sorted((i for i, c in grains.items() if not isinstance(c, str)), reverse=True)
    sesparse(extent, capacity, grains, order=order)
    _describe(path, create_type, [f'RW {capacity} SESPARSE "{extent.name}"'], ids)


def _describe(path: Path, create_type: str, lines: Sequence[str], ids: Ids) -> None:
    write_descriptor(
        path, create_type, lines, cid=ids.cid, parent_cid=ids.parent_cid, hint=ids.hint
    )


def write_holey(path: Path, sectors: int, grains: Grains, grain: int, skip: int = 0) -> None:
    """Raw disk bytes after `skip` sectors of junk; missing grains are holes of the file."""
    with path.open("wb") as f:
        f.write(b"\xee" * skip * SECTOR)
        for index, content in grains.items():
            assert isinstance(content, bytes)
            begin = index * grain
            f.seek((skip + begin) * SECTOR)
            f.write(content[: (sectors - begin) * SECTOR])
        f.truncate((skip + sectors) * SECTOR)


def _raw(path: Path, capacity: int, grains: Grains, ids: Ids) -> None:
    write_holey(path.with_suffix(".img"), capacity, grains, FLAT_GRAIN)


def _flat(
    path: Path,
    capacity: int,
    grains: Grains,
    ids: Ids,
    create_type: str,
    line: str,
    suffix: str = "-flat",
) -> None:
    extent = path.with_name(f"{path.stem}{suffix}.vmdk")
    write_holey(extent, capacity, grains, FLAT_GRAIN)
    _describe(path, create_type, [line.format(n=capacity, name=extent.name)], ids)


def _split_flat(
    path: Path, capacity: int, grains: Grains, ids: Ids, create_type: str, part: int, skip: int = 0
) -> None:
    lines = []
    per_part = part // FLAT_GRAIN
    for number in range(-(-capacity // part)):
        extent = path.with_name(f"{path.stem}-f{number + 1:03d}.vmdk")
        sectors = min(part, capacity - number * part)
        first = number * per_part
        mine = {i - first: g for i, g in grains.items() if first <= i < first + per_part}
        write_holey(extent, sectors, mine, FLAT_GRAIN, skip)
        lines.append(f'RW {sectors} FLAT "{extent.name}" {skip}')
    _describe(path, create_type, lines, ids)


FLAT_GRAIN = 128
"""Holes of a flat file are as large as its filesystem's blocks: 64 KiB will do for all."""

_VMFS_NAMES = (
    "vmfs",
    "vmfsThin",
    "vmfsThick",
    "vmfsPreallocated",
    "vmfsEagerZeroedThick",
)
_SPARSE, _FLAT, _VMFS = frozenset({"SPARSE"}), frozenset({"FLAT"}), frozenset({"VMFS"})


def _sparse_kind(name: str, grain: int, **options: Any) -> Kind:  # noqa: ANN401 - as above
    write = partial(_hosted, grain_sectors=grain, **options)
    return Kind(name, grain, write, _SPARSE, ("zero",), child=True)


def _split_kind(name: str, grain: int, part: int, **options: Any) -> Kind:  # noqa: ANN401
    write = partial(_split, part=part, grain_sectors=grain, **options)
    return Kind(name, grain, write, _SPARSE, ("zero",), child=True)


def _stream_kind(variant: Variant, grain: int = 16, level: int = 6) -> Kind:
    write = partial(_stream, variant=variant, grain=grain, level=level)
    return Kind(f"stream-{variant}-{grain}", grain, write, _SPARSE)


def _vmfs_kind(create_type: str, tail: str = "") -> Kind:
    line = 'RW {n} VMFS "{name}"' + tail
    write = partial(_flat, create_type=create_type, line=line)
    return Kind(create_type + ("-offset" if tail else ""), FLAT_GRAIN, write, _VMFS)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("raw", FLAT_GRAIN, _raw, frozenset()),
        _sparse_kind("sparse-8", 8),
        _sparse_kind("sparse-16-lazy", 16, lazy_tables=True),
        _sparse_kind("sparse-16-gtes128", 16, gtes=128),
        _sparse_kind("sparse-16-gtes2-single", 16, gtes=2, redundant=False),
        _sparse_kind("sparse-128", 128),
        _sparse_kind("sparse-2048", 2048),
        _split_kind("split-16", 16, 16 * 24),
        _split_kind("split-16-lazy", 16, 16 * 24, lazy_tables=True, gtes=4),
        _split_kind("split-128-old-name", 128, 128 * 5, create_type="2GbMaxExtentSparse"),
        Kind(
            "flat",
            FLAT_GRAIN,
            partial(_flat, create_type="monolithicFlat", line='RW {n} FLAT "{name}" 0'),
            _FLAT,
        ),
        Kind(
            "flat-split",
            FLAT_GRAIN,
            partial(_split_flat, create_type="twoGbMaxExtentFlat", part=FLAT_GRAIN * 3),
            _FLAT,
        ),
        Kind(
            "flat-split-offset",
            FLAT_GRAIN,
            partial(_split_flat, create_type="2GbMaxExtentFlat", part=FLAT_GRAIN * 5, skip=128),
            _FLAT,
        ),
        Kind(
            "full-device-as-a-file",
            FLAT_GRAIN,
            partial(_flat, create_type="fullDevice", line='RW {n} FLAT "{name}" 0'),
            _FLAT,
        ),
        *(_vmfs_kind(name) for name in _VMFS_NAMES),
        _vmfs_kind("vmfs", " 0"),
        *(_stream_kind(variant) for variant in ("A", "B", "C", "D", "E", "F", "G")),
        _stream_kind("A", 128, 1),
        Kind(
            "stream-B-short-tail",
            16,
            partial(_stream, variant="B", grain=16, level=6, short_tail=True),
            _SPARSE,
        ),
        Kind(
            "cowd-1",
            1,
            partial(_cowd, grain=1),
            frozenset({"VMFSSPARSE"}),
            ("zero",),
            child=True,
            esx="cowd",
        ),
        Kind(
            "cowd-8",
            8,
            partial(_cowd, grain=8),
            frozenset({"VMFSSPARSE"}),
            ("zero",),
            child=True,
            esx="cowd",
        ),
        Kind(
            "sesparse",
            8,
            _sesparse,
            frozenset({"SESPARSE"}),
            ("zero", "unmapped"),
            child=True,
            esx="sesparse",
        ),
        Kind(
            "sesparse-technote-name",
            8,
            partial(_sesparse, create_type="vmfsSeSparse"),
            frozenset({"SESPARSE"}),
            ("zero", "unmapped"),
            child=True,
            esx="sesparse",
        ),
    )
}


class Model:
    """What a chain must be: bytes, and for each sector a state and the link that decides it."""

    def __init__(self, capacity: int) -> None:
        """A chain of no links, `capacity` sectors."""
        self.content = bytearray(capacity * SECTOR)
        self.states = bytearray(capacity)
        self.links = bytearray(capacity)
        self.depth = 0

    def push(self, grains: Grains, grain: int) -> None:
        """Lay one more link on top."""
        self.depth += 1
        for index, content in grains.items():
            begin = index * grain
            n = min(grain, len(self.states) - begin)
            data = bytes(n * SECTOR) if isinstance(content, str) else content[: n * SECTOR]
            self.content[begin * SECTOR : (begin + n) * SECTOR] = data
            state = ZERO if isinstance(content, str) else DATA
            self.states[begin : begin + n] = bytes([state]) * n
            # Numbered from the base while it grows; 1 is the base, so that 0 can mean nobody.
            self.links[begin : begin + n] = bytes([self.depth]) * n

    def runs(self) -> list[tuple[int, int, int, int]]:
        """(offset, length, state, link) with neighbours of one state and link joined."""
        found = []
        at = 0
        for (state, link), group in groupby(zip(self.states, self.links, strict=True)):
            n = sum(1 for _ in group)
            number = self.depth - link if link else self.depth - 1
            found.append((at * SECTOR, n * SECTOR, state, number))
            at += n
        return found

    def allocated(self, chunk: int) -> list[tuple[int, int]]:
        """(offset, length) of the chunks that hold anything but holes, neighbours joined."""
        found: list[tuple[int, int]] = []
        step = chunk // SECTOR
        for begin in range(0, len(self.states), step):
            part = self.states[begin : begin + step]
            if any(part):
                offset = begin * SECTOR
                if found and sum(found[-1]) == offset:
                    offset = found.pop()[0]
                found.append((offset, (begin + len(part)) * SECTOR - offset))
        return found


def joined(runs: Iterable[tuple[int, int, int, int, object, object]]) -> list[tuple[int, ...]]:
    """Runs with files and places left out, neighbours of one state and link joined."""
    found: list[tuple[int, ...]] = []
    for offset, length, state, link, *_ in runs:
        if found and found[-1][2:] == (state, link):
            offset, length = found[-1][0], found.pop()[1] + length
        found.append((offset, length, int(state), link))
    return found


def write_chain(folder: Path, capacity: int, links: Sequence[tuple[Kind, Grains]]) -> Path:
    """Write `links`, base first, and return the leaf."""
    ids = Ids()
    path = folder / "link0.vmdk"
    for number, (kind, grains) in enumerate(links):
        path = folder / f"link{number}.vmdk"
        if number:
            ids = Ids(f"{number + 1:08x}", ids.cid, f"link{number - 1}.vmdk")
        kind.write(path, capacity, grains, ids)
    return path.with_suffix(".img") if links[-1][0].name == "raw" else path


def model_of(capacity: int, links: Sequence[tuple[Kind, Grains]]) -> Model:
    """What the chain must be."""
    model = Model(capacity)
    for kind, grains in links:
        model.push(grains, kind.grain)
    return model


def grain_count(capacity: int, kind: Kind) -> int:
    """How many grains cover the disk."""
    return round_up(capacity, kind.grain) // kind.grain


def some_grains(capacity: int, kind: Kind, seed: int, *, dense: bool = False) -> Grains:
    """A mix for conformance: first and last, neighbours, gaps, every word the kind knows."""
    count = grain_count(capacity, kind)
    picks = {0, 1, 3, 4, 5, count // 3, count // 2, count // 2 + 1, count - 2, count - 1}
    if dense:
        picks |= set(range(0, count, 3))
    grains: dict[int, bytes | str] = {}
    for index in sorted(i for i in picks if 0 <= i < count):
        grains[index] = sample_grain(seed * 1000 + index, kind.grain, noise=index % 5 == 3)
    for turn, word in enumerate(kind.words):
        for index in (2, 3, 6 + turn, count // 2 + 2 + turn, count * 2 // 3 + turn):
            if 1 < index < count - 1:
                grains[index] = word
    return grains  # type: ignore[return-value]
