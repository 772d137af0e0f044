# SPDX-License-Identifier: Apache-2.0
"""The verb repair."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diskkit.cli.failures import DONE, NO
from diskkit.cli.options import Common, DiskName, Json, with_common
from diskkit.cli.progress import watched
from diskkit.errors import UsageError, printable_line

if TYPE_CHECKING:
    from diskkit.tasks.repair import Repaired


@with_common
def repair(
    disk: DiskName,
    common: Common,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")
    ] = False,
    fix_ids: Annotated[
        bool, typer.Option("--fix-ids", help="Take the parent for the right one, whatever its ID.")
    ] = False,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Also mend what gives something up.")
    ] = False,
    undo: Annotated[
        Path | None, typer.Option("--undo", metavar="FILE", help="Put back what a repair kept.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Undo though the disk was changed since.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Mend the structures of one link, its old bytes kept. Exit status 4 if something remains."""
    from diskkit.tasks import repair as task

    if undo is not None:
        if dry_run or fix_ids or lossy:
            raise UsageError("repair: --undo goes with no other of its options but --force")
        done = task.undo_repair(disk, undo, policy=common.policy._replace(force=force))
        if as_json:
            print(json.dumps({"undone": done}))
        elif not common.quiet:
            print(printable_line(f"put back: {', '.join(done)}"), file=sys.stderr)
        return DONE
    with watched("checking", common, as_json=as_json) as progress:
        found = task.repair(
            disk,
            dry_run=dry_run,
            fix_ids=fix_ids,
            lossy=lossy,
            policy=common.policy,
            progress=progress,
        )
    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
    else:
        _print(found)
    return DONE if found.ok else NO


def _print(found: Repaired) -> None:
    verb = "would mend" if found.dry_run else "mended"
    for step in found.plan:
        word = verb if step.done else "left"
        print(printable_line(f"{word}: {step.where}: {step.message}"))
    for problem in found.remaining:
        print(printable_line(f"remains: {problem.severity}: {problem}"))
    if found.backup is not None:
        print(printable_line(f"the old bytes are in {found.backup} (repair --undo puts them back)"))
    count = sum(step.done for step in found.plan)
    errors = sum(p.severity == "error" for p in found.remaining)
    tail = "" if not errors else f", {errors} errors remain"
    print(f"{count} {'to mend' if found.dry_run else 'mended'}{tail}")
