# SPDX-License-Identifier: Apache-2.0
"""Repairing a link: a plan first, then the old bytes kept, then the changes, then another look.

Only the named link is changed, never a parent. Nothing is guessed: what no copy tells is left, and
told. What the changes are, and in which order: formats/vmdk/mending.py.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, cast

from diskkit import formats
from diskkit.chain import MismatchedParent, pair_problems
from diskkit.errors import DiskkitError, FormatError, UsageError
from diskkit.formats.link import Link
from diskkit.formats.vmdk import descriptor, layout, redescribe, sparse
from diskkit.interfaces import OpenPolicy
from diskkit.open import check_files, open_links
from diskkit.problem import Problem
from diskkit.storage import keepsake
from diskkit.storage.local import LocalPlace, open_file
from diskkit.tasks.check import check
from diskkit.units import SECTOR

if TYPE_CHECKING:
    from diskkit.formats.vmdk.mend import Patient
    from diskkit.formats.vmdk.mending import Mend, View
    from diskkit.interfaces import WritableStorage
    from diskkit.tasks.work import Progress

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was, or would be, mended."""

    code: str
    """The stable short name, as `check` has it."""
    where: str
    """The file."""
    message: str
    lossy: bool
    """Whether it gives something up."""
    done: bool
    """Whether it was done; in a dry run, whether it would be."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair did, or would do."""

    dry_run: bool
    plan: list[Step]
    backup: str | None
    """The file that holds the old bytes; None if nothing was changed."""
    remaining: list[Problem] = field(default_factory=list)
    """What is wrong still: found by a check afterwards, or in a dry run as the plan has it."""

    @property
    def ok(self) -> bool:
        """Whether no error remains, or would."""
        return not any(p.severity == "error" for p in self.remaining)

    def as_dict(self) -> dict[str, Any]:
        """The JSON document of `diskkit repair --json`."""
        return {
            "ok": self.ok,
            "dry_run": self.dry_run,
            "plan": [asdict(s) for s in self.plan],
            "backup": self.backup,
            "remaining": [asdict(p) for p in self.remaining],
        }


def repair(
    name: str | os.PathLike[str],
    *,
    dry_run: bool = False,
    fix_ids: bool = False,
    lossy: bool = False,
    policy: OpenPolicy | None = None,
    progress: Progress | None = None,
) -> Repaired:
    """Mend the link `name`, without its parents; `dry_run` changes nothing.

    `fix_ids` takes the parent for the right one although its content ID says otherwise. `lossy`
    allows mends that may give up what nobody can read now, such as the rest of a cut stream.
    The old bytes are kept in a new file beside the disk; `undo_repair` puts them back.

    Raises `UnsupportedFeature` for an encrypted disk, `LockedError` if another program uses it,
    and `StorageError` if a file cannot be changed: then it can be repaired again.
    """
    path = os.fspath(name)
    check_files(path)
    policy = policy or OpenPolicy()
    patient = _open(path, policy, write=not dry_run, lossy=lossy)
    backup = None
    try:
        patient.look()
        if patient.link is not None:
            _judge_ids(patient, policy, fix_ids=fix_ids)
        plan = patient.plan
        chosen = plan.chosen
        if chosen and not dry_run:
            backup = _operate(patient, chosen)
    finally:
        for view in patient.files:
            view.base.close()
    steps = [Step(m.code, m.where, m.message, m.lossy, m in chosen) for m in plan.mends]
    if dry_run:
        return Repaired(dry_run, steps, None, plan.left)
    remaining = _remaining(path, policy, patient, progress)
    return Repaired(dry_run, steps, backup, remaining)


def undo_repair(
    name: str | os.PathLike[str],
    backup: str | os.PathLike[str],
    *,
    policy: OpenPolicy | None = None,
) -> list[str]:
    """Put back the bytes of the disk `name` that a repair kept in `backup`; returns the files.

    Raises `UsageError` if the disk was changed since, unless `policy.force` is set, and
    `FormatError` if `backup` is no such file.
    """
    path = os.fspath(name)
    policy = policy or OpenPolicy()
    try:
        kept = keepsake.Keepsake(os.fspath(backup))
    except OSError as error:
        raise UsageError(f"{os.fspath(backup)}: {error.strerror}") from error
    patient = _open(path, policy, write=True, lossy=False)
    try:
        patient.reach()
        files = {os.path.realpath(v.name): v.base for v in patient.files}
        kept.judge(files, force=policy.force)
        kept.restore(cast("dict[str, WritableStorage]", files))
    finally:
        for view in patient.files:
            view.base.close()
    return kept.paths


def _open(path: str, policy: OpenPolicy, *, write: bool, lossy: bool) -> Patient:
    from diskkit.formats.vmdk.mend import Patient

    if formats.choose(path, None) == "raw":
        raise UsageError(f"{path}: a raw image has nothing that could be repaired")
    policy = policy._replace(writable=write, force=True, strict=False, allow_truncated=False)
    storage = open_file(path, policy, write=write)
    return Patient(storage, LocalPlace(path, policy), policy, lossy=lossy)


def _judge_ids(patient: Patient, policy: OpenPolicy, *, fix_ids: bool) -> None:
    """Hold the link against its parent, if that is there."""
    link, plan = patient.link, patient.plan
    assert link is not None
    parents: list[Link] = []
    try:
        if link.parent_hint is not None and not policy.single_link:
            place = LocalPlace(link.path, policy)
            reading = policy._replace(
                writable=False, single_link=True, strict=False, warn=lambda text: None
            )
            parents = open_links(place.find_parent(link.parent_hint), policy=reading)
            for problem in pair_problems(link, parents[0]):
                if not isinstance(problem, MismatchedParent):
                    plan.leave(problem.code, link.path, problem.what)
    except FormatError as error:
        plan.leave(error.code, error.path or link.path, error.what)
    try:
        patient.ids(parents[0] if parents else None, fix_ids=fix_ids)
    finally:
        for parent in parents:
            parent.close()


def _operate(patient: Patient, chosen: list[Mend]) -> str:
    """Keep the old bytes, then change them, stage by stage; returns what holds the old."""
    from diskkit.formats.vmdk.mending import Stage, pieces_of

    views = {v.name: v for v in patient.files}
    texts = [m.text for m in chosen if m.text is not None]
    touched: dict[str, list[tuple[int, int]]] = {}
    for view in views.values():
        mine = [m for m in chosen if m.where == view.name]
        ranges = pieces_of([p for m in mine for p in m.patches])
        ranges += [(m.size, view.base.size) for m in mine if m.size is not None]
        if texts and view is patient.own:
            ranges += _text_ranges(view)
        if ranges:
            touched[view.name] = _joined(ranges)
    kept = [keepsake.Kept(n, views[n].base, ranges) for n, ranges in touched.items()]
    backup = keepsake.keep(patient.path, kept)
    for stage in Stage:
        if stage is Stage.CLOSE and texts:
            _redescribe(patient, texts[-1])
        changed = set()
        for mend in chosen:
            file = cast("WritableStorage", views[mend.where].base)
            for patch in mend.patches:
                if patch.stage is stage:
                    changed.add(mend.where)
                    if patch.data is not None:
                        file.write(patch.offset, patch.data)
                    else:
                        _copy(file, patch.source, patch.offset, patch.length)
            if stage is Stage.SIZE and mend.size is not None:
                changed.add(mend.where)
                file.resize(mend.size)
        for where in changed:
            cast("WritableStorage", views[where].base).flush()
    keepsake.seal(backup, [views[n].base for n in touched])
    return backup


def _copy(file: WritableStorage, source: int, target: int, length: int) -> None:
    done = 0
    while done < length:
        n = min(_PIECE, length - done)
        there = max(0, min(n, file.size - source - done))
        data = file.read(source + done, there) if there else b""
        file.write(target + done, data.ljust(n, b"\0"))
        done += n


def _text_ranges(view: View) -> list[tuple[int, int]]:
    """Where a link's descriptor lies in its own file, and what says so."""
    base = view.base
    if base.read(0, min(4, base.size)) != layout.MAGIC_SPARSE:
        return [(0, base.size)]
    header = layout.parse_sparse_header(view.read(0, SECTOR), view.name)
    begin = header.descriptor_offset
    return [(0, SECTOR), (begin, begin + header.descriptor_size)]


def _redescribe(patient: Patient, text: bytes) -> None:
    """Put the new descriptor in place of the old, whatever crash may come."""
    base = patient.own.base
    link = Link(patient.path, base)
    embedded = base.read(0, min(4, base.size)) == layout.MAGIC_SPARSE
    if embedded:
        header = layout.parse_sparse_header(base.read(0, SECTOR), patient.path)
        raw = sparse.read_descriptor(base, header)
        at = header.descriptor_offset
    else:
        raw, at = base.read(0, base.size), 0
    link.descriptor = descriptor.parse(raw, path=patient.path, at=at, embedded=embedded)
    try:
        redescribe.replace(link, text)
    except UsageError as error:
        patient.plan.leave("descriptor.room", patient.path, str(error))
    patient.own.base = link.storage


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for begin, end in sorted(r for r in ranges if r[1] > r[0]):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def _remaining(
    path: str, policy: OpenPolicy, patient: Patient, progress: Progress | None
) -> list[Problem]:
    """What a check finds now, and what the plan left that no check sees."""
    mine = {v.name for v in patient.files}
    try:
        report = check(path, policy=policy._replace(writable=False), progress=progress)
    except DiskkitError as error:
        return [Problem("storage", "error", path, str(error))]
    found = []
    for problem in report.problems:
        message = problem.message
        if problem.severity == "error" and problem.where not in mine:
            message += " (another link: repair that one itself)"
        found.append(Problem(problem.code, problem.severity, problem.where, message))
    known = {(p.code, p.where) for p in found}
    return found + [p for p in patient.plan.left if (p.code, p.where) not in known]
