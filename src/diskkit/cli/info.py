# SPDX-License-Identifier: Apache-2.0
"""`diskkit info`: plain text or JSON, with nothing heavy loaded."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from diskkit.cli.failures import DONE, warn
from diskkit.errors import printable
from diskkit.info import describe
from diskkit.interfaces import OpenPolicy
from diskkit.open import open_disk, open_links, scheme_of
from diskkit.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diskkit.info import DiskInfo, LinkInfo

_EXTENTS_SHOWN = 8


def show_info(
    path: str,
    *,
    as_json: bool = False,
    format_name: str | None = None,
    policy: OpenPolicy | None = None,
) -> int:
    """Print what the disk is."""
    policy = policy or OpenPolicy(warn=warn)
    if scheme_of(path) is not None:
        with open_disk(path, format=format_name, policy=policy) as disk:
            info = disk.info
    else:
        links = open_links(path, format_name, policy)
        info = describe(path, links)
        for link in links:
            link.close()
    if as_json:
        import json

        print(json.dumps(info.as_dict(), indent=2))
    else:
        sys.stdout.write("\n".join(_lines(info)) + "\n")
    return DONE


def _lines(info: DiskInfo) -> Iterator[str]:
    def line(name: str, value: object) -> Iterator[str]:
        if value not in (None, ""):
            yield f"{name + ':':<15}{printable(str(value))}"

    yield from line("disk", info.path)
    kind = "raw image" if info.format == "raw" else info.create_type
    yield from line("kind", f"{kind}, {len(info.links)} links" if len(info.links) > 1 else kind)
    yield from line("capacity", f"{format_size(info.capacity)} ({info.capacity} bytes)")
    yield from line("takes", f"{format_size(info.physical_bytes)} ({info.physical_bytes} bytes)")
    yield from line("content ID", info.cid)
    yield from line("parent ID", info.parent_cid)
    yield from line("adapter", info.adapter_type)
    yield from line("hardware", info.hw_version)
    if info.geometry:
        g = info.geometry
        yield from line("geometry", f"{g.cylinders} / {g.heads} / {g.sectors} (C/H/S)")
    yield from line("uuid", info.uuid)
    if info.encrypted:
        yield from line("encrypted", "yes: the data cannot be read")
    for number, link in enumerate(info.links):
        yield ""
        yield from _link_lines(number, link)
    if info.metadata:
        yield ""
        yield "metadata:"
        for key, value in info.metadata.items():
            yield f"  {printable(key)} = {printable(value)}"


def _link_lines(number: int, link: LinkInfo) -> Iterator[str]:
    ids = f"  [{link.cid}]" if link.cid else ""
    yield f"link {number}: {printable(link.path)}  {link.create_type}{ids}"
    if link.parent_hint is not None:
        yield f"  parent: {printable(link.parent_hint)}  [{link.parent_cid}]"
    for extent in link.extents[:_EXTENTS_SHOWN]:
        grain = f", grains of {format_size(extent.grain_size)}" if extent.grain_size else ""
        where = f"  {printable(extent.path)}" if extent.path is not None else ""
        size = format_size(extent.length)
        yield f"  extent: {extent.access} {extent.kind} {size}{grain}{where}"
    if len(link.extents) > _EXTENTS_SHOWN:
        yield f"  … and {len(link.extents) - _EXTENTS_SHOWN} more extents"
