# SPDX-License-Identifier: Apache-2.0
"""From errors to one line on stderr and an exit status."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from diskkit.errors import DiskkitError, printable_line

if TYPE_CHECKING:
    from collections.abc import Callable

DONE, FAILED, USAGE, NO, INTERRUPTED = 0, 1, 2, 4, 130


def guarded(work: Callable[[], int], *, debug: bool = False) -> int:
    """Run `work`; a failure becomes one line and its exit status. `debug` lets it through."""
    try:
        status = work()
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read us has seen enough; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except DiskkitError as error:
        if debug:
            raise
        say(str(error))
        return error.exit_code
    except MemoryError:
        if debug:
            raise
        say("out of memory")
        return FAILED
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        say(f"{where}{error.strerror or error}")
        return FAILED
    except Exception as error:
        if debug:
            raise
        say(f"internal error: {type(error).__name__}: {error} (--debug shows where)")
        return FAILED
    return status


def say(text: str) -> None:
    """One line on stderr, under the program's name, that cannot steer a terminal."""
    print(f"diskkit: {printable_line(text)}", file=sys.stderr)


def warn(text: str) -> None:
    """A warning on stderr."""
    say(f"warning: {text}")
