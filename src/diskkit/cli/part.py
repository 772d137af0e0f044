# SPDX-License-Identifier: Apache-2.0
"""The options that lead to a volume: which one, of which other disks, with which key."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from diskkit.cli.options import Common
    from diskkit.disk import Disk

_MOST_KEY = 8 << 20

KeyFile = Annotated[
    str | None,
    typer.Option("--key-file", metavar="FILE", help="The key of LUKS volumes: all of FILE."),
]
With = Annotated[
    list[str] | None,
    typer.Option("--with", metavar="DISK", help="Another disk of its volume groups (repeatable)."),
]
VolumeName = Annotated[
    str | None,
    typer.Option("--volume", metavar="N", help="This volume alone, by its number or name."),
]


def read_key(path: str | None) -> bytes | None:
    """All bytes of a key file, as cryptsetup takes them; at most 8 MiB."""
    if path is None:
        return None
    with Path(path).open("rb") as f:
        return f.read(_MOST_KEY)


def open_part(
    common: Common,
    names: list[str],
    volume: str | None,
    key_file: str | None = None,
    *,
    writable: bool = False,
    overlay: str | None = None,
) -> Disk:
    """A disk; or one of its volumes, of which some may lie on more disks, as a disk."""
    if volume is None:
        return common.open(names[0], writable=writable, overlay=overlay)
    from diskkit.volumes.asdisk import open_volume

    with ExitStack() as stack:
        disks = [
            stack.enter_context(common.open(name, writable=writable, overlay=overlay))
            for name in names
        ]
        disk = open_volume(disks, volume, read_key(key_file))
        stack.pop_all()
    return disk
