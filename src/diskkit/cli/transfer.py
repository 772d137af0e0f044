# SPDX-License-Identifier: Apache-2.0
"""The verbs that copy: convert."""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from diskkit.cli.failures import DONE
from diskkit.cli.options import Common, DiskName, Json, Threads, with_common
from diskkit.cli.part import KeyFile, VolumeName, With, open_part
from diskkit.cli.progress import watched
from diskkit.errors import DiskkitError, UsageError
from diskkit.units import format_size, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from diskkit.disk import Disk
    from diskkit.tasks.copy import Copied

BEST = 9


@with_common
def convert(
    src: DiskName,
    dst: Annotated[str, typer.Argument(metavar="DST", help='A new file, a device, or "-".')],
    common: Common,
    type_: Annotated[
        str | None,
        typer.Option(
            "--type",
            "-t",
            metavar="TYPE",
            help="Kind of the copy: raw, monolithicSparse, monolithicFlat, twoGbMaxExtentSparse, "
            "twoGbMaxExtentFlat, streamOptimized, vmfs, vmfsThin or vmfsEagerZeroedThick.  "
            "[default: raw]",
        ),
    ] = None,
    level: Annotated[
        str,
        typer.Option("--level", metavar="0..9", help='How hard to compress a stream; or "best".'),
    ] = "3",
    adapter: Annotated[
        str | None,
        typer.Option("--adapter", "-a", help="lsilogic, buslogic, ide or legacyESX."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace DST, or overwrite a device.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read the copy back and compare it with the disk.")
    ] = False,
    sync: Annotated[
        bool, typer.Option("--sync", help="Return only when the copy would survive a power cut.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Say how much room it would take; copy nothing.")
    ] = False,
    volume: VolumeName = None,
    others: With = None,
    key_file: KeyFile = None,
    threads: Threads = None,
    as_json: Json = False,
) -> int:
    """Copy a disk, its chain flattened, into a disk of another kind; holes are kept.

    SRC "-" reads a streamOptimized disk from standard input, in one pass.
    """
    kind = _kind(type_, dst)
    strength = _level(level)
    if as_json and dst == "-":
        raise UsageError("--json and a disk cannot both go to standard output")
    if volume is None and (others or key_file):
        raise UsageError("convert: --with and --key-file go with --volume")
    if src == "-" and volume is not None:
        raise UsageError("convert: what comes from a pipe is copied whole: no --volume")

    def opened() -> Disk:
        return open_part(common, [src, *(others or ())], volume, key_file)

    if estimate:
        return _estimate(src, kind, opened, as_json=as_json)

    began = time.monotonic()
    try:
        with watched("copying", common, as_json=as_json, status_lines=True) as progress:
            if src == "-":
                from diskkit.tasks.receive import Pipe

                receive = _receiver(kind, adapter, strength)
                done = receive(
                    Pipe(sys.stdin.fileno()),
                    dst,
                    policy=common.policy,
                    force=force,
                    verify=verify,
                    sync=sync,
                    threads=threads,
                    progress=progress,
                )
            else:
                with opened() as disk:
                    copy = _copier(kind, adapter, strength)
                    done = copy(
                        disk,
                        dst,
                        force=force,
                        verify=verify,
                        sync=sync,
                        threads=threads,
                        progress=progress,
                    )
    except DiskkitError as error:
        if as_json:
            print(json.dumps({"message_type": "error", "message": str(error)}))
        raise
    seconds = time.monotonic() - began
    if as_json:
        summary = {
            "message_type": "summary",
            "verb": "convert",
            "capacity": done.capacity,
            "bytes_read": done.bytes_written,
            "bytes_written": done.bytes_written,
            "bytes_skipped": done.bytes_skipped,
            "verified": done.verified,
            "seconds": round(seconds, 3),
        }
        print(json.dumps(summary))
    elif not common.quiet:
        rate = format_size(int(done.bytes_written / seconds)) if seconds else "?"
        checked = ", verified" if done.verified else ""
        text = f"copied {format_size(done.bytes_written)} of {format_size(done.capacity)}"
        print(f"{text} in {seconds:.1f} s ({rate}/s){checked}", file=sys.stderr)
    return DONE


@with_common
def create(
    path: Annotated[str, typer.Argument(metavar="PATH", help="The new disk.")],
    common: Common,
    size: Annotated[
        str | None, typer.Option("--size", "-s", metavar="SIZE", help="Such as 10G.")
    ] = None,
    parent: Annotated[
        str | None,
        typer.Option("--parent", metavar="PARENT", help="Make a child of this disk, of its size."),
    ] = None,
    type_: Annotated[
        str | None,
        typer.Option(
            "--type",
            "-t",
            metavar="TYPE",
            help="Its kind, as for convert; of a child monolithicSparse, twoGbMaxExtentSparse, "
            "vmfsSparse or seSparse.",
        ),
    ] = None,
    adapter: Annotated[
        str | None, typer.Option("--adapter", "-a", help="lsilogic, buslogic, ide or legacyESX.")
    ] = None,
    experimental: Annotated[
        bool, typer.Option("--experimental", help="Make seSparse, which ESXi was never shown.")
    ] = False,
) -> int:
    """Make a new empty disk, or a child of one. All its files appear, or none."""
    if parent is not None:
        if size is not None or adapter is not None:
            raise UsageError("a child has its parent's size and adapter: no --size, no --adapter")
        from diskkit.tasks.child import create_child

        create_child(parent, path, type_, experimental=experimental, policy=common.policy)
        if not common.quiet:
            print(f"created {path}, a child of {parent}", file=sys.stderr)
        return DONE
    if size is None:
        raise UsageError("a new disk needs --size, or --parent")
    from diskkit.tasks.clone import create_disk

    kind = type_ or "monolithicSparse"
    create_disk(path, parse_size(size), kind, adapter=adapter or "lsilogic")
    if not common.quiet:
        print(f"created {path}, {format_size(parse_size(size))}", file=sys.stderr)
    return DONE


def _kind(wanted: str | None, target: str) -> str:
    """The kind to write: as asked; raw if nothing was, unless the name says VMDK."""
    if wanted is None and target.lower().endswith(".vmdk"):
        raise UsageError(f"{target}: a VMDK is of some kind: say which with --type")
    return wanted or "raw"


def _level(text: str) -> int:
    if text == "best":
        return BEST
    if len(text) == 1 and text in "0123456789":
        return int(text)
    raise UsageError(f"level {text!r} is neither a digit nor best")


def _copier(kind: str, adapter: str | None, level: int) -> Callable[..., Copied]:
    if kind == "raw":
        from diskkit.tasks.copy import convert

        return convert
    from diskkit.tasks.clone import clone

    return partial(clone, kind=kind, adapter=adapter, level=level)


def _receiver(kind: str, adapter: str | None, level: int) -> Callable[..., Copied]:
    from diskkit.tasks import receive

    if kind == "raw":
        return receive.convert_stream
    return partial(receive.clone_stream, kind=kind, adapter=adapter, level=level)


def _estimate(src: str, kind: str, opened: Callable[[], Disk], *, as_json: bool) -> int:
    from diskkit.tasks.space import space_needed

    if src == "-":
        raise UsageError("what comes from a pipe cannot be estimated")
    with opened() as disk:
        needed = space_needed(disk, kind)
    if as_json:
        summary = {
            "message_type": "summary",
            "verb": "convert",
            "bytes_needed": needed.bytes,
            "exact": needed.exact,
        }
        print(json.dumps(summary))
    else:
        most = "" if needed.exact else "at most "
        print(f"{most}{format_size(needed.bytes)} ({needed.bytes} bytes)")
    return DONE
