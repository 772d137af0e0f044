# SPDX-License-Identifier: Apache-2.0
"""Letting the n-th change fail, for every n, each time in a fresh copy of the folder."""

from __future__ import annotations

import errno
import os
import shutil
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from crash.calls import Call, Interceptor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Fault(Enum):
    """What goes wrong."""

    IO = "the n-th call of any kind fails with EIO"
    NO_SPACE = "the n-th call that may need room fails with ENOSPC"
    FULL = "from the n-th on, every call that needs room fails with ENOSPC"
    SHORT = "the n-th write is short, what follows goes on"
    SHORT_THEN_FULL = "the n-th write is short, the next finds no room"


class Outcome(NamedTuple):
    """What came of one fault."""

    n: int
    call: str
    """The call that was hit."""
    error: Exception | None
    """What the operation raised."""
    folder: Path
    """As it is afterwards."""


_ROOM = ("create", "write", "size", "sync", "link", "symlink", "rename")
_GROWS = ("create", "write", "link", "symlink")


class _Injector(Interceptor):
    def __init__(self, folder: Path, fault: Fault, n: int) -> None:
        super().__init__(folder)
        self._fault, self._left = fault, n
        self.hit = ""
        self._next_fails = False

    def around(self, call: Call, run: Callable[..., Any]) -> Any:
        fault = self._fault
        if self.hit:
            if self._next_fails and call.kind == "write":
                self._next_fails = False
                raise _error(errno.ENOSPC)
            if fault is Fault.FULL and self._grows(call):
                raise _error(errno.ENOSPC)
            return run()
        if not self._counts(call):
            return run()
        self._left -= 1
        if self._left:
            return run()
        self.hit = str(call)
        if fault is Fault.IO:
            raise _error(errno.EIO)
        if fault in (Fault.SHORT, Fault.SHORT_THEN_FULL):
            self._next_fails = fault is Fault.SHORT_THEN_FULL
            return run(len(call.data) // 2)
        raise _error(errno.ENOSPC)

    def _counts(self, call: Call) -> bool:
        match self._fault:
            case Fault.IO:
                return True
            case Fault.NO_SPACE:
                return call.kind in _ROOM
            case Fault.FULL:
                return self._grows(call)
        return call.kind == "write" and len(call.data) > 1

    def _grows(self, call: Call) -> bool:
        return call.kind in _GROWS or call.function in ("posix_fallocate", "fallocate")


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def faults(
    folder: str | os.PathLike[str],
    scratch: str | os.PathLike[str],
    operation: Callable[[Path], object],
    fault: Fault,
) -> Iterator[Outcome]:
    """Run `operation(copy of folder)` with n = 1, 2, ... until no fault was reached.

    Copies are made in `scratch` and removed when the next outcome is asked for. Exceptions other
    than `Exception`, and failed assertions, go through.
    """
    n = 1
    while True:
        copy = Path(scratch) / f"fault-{fault.name}-{n}"
        shutil.copytree(folder, copy, symlinks=True)
        error: Exception | None = None
        injector = _Injector(copy, fault, n)
        with injector:
            try:
                operation(copy)
            except AssertionError:
                raise
            except Exception as raised:
                error = raised
        if not injector.hit:
            shutil.rmtree(copy)
            if error is not None:
                raise error
            return
        yield Outcome(n, injector.hit, error, copy)
        shutil.rmtree(copy)
        n += 1
