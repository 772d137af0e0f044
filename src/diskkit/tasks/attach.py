# SPDX-License-Identifier: Apache-2.0
"""Giving a link another parent: the hint and the content ID that it has to have.

A child says nothing of its parent's content but that ID, so nobody can tell afterwards whether the
parent is the right one. `attach` takes the caller's word; `rebase` reads both chains first.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from diskkit.chain import Chain, MismatchedParent, pair_problems
from diskkit.chaindisk import ChainDisk
from diskkit.errors import ChainError, UsageError
from diskkit.formats.vmdk import edit, redescribe
from diskkit.interfaces import MAX_DEPTH, OpenPolicy
from diskkit.open import open_links
from diskkit.tasks.compare import compare
from diskkit.tasks.lineage import check_kinds, hint_for

if TYPE_CHECKING:
    from diskkit.formats.link import Link
    from diskkit.tasks.work import Progress

_CHILDREN = ("SPARSE", "VMFSSPARSE", "SESPARSE")


def attach(
    parent: str | os.PathLike[str],
    child: str | os.PathLike[str],
    *,
    policy: OpenPolicy | None = None,
) -> None:
    """Make `parent` the parent of the link `child`, whatever it was before.

    What the child does not hold itself reads from `parent` then: the caller knows that this is
    right. Raises `UsageError` if a link of such a kind cannot have that parent, `ChainError` if the
    two do not fit, would form a circle, or if the child has children itself and `policy.force` is
    not set.
    """
    policy = policy or OpenPolicy()
    parents = _open_parents(os.fspath(parent), os.fspath(child), policy)
    try:
        # The parent that it has now may be missing: that is what many attach a parent for.
        alone = policy._replace(writable=True, single_link=True)
        links = open_links(os.fspath(child), policy=alone)
        try:
            _check(links[0], parents, policy)
            _point(links[0], parents[0])
        finally:
            _close(links)
    finally:
        _close(parents)


def rebase(
    disk: str | os.PathLike[str],
    parent: str | os.PathLike[str],
    *,
    unsafe: bool = False,
    policy: OpenPolicy | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Put the link `disk` on another parent, if its content stays what it is.

    What the link does not hold itself is compared, in the chain it has and in the new one, where
    their maps do not tell; nothing is copied. `unsafe` does not look, as `attach`. Raises
    `ChainError` with the first difference, and what `attach` raises.
    """
    if unsafe:
        attach(parent, disk, policy=policy)
        return
    policy = policy or OpenPolicy()
    parents = _open_parents(os.fspath(parent), os.fspath(disk), policy)
    try:
        # The content stays, so the link's own children do not care.
        whole = policy._replace(writable=True, force=True, single_link=False)
        links = open_links(os.fspath(disk), policy=whole)
        try:
            leaf = links[0]
            _check(leaf, parents, policy)
            before = ChainDisk(leaf.path, Chain(links))
            after = ChainDisk(leaf.path, Chain([leaf, *parents]))
            found = compare(before, after, threads=threads, progress=progress)
            if not found.identical:
                raise ChainError(
                    f"on {parents[0].path} its content would change, at byte "
                    f"{found.first_difference} first",
                    path=leaf.path,
                    structure="chain",
                    advice="convert it to a disk of its own, or rebase with --unsafe",
                )
            _point(leaf, parents[0])
        finally:
            _close(links)
    finally:
        _close(parents)


def _open_parents(parent: str, child: str, policy: OpenPolicy) -> list[Link]:
    """The new parent's chain, which must not hold the child: before the child is locked."""
    reading = policy._replace(writable=False, single_link=False)
    links = open_links(parent, policy=reading)
    problem = advice = ""
    if os.path.exists(child) and any(os.path.samefile(k.path, child) for k in links):
        problem = f"it is in the chain of {parent}: the chain would run in a circle"
    elif len(links) >= min(policy.max_depth, MAX_DEPTH):
        problem = f"the chain would have more than {policy.max_depth} links"
        advice = "allow a greater depth"
    if problem:
        _close(links)
        raise ChainError(problem, path=child, structure="chain", advice=advice)
    return links


def _check(child: Link, parents: list[Link], policy: OpenPolicy) -> None:
    if child.descriptor is None:
        raise UsageError(f"{child.path}: a raw image cannot have a parent")
    bad = [e.line.kind for e in child.extents if e.line.kind not in _CHILDREN]
    if bad or child.create_type == "streamOptimized":
        what = f"a {bad[0]} extent" if bad else "a streamOptimized disk"
        raise UsageError(f"{child.path}: {what} cannot have a parent")
    if child.descriptor.encrypted:
        raise UsageError(f"{child.path}: the disk is encrypted: {child.descriptor.encrypted}")
    check_kinds(child.create_type, parents[0])
    for problem in pair_problems(child, parents[0]):
        if not isinstance(problem, MismatchedParent):
            raise problem
    if policy.strict:
        raise UsageError(f"{child.path}: strict reading takes no disk with a parent")


def _point(child: Link, parent: Link) -> None:
    found = child.descriptor
    assert found is not None
    hint = hint_for(child.path, parent.path)
    header = {"parentCID": f"{parent.cid:08x}", "parentFileNameHint": hint}
    redescribe.replace(child, edit.edited(found, header=header))


def _close(links: list[Link]) -> None:
    for link in links:
        link.close()
