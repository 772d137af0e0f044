# SPDX-License-Identifier: Apache-2.0
"""The verb volumes: partitions and logical volumes, and what they hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from diskkit.cli.failures import DONE, warn
from diskkit.cli.options import Common, Json, with_common
from diskkit.cli.part import KeyFile, read_key
from diskkit.errors import DiskkitError, printable_line
from diskkit.units import format_size

if TYPE_CHECKING:
    from diskkit.files import GuestOS
    from diskkit.volumes import Volume, VolumeTable


@with_common
def volumes(
    disks: Annotated[
        list[str],
        typer.Argument(metavar="DISK...", help="The disk, and others of its volume groups."),
    ],
    common: Common,
    systems: Annotated[
        bool, typer.Option("--os", help="Also tell which operating systems are there.")
    ] = False,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> int:
    """List partitions and logical volumes, and what each holds."""
    from contextlib import ExitStack

    from diskkit.volumes import find_volumes

    with ExitStack() as stack:
        table = find_volumes(
            *[stack.enter_context(common.open(disk)) for disk in disks], key=read_key(key_file)
        )
        found = {v.number: _system(v, table) for v in table.volumes} if systems else {}
        if as_json:
            document = table.as_dict()
            for row in document["volumes"] if systems else ():
                system = found[row["number"]]
                row["os"] = system.as_dict() if system else None
            document["warnings"] = table.warnings
            print(json.dumps(document, indent=2))
        else:
            _print(table)
            for volume in table.volumes:
                system = found.get(volume.number)
                if system is not None:
                    words = (system.name, system.architecture, system.hostname)
                    print(f"{printable_line(volume.name)}: {', '.join(filter(None, words))}")
    if not common.quiet:
        for text in table.warnings:
            warn(text)
    return DONE


def _system(volume: Volume, table: VolumeTable) -> GuestOS | None:
    """The system on a volume; what keeps it from being told is a warning."""
    from diskkit.files import detect, open_filesystem, why_unreadable

    if why_unreadable(volume):
        return None
    try:
        with open_filesystem(volume) as fs:
            return detect(fs)
    except DiskkitError as error:
        table.warnings.append(f"volume {volume.name}: {error}")
        return None


def _print(table: VolumeTable) -> None:
    rows = [("N", "NAME", "OFFSET", "SIZE", "TYPE", "HOLDS", "LABEL", "UUID")]
    for volume in table.volumes:
        content = volume.content
        rows.append(
            (
                str(volume.number),
                printable_line(volume.name),
                "-" if volume.offset is None else str(volume.offset),
                format_size(volume.length),
                volume.type_name or volume.type,
                content.filesystem if content else "-",
                printable_line((content and content.label) or volume.part_label or "-"),
                printable_line((content and content.uuid) or "-"),
            )
        )
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    right = (0, 2, 3)
    for row in rows:
        cells = enumerate(zip(row, widths, strict=True))
        print("  ".join(c.rjust(w) if n in right else c.ljust(w) for n, (c, w) in cells).rstrip())
    for volume in table.volumes:
        if volume.problem is not None:
            print(printable_line(f"{volume.name}: cannot be read: {volume.problem}"))
    if not table.volumes:
        print("no volumes")
