# SPDX-License-Identifier: Apache-2.0
"""The verb volumes: partitions and logical volumes, and what they hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from diskkit.cli.failures import DONE, warn
from diskkit.cli.options import Common, Json, with_common
from diskkit.errors import printable_line
from diskkit.units import format_size

if TYPE_CHECKING:
    from diskkit.volumes import VolumeTable


@with_common
def volumes(
    disks: Annotated[
        list[str],
        typer.Argument(metavar="DISK...", help="The disk, and others of its volume groups."),
    ],
    common: Common,
    as_json: Json = False,
) -> int:
    """List partitions and logical volumes, and what each holds."""
    from contextlib import ExitStack

    from diskkit.volumes import find_volumes

    with ExitStack() as stack:
        table = find_volumes(*[stack.enter_context(common.open(disk)) for disk in disks])
        if as_json:
            print(json.dumps(table.as_dict(), indent=2))
        else:
            _print(table)
    if not common.quiet:
        for text in table.warnings:
            warn(text)
    return DONE


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
