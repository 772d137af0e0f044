# SPDX-License-Identifier: Apache-2.0
"""Changing VMDKs in place: who may be written to, and the new content ID before the first change.

One module per kind of extent: flat, hosted, cowd, sesparse; grains.py is what the last three share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diskkit.errors import UnsupportedFeature, UsageError
from diskkit.formats.vmdk import edit, redescribe

if TYPE_CHECKING:
    from collections.abc import Callable

    from diskkit.formats.link import Link
    from diskkit.interfaces import OpenPolicy


def judge(link: Link, policy: OpenPolicy) -> None:
    """Raise unless `link`, opened for writing, may be written to as a whole."""
    found = link.descriptor
    assert found is not None
    if policy.single_link and link.parent_hint is not None:
        text = "a child is never written to without its parent: parts of grains come from there"
        raise UsageError(f"{link.path}: {text}")
    for overlooked, text in (
        (policy.allow_truncated, "files that were cut short"),
        (policy.allow_mismatch, "a chain whose content IDs do not fit"),
    ):
        if overlooked:
            raise UsageError(f"{link.path}: {text} may be overlooked for reading only")
    if found.encrypted:
        raise _unwritable(link, f"the disk is encrypted: {found.encrypted}")
    if found.create_type == "streamOptimized":
        advice = "convert it to another kind, which can be written to"
        raise _unwritable(link, "a streamOptimized disk is written once, from front to end", advice)


def _unwritable(link: Link, problem: str, advice: str = "") -> UnsupportedFeature:
    return UnsupportedFeature(problem, path=link.path, structure="descriptor", advice=advice)


def renewal(link: Link, policy: OpenPolicy) -> Callable[[], None]:
    """What gives `link` its new content ID, and drops a change tracking that will not know.

    A tracking file is VMware's to write: rather than leave one that misses our changes, the
    descriptor stops naming it, which makes the next backup a full one (vmdk-formats, 4.2).
    """

    def renew() -> None:
        found = link.descriptor
        assert found is not None
        header, ddb = edit.new_content_id(found)
        header |= edit.untracked(found)
        tracked = found.change_track_path
        redescribe.replace(link, edit.edited(found, header=header, ddb=ddb))
        if tracked is not None:
            text = f"its change tracking ({tracked}) ends: it would not know what is written now"
            policy.warning(f"{link.path}: {text}")

    return renew
