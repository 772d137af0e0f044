# SPDX-License-Identifier: Apache-2.0
"""Removing one link of a disk: the descriptor first, so that what a crash leaves is no disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from diskkit.errors import ChainError
from diskkit.formats.vmdk.family import children_of
from diskkit.interfaces import OpenPolicy
from diskkit.storage.newfile import sync_folder, write_errors
from diskkit.tasks.members import alone, members

if TYPE_CHECKING:
    from diskkit.formats.link import Link


def remove_disk(
    path: str | os.PathLike[str], *, force: bool = False, policy: OpenPolicy | None = None
) -> list[str]:
    """Remove the link `path`: its descriptor, its extents, its change tracking file.

    Never its parents, a device, or a file in another folder: those are named in a warning. A disk
    that is the parent of another one beside it is removed only by `force`. Returns the paths that
    are gone. Raises `UsageError` if another disk uses its extents, `LockedError` if it is in use.
    """
    policy = policy or OpenPolicy()
    with alone(os.fspath(path), policy) as link:
        children = children_of(link.path)
        if children and not force:
            raise ChainError(
                f"is the parent of {', '.join(os.path.basename(c) for c in children)}: "
                "without it they are unreadable",
                path=link.path,
                structure="chain",
                advice="remove these first, or use --force",
            )
        return remove_link(link, policy)


def remove_link(link: Link, policy: OpenPolicy) -> list[str]:
    """The same for a link that is open for writing, and that nobody needs any more."""
    files = members(link)
    for name in files.left:
        policy.warning(f"{link.path}: {name} is not removed: not a file of its own folder")
    gone = [files.path, *(os.path.join(files.folder, name) for name in files.names)]
    for number, file in enumerate(gone):
        with write_errors(file):
            os.unlink(file)
            if number in (0, len(gone) - 1):
                sync_folder(files.folder)
    return gone
