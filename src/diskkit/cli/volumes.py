# SPDX-License-Identifier: Apache-2.0
"""The verb volumes: partitions and logical volumes, and what they hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from diskkit.cli.failures import DONE, warn
from diskkit.cli.options import Common, Json, with_common
from diskkit.cli.part import KeyFile, read_key
from diskkit.errors import printable_line
from diskkit.units import format_size

if TYPE_CHECKING:
    from diskkit.files.survey import Survey
    from diskkit.volumes import VolumeTable


@with_common
def volumes(
    disks: Annotated[
        list[str],
        typer.Argument(metavar="DISK...", help="The disk, and others of its volume groups."),
    ],
    common: Common,
    systems: Annotated[
        bool,
        typer.Option("--os", help="Also tell which systems are there, and where they mount what."),
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
        found = _survey(table) if systems else None
        if as_json:
            document = table.as_dict()
            if found is not None:
                for row in document["volumes"]:
                    system = found.systems.get(row["number"])
                    row["os"] = system.as_dict() if system else None
                    row["mount_points"] = found.places.get(row["number"], [])
            document["warnings"] = table.warnings
            print(json.dumps(document, indent=2))
        else:
            _print(table)
            if found is not None:
                _print_survey(table, found)
    if not common.quiet:
        for text in table.warnings:
            warn(text)
    return DONE


def _survey(table: VolumeTable) -> Survey:
    """What the files say; what keeps something from being told is a warning."""
    from diskkit.files.survey import survey

    return survey(table.volumes, table.warnings.append)


def _print_survey(table: VolumeTable, found: Survey) -> None:
    for volume in table.volumes:
        name = printable_line(volume.name)
        system = found.systems.get(volume.number)
        if system is not None:
            words = (system.name, system.architecture, system.hostname)
            print(f"{name}: {', '.join(filter(None, words))}")
        places = found.places.get(volume.number)
        if places:
            print(printable_line(f"{name}: mounted by the guest on {', '.join(places)}"))


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
