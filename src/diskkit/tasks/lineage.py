# SPDX-License-Identifier: Apache-2.0
"""Which link may be the child of which, and by what name a child finds its parent."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from diskkit.errors import ChainError, UnsupportedFeature, UsageError
from diskkit.formats.link import NO_PARENT
from diskkit.formats.vmdk.compose import check_name
from diskkit.interfaces import OpenPolicy
from diskkit.storage.local import LocalPlace

if TYPE_CHECKING:
    from diskkit.formats.link import Link

HOSTED = frozenset(
    {
        "monolithicSparse",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "2GbMaxExtentSparse",
        "twoGbMaxExtentFlat",
        "2GbMaxExtentFlat",
        "streamOptimized",
        "fullDevice",
        "partitionedDevice",
    }
)
ESX = frozenset(
    {
        "vmfs",
        "vmfsPreallocated",
        "vmfsEagerZeroedThick",
        "vmfsThin",
        "vmfsThick",
        "vmfsSparse",
        "seSparse",
        "vmfsSeSparse",
        "vmfsRDM",
        "vmfsRawDeviceMap",
    }
)
"""Kinds that can be parents, by the product whose children they can have (vmdk-formats, 4.1)."""

_SE = frozenset({"seSparse", "vmfsSeSparse"})


def check_kinds(child_kind: str, parent: Link) -> None:
    """Raise unless a child of createType `child_kind` can have `parent` as its parent."""
    found = parent.descriptor
    if found is None:
        raise UsageError(f"{parent.path}: a raw image cannot be a parent (convert it first)")
    if found.encrypted:
        raise _refused(parent, f"the disk is encrypted: {found.encrypted}")
    if parent.create_type not in HOSTED | ESX:
        raise _refused(parent, f"a {parent.create_type} disk cannot be a parent")
    hosted = child_kind in HOSTED
    if hosted != (parent.create_type in HOSTED):
        text = "children of hosted disks are hosted, those of ESX's are vmfsSparse or seSparse"
        raise UsageError(f"a {child_kind} disk on a {parent.create_type} one: {text}")
    child_of_own_kind = not hosted and parent.create_type in {"vmfsSparse", *_SE}
    if child_of_own_kind and (child_kind in _SE) != (parent.create_type in _SE):
        raise UsageError("vmfsSparse and seSparse links do not mix in a chain")
    if found.cid == NO_PARENT:
        raise _refused(parent, "its content ID is the one that means no parent")


def _refused(parent: Link, problem: str) -> UnsupportedFeature:
    return UnsupportedFeature(problem, path=parent.path, structure="descriptor")


def hint_for(child: str, parent: str) -> str:
    """The parent hint by which the disk at `child` finds the one at `parent`.

    The bare name if both are in one folder, so that they can move together; else the whole path.
    Raises `UsageError` if no hint leads there.
    """
    real = os.path.realpath(parent)
    folder, name = os.path.split(real)
    same = folder == os.path.realpath(os.path.dirname(child) or ".")
    hint = check_name(name if same else real)
    try:
        reached = LocalPlace(child, OpenPolicy(allow=("/",))).find_parent(hint)
    except ChainError:
        reached = ""
    if reached != real:
        text = f"a child cannot name it: {hint!r} would be taken for something else"
        raise UsageError(f"{parent}: {text} (rename it)")
    return hint
