# SPDX-License-Identifier: Apache-2.0
"""Progress of long work: a bar with rate and time left on a terminal, JSON lines on request."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diskkit.cli.options import Common
    from diskkit.tasks.work import Progress

_EVERY = 1.0


@contextmanager
def watched(
    what: str, common: Common, *, as_json: bool, status_lines: bool = False
) -> Iterator[Progress | None]:
    """A callback for long work, or None where nobody looks.

    `status_lines` prints JSON lines of type "status" on stdout, once a second, when `as_json`.
    """
    if as_json:
        yield _status_lines() if status_lines else None
        return
    if common.quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn(what),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _status_lines() -> Progress:
    began = last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _EVERY:
            return
        last = now
        status = {
            "message_type": "status",
            "percent_done": done / total if total else 1.0,
            "bytes_done": done,
            "bytes_total": total,
            "seconds_elapsed": round(now - began, 3),
            "seconds_remaining": round((now - began) * (total - done) / done, 1) if done else None,
        }
        print(json.dumps(status), flush=True)

    return report
