# SPDX-License-Identifier: Apache-2.0
"""Merging links: `commit` moves a child's data down, `flatten` moves all parents' data up.

At every moment of both the child reads as before, whatever is lost in a crash: commit writes only
what the child hides, flatten only what it shows. So neither changes a content ID before it is done.

commit, in this order: the parent gets the data and is flushed, the child's descriptor is removed,
then its extents, and the parent takes over the child's content ID, because it now has its content.
A crash before the removal leaves the chain; one after it leaves the parent, which is whole.

flatten: the child gets the data and is flushed; then one replacement of its descriptor makes it a
base. Its content has not changed, so it keeps its content ID, and its own children stay valid.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from diskkit.chain import Chain, check_pair
from diskkit.errors import ChainError, UsageError
from diskkit.formats.link import NO_PARENT
from diskkit.formats.vmdk import edit, redescribe
from diskkit.formats.vmdk.family import children_of, refuse_parent
from diskkit.interfaces import OpenPolicy
from diskkit.livechain import LiveChain
from diskkit.open import open_links
from diskkit.runs import State
from diskkit.tasks.remove import remove_link
from diskkit.tasks.work import in_order, pieces

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from diskkit.formats.link import Link
    from diskkit.table import RunTable
    from diskkit.tasks.work import Progress

_PIECE = 8 << 20
_HOSTED = frozenset({"monolithicSparse", "twoGbMaxExtentSparse", "2GbMaxExtentSparse"})


class Merged(NamedTuple):
    """What a merge did."""

    path: str
    """The disk that holds everything now."""
    capacity: int
    bytes_written: int
    bytes_zeroed: int


def commit(
    name: str | os.PathLike[str],
    *,
    policy: OpenPolicy | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Merged:
    """Move what the child `name` holds into its parent, and remove the child.

    Refused, unless the policy forces it, if the parent has other children, which would no longer
    fit it, and always if `name` itself has children beside it. Raises as `open_disk` does.
    """
    path = os.fspath(name)
    policy = policy or OpenPolicy()
    parent_path = _parent_of(path, policy)
    refuse_parent(path)
    others = [c for c in children_of(parent_path) if os.path.realpath(c) != os.path.realpath(path)]
    if others and not policy.force:
        raise ChainError(
            f"its parent has another child, {Path(others[0]).name}, which would become unusable",
            path=path,
            structure="chain",
            advice="flatten that one first, or use --force",
        )
    writable = policy._replace(writable=True, force=True)
    (child,) = open_links(path, policy=writable._replace(single_link=True))
    try:
        parents = open_links(parent_path, policy=writable)
        try:
            check_pair(child, parents[0], policy)
            target = LiveChain(parents, writable)
        except BaseException:
            _close(parents)
            raise
        # Until all is done the parent must stay the one that its child recorded.
        parents[0].renew = _later
        try:
            done = _move_down(child, target, threads, progress)
            target.flush()
            remove_link(child, policy)
            _adopt(parents[0], child, policy)
        finally:
            target.close()
    finally:
        child.close()
    return Merged(parent_path, target.size, *done)


def flatten(
    name: str | os.PathLike[str],
    *,
    policy: OpenPolicy | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Merged:
    """Give the hosted child `name` all that it has from its parents, and make it a base.

    The parents are not touched. Raises `UsageError` if it has none, or is of a kind that cannot be
    a base, and as `open_disk` does.
    """
    path = os.fspath(name)
    policy = (policy or OpenPolicy())._replace(writable=True, force=True)
    links = open_links(path, policy=policy)
    try:
        _check_child(links)
        chain = LiveChain(links, policy)
    except BaseException:
        _close(links)
        raise
    links[0].renew = _later
    try:
        written = _move_up(chain, threads, progress)
        chain.flush()
        _make_base(links)
    finally:
        chain.close()
    return Merged(path, chain.size, written, 0)


def _check_child(links: list[Link]) -> None:
    path, kind = links[0].path, links[0].create_type
    if len(links) < 2:
        raise UsageError(f"{path}: has no parent: nothing to flatten")
    if kind not in _HOSTED:
        raise UsageError(f"{path}: a {kind} disk cannot be without a parent; convert it instead")


def _later() -> None:
    """The content ID is not renewed now: see above."""


def _close(links: Iterable[Link]) -> None:
    for link in links:
        link.close()


def _parent_of(path: str, policy: OpenPolicy) -> str:
    """The parent's path, after all links were opened and checked."""
    links = open_links(path, policy=policy)
    _close(links)
    if len(links) < 2:
        raise UsageError(f"{path}: has no parent: nothing to commit")
    return links[1].path


def _move_down(
    child: Link, target: LiveChain, threads: int | None, progress: Progress | None
) -> tuple[int, int]:
    """Write the child's data, and its zeros, into `target`; returns the bytes of each."""
    own = Chain([child])
    written = zeroed = 0
    for table in own.stored(0, own.size):
        zero = table.states == State.ZERO
        for start, length in zip(
            table.starts[zero].tolist(), table.lengths[zero].tolist(), strict=True
        ):
            target.zero(start, length, give_back=True)
            zeroed += length
        written += _pour(own, [table], target, threads, progress)
    return written, zeroed


def _move_up(chain: LiveChain, threads: int | None, progress: Progress | None) -> int:
    """Write what only the parents hold into the leaf; returns the bytes."""

    def from_parents() -> Iterator[RunTable]:
        for table in chain.stored(0, chain.size):
            mine = np.array(chain.link_of)[table.sources] == 0
            yield table._replace(states=np.where(mine, np.uint8(State.HOLE), table.states))

    return _pour(chain, from_parents(), chain, threads, progress)


def _pour(
    source: Chain,
    tables: Iterable[RunTable],
    target: LiveChain,
    threads: int | None,
    progress: Progress | None,
) -> int:
    """Write what `tables` say holds bytes, read on several threads, in order."""

    def read(piece: RunTable) -> list[tuple[int, memoryview]]:
        found = []
        for begin, end in _joined(piece):
            buffer = memoryview(bytearray(end - begin))
            source.read_into(begin, buffer)
            found.append((begin, buffer))
        return found

    written = 0
    for piece, found in in_order(pieces(tables, _PIECE), read, threads):
        for begin, data in found:
            target.write(begin, data)
            written += len(data)
        if progress is not None:
            progress(piece.end, target.size)
    return written


def _joined(piece: RunTable) -> Iterator[tuple[int, int]]:
    """The stretches of a piece that hold bytes, wherever in a file they lie."""
    full = piece.states >= State.DATA
    starts, ends = piece.starts[full], piece.ends[full]
    first = np.append(True, starts[1:] != ends[:-1])
    last = np.append(first[1:], True)
    return zip(starts[first].tolist(), ends[last].tolist(), strict=True)


def _adopt(parent: Link, child: Link, policy: OpenPolicy) -> None:
    """The parent has the child's content now, so it takes its content ID; tracking ends."""
    mine, its = parent.descriptor, child.descriptor
    assert mine is not None
    assert its is not None
    keys = {key.lower(): value for key, value in its.ddb.items()}
    header: dict[str, str | None] = {"CID": f"{its.cid:08x}"}
    ddb: dict[str, str | None] = {}
    if any(key.lower() == "longcontentid" for key in mine.ddb):
        fallback = edit.new_content_id(mine).ddb["longContentID"] or ""
        ddb["longContentID"] = keys.get("longcontentid") or fallback[:24] + f"{its.cid:08x}"
    header |= edit.untracked(mine)
    redescribe.replace(parent, edit.edited(mine, header=header, ddb=ddb))
    if mine.change_track_path is not None:
        text = f"its change tracking ({mine.change_track_path}) ends: it does not know the child's"
        policy.warning(f"{parent.path}: {text}")


def _make_base(links: list[Link]) -> None:
    """Let the leaf's descriptor name no parent, and hold the metadata it had from its parents."""
    mine = links[0].descriptor
    assert mine is not None
    known = {key.lower() for key in mine.ddb}
    ddb: dict[str, str | None] = {}
    for link in links[1:]:
        for key, value in link.descriptor.ddb.items() if link.descriptor else ():
            if key.lower() not in known:
                known.add(key.lower())
                ddb[key] = value
    header = {"parentCID": f"{NO_PARENT:08x}", "parentFileNameHint": None}
    redescribe.replace(links[0], edit.edited(mine, header=header, ddb=ddb))
