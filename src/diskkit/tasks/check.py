# SPDX-License-Identifier: Apache-2.0
"""Checking a disk: every structure of every link, the chain, and if asked, all data.

A check reports everything it can see, and goes on where opening the disk would have stopped.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from diskkit.chain import Chain, pair_problems, resolve
from diskkit.errors import DiskkitError, FormatError, printable
from diskkit.interfaces import OpenPolicy
from diskkit.open import check_files
from diskkit.problem import Problem, from_error
from diskkit.runs import State
from diskkit.tasks.work import in_order, pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diskkit.formats.link import Link
    from diskkit.table import RunTable
    from diskkit.tasks.work import Progress

_READ = 4 << 20


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found."""

    problems: list[Problem]

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings do not count."""
        return not any(p.severity == "error" for p in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """The JSON document of `diskkit check --json`."""
        return {"ok": self.ok, "problems": [asdict(p) for p in self.problems]}


def check(
    name: str | os.PathLike[str],
    *,
    format: str | None = None,
    policy: OpenPolicy | None = None,
    data: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check the disk `name` and all its parents, without changing anything.

    `data` also reads everything that is allocated, and inflates what is compressed. Raises
    `StorageError` if the disk itself cannot be read; whatever else is wrong is in the report.
    """
    path = os.fspath(name)
    problems: list[Problem] = []
    links: list[Link] = []

    def note(text: str) -> None:
        where, _, rest = text.partition(": ")
        problems.append(Problem("note", "warning", where, rest))

    policy = (policy or OpenPolicy())._replace(warn=note)
    try:
        problems.extend(_open(path, format, policy, links))
        for child, parent in pairwise(links):
            problems.extend(from_error(e, child.path) for e in pair_problems(child, parent))
        for link in links:
            problems.extend(_link_problems(link, progress))
        whole = bool(links) and links[-1].parent_hint is None
        if data and whole and not any(p.severity == "error" for p in problems):
            problems.extend(_data_problems(links, threads, progress))
    finally:
        for link in links:
            link.close()
    return Report(problems)


def _open(
    path: str, format_name: str | None, policy: OpenPolicy, links: list[Link]
) -> Iterator[Problem]:
    """Open as many links as can be opened into `links`; yields what stopped it."""
    check_files(path)
    try:
        for link in resolve(path, format_name, policy, judge=None):
            links.append(link)  # noqa: PERF402 - the links before a failure count too
    except FormatError as error:
        yield from_error(error, path)
    except DiskkitError as error:
        if not links:
            raise
        yield Problem("storage", "error", links[-1].path, str(error))


def _link_problems(link: Link, progress: Progress | None) -> Iterator[Problem]:
    from diskkit.formats.vmdk.examine import examine

    yield from _id_problems(link)
    for extent in link.extents:

        def step(done: int, start: int = extent.start) -> None:
            if progress:
                progress(start + done, link.capacity)

        try:
            yield from examine(extent, step)
        except DiskkitError as error:
            yield Problem("storage", "error", link.path, str(error))


def _id_problems(link: Link) -> Iterator[Problem]:
    if link.descriptor is None:
        return
    keys = {key.lower(): value for key, value in link.descriptor.ddb.items()}
    long_id = keys.get("longcontentid", "")
    # VMware's own kit writes a CID of 0 beside a long one.
    if not long_id or not link.cid or long_id[-8:].lower() == f"{link.cid:08x}":
        return
    end = printable(long_id[-8:])
    text = f"descriptor: ddb.longContentID ends in {end}, the CID is {link.cid:08x}"
    yield Problem("descriptor.longContentID", "warning", link.path, text)


def _data_problems(
    links: list[Link], threads: int | None, progress: Progress | None
) -> Iterator[Problem]:
    chain = Chain(links)

    def work(piece: RunTable) -> list[Problem]:
        return list(_read_all(chain, piece))

    for piece, found in in_order(pieces(chain.stored(0, chain.size), _READ), work, threads):
        yield from found
        if progress:
            progress(piece.end, chain.size)


def _read_all(chain: Chain, piece: RunTable) -> Iterator[Problem]:
    buffer = memoryview(bytearray(_READ))
    rows = zip(piece.starts.tolist(), piece.ends.tolist(), piece.states.tolist(), strict=True)
    for begin, end, state in rows:
        if state < State.DATA:
            continue
        while begin < end:
            part = buffer[: end - begin]
            try:
                chain.read_into(begin, part)
            except FormatError as error:
                yield from_error(error)
            except DiskkitError as error:
                yield Problem("storage", "error", chain.links[0].path, str(error))
            begin += len(part)
