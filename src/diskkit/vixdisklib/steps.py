# SPDX-License-Identifier: Apache-2.0
"""Progress as VixDiskLib programs see it: whole percents, from 0 to 100."""

from __future__ import annotations

from collections.abc import Callable

ProgressFunc = Callable[[int], object]
"""Called with percents, in the calling thread, never falling; what it returns does not count."""


def percent(progress: ProgressFunc | None) -> Callable[[int, int], None]:
    """A callback for diskkit's tasks that tells `progress` of every percent once, 0 at once."""
    last = -1

    def step(done: int, total: int) -> None:
        nonlocal last
        if progress is None:
            return
        now = min(100, done * 100 // total) if total else 100
        if now > last:
            last = now
            progress(now)

    step(0, 1)
    return step
