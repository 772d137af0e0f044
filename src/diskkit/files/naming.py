# SPDX-License-Identifier: Apache-2.0
"""`DISK[:VOLUME]:/path`: what users write for a file inside of a disk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import UsageError
from diskkit.files.opening import why_unreadable

if TYPE_CHECKING:
    from diskkit.volumes import Volume, VolumeTable

_VOLUME = re.compile(r"\d+|(?:d\d+)?(?:p\d+|whole)(?:\.luks)?|[A-Za-z0-9_.+-]+/[A-Za-z0-9_.+-]+")


class Named(NamedTuple):
    """The parts."""

    disk: str
    volume: str | None
    path: str


def parse_name(text: str) -> Named | None:
    """The parts of a text, or None if it names no file inside of a disk.

    The path begins at the first `:/` that is not part of `://`.
    """
    match = re.search(r":/(?!/)", text)
    if match is None or match.start() == 0:
        return None
    disk, path = text[: match.start()], text[match.start() + 1 :]
    rest, colon, volume = disk.rpartition(":")
    if colon and rest and _VOLUME.fullmatch(volume) and not Path(disk).exists():
        _, scheme, place = rest.partition("://")
        # What follows the host of an address is a port.
        if not scheme or "/" in place:
            return Named(rest, volume, path)
    return Named(disk, None, path)


def choose(table: VolumeTable, name: str | None) -> Volume:
    """The volume of that name, or the only one whose files can be read."""
    if name is not None:
        return table.volume(name)
    readable = [volume for volume in table.volumes if not why_unreadable(volume)]
    if len(readable) == 1:
        return readable[0]
    if len(table.volumes) == 1:
        return table.volumes[0]
    if not readable:
        rows = [f"{v.number} ({v.name}): {why_unreadable(v)}" for v in table.volumes]
        raise UsageError("no volume whose files can be read: " + ("; ".join(rows) or "none at all"))
    rows = [f"{v.number} ({v.content.filesystem})" for v in readable if v.content]
    raise UsageError(f"name a volume, as in DISK:{readable[0].number}:/: {', '.join(rows)}")
