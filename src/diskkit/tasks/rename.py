# SPDX-License-Identifier: Apache-2.0
"""Giving one link another name, or place on its filesystem, with all its files.

A disk of several files gets the new names beside the old: hard links to its extents first, then,
when these are durable, the new descriptor, complete and durable. Only then the old descriptor goes,
and then the old names of the extents. So at every moment the old name or the new one opens whole;
both do for a moment, and what a crash leaves of the old one is only names.

A single file is renamed as such. Readers ignore the name that its descriptor gives to itself, so
the text is changed before: whatever stands in the way of that is known while nothing has happened.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from diskkit import formats
from diskkit.errors import ChainError, StorageError, UsageError
from diskkit.formats.vmdk import edit, redescribe
from diskkit.formats.vmdk.compose import check_name
from diskkit.formats.vmdk.family import children_of
from diskkit.formats.vmdk.fresh_esx import SESPARSE_SUFFIX
from diskkit.interfaces import OpenPolicy
from diskkit.storage.local import LocalPlace
from diskkit.storage.newfile import new_file, sync_folder, write_errors
from diskkit.storage.replacing import make_alike
from diskkit.storage.writing import write_all
from diskkit.tasks.lineage import hint_for
from diskkit.tasks.members import alone, members

if TYPE_CHECKING:
    from diskkit.formats.link import Link
    from diskkit.tasks.members import Members

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_SUFFIXES = {
    "SPARSE": "-s{:03d}",
    "FLAT": "-f{:03d}",
    "VMFS": "-f{:03d}",
    "VMFSSPARSE": "-delta",
    "SESPARSE": SESPARSE_SUFFIX,
    "VMFSRDM": "-rdm",
    "VMFSRDMP": "-rdmp",
}
"""What names get that did not begin with the disk's own; {} is the extent's number, from 1."""


class Renamed(NamedTuple):
    """What a renaming did."""

    files: dict[str, str]
    """Old path: new path; the descriptor first."""
    children: list[str]
    """Disks that still name the old path as their parent."""


def rename_disk(
    old: str | os.PathLike[str], new: str | os.PathLike[str], *, policy: OpenPolicy | None = None
) -> Renamed:
    """Rename the link `old` to `new`: its descriptor, extents, and change tracking file.

    `new` may be in another folder of the same filesystem. Nothing that exists is replaced. The
    hints of the disk's children stay as they are, so these no longer find it: a warning names them.
    Raises `UsageError` if a name is taken or unfit, `LockedError` if the disk is in use.
    """
    policy = policy or OpenPolicy()
    target = os.fspath(new)
    with alone(os.fspath(old), policy) as link:
        files = members(link)
        plan = _plan(link, files, target)
        children = children_of(files.path)
        if any(e.storage is link.storage for e in link.extents):
            _rename_file(link, plan, policy)
        else:
            _rename_all(link, plan)
    for child in children:
        policy.warning(f"{child}: its parent is now {plan.target}; its hint still names {old}")
    return Renamed(plan.files, children)


class _Plan(NamedTuple):
    target: str
    """The new descriptor, without symbolic links."""
    files: dict[str, str]
    header: dict[str, str | None]
    """Changes of the descriptor's header, valid at the new place."""
    extents: dict[int, str]
    parent: str | None
    """The parent, if the hint has to change."""


def _plan(link: Link, files: Members, target: str) -> _Plan:
    folder = os.path.realpath(os.path.dirname(target) or ".")
    base = check_name(os.path.basename(target))
    if not base or os.path.isdir(target):
        raise UsageError(f"{target}: is a folder; give the disk's new name")
    if formats.choose(base, None) != "vmdk":
        raise UsageError(f"{target}: a VMDK of that name would be taken for a raw image")
    if not os.path.isdir(folder):
        raise UsageError(f"{target}: there is no such folder")
    if os.stat(folder).st_dev != os.stat(files.folder).st_dev:
        raise UsageError(f"{target}: is on another filesystem (convert or copy the disk instead)")
    moved = folder != files.folder
    if moved and (bound := [n for n in files.left if not os.path.isabs(n)]):
        raise UsageError(f"{link.path}: {bound[0]} is bound to its folder; rename within it")
    stems = os.path.basename(files.path).removesuffix(".vmdk"), base.removesuffix(".vmdk")
    renamed = {os.path.basename(files.path): base}
    extents: dict[int, str] = {}
    for name, numbers in files.extents.items():
        kind, several = link.extents[numbers[0]].line.kind, len(files.extents) > 1
        renamed[name] = _extent_name(name, *stems, kind, numbers[0] + 1, several=several)
        extents.update(dict.fromkeys(numbers, renamed[name]))
    header: dict[str, str | None] = {}
    if files.tracking:
        renamed[files.tracking] = header["changeTrackPath"] = f"{stems[1]}-ctk.vmdk"
    if len(set(renamed.values())) < len(renamed):
        raise UsageError(f"{link.path}: two of its files would get the same name")
    paths = {
        os.path.join(files.folder, a): os.path.join(folder, check_name(b))
        for a, b in renamed.items()
    }
    for path in paths.values():
        if os.path.lexists(path):
            raise UsageError(f"{path}: exists already")
    plan = _Plan(os.path.join(folder, base), paths, header, extents, None)
    parent = _moved_parent(link, files.path, plan.target)
    if parent is not None:
        header["parentFileNameHint"] = hint_for(plan.target, parent)
    return plan._replace(parent=parent)


def _extent_name(
    name: str, old_stem: str, new_stem: str, kind: str, number: int, *, several: bool
) -> str:
    rest = name.removeprefix(old_stem)
    if rest != name and rest[:1] in ("-", "."):
        return new_stem + rest
    suffix = _SUFFIXES.get(kind, "-{:03d}").format(number)
    if kind in ("FLAT", "VMFS") and not several:
        suffix = "-flat"
    elif several and "{" not in _SUFFIXES.get(kind, "{"):
        suffix += f"-{number:03d}"
    return f"{new_stem}{suffix}.vmdk"


def _moved_parent(link: Link, old: str, new: str) -> str | None:
    """The parent, if the hint would not lead to it from the new place."""
    hint = link.parent_hint
    if hint is None:
        return None
    anywhere = OpenPolicy(allow=("/",))
    try:
        parent = LocalPlace(old, anywhere).find_parent(hint)
    except ChainError:
        if os.path.dirname(old) == os.path.dirname(new):
            return None
        raise
    try:
        if LocalPlace(new, anywhere).find_parent(hint) == parent:
            return None
    except ChainError:
        pass
    return parent


def _rename_all(link: Link, plan: _Plan) -> None:
    """A descriptor in a file of its own, and its extents."""
    assert link.descriptor is not None
    assert link.storage.descriptor is not None
    text = edit.edited(link.descriptor, header=plan.header, extents=plan.extents)
    (old, _), *others = plan.files.items()
    made: list[str] = []
    try:
        for before, after in others:
            made.append(after)
            _hard_link(before, after)
        with write_errors(plan.target):
            sync_folder(os.path.dirname(plan.target))
        with new_file(plan.target, force=False, sync=True) as (fd, _):
            make_alike(fd, link.storage)
            write_all(fd, text, 0)
    except BaseException:
        _unlink_ours(made, plan)
        raise
    _unlink(old)
    for number, (before, _) in enumerate(others):
        _unlink(before, sync=number == len(others) - 1)


def _rename_file(link: Link, plan: _Plan, policy: OpenPolicy) -> None:
    """A single file."""
    assert link.descriptor is not None
    (old, new), *others = plan.files.items()
    made: list[str] = []
    final = dict(plan.header)
    passing = dict(final)
    if plan.parent is not None:
        # Leads to the parent from the old place and from the new one.
        passing["parentFileNameHint"] = check_name(plan.parent)
    before = link.descriptor
    try:
        for one, other in others:
            made.append(other)
            _hard_link(one, other)
        _describe(link, passing, os.path.basename(new), policy)
        made.append(new)
        _link_or_rename(old, new)
    except BaseException:
        if os.path.lexists(old):
            _unlink_ours(made, plan)
            if link.descriptor is not before:
                redescribe.replace(link, before.raw)
        raise
    if os.path.lexists(old):
        with write_errors(new):
            sync_folder(os.path.dirname(new))
        _unlink(old)
    link.storage.name = new
    if final != passing:
        redescribe.replace(link, edit.edited(link.descriptor, header=final))
    for one, _ in others:
        _unlink(one)


def _describe(link: Link, header: dict[str, str | None], base: str, policy: OpenPolicy) -> None:
    found = link.descriptor
    assert found is not None
    if link.create_type == "streamOptimized":
        return
    try:
        redescribe.replace(link, edit.edited(found, header=header, extents={0: base}))
    except UsageError as error:
        if header:
            raise
        policy.warning(f"{error}: the name inside stays, which readers ignore")


def _hard_link(old: str, new: str) -> None:
    try:
        os.link(old, new)
    except FileExistsError:
        raise UsageError(f"{new}: exists already") from None
    except OSError as error:
        text = f"cannot be made: {error.strerror}"
        if error.errno in _NO_LINKS:
            text += "; without hard links a disk of several files cannot be renamed safely"
        raise StorageError(new, text, errno=error.errno) from error


def _link_or_rename(old: str, new: str) -> None:
    try:
        _hard_link(old, new)
    except StorageError as error:
        if error.errno not in _NO_LINKS:
            raise
        with write_errors(new):
            os.rename(old, new)
            sync_folder(os.path.dirname(new))


def _unlink(path: str, *, sync: bool = True) -> None:
    with write_errors(path):
        os.unlink(path)
        if sync:
            sync_folder(os.path.dirname(path))


def _unlink_ours(made: list[str], plan: _Plan) -> None:
    """Take back new names, if they are names of our files."""
    old = {after: before for before, after in plan.files.items()}
    for path in made:
        if os.path.lexists(path) and os.path.samefile(path, old[path]):
            os.unlink(path)
