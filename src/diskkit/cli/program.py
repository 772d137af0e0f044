# SPDX-License-Identifier: Apache-2.0
"""The full program: the table of verbs, and the options that every verb has."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, cast

import typer

from diskkit import __version__
from diskkit.cli.failures import DONE, USAGE, say

COMMANDS = {
    "info": "inspect:info",
    "map": "inspect:map_",
    "chain": "inspect:chain",
    "changed": "inspect:changed",
    "compare": "inspect:compare",
    "check": "inspect:check",
    "convert": "transfer:convert",
    "create": "transfer:create",
}
"""Verb: where it is. A new verb is a function and a line here."""

app = typer.Typer(
    name="diskkit",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"diskkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Open, map, compare, check and convert virtual disks."""


for _verb, _place in COMMANDS.items():
    _module, _, _function = _place.partition(":")
    app.command(_verb)(getattr(import_module(f"diskkit.cli.{_module}"), _function))


# typer carries a click of its own, under a private name: the base of all its usage errors.
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]


def run(argv: list[str]) -> int:
    """Run one command line; returns the exit status."""
    try:
        status: Any = app(argv or ["--help"], standalone_mode=False, prog_name="diskkit")
    except _ClickError as error:
        say(cast("Any", error).format_message().splitlines()[0])
        return USAGE
    except typer.Abort:
        raise KeyboardInterrupt from None
    if not argv:
        return USAGE
    return status if isinstance(status, int) else DONE
