# SPDX-License-Identifier: Apache-2.0
"""The verbs that look: info, map, chain, changed, compare, check."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from diskkit.cli.failures import DONE, NO
from diskkit.cli.options import Common, DiskName, Json, Threads, with_common
from diskkit.cli.progress import watched
from diskkit.errors import UsageError
from diskkit.units import format_size


@with_common
def info(disk: DiskName, common: Common, as_json: Json = False) -> int:
    """Show what a disk is: kind, capacity, ids, geometry, links, extents, metadata."""
    from diskkit.cli.info import show_info

    return show_info(disk, as_json=as_json, format_name=common.format_name, policy=common.policy)


@with_common
def map_(
    disk: DiskName,
    common: Common,
    as_json: Json = False,
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="Write one self-contained page.")
    ] = None,
    format_name: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="FMT",
            help="Print as: borg (lines of start, length, data or zero). Or take the disk for: "
            "vmdk or raw.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
) -> int:
    """Draw what is allocated, and which link of the chain holds it."""
    formats = format_name or []
    as_borg = "borg" in formats
    if as_json + as_borg + (html is not None) > 1:
        raise UsageError("map: choose one of --json, --html and --format borg")
    kind = next((f for f in formats if f != "borg"), None)
    from diskkit.cli import picture

    with common.of(kind).open(disk) as opened:
        if as_json:
            from diskkit.cli.mapjson import write_map

            write_map(opened, sys.stdout.buffer)
        elif as_borg:
            picture.print_borg(opened)
        elif html is not None:
            picture.write_html(opened, html, force=force)
        else:
            picture.draw(opened)
    return DONE


@with_common
def chain(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="DISK | attach PARENT CHILD | flatten DISK", help="What to show or do."
        ),
    ],
    common: Common,
    force: Annotated[
        bool, typer.Option("--force", help="Attach a disk though it has children.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Show a disk's links, leaf first, and where the chain is broken; or attach or flatten one."""
    # One word is always a disk, so that one called "attach" can be shown, too.
    if len(words) == 1:
        from diskkit.cli.tree import show_chain

        return show_chain(words[0], common, as_json=as_json)
    if words[0] == "flatten" and len(words) == 2:
        from diskkit.cli.maintain import flatten

        return flatten(words[1], common, as_json=as_json)
    if words[0] != "attach" or len(words) != 3:
        raise UsageError("chain: give a disk, or: attach PARENT CHILD, or: flatten DISK")
    from diskkit.cli.own import summarize
    from diskkit.tasks.attach import attach

    _, parent, child = words
    attach(parent, child, policy=common.policy._replace(force=force))
    summarize("chain attach", common, f"{child} is a child of {parent} now", as_json=as_json)
    return DONE


@with_common
def changed(
    old: Annotated[str, typer.Argument(metavar="OLD", help="The older disk, link or point.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The newer one.")],
    common: Common,
    as_json: Json = False,
    threads: Threads = None,
) -> int:
    """List the ranges in which two links of one chain, or two disks, differ."""
    from diskkit.tasks.changed import changed as find

    total = 0
    with (
        common.open(old) as before,
        common.open(new) as after,
        watched("comparing", common, as_json=True) as progress,
    ):
        found = find(before, after, threads=threads, progress=progress)
        if as_json:
            sys.stdout.write(f'{{"capacity": {found.capacity}, "runs": [')
        for number, (offset, length) in enumerate(found.ranges):
            total += length
            if as_json:
                comma = ",\n" if number else "\n"
                sys.stdout.write(f'{comma}{{"offset": {offset}, "length": {length}}}')
            else:
                print(f"{offset:>20} {length:>16}  {format_size(length)}")
        if as_json:
            print(f'], "changed_bytes": {total}, "method": "{found.method}"}}')
        else:
            how = "told by the links' tables" if found.method == "metadata" else "found by reading"
            print(f"changed: {format_size(total)} of {format_size(found.capacity)}, {how}")
    return DONE


@with_common
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A disk.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another disk.")],
    common: Common,
    as_json: Json = False,
    threads: Threads = None,
) -> int:
    """Tell whether the guests of two disks would see the same. Exit status 0 yes, 4 no."""
    from diskkit.tasks.compare import compare as find

    with (
        common.open(a) as one,
        common.open(b) as two,
        watched("comparing", common, as_json=as_json) as progress,
    ):
        found = find(one, two, threads=threads, progress=progress)
        sizes = one.size, two.size
    if as_json:
        answer = {"identical": found.identical, "first_difference": found.first_difference}
        print(json.dumps(answer))
    elif found.identical:
        print("identical")
    elif found.first_difference == min(sizes):
        print(
            f"different: the same up to byte {min(sizes)}, but of {sizes[0]} and {sizes[1]} bytes"
        )
    else:
        print(f"different: the first difference is at byte {found.first_difference}")
    return DONE if found.identical else NO


@with_common
def check(
    disk: DiskName,
    common: Common,
    as_json: Json = False,
    data: Annotated[
        bool, typer.Option("--data", help="Also read all data, and inflate what is compressed.")
    ] = False,
    threads: Threads = None,
) -> int:
    """Check structure, chain and ids. Exit status 0 in order, 4 not."""
    from diskkit.tasks.check import check as examine

    with watched("checking", common, as_json=as_json) as progress:
        report = examine(
            disk,
            format=common.format_name,
            policy=common.policy,
            data=data,
            threads=threads,
            progress=progress,
        )
    if as_json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        for problem in report.problems:
            print(f"{problem.severity}: {problem}")
        errors = sum(p.severity == "error" for p in report.problems)
        others = len(report.problems) - errors
        notes = f" ({others} warnings)" if others else ""
        print(f"{errors} errors{notes}" if errors else f"no errors{notes}")
    return DONE if report.ok else NO
