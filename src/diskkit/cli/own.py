# SPDX-License-Identifier: Apache-2.0
"""The verbs that change what a disk says of itself, not its content: meta, rename, rm, rebase."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from diskkit.cli.failures import DONE, FAILED, say
from diskkit.cli.options import Common, DiskName, Json, Threads, with_common
from diskkit.cli.progress import watched
from diskkit.errors import UsageError, printable_line


@with_common
def meta(
    disk: DiskName,
    common: Common,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="KEY[=VALUE]", help="Keys to print or to set.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Print a disk's metadata: all of it, or some keys; or set keys, all at once or none."""
    pairs = [word.partition("=") for word in words or ()]
    setting = [bool(equals) for _, equals, _ in pairs]
    if any(setting) and not all(setting):
        raise UsageError("meta: either print keys or set them")
    names = [key[4:] if key.lower().startswith("ddb.") else key for key, _, _ in pairs]
    if any(setting):
        return _set(disk, common, names, [value for _, _, value in pairs], as_json=as_json)
    from diskkit.tasks.metadata import read_metadata

    found = read_metadata(disk, policy=common.policy)
    by_key = {key.lower(): key for key in found}
    for name in names:
        if name.lower() not in by_key:
            say(f"{disk}: its metadata has no key {name}")
            return FAILED
    chosen = {k: found[k] for k in ([by_key[n.lower()] for n in names] if names else found)}
    if as_json:
        print(json.dumps(chosen, indent=2))
    elif len(names) == 1:
        print(printable_line(*chosen.values()))
    else:
        for key, value in chosen.items():
            print(printable_line(f"{key} = {value}"))
    return DONE


def _set(disk: str, common: Common, names: list[str], values: list[str], *, as_json: bool) -> int:
    if len({name.lower() for name in names}) < len(names):
        raise UsageError("meta: a key is given twice")
    from diskkit.tasks.metadata import write_metadata

    write_metadata(disk, dict(zip(names, values, strict=True)), policy=common.policy)
    summarize("meta", common, f"set {', '.join(names)}", as_json=as_json, keys=names)
    return DONE


@with_common
def rename(
    old: Annotated[str, typer.Argument(metavar="OLD", help="The disk: its descriptor.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its new name, or path.")],
    common: Common,
    as_json: Json = False,
) -> int:
    """Rename a disk with all its files, or move it on its filesystem. Nothing is replaced."""
    from diskkit.tasks.rename import rename_disk

    done = rename_disk(old, new, policy=common.policy)
    text = f"renamed {old} to {new}, {len(done.files)} files"
    summarize("rename", common, text, as_json=as_json, **done._asdict())
    return DONE


@with_common
def rm(
    disk: DiskName,
    common: Common,
    force: Annotated[bool, typer.Option("--force", help="Though it has children.")] = False,
    as_json: Json = False,
) -> int:
    """Remove one link of a disk with all its files, never its parents."""
    from diskkit.tasks.remove import remove_disk

    gone = remove_disk(disk, force=force, policy=common.policy)
    summarize("rm", common, f"removed {len(gone)} files", as_json=as_json, files=gone)
    return DONE


@with_common
def rebase(
    disk: DiskName,
    common: Common,
    parent: Annotated[str, typer.Option("--parent", metavar="PARENT", help="The new parent.")],
    unsafe: Annotated[
        bool, typer.Option("--unsafe", help="Take PARENT's content for right, unread.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Though it has children.")] = False,
    threads: Threads = None,
    as_json: Json = False,
) -> int:
    """Put a link on another parent, if its content stays what it is."""
    from diskkit.tasks.attach import rebase as move

    policy = common.policy._replace(force=force)
    with watched("comparing", common, as_json=as_json) as progress:
        move(disk, parent, unsafe=unsafe, policy=policy, threads=threads, progress=progress)
    text = f"{disk} is a child of {parent} now"
    summarize("rebase", common, text, as_json=as_json, verified=not unsafe)
    return DONE


def summarize(verb: str, common: Common, text: str, *, as_json: bool, **more: object) -> None:
    """Say what was done: a line for people, or the summary for programs."""
    if as_json:
        print(json.dumps({"message_type": "summary", "verb": verb, **more}))
    elif not common.quiet:
        print(printable_line(text), file=sys.stderr)
