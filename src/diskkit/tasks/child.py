# SPDX-License-Identifier: Apache-2.0
"""Making a child of a disk: an empty link that reads as its parent until it is written to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from diskkit.errors import UsageError
from diskkit.formats.vmdk import descriptor, edit
from diskkit.formats.vmdk.compose import NewDisk, compose, extent_line, new_identity
from diskkit.formats.vmdk.fresh_esx import (
    MOST_COWD,
    MOST_SESPARSE,
    SESPARSE_SUFFIX,
    write_empty_cowd,
    write_empty_sesparse,
)
from diskkit.formats.vmdk.writers import SparseWriter
from diskkit.interfaces import OpenPolicy
from diskkit.open import open_links
from diskkit.storage.newfile import new_file, new_files
from diskkit.storage.writing import append_all
from diskkit.tasks.clone import KINDS, Kind, parts
from diskkit.tasks.lineage import HOSTED, check_kinds, hint_for

if TYPE_CHECKING:
    from diskkit.formats.link import Link

CHILD_KINDS = {
    "monolithicSparse": KINDS["monolithicSparse"],
    "twoGbMaxExtentSparse": KINDS["twoGbMaxExtentSparse"],
    "vmfsSparse": Kind("VMFSSPARSE", "-delta", 0, MOST_COWD),
    "seSparse": Kind("SESPARSE", SESPARSE_SUFFIX, 0, MOST_SESPARSE),
}
"""By the name that `--type` takes."""

_KEPT = (
    "adapterType",
    "geometry.cylinders",
    "geometry.heads",
    "geometry.sectors",
    "geometry.biosCylinders",
    "geometry.biosHeads",
    "geometry.biosSectors",
    "virtualHWVersion",
)
"""Metadata of the parent that the child repeats; its uuid besides, and then there is none else."""


def create_child(
    parent_path: str | os.PathLike[str],
    child_path: str | os.PathLike[str],
    kind: str | None = None,
    *,
    experimental: bool = False,
    policy: OpenPolicy | None = None,
    sync: bool = True,
) -> None:
    """Make `child_path`, an empty child of the disk `parent_path`. Existing files are refused.

    `kind` is one of `CHILD_KINDS`; unless said, monolithicSparse on a hosted parent, vmfsSparse on
    an ESX one. seSparse needs `experimental`: it was never tried on ESXi. The child keeps the
    parent's uuid, as a snapshot does, and gets content IDs of its own.

    Raises `UsageError` if the parent cannot have such a child, and what opening it raises.
    """
    name = os.fspath(child_path)
    policy = policy or OpenPolicy()
    links = open_links(os.fspath(parent_path), policy=policy._replace(single_link=False))
    try:
        _make(links, name, _choose(kind, links[0], experimental=experimental), sync=sync)
    finally:
        for link in links:
            link.close()


def _choose(kind: str | None, parent: Link, *, experimental: bool) -> str:
    if kind is None and parent.create_type in HOSTED:
        kind = "monolithicSparse"
    elif kind is None:
        se = parent.create_type in ("seSparse", "vmfsSeSparse")
        kind = "seSparse" if se else "vmfsSparse"
    if kind not in CHILD_KINDS:
        raise UsageError(f"type {kind!r} is not one of a child: {', '.join(CHILD_KINDS)}")
    check_kinds(kind, parent)
    if kind == "seSparse" and not experimental:
        raise UsageError("seSparse disks were never tried on ESXi: --experimental makes them")
    if parent.capacity > CHILD_KINDS[kind].most:
        text = f"a {kind} disk has at most {CHILD_KINDS[kind].most} bytes"
        raise UsageError(f"{text}, not the parent's {parent.capacity}")
    return kind


def _make(links: list[Link], name: str, kind_name: str, *, sync: bool) -> None:
    kind, parent = CHILD_KINDS[kind_name], links[0]
    capacity = parent.capacity
    folder, base = os.path.split(name)
    hint = hint_for(name, parent.path)
    if not kind.suffix:
        line = extent_line(capacity, kind.extent, base)
        text = _text(links, kind_name, [line], hint)
        with new_file(name, force=False, sync=sync) as (fd, _):
            SparseWriter(fd, name, capacity, text).finish()
        return
    made = list(parts(kind, base, capacity))
    names = [os.path.join(folder, part.name) for part in made]  # noqa: PTH118 - as it was given
    lines = [extent_line(part.end - part.begin, kind.extent, part.name) for part in made]
    text = _text(links, kind_name, lines, hint)
    with new_files([*names, name], force=False, sync=sync) as files:
        for part, (fd, _), path in zip(made, files, names, strict=False):
            length = part.end - part.begin
            if kind.extent == "SPARSE":
                SparseWriter(fd, path, length, b"").finish()
            elif kind.extent == "SESPARSE":
                write_empty_sesparse(fd, length)
            else:
                write_empty_cowd(fd, length)
        append_all(files[-1][0], text)


def _text(links: list[Link], kind: str, lines: list[str], hint: str) -> bytes:
    known: dict[str, str] = {}
    for link in links:
        ddb = link.descriptor.ddb if link.descriptor else {}
        known = {**{key.lower(): value for key, value in ddb.items()}, **known}
    kept: dict[str, str | None] = {k: known[k.lower()] for k in _KEPT if k.lower() in known}
    plain = compose(NewDisk(kind, links[0].capacity, new_identity()), lines)
    return edit.edited(
        descriptor.parse(plain),
        header={"parentCID": f"{links[0].cid:08x}", "parentFileNameHint": hint},
        ddb={**kept, "uuid": known.get("uuid")},
    )
