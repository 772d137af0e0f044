# SPDX-License-Identifier: Apache-2.0
"""The verbs that copy: convert."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated

import typer

from diskkit.cli.failures import DONE
from diskkit.cli.options import Common, DiskName, Json, Threads, with_common
from diskkit.cli.progress import watched
from diskkit.errors import DiskkitError, UsageError
from diskkit.units import format_size


@with_common
def convert(
    src: DiskName,
    dst: Annotated[str, typer.Argument(metavar="DST", help='A new file, a device, or "-".')],
    common: Common,
    type_: Annotated[
        str, typer.Option("--type", "-t", metavar="TYPE", help="Kind of the copy: raw.")
    ] = "raw",
    force: Annotated[
        bool, typer.Option("--force", help="Replace DST, or overwrite a device.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read the copy back and compare it with the disk.")
    ] = False,
    sync: Annotated[
        bool, typer.Option("--sync", help="Return only when the copy would survive a power cut.")
    ] = False,
    threads: Threads = None,
    as_json: Json = False,
) -> int:
    """Copy a disk, its chain flattened, into a raw image; holes are kept.

    SRC "-" reads a streamOptimized disk from standard input, in one pass.
    """
    if type_ != "raw":
        raise UsageError(f"type {type_!r}: only raw can be written so far")
    if as_json and dst == "-":
        raise UsageError("--json and a disk cannot both go to standard output")

    began = time.monotonic()
    try:
        with watched("copying", common, as_json=as_json, status_lines=True) as progress:
            if src == "-":
                from diskkit.tasks.receive import convert_stream

                done = convert_stream(
                    sys.stdin.buffer,
                    dst,
                    policy=common.policy,
                    force=force,
                    verify=verify,
                    sync=sync,
                    progress=progress,
                )
            else:
                from diskkit.tasks.copy import convert as copy

                with common.open(src) as disk:
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
