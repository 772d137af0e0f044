# SPDX-License-Identifier: Apache-2.0
"""Directory and tables of grains: the vectorised scan that all sparse kinds share.

A sparse extent is a directory of tables of entries. The kinds differ in widths and in what an
entry means; a `Scheme` says that, in numpy, once: the same code judges a million entries during a
scan and one entry when it explains what is wrong with it. Memory stays bounded: a scan reads at
most about a million entries, and skips tables that are absent or lie in holes of the file.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from diskkit.table import BAD, DATA, HOLE, ZERO, RunTable, distinct, merge, restrict
from diskkit.units import ceil_div

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from diskkit.errors import FormatError
    from diskkit.formats.vmdk.layout import Rules
    from diskkit.interfaces import OpenPolicy, Storage
    from diskkit.runs import State
    from diskkit.table import Int64, UInt8

    Entries = NDArray[np.uint32] | NDArray[np.uint64]

_ENTRIES_PER_SCAN = 1 << 19
_TABLES_PER_SCAN = 1 << 16
_DIRECTORY_CHUNK = 1 << 22


class Judged(NamedTuple):
    """What entries mean. All of the entries' shape."""

    states: UInt8
    positions: Int64
    """Bytes into the file, for DATA and PACKED."""
    reasons: UInt8
    """0 where an entry is fine, else an index into the scheme's `problems`; its state is BAD."""


class Scheme(Protocol):
    """What tells one sparse kind from another. Drivers have one; only its methods need numpy."""

    length: int
    """Guest bytes of the extent."""
    grain: int
    """Guest bytes per entry."""
    entries: int
    """Entries per table."""
    tables: int
    """Entries of the directory."""
    directory_offset: int
    """Where the directory lies, bytes."""
    width: int
    """Bytes per entry, 4 or 8, in directory and tables."""
    size: int
    """Bytes of the file, which grows while it is written to."""
    problems: tuple[str, ...]
    """What can be wrong, by reason number: first unused, last a table named twice."""

    def judge_directory(self, entries: Entries) -> tuple[Int64, UInt8]:
        """Each table's place in bytes (0 for none) and the reason it cannot be right (0 for ok)."""

    def judge(self, entries: Entries, need: Int64 | int) -> Judged:
        """What table entries mean; `need` is how many bytes of each grain lie in the extent."""


class GrainTables:
    """Scans one extent by its `Scheme`."""

    def __init__(
        self,
        storage: Storage,
        scheme: Scheme,
        rules: Rules,
        policy: OpenPolicy,
        spare: GrainTables | None = None,
    ) -> None:
        """`spare` scans the redundant copy, for tables that cannot be right here."""
        self.scheme = scheme
        self.storage = storage
        self.rules = rules
        self.policy = policy
        self.spare = spare
        self._dtype = np.dtype(f"<u{scheme.width}")
        self._table_bytes = scheme.entries * scheme.width
        self._cover = scheme.entries * scheme.grain
        self._shared: Int64 | None = None
        self._sparse_file = storage.physical_bytes < storage.size
        self._warned = False

    def scan(self, offset: int, length: int) -> RunTable:
        """`BlockMap.scan`."""
        scheme = self.scheme
        first = offset // self._cover
        last = min(ceil_div(offset + length, self._cover), first + _TABLES_PER_SCAN)
        places, reasons = self.directory(first, last)
        present = np.flatnonzero((places != 0) & (reasons == 0))
        present = self._outside_holes(places, present)
        lost = self._lost(first, places, reasons)
        most = max(1, _ENTRIES_PER_SCAN // scheme.entries)
        wanted = np.union1d(present, lost) if len(lost) else present
        if len(wanted) > most:
            stop = int(wanted[most])
            last, reasons = first + stop, reasons[:stop]
            present, lost = present[present < stop], lost[lost < stop]
        raw = self.read_tables(places[present])
        judged = scheme.judge(raw, self.needs(first + present))
        if len(lost) or (self.spare is not None and judged.reasons.any()):
            present, judged, reasons = self._from_spare(first, present, judged, reasons, lost)
        end = min(last * self._cover, scheme.length)
        table = self._rows(first, last, present, judged, reasons, end)
        if self.policy.allow_truncated and bool((table.states == DATA).any()):
            size = self.storage.size
            table = restrict(table, np.zeros(1, np.int64), np.array([size], np.int64))
        return table.since(offset).clip(offset + length)

    def _lost(self, first: int, places: Int64, reasons: UInt8) -> Int64:
        """Tables that the directory cannot name or does not, and the redundant one does."""
        odd = (places == 0) | (reasons != 0)
        if self.spare is None or not odd.any():
            return np.zeros(0, np.int64)
        others, wrong = self.spare.directory(first, first + len(places))
        return np.flatnonzero(odd & (others > 0) & (wrong == 0))

    def directory(self, first: int, last: int) -> tuple[Int64, UInt8]:
        """Places and reasons of directory entries `first` to `last`, duplicates included."""
        scheme = self.scheme
        raw = self.storage.read(
            scheme.directory_offset + first * scheme.width, (last - first) * scheme.width
        )
        entries: Entries = np.frombuffer(raw, self._dtype)
        places, reasons = scheme.judge_directory(entries)
        if self._shared is None:
            self._shared = self._shared_tables()
        if len(self._shared):
            at = np.searchsorted(self._shared, places)
            at[at == len(self._shared)] = 0
            shared = (places > 0) & (self._shared[at] == places) & (reasons == 0)
            reasons = np.where(shared, np.uint8(len(scheme.problems) - 1), reasons)
        return places, reasons

    def _shared_tables(self) -> Int64:
        """Places of tables that more than one directory entry names, ascending."""
        scheme = self.scheme
        found = []
        for first in range(0, scheme.tables, _DIRECTORY_CHUNK):
            count = min(_DIRECTORY_CHUNK, scheme.tables - first)
            raw = self.storage.read(
                scheme.directory_offset + first * scheme.width, count * scheme.width
            )
            places, reasons = scheme.judge_directory(np.frombuffer(raw, self._dtype))
            places = np.sort(places[(places > 0) & (reasons == 0)])
            found.append(places[1:][places[1:] == places[:-1]])
        return distinct(*found) if found else np.zeros(0, np.int64)

    def explain(self, offset: int) -> FormatError:
        """`BlockMap.explain`."""
        scheme = self.scheme
        index = offset // self._cover
        places, reasons = self.directory(index, index + 1)
        if reasons[0]:
            at = scheme.directory_offset + index * scheme.width
            return self._error("grain directory", index, at, int(reasons[0]))
        if not places[0] and self.spare is not None:
            return self.spare.explain(offset)
        entry = offset % self._cover // scheme.grain
        raw = self.read_tables(places)
        judged = scheme.judge(raw, self.needs(np.array([index])))
        at = int(places[0]) + entry * scheme.width
        reason = int(judged.reasons[0, entry])
        number = index * scheme.entries + entry
        return self._error("grain table", number, at, reason)

    def _error(self, structure: str, index: int, at: int, reason: int) -> FormatError:
        value = int.from_bytes(self.storage.read(at, self.scheme.width), "little")
        shown = value if self.scheme.width == 4 else f"{value:#018x}"
        error = self.rules.error(f"entry {index}", at, shown, self.scheme.problems[reason])
        error.structure = structure
        return error

    def _outside_holes(self, places: Int64, present: Int64) -> Int64:
        """Those of `present` that do not lie in a hole of the file: there all entries are 0."""
        if not self._sparse_file or not len(present):
            return present
        at = places[present]
        low, high = int(at.min()), int(at.max()) + self._table_bytes
        if high - low > 2 * len(present) * self._table_bytes:
            return present
        ranges = list(_bounded(self.storage.data_ranges(low, high - low), 4 * len(present) + 64))
        if not ranges:
            return present[:0]
        begins, ends = np.array(ranges, np.int64).T
        after = np.searchsorted(ends, at, "right")
        after_safe = np.minimum(after, len(ends) - 1)
        used = (after < len(ends)) & (begins[after_safe] < at + self._table_bytes)
        kept: Int64 = present[used]
        return kept

    def read_tables(self, places: Int64) -> Entries:
        """The tables at `places`, one row each; neighbours in the file are read together."""
        raw = np.zeros((len(places), self.scheme.entries), self._dtype)
        if not len(places):
            return raw
        breaks = np.flatnonzero(np.diff(places) != self._table_bytes) + 1
        edges = [0, *breaks.tolist(), len(places)]
        for begin, end in pairwise(edges):
            view = raw[begin:end].view(np.uint8).reshape(-1).data
            self.storage.read_into(int(places[begin]), view)
        return raw

    def needs(self, indexes: Int64) -> Int64 | int:
        """Bytes needed of each grain: all, but for the last of the extent."""
        scheme = self.scheme
        tail = scheme.length % scheme.grain
        if not tail or not len(indexes) or indexes[-1] != scheme.tables - 1:
            return scheme.grain
        needs = np.full((len(indexes), scheme.entries), scheme.grain, np.int64)
        needs[-1, (scheme.length - 1) // scheme.grain % scheme.entries] = tail
        return needs

    def _from_spare(
        self, first: int, present: Int64, judged: Judged, reasons: UInt8, lost: Int64
    ) -> tuple[Int64, Judged, UInt8]:
        """Replace what is `lost` or cannot be right by the redundant copy, where that is right."""
        assert self.spare is not None
        wrong = present[judged.reasons.any(axis=1)]
        places, spare_reasons = self.spare.directory(first, first + len(reasons))
        usable = np.union1d(lost, wrong[(places[wrong] > 0) & (spare_reasons[wrong] == 0)])
        if len(usable):
            raw = self.spare.read_tables(places[usable])
            better = self.scheme.judge(raw, self.needs(first + usable))
            # A copy that is damaged elsewhere still beats a table that is not there at all; one
            # without entries says no more than the directory entry of 0 that it stands in for.
            there = raw.any(axis=1) | (reasons[usable] != 0)
            good = np.where(np.isin(usable, lost), there, ~better.reasons.any(axis=1))
            usable = usable[good]
            better = Judged(better.states[good], better.positions[good], better.reasons[good])
        if not len(usable):
            return present, judged, reasons
        if not self._warned:
            self._warned = True
            self.policy.warning(
                f"{self.rules.path}: {len(usable)} damaged grain tables, the first number "
                f"{first + int(usable[0])}: read from the redundant copy"
            )
        reasons = reasons.copy()
        reasons[usable] = 0
        keep = ~np.isin(present, usable)
        order = np.argsort(np.concatenate([present[keep], usable]))
        states = np.concatenate([judged.states[keep], better.states])[order]
        positions = np.concatenate([judged.positions[keep], better.positions])[order]
        judged = Judged(
            states, positions, np.concatenate([judged.reasons[keep], better.reasons])[order]
        )
        return np.union1d(present[keep], usable), judged, reasons

    def _rows(
        self, first: int, last: int, present: Int64, judged: Judged, reasons: UInt8, end: int
    ) -> RunTable:
        """Tables `first` to `last` as merged rows: absent ones as a hole each, before merging."""
        scheme = self.scheme
        cover, count = self._cover, last - first
        within = np.arange(scheme.entries, dtype=np.int64) * scheme.grain
        starts = ((first + present)[:, None] * cover + within).ravel()
        states = np.where(judged.reasons != 0, BAD, judged.states).ravel()
        positions = judged.positions.ravel()
        if len(present) < count:
            absent = np.ones(count, bool)
            absent[present] = False
            other = np.flatnonzero(absent)
            starts, states, positions = _compact(starts, states, positions, scheme)
            other_states = np.where(reasons[other] != 0, BAD, HOLE)
            starts = np.concatenate([starts, (first + other) * cover])
            order = np.argsort(starts, kind="stable")
            starts = starts[order]
            states = np.concatenate([states, other_states])[order]
            positions = np.concatenate([positions, np.zeros(len(other), np.int64)])[order]
        inside = int(np.searchsorted(starts, end, "left"))
        sources = np.zeros(inside, np.int64)
        return merge(RunTable(starts[:inside], end, states[:inside], sources, positions[:inside]))


def _compact(
    starts: Int64, states: UInt8, positions: Int64, scheme: Scheme
) -> tuple[Int64, UInt8, Int64]:
    """Drop rows that only repeat the row before them, but never the first of a table."""
    if not len(starts):
        return starts, states, positions
    joins = (states[1:] == states[:-1]) & ((states[1:] == HOLE) | (states[1:] == ZERO))
    keep = np.append(True, ~joins)
    keep[:: scheme.entries] = True
    return starts[keep], states[keep], positions[keep]


def _bounded(ranges: Iterator[tuple[int, int]], most: int) -> Iterator[tuple[int, int]]:
    """At most `most` ranges; the rest as one, so that a file of crumbs costs no memory."""
    for count, (begin, end) in enumerate(ranges):
        if count == most:
            yield begin, 1 << 62
            return
        yield begin, end


def sector_entries(
    entries: Entries, low: int, size: int, need: Int64 | int, filled: State, truncated: bool
) -> Judged:
    """Judge table entries that are sector numbers: 0 a hole, else a grain at or after byte `low`.

    `size` is where grains must end, bytes; `need` the bytes of each that must lie before it.
    Reasons: 2 before `low`, 3 beyond `size`. With `truncated`, a grain that begins inside the file
    is accepted, and one that begins beyond it reads as zeros.
    """
    positions = entries.astype(np.int64) * 512
    states = np.where(positions == 0, HOLE, np.uint8(filled))
    reasons = np.zeros(states.shape, np.uint8)
    reasons[(positions != 0) & (positions < low)] = 2
    beyond = positions + need > size
    if truncated:
        states[(positions >= size)] = ZERO
    else:
        reasons[beyond & (positions != 0)] = 3
    return Judged(states, positions, reasons)
