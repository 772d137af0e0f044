# SPDX-License-Identifier: Apache-2.0
"""The command line: a view of the public API, and nothing more.

`diskkit info DISK` is what scripts call a thousand times, so it is answered before typer, rich and
numpy are loaded; every other call, and every option it does not know, goes to the full program.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NoReturn


def program() -> NoReturn:
    """The command `diskkit`: `main`, and gone.

    Everything is closed and flushed then. To take the interpreter apart takes 20 ms with numpy in
    it, a tenth of a short command, and serves nobody.
    """
    status = main()
    sys.stderr.flush()
    os._exit(status)


def main(argv: list[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    from diskkit.cli.failures import guarded

    if argv[:1] == ["info"] and "_DISKKIT_COMPLETE" not in os.environ:
        rest = [a for a in argv[1:] if a != "--json"]
        if len(rest) == 1 and not rest[0].startswith("-"):
            from diskkit.cli.info import show_info

            return guarded(lambda: show_info(rest[0], as_json="--json" in argv))
    from diskkit.cli.program import run

    return guarded(lambda: run(argv), debug="--debug" in argv)
