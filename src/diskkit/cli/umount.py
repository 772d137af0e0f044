# SPDX-License-Identifier: Apache-2.0
"""The verb umount, and what `mount --list` answers."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from typing import Annotated, Any

import typer

from diskkit.cli.failures import DONE, FAILED, say
from diskkit.errors import DiskkitError, StorageError, UsageError, printable_line


def list_mounts(*, as_json: bool) -> int:
    """Print what is mounted by diskkit."""
    from diskkit.fuse.kernel import kernel_mounts
    from diskkit.fuse.mounting import mounted

    found: list[dict[str, Any]] = [{**one._asdict(), "kernel": False} for one in mounted()]
    for reader, note in kernel_mounts():
        with reader:
            row = {"disk": note.disk, "folder": note.folder}
            row["options"] = "rw,nosuid,nodev" if note.writable else "ro,nosuid,nodev"
            found.append({**row, "kernel": True, "loop": note.loop, "alive": reader.alive()})
    if as_json:
        print(json.dumps({"mounts": found}))
    for one in found if not as_json else ():
        words = [one["folder"], one["disk"], one["options"].partition(",")[0]]
        words += [f"kernel, {one['loop']}"] if one["kernel"] else []
        words += ["its server died"] if one.get("alive") is False else []
        print(printable_line("  ".join(words)))
    return DONE


def _settle(folder: str) -> None:
    """What was written is durable before the folder is gone: its server ends a little later."""
    try:
        with os.scandir(folder) as rows:
            names = [row.path for row in rows if row.is_file(follow_symlinks=False)]
    except OSError:
        return  # its server is dead
    # One of them for each disk, if there are several, and some for the same.
    for name in names:
        try:
            fd = os.open(name, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise StorageError(name, error.strerror or "cannot be made durable") from None


def umount(
    folders: Annotated[
        list[str] | None, typer.Argument(metavar="DIR", help="Where it is mounted.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Everything that diskkit mounted.")] = False,
    lazy: Annotated[
        bool, typer.Option("--lazy", help="Now, and for those who are inside when they leave.")
    ] = False,
) -> int:
    """Take disks out of the file tree."""
    from diskkit.fuse.kernel import kernel_mounts, unmount_volume
    from diskkit.fuse.mounting import mounted, unmount

    if all_ == bool(folders):
        raise UsageError("umount: name folders, or say --all")
    ours = {one.folder: one.options.partition(",")[0] == "rw" for one in mounted()}
    status = DONE
    with ExitStack() as stack:
        notes = {note.folder: (stack.enter_context(r), note) for r, note in kernel_mounts()}
        for folder in [*reversed(notes), *reversed(ours)] if all_ else folders or ():
            real = folder if all_ else os.path.realpath(folder)
            try:
                if real in notes:
                    unmount_volume(*notes[real], lazy=lazy)
                    continue
                if real not in ours:
                    raise StorageError(folder, "is not mounted by diskkit")
                if ours[real]:
                    _settle(folder)
                unmount(folder, lazy=lazy)
            except DiskkitError as error:
                say(str(error))
                status = FAILED
    return status
