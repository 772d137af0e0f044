# SPDX-License-Identifier: Apache-2.0
"""What a folder may hold after a crash, given what was done to it before.

The model:

- What was written to a file, or done to its size, is surely there once that file was synced later.
  Until then each such operation is there or is not, whatever happened to the others. Where two
  overlap, the later one wins if both are there: the cache holds one copy of a sector.
- A size may be there without the data that made it; what is missing reads as zeros.
- Names change in order, as in a filesystem with a journal: the last changes may be lost. A synced
  folder has its names; a file that was synced by fsync (fdatasync is not enough) has its own.
- So a name can be there before the data of its file: the empty file after a rename.
- One write at a time may be torn: some of its sectors of 512 bytes, and part of one sector.
"""

from __future__ import annotations

import os
import random
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from crash.content import Content
from crash.recorder import MUTATIONS, NAMINGS, Operation, Recording

if TYPE_CHECKING:
    from collections.abc import Iterator

SECTOR = 512
_HALF = 256


class State(NamedTuple):
    """One folder that a crash may leave."""

    text: str
    """What is there and what was lost, for a failing test to say."""
    point: int
    """How many operations had been done when it happened."""
    complete: bool
    """Whether all had been: what the caller was promised must be there."""
    names: dict[str, int]
    contents: dict[int, Content | str]


class _Plan(NamedTuple):
    point: int
    number: int
    how: str


def states(
    recording: Recording,
    *,
    most: int = 300,
    seed: int = 0,
    draws: int = 8,
    torn: bool = True,
) -> Iterator[State]:
    """At most `most` states, from the first operation to the last; the same ones every time.

    The folder after every number of operations comes first in line; then, for the moments before
    each sync and at the end, `draws` random losses and as many torn writes. If that is more than
    `most`, chance leaves some out; of those moments the four plain kinds of loss stay longest.
    """
    rng = random.Random(seed)
    total = len(recording.operations)
    prefixes = [
        _Plan(p, 0, "all")
        for p in range(total + 1)
        if p in (0, total) or not recording.operations[p - 1].kind.startswith("sync")
    ]
    moments = [
        p
        for p in range(1, total + 1)
        if p == total or recording.operations[p].kind.startswith("sync")
    ]
    plain = [
        _Plan(p, n, how)
        for p in moments
        for n, how in enumerate(("no data", "no names", "nothing", "sizes only"))
    ]
    chance = [_Plan(p, n, "some") for p in moments for n in range(draws)]
    if torn:
        chance += [_Plan(p, n, "torn") for p in moments for n in range(draws)]
    chosen: list[_Plan] = []
    for group in (plain, prefixes, chance):
        room = most - len(chosen)
        chosen += group if len(group) <= room else rng.sample(group, max(room, 0))
    walk = _Walk(recording)
    seen: set[tuple[object, ...]] = set()
    for plan in sorted(chosen):
        walk.go_to(plan.point)
        made = walk.state(plan, random.Random(f"{seed} {plan}"))
        if made is not None and (mark := _mark(made)) not in seen:
            seen.add(mark)
            yield made


def after(recording: Recording) -> State:
    """The folder when all was done and nothing lost."""
    walk = _Walk(recording)
    total = len(recording.operations)
    walk.go_to(total)
    made = walk.state(_Plan(total, 0, "all"), random.Random(0))
    assert made is not None
    return made


def materialise(state: State, folder: str | os.PathLike[str]) -> None:
    """Make `folder` hold exactly this, its files' holes kept. What it held before is gone."""
    root = os.fspath(folder)
    os.makedirs(root, exist_ok=True)
    for place, folders, names in os.walk(root, topdown=False):
        for name in names:
            os.unlink(os.path.join(place, name))
        for name in folders:
            path = os.path.join(place, name)
            if os.path.islink(path):
                os.unlink(path)
            else:
                os.rmdir(path)
    made: dict[int, str] = {}
    for name, file in sorted(state.names.items()):
        path, content = os.path.join(root, name), state.contents[file]
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if file in made:
            os.link(made[file], path)
        elif isinstance(content, str):
            os.symlink(content, path)
        else:
            content.write_out(path)
        made.setdefault(file, path)


def _mark(state: State) -> tuple[object, ...]:
    """Equal for states that hold the same. Pages are shared, so their identity tells enough."""
    held: list[object] = [state.complete]
    for name, file in sorted(state.names.items()):
        content = state.contents[file]
        if isinstance(content, str):
            held += [name, content]
        else:
            held += [name, file, content.size, hash(frozenset(content.pages.items()))]
    return tuple(held)


class _Walk:
    """The operations done one by one: what is durable, and what is on its way."""

    def __init__(self, recording: Recording) -> None:
        self._operations = recording.operations
        self._point = 0
        self._texts: dict[int, str] = dict(recording.links)
        self._now: dict[int, Content] = {}
        self._safe: dict[int, Content] = {}
        for file, content in recording.contents.items():
            if isinstance(content, str):
                self._texts[file] = content
            else:
                self._now[file], self._safe[file] = content.copy(), content.copy()
        self._pending: dict[int, list[Operation]] = {}
        self._names = dict(recording.names)
        """The names that are durable."""
        self._namings: list[Operation] = []
        """Changes of names that are not."""

    def go_to(self, point: int) -> None:
        for operation in self._operations[self._point : point]:
            self._do(operation)
        self._point = max(self._point, point)

    def _do(self, operation: Operation) -> None:
        file = operation.file
        if operation.kind in MUTATIONS:
            _apply(self._now[file], operation)
            self._pending.setdefault(file, []).append(operation)
        elif operation.kind in NAMINGS:
            if operation.kind == "create" and file not in self._texts:
                self._now[file], self._safe[file] = Content(), Content()
            self._namings.append(operation)
        elif operation.kind == "sync":
            if self._pending.pop(file, None):
                self._safe[file] = self._now[file].copy()
            if operation.names_too:
                self._settle([n.file == file and n.kind != "unlink" for n in self._namings])
        else:
            self._settle([_touches(n, operation.name) for n in self._namings])

    def _settle(self, durable: list[bool]) -> None:
        """Make the names durable up to the last one that is, for they change in order."""
        count = max((i + 1 for i, known in enumerate(durable) if known), default=0)
        for operation in self._namings[:count]:
            _rename(self._names, operation)
        del self._namings[:count]

    def state(self, plan: _Plan, rng: random.Random) -> State | None:
        how = plan.how
        if how != "all" and not self._namings and not self._pending:
            return None
        keep = {"all": 1.0, "no data": 1.0, "sizes only": 1.0, "no names": 0.0, "nothing": 0.0}
        share = keep.get(how)
        kept = (
            rng.randint(0, len(self._namings))
            if share is None
            else round(share * len(self._namings))
        )
        names = dict(self._names)
        for operation in self._namings[:kept]:
            _rename(names, operation)
        torn = self._torn(rng) if how == "torn" else None
        if how == "torn" and torn is None:
            return None
        lost: list[str] = [f"name: {n}" for n in self._namings[kept:]]
        contents: dict[int, Content | str] = {}
        for file in sorted(set(names.values())):
            if file in self._texts:
                contents[file] = self._texts[file]
            elif how in ("all", "no names") or file not in self._pending:
                known = self._now if how in ("all", "no names") else self._safe
                contents[file] = known[file].copy()
            else:
                contents[file] = self._some(file, how, rng, torn, lost)
        text = f"after {plan.point} of {len(self._operations)} operations, {how}"
        if lost:
            text += "; lost: " + ", ".join(lost[:40])
        return State(text, plan.point, plan.point == len(self._operations), names, contents)

    def _torn(self, rng: random.Random) -> Operation | None:
        writes = [o for ops in self._pending.values() for o in ops if o.kind == "write"]
        return rng.choice(writes) if writes else None

    def _some(
        self,
        file: int,
        how: str,
        rng: random.Random,
        torn: Operation | None,
        lost: list[str],
    ) -> Content:
        made = self._safe[file].copy()
        pending = self._pending[file]
        share = rng.choice((0.2, 0.5, 0.8))
        for operation in pending:
            if operation is torn:
                for part in _tear(operation, rng):
                    _apply(made, part)
                lost.append(f"part of: {operation}")
                continue
            if how == "sizes only":
                there = operation.kind == "size"
            else:
                there = how in ("some", "torn") and rng.random() < share
            if there:
                _apply(made, operation)
            else:
                lost.append(str(operation))
        if how == "sizes only" or (how in ("some", "torn") and rng.random() < 0.3):
            made.size = max(made.size, self._now[file].size)
        return made


def _tear(write: Operation, rng: random.Random) -> Iterator[Operation]:
    """Some sectors of a write, and the first half of one."""
    end = write.offset + len(write.data)
    sectors = range(write.offset // SECTOR, (end - 1) // SECTOR + 1)
    half = rng.choice(sectors) if rng.random() < 0.5 else -1
    mode = rng.choice(("front", "back", "any"))
    cut = rng.choice(sectors)
    begin = -1
    for sector in [*sectors, -1]:
        whole = (
            sector >= 0
            and {
                "front": sector < cut,
                "back": sector > cut,
                "any": rng.random() < 0.5,
            }[mode]
        )
        if whole and sector != half:
            begin = sector * SECTOR if begin < 0 else begin
            continue
        if begin >= 0:
            stop = sector * SECTOR if sector >= 0 else end
            yield _part(write, begin, stop)
            begin = -1
        if sector == half >= 0:
            yield _part(write, sector * SECTOR, sector * SECTOR + _HALF)


def _part(write: Operation, begin: int, stop: int) -> Operation:
    begin = max(begin, write.offset)
    data = write.data[begin - write.offset : max(stop - write.offset, 0)]
    return write._replace(offset=begin, data=data)


def _apply(content: Content, operation: Operation) -> None:
    if operation.kind == "write":
        content.write(operation.offset, operation.data)
    elif operation.kind == "size":
        content.resize(operation.offset)
    else:
        content.punch(operation.offset, operation.length)


def _rename(names: dict[str, int], operation: Operation) -> None:
    if operation.kind == "unlink":
        del names[operation.name]
        return
    if operation.kind == "rename":
        del names[operation.old]
    names[operation.name] = operation.file


def _touches(operation: Operation, folder: str) -> bool:
    touched = (operation.name, operation.old or operation.name)
    return any(str(PurePosixPath(name).parent) == (folder or ".") for name in touched)
