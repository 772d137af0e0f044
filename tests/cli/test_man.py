# SPDX-License-Identifier: Apache-2.0
"""The man page and --help name the same verbs and options."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import typer

from diskkit.cli.program import COMMANDS, build

PAGE = Path(__file__).parents[2] / "docs" / "man" / "diskkit.1"


def documented() -> set[str]:
    text = PAGE.read_text(encoding="utf-8")
    marked = " ".join(line for line in text.splitlines() if line.startswith(".") and "Fl" in line)
    return {f"--{name}" for name in re.findall(r"(?:Fl|,) -([a-z][a-z-]+)", marked)}


def offered() -> set[str]:
    found = {"--version", "--help", "--install-completion", "--show-completion"}
    for command in build(COMMANDS).registered_commands:
        assert command.callback is not None
        for parameter in inspect.signature(command.callback, eval_str=True).parameters.values():
            for mark in getattr(parameter.annotation, "__metadata__", ()):
                if isinstance(mark, typer.models.OptionInfo):
                    names = (mark.default, *(mark.param_decls or ()))
                    found |= {n for n in names if isinstance(n, str) and n.startswith("--")}
    return found


def test_options_are_documented_and_exist() -> None:
    assert documented() == offered()


def test_verbs_are_documented() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"^\.It Cm (\w+)$", text, re.MULTILINE)) == set(COMMANDS)
