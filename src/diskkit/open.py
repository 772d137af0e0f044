# SPDX-License-Identifier: Apache-2.0
"""`open_disk`: from a name to a `Disk`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from diskkit.chain import Chain, check_pair, resolve
from diskkit.disk import Disk
from diskkit.interfaces import OpenPolicy

if TYPE_CHECKING:
    from diskkit.formats.link import Link


def open_links(
    name: str | os.PathLike[str], format_name: str | None = None, policy: OpenPolicy | None = None
) -> list[Link]:
    """The links of a disk, leaf first, opened and checked, for those who need no map.

    The caller closes them. Raises what `open_disk` raises, and leaves nothing open then.
    """
    links: list[Link] = []
    try:
        for link in resolve(os.fspath(name), format_name, policy or OpenPolicy(), check_pair):
            links.append(link)  # noqa: PERF402 - what was opened must be known if the next fails
    except BaseException:
        for link in links:
            link.close()
        raise
    return links


def open_disk(
    name: str | os.PathLike[str],
    *,
    format: str | None = None,
    policy: OpenPolicy | None = None,
    **changes: object,
) -> Disk:
    """Open the disk `name` with all its parents; with `writable=True` for writing too.

    `name` is a VMDK descriptor, a single-file VMDK, or a raw image: one whose name ends in .raw,
    .img or .dd, or any file with `format="raw"`. `policy` says what to overlook; its fields can
    also be given as keywords, as in `open_disk(name, allow=("/images",))`.

    Raises `StorageError` if a file cannot be read, `FormatError` if one breaks its format,
    `ChainError` if the links do not fit together, `LockedError` if another program writes it, or,
    for a writable disk, uses it at all.
    """
    policy = (policy or OpenPolicy())._replace(**changes)  # type: ignore[arg-type]
    links = open_links(name, format, policy)
    if not policy.writable:
        return Disk(os.fspath(name), Chain(links))
    from diskkit.livechain import LiveChain

    try:
        return Disk(os.fspath(name), LiveChain(links, policy))
    except BaseException:
        for link in links:
            link.close()
        raise
