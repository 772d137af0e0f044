# SPDX-License-Identifier: Apache-2.0
"""The verbs that change how a disk is stored: grow, shrink, defrag, commit; and chain flatten."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diskkit.cli.failures import DONE
from diskkit.cli.options import Common, DiskName, Json, Threads, with_common
from diskkit.cli.progress import watched
from diskkit.errors import DiskkitError, printable_line
from diskkit.units import format_size, parse_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diskkit.tasks.compact import Compacted
    from diskkit.tasks.merge import Merged


@with_common
def grow(
    disk: DiskName,
    size: Annotated[str, typer.Argument(metavar="SIZE", help="The new capacity, such as 40G.")],
    common: Common,
    keep_geometry: Annotated[
        bool, typer.Option("--keep-geometry", help="Leave the cylinders as they are.")
    ] = False,
    threads: Threads = None,
    as_json: Json = False,
) -> int:
    """Give a disk more capacity; what is new reads as zeros.

    Only a disk without parent and without children grows.
    """
    from diskkit.tasks.grow import grow as work

    wanted = parse_size(size)
    with _errors(as_json), watched("growing", common, as_json=as_json, status_lines=True) as step:
        done = work(
            disk,
            wanted,
            not keep_geometry,
            policy=common.policy,
            threads=threads,
            progress=step,
        )
    if as_json:
        _summary("grow", capacity_before=done.before, capacity=done.after)
    elif not common.quiet:
        text = f"grown from {format_size(done.before)} to {format_size(done.after)}"
        print(text, file=sys.stderr)
    return DONE


@with_common
def shrink(disk: DiskName, common: Common, threads: Threads = None, as_json: Json = False) -> int:
    """Give back the room of zeros; the content of the disk stays the same."""
    from diskkit.tasks.compact import shrink as work

    with _errors(as_json), watched("shrinking", common, as_json=as_json, status_lines=True) as step:
        done = work(disk, policy=common.policy, threads=threads, progress=step)
    return _tell("shrink", done, common, as_json=as_json)


@with_common
def defrag(disk: DiskName, common: Common, threads: Threads = None, as_json: Json = False) -> int:
    """Put the grains of a sparse disk into order; the content stays the same."""
    from diskkit.tasks.compact import defragment as work

    with _errors(as_json), watched("ordering", common, as_json=as_json, status_lines=True) as step:
        done = work(disk, policy=common.policy, threads=threads, progress=step)
    return _tell("defrag", done, common, as_json=as_json)


@contextmanager
def _errors(as_json: bool) -> Iterator[None]:
    try:
        yield
    except DiskkitError as error:
        if as_json:
            print(json.dumps({"message_type": "error", "message": str(error)}))
        raise


def _summary(verb: str, **values: Any) -> None:  # noqa: ANN401 - whatever the document holds
    print(json.dumps({"message_type": "summary", "verb": verb, **values}))


def _tell(verb: str, done: Compacted, common: Common, *, as_json: bool) -> int:
    if as_json:
        _summary(
            verb,
            bytes_before=done.before,
            bytes_after=done.after,
            changed=done.changed,
            left=done.left,
            seconds=round(done.seconds, 3),
        )
    elif not common.quiet:
        for reason in done.left:
            print(f"left alone: {reason}", file=sys.stderr)
        if done.changed:
            text = f"{format_size(done.before)} before, {format_size(done.after)} now"
            print(f"{text} ({done.seconds:.1f} s)", file=sys.stderr)
    return DONE


@with_common
def commit(
    disk: DiskName,
    common: Common,
    force: Annotated[
        bool, typer.Option("--force", help="Though the parent has other children.")
    ] = False,
    threads: Threads = None,
    as_json: Json = False,
) -> int:
    """Move what a child holds into its parent, and remove the child."""
    from diskkit.tasks.merge import commit as work

    policy = common.policy._replace(force=force)
    with (
        _errors(as_json),
        watched("committing", common, as_json=as_json, status_lines=True) as step,
    ):
        done = work(disk, policy=policy, threads=threads, progress=step)
    return _merged("commit", done, common, as_json=as_json)


def flatten(disk: str, common: Common, *, as_json: bool) -> int:
    """`chain flatten`."""
    from diskkit.tasks.merge import flatten as work

    with (
        _errors(as_json),
        watched("flattening", common, as_json=as_json, status_lines=True) as step,
    ):
        done = work(disk, policy=common.policy, progress=step)
    return _merged("chain flatten", done, common, as_json=as_json)


def _merged(verb: str, done: Merged, common: Common, *, as_json: bool) -> int:
    if as_json:
        _summary(verb, **done._asdict())
    elif not common.quiet:
        text = f"{done.path} holds it all now: {format_size(done.bytes_written)} were written"
        print(printable_line(text), file=sys.stderr)
    return DONE
