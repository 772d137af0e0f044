# SPDX-License-Identifier: Apache-2.0
"""`open_disk`: from a name to a `Disk`.

A name is a path, or a URL whose scheme says what kind of disk it is. A new kind of URL is a line in
`SCHEMES`.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

from diskkit.chain import Chain, check_pair, resolve
from diskkit.chaindisk import ChainDisk
from diskkit.errors import UsageError
from diskkit.interfaces import OpenPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from diskkit.disk import Disk
    from diskkit.formats.link import Link

SCHEMES = dict.fromkeys(("nbd", "nbds", "nbd+unix", "nbds+unix"), "nbd.client:open_nbd")
"""Scheme of a URL: what opens it, as "module:function", called with the URL and the policy."""


def scheme_of(name: str) -> str | None:
    """The scheme, if `name` is a URL of a kind that `SCHEMES` knows; all else is a path."""
    scheme, mark, _ = name.partition("://")
    return scheme.lower() if mark and scheme.lower() in SCHEMES else None


def check_files(name: str) -> None:
    """Raise `UsageError` for a disk that is not made of files of this machine."""
    if scheme_of(name) is not None:
        raise UsageError(f"{name}: is not made of files that can be opened here")


def open_links(
    name: str | os.PathLike[str], format_name: str | None = None, policy: OpenPolicy | None = None
) -> list[Link]:
    """The links of a disk of files, leaf first, opened and checked, for those who need no map.

    The caller closes them. Raises what `open_disk` raises, and leaves nothing open then.
    """
    check_files(os.fspath(name))
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
    also be given as keywords, as in `open_disk(name, allow=("/images",))`. A URL, such as
    nbd://host/export, is opened by what `SCHEMES` has for it.

    Raises `StorageError` if a file cannot be read, `FormatError` if one breaks its format,
    `ChainError` if the links do not fit together, `LockedError` if another program writes it, or,
    for a writable disk, uses it at all.
    """
    policy = (policy or OpenPolicy())._replace(**changes)  # type: ignore[arg-type]
    scheme = scheme_of(os.fspath(name))
    if scheme is not None:
        if format is not None:
            raise UsageError(f"{os.fspath(name)}: a URL has no format to choose")
        module, _, function = SCHEMES[scheme].partition(":")
        opened: Callable[[str, OpenPolicy], Disk]
        opened = getattr(import_module(f"diskkit.{module}"), function)
        return opened(os.fspath(name), policy)
    links = open_links(name, format, policy)
    if not policy.writable:
        return ChainDisk(os.fspath(name), Chain(links))
    from diskkit.livechain import LiveChain

    try:
        return ChainDisk(os.fspath(name), LiveChain(links, policy))
    except BaseException:
        for link in links:
            link.close()
        raise
