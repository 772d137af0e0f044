# SPDX-License-Identifier: Apache-2.0
"""`diskkit chain`: the links as a tree, as far as the chain goes."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from diskkit.chain import pair_problems, resolve
from diskkit.cli.failures import DONE, FAILED, say
from diskkit.errors import DiskkitError, printable
from diskkit.info import describe_link, plain
from diskkit.open import check_files
from diskkit.units import format_size

if TYPE_CHECKING:
    from diskkit.cli.options import Common
    from diskkit.formats.link import Link


def show_chain(path: str, common: Common, *, as_json: bool) -> int:
    """Print every link that can be opened; a chain that does not hold is exit status 1."""
    check_files(path)
    links: list[Link] = []
    failure: DiskkitError | None = None
    policy = common.policy._replace(warn=lambda _: None)
    try:
        for link in resolve(path, common.format_name, policy):
            links.append(link)  # noqa: PERF402 - the links before a failure are shown too
    except DiskkitError as error:
        if not links:
            raise
        failure = error
    try:
        return _show(links, failure, as_json=as_json)
    finally:
        for link in links:
            link.close()


def _show(links: list[Link], failure: DiskkitError | None, *, as_json: bool) -> int:
    broken = [_broken(child, parent) for child, parent in pairwise(links)]
    if as_json:
        described = [plain(describe_link(link)) for link in links]
        problem = str(failure) if failure else next((b for b in broken if b), None)
        print(json.dumps({"links": described, "problem": problem}, indent=2))
    else:
        _draw(links, [*broken, ""], failure)
    if failure is not None:
        say(str(failure))
    for link, text in zip(links, broken, strict=False):
        if text:
            say(f"{link.path}: {text}")
    return FAILED if failure or any(broken) else DONE


def _broken(child: Link, parent: Link) -> str:
    return "; ".join(problem.what for problem in pair_problems(child, parent))


def _draw(links: list[Link], broken: list[str], failure: DiskkitError | None) -> None:
    folder = Path(links[0].path).resolve().parent
    tree: Tree | None = None
    top: Tree | None = None
    for link, problem in zip(links, broken, strict=True):
        label = _label(link, folder, bool(problem))
        tree = Tree(label) if tree is None else tree.add(label)
        top = top or tree
    assert tree is not None
    assert top is not None
    if failure is not None:
        hint = links[-1].parent_hint
        tree.add(Text(f"{printable(hint)}  missing or refused", "bold red"))
    # A line is wrapped to fit a terminal, and left whole for a program.
    width = None if sys.stdout.isatty() else 1 << 16
    Console(highlight=False, width=width).print(top)


def _label(link: Link, folder: Path, broken: bool) -> Text:
    path = Path(link.path).resolve()
    name = path.name if path.parent == folder else link.path
    label = Text(printable(name), "bold", overflow="fold")
    label.append(f"  {link.create_type}  {format_size(link.capacity)}", "default not bold")
    label.append(f", takes {format_size(link.physical_bytes)}", "dim not bold")
    if link.cid is not None:
        label.append(f"  [{link.cid:08x}]", "cyan not bold")
    if link.parent_hint is not None:
        mark = f"  parent [{link.parent_cid:08x}]" + (" BROKEN" if broken else "")
        label.append(mark, "bold red" if broken else "cyan not bold")
    return label
