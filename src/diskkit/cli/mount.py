# SPDX-License-Identifier: Apache-2.0
"""The verbs mount and umount: a disk as files, its volumes as folders."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from diskkit.cli.failures import DONE, FAILED, say, warn
from diskkit.cli.options import Common, Json, with_common
from diskkit.errors import DiskkitError, FormatError, StorageError, UsageError, printable_line

if TYPE_CHECKING:
    from diskkit.disk import Disk
    from diskkit.fuse.tree import Tree
    from diskkit.volumes import Volume

_FAR = ("nbd:", "nbd+unix:", "nbds:", "nbds+unix:")
_FAR_THREADS = 16


@with_common
def mount(
    common: Common,
    name: Annotated[
        str | None, typer.Argument(metavar="DISK", help="The disk: see diskkit --help.")
    ] = None,
    folder: Annotated[
        str | None, typer.Argument(metavar="DIR", help="The folder to show it in.")
    ] = None,
    volume: Annotated[
        str | None,
        typer.Option("--volume", metavar="N", help="Show the files of this volume alone."),
    ] = None,
    writable: Annotated[bool, typer.Option("--writable", help="Let the disk be changed.")] = False,
    overlay: Annotated[
        str | None,
        typer.Option("--overlay", metavar="FILE", help="Keep what is written in FILE."),
    ] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay, until interrupted or unmounted.")
    ] = False,
    allow_other: Annotated[
        bool, typer.Option("--allow-other", help="Let other users look into it.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="List what is mounted.")] = False,
    as_json: Json = False,
) -> int:
    """Show a disk as the file flat, its volumes as files, and their files in the folder files."""
    if list_:
        return _list(as_json=as_json)
    if name is None or folder is None:
        raise UsageError("mount: name a disk and a folder, or say --list")
    if writable and overlay is not None:
        raise UsageError("mount: --overlay and --writable: what is written goes to one of them")
    if volume is not None and (writable or overlay is not None):
        raise UsageError("mount: the files of a volume can be read only: leave out --volume")
    if not os.path.isdir(folder):  # noqa: PTH112 - as it was given
        raise StorageError(folder, "is not a folder")
    ready = None if foreground else _background()
    if isinstance(ready, int):
        return ready
    with common.open(name, writable=writable, overlay=overlay) as disk:
        tree = _tree(disk, volume, common)
        try:
            _serve(disk, tree, folder, common, ready=ready, allow_other=allow_other)
        finally:
            tree.close()
    return DONE


class _Ready:
    """Tells whoever started us that the mount can be used, and that nothing more is to be said."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def tell(self) -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.close(null)
        os.write(self._pipe, b"!")
        os.close(self._pipe)


def _background() -> _Ready | int:
    """Go on in a process of its own; the first one gets the exit status."""
    told, pipe = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child:
        os.close(pipe)
        with os.fdopen(told, "rb") as answer:
            if answer.read(1):
                return DONE
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or FAILED
    os.close(told)
    os.setsid()
    return _Ready(pipe)


def _tree(disk: Disk, chosen: str | None, common: Common) -> Tree:
    from diskkit.files import open_filesystem
    from diskkit.fuse.filestree import FilesTree, JoinedTree
    from diskkit.fuse.tree import DiskTree
    from diskkit.volumes import find_volumes

    if chosen is not None:
        one = find_volumes(disk).volume(chosen)
        return FilesTree(one, open_filesystem(one))
    volumes: list[Volume] = []
    try:
        found = find_volumes(disk)
        volumes = found.volumes
        for text in found.warnings if not common.quiet else ():
            warn(text)
    except FormatError as error:
        warn(f"{disk.path}: no volumes: {error}")
    return JoinedTree(DiskTree(disk, volumes, uid=os.getuid(), gid=os.getgid()), volumes)


def _serve(
    disk: Disk, tree: Tree, folder: str, common: Common, *, ready: _Ready | None, allow_other: bool
) -> None:
    from diskkit.fuse import mounting
    from diskkit.fuse.session import THREADS, Session

    read_only = not disk.writable
    device = mounting.mount(disk.path, folder, read_only=read_only, allow_other=allow_other)
    threads = _FAR_THREADS if disk.path.startswith(_FAR) else THREADS
    session = Session(device, tree, threads=threads, warn=None if common.quiet else warn)
    try:
        session.start()
        mounting.read_ahead(folder)
        if ready is not None:
            ready.tell()
        elif not common.quiet:
            print(printable_line(f"mounted {folder}"), file=sys.stderr, flush=True)
        session.join()
    except BaseException as error:
        try:
            mounting.unmount(folder)
        except StorageError:
            # Somebody is inside: they keep what they have open until they leave.
            mounting.unmount(folder, lazy=True)
        session.join()
        if not isinstance(error, KeyboardInterrupt):
            raise
    finally:
        session.close()


def _list(*, as_json: bool) -> int:
    from diskkit.fuse.mounting import mounted

    found = mounted()
    if as_json:
        print(json.dumps({"mounts": [one._asdict() for one in found]}))
    for one in found if not as_json else ():
        print(printable_line(f"{one.folder}  {one.disk}  {one.options.partition(',')[0]}"))
    return DONE


def _settle(folder: str) -> None:
    """What was written is durable before the folder is gone: its server ends a little later."""
    flat = os.path.join(folder, "flat")  # noqa: PTH118 - as it was given
    try:
        fd = os.open(flat, os.O_RDONLY)
    except OSError:
        return  # a single volume, which is never written to; or its server is dead
    try:
        os.fsync(fd)
    except OSError as error:
        raise StorageError(flat, error.strerror or "cannot be made durable") from None
    finally:
        os.close(fd)


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
    from diskkit.fuse.mounting import mounted, unmount

    ours = [one.folder for one in mounted()]
    if all_ == bool(folders):
        raise UsageError("umount: name folders, or say --all")
    status = DONE
    for folder in reversed(ours) if all_ else folders or ():
        try:
            if not all_ and os.path.realpath(folder) not in ours:
                raise StorageError(folder, "is not mounted by diskkit")
            _settle(folder)
            unmount(folder, lazy=lazy)
        except DiskkitError as error:
            say(str(error))
            status = FAILED
    return status
