# SPDX-License-Identifier: Apache-2.0
"""A disk's metadata: the keys of the disk database, "ddb." in the descriptor, and their values."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from diskkit.errors import UsageError
from diskkit.formats.vmdk import edit, redescribe
from diskkit.info import describe
from diskkit.interfaces import OpenPolicy
from diskkit.open import open_links

if TYPE_CHECKING:
    from collections.abc import Mapping


def read_metadata(
    disk: str | os.PathLike[str], *, policy: OpenPolicy | None = None
) -> dict[str, str]:
    """All keys, without "ddb.": the disk's own, and its parents' where it is silent.

    Raises `UsageError` for a raw image, which has none, and what opening the disk raises.
    """
    links = open_links(os.fspath(disk), policy=policy)
    try:
        if links[0].descriptor is None:
            raise UsageError(f"{links[0].path}: a raw image has no metadata")
        return describe(links[0].path, links).metadata
    finally:
        for link in links:
            link.close()


def write_metadata(
    disk: str | os.PathLike[str], values: Mapping[str, str], *, policy: OpenPolicy | None = None
) -> None:
    """Set keys, known or new, in any case and without "ddb.": all of them, or none; durably.

    A value may be empty; a key is never removed. Content and content ID stay, so that the disk's
    children, and changes known by content ID, do too. Raises `UsageError` for a key or a value that
    cannot be written, and `LockedError` if another program uses the disk.
    """
    policy = policy or OpenPolicy()
    # Its children do not care what a disk says of itself.
    policy = policy._replace(writable=True, force=True, single_link=True)
    (link,) = open_links(os.fspath(disk), policy=policy)
    try:
        if link.descriptor is None:
            raise UsageError(f"{link.path}: a raw image has no metadata")
        redescribe.replace(link, edit.edited(link.descriptor, ddb=dict(values)))
    finally:
        link.close()
