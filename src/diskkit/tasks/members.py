# SPDX-License-Identifier: Apache-2.0
"""Which files make up one link, and may be renamed or removed with it."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import UsageError
from diskkit.formats.vmdk.family import others_using
from diskkit.open import open_links

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diskkit.formats.link import Link
    from diskkit.interfaces import OpenPolicy


class Members(NamedTuple):
    """The files of one link."""

    path: str
    """The descriptor, or the single file, as a path without symbolic links."""
    extents: dict[str, list[int]]
    """By name in the same folder: the numbers of the extents that it holds."""
    tracking: str | None
    """The change tracking file, by name in the same folder."""
    left: list[str]
    """Files that are the link's, but not its alone to change: elsewhere, or devices."""

    @property
    def folder(self) -> str:
        """Where they all are."""
        return os.path.dirname(self.path)

    @property
    def names(self) -> list[str]:
        """All but the descriptor."""
        return [*self.extents, *([self.tracking] if self.tracking else [])]


@contextmanager
def alone(path: str, policy: OpenPolicy) -> Iterator[Link]:
    """One VMDK link, without its parents, its files locked for writing."""
    if os.path.islink(path):
        raise UsageError(f"{path}: is a symbolic link; name the disk itself")
    policy = policy._replace(writable=True, force=True, single_link=True)
    (link,) = open_links(path, policy=policy)
    try:
        if link.descriptor is None:
            raise UsageError(f"{path}: a raw image is a plain file: the system's own tools will do")
        yield link
    finally:
        link.close()


def members(link: Link) -> Members:
    """The files of `link`. Raises `UsageError` if another disk uses one of its extents."""
    real = os.path.realpath(link.path)
    folder, base = os.path.split(real)
    stem = base.removesuffix(".vmdk")
    extents: dict[str, list[int]] = {}
    left = []
    embedded = any(e.storage is link.storage for e in link.extents)
    for number, extent in enumerate(link.extents):
        name = extent.line.name
        if name is None or embedded:
            continue
        # What was not opened as an extent is taken for one by its name only.
        known = extent.storage is not None or name.startswith(f"{stem}-")
        if known and name != base and _is_plain(folder, name):
            extents.setdefault(name, []).append(number)
        elif name not in left:
            left.append(name)
    if users := others_using(real, set(extents)):
        raise UsageError(f"{link.path}: {users[0]} uses its extents too")
    assert link.descriptor is not None
    tracking = link.descriptor.change_track_path
    if tracking is not None and not (
        tracking.endswith("-ctk.vmdk") and _is_plain(folder, tracking)
    ):
        tracking = None
    return Members(real, extents, tracking, left)


def _is_plain(folder: str, name: str) -> bool:
    """Whether a name is that of a regular file in the folder itself."""
    if os.path.basename(name) != name or name in ("", ".", ".."):
        return False
    try:
        return stat.S_ISREG(os.lstat(os.path.join(folder, name)).st_mode)
    except (OSError, ValueError):
        return False
