# SPDX-License-Identifier: Apache-2.0
"""The full program: the table of verbs, and the options that every verb has."""

from __future__ import annotations

import os
import signal
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer

from diskkit import __version__
from diskkit.cli.failures import DONE, INTERRUPTED, USAGE, say

if TYPE_CHECKING:
    from collections.abc import Iterable

COMMANDS = {
    "info": "inspect:info",
    "map": "inspect:map_",
    "chain": "inspect:chain",
    "changed": "inspect:changed",
    "compare": "inspect:compare",
    "volumes": "volumes:volumes",
    "ls": "files:ls",
    "cat": "files:cat",
    "cp": "files:cp",
    "check": "inspect:check",
    "repair": "mending:repair",
    "convert": "transfer:convert",
    "create": "transfer:create",
    "meta": "own:meta",
    "rename": "own:rename",
    "rm": "own:rm",
    "rebase": "own:rebase",
    "grow": "maintain:grow",
    "shrink": "maintain:shrink",
    "defrag": "maintain:defrag",
    "commit": "maintain:commit",
    "serve": "serve:serve",
    "vdiskmanager": "vdiskmanager:vdiskmanager",
    "libdir": "libdir:libdir",
    "mount": "mount:mount",
    "umount": "umount:umount",
}
"""Verb: where it is. A new verb is a function and a line here."""


def _version(wanted: bool) -> None:
    if wanted:
        print(f"diskkit {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Open, map, compare, check, create and convert virtual disks."""


def build(verbs: Iterable[str]) -> typer.Typer:
    """The program with these verbs. One is built faster than all."""
    app = typer.Typer(
        name="diskkit",
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    for verb in verbs:
        module, _, function = COMMANDS[verb].partition(":")
        app.command(verb)(getattr(import_module(f"diskkit.cli.{module}"), function))
    return app


# typer carries a click of its own, under a private name: the base of all its usage errors.
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]


def _interrupt(*_: object) -> NoReturn:
    """Being told to end is being interrupted: what is half made is removed."""
    raise KeyboardInterrupt


def run(argv: list[str]) -> int:
    """Run one command line; returns the exit status."""
    signal.signal(signal.SIGTERM, _interrupt)
    completing = "_DISKKIT_COMPLETE" in os.environ
    if argv[:1] == ["vdiskmanager"] and not completing:
        from diskkit.cli.vdiskmanager import run_words

        return run_words(argv[1:])
    alone = argv and argv[0] in COMMANDS and not completing
    app = build(argv[:1] if alone else COMMANDS)
    try:
        status: Any = app(argv or ["--help"], standalone_mode=False, prog_name="diskkit")
    except _ClickError as error:
        say(cast("Any", error).format_message().splitlines()[0])
        return USAGE
    except typer.Abort:
        raise KeyboardInterrupt from None
    if status == INTERRUPTED:  # as some versions of typer say it
        raise KeyboardInterrupt
    if not argv:
        return USAGE
    return status if isinstance(status, int) else DONE
