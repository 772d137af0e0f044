# SPDX-License-Identifier: Apache-2.0
"""The verb mount: a disk as files, its volumes as folders."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from diskkit.cli.failures import DONE, FAILED, warn
from diskkit.cli.options import Common, Json, with_common
from diskkit.cli.part import KeyFile, With, read_key
from diskkit.errors import (
    FormatError,
    StorageError,
    UnsupportedFeature,
    UsageError,
    printable_line,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from diskkit.disk import Disk
    from diskkit.fuse.servers import Writer
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
    others: With = None,
    key_file: KeyFile = None,
    writable: Annotated[bool, typer.Option("--writable", help="Let the disk be changed.")] = False,
    overlay: Annotated[
        str | None,
        typer.Option("--overlay", metavar="FILE", help="Keep what is written in FILE."),
    ] = None,
    kernel: Annotated[
        bool, typer.Option("--kernel", help="Let the kernel's own driver show the volume.")
    ] = False,
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
        from diskkit.cli.umount import list_mounts

        return list_mounts(as_json=as_json)
    if name is None or folder is None:
        raise UsageError("mount: name a disk and a folder, or say --list")
    if writable and overlay is not None:
        raise UsageError("mount: --overlay and --writable: what is written goes to one of them")
    if overlay is not None and others:
        raise UsageError(
            "mount: --overlay keeps what is written to one disk, and --with names more"
        )
    if kernel and volume is None:
        raise UsageError("mount: --kernel mounts one volume: say which by --volume")
    to_kernel = volume is not None and (kernel or writable or overlay is not None)
    if to_kernel and allow_other:
        raise UsageError("mount: --allow-other: the kernel lets in whom the files' modes do")
    if not os.path.isdir(folder):  # noqa: PTH112 - as it was given
        raise StorageError(folder, "is not a folder")
    ready = None if foreground else _background()
    if isinstance(ready, int):
        return ready
    told = _Told(common, ready)
    with ExitStack() as stack:
        if to_kernel:
            from diskkit.fuse.servers import Writer

            # Left last: it tells others how closing the disks went.
            writer = stack.enter_context(Writer())
        key = read_key(key_file)
        disks = [
            stack.enter_context(_near(common.open(one, writable=writable, overlay=overlay)))
            for one in (name, *(others or ()))
        ]
        if volume is not None and to_kernel:
            _serve_to_kernel(disks, volume, key, folder, writer, told)
        else:
            tree = _tree(disks, volume, key, told, others=allow_other)
            stack.callback(tree.close)
            _serve(disks, tree, folder, told, allow_other=allow_other)
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


class _Told(NamedTuple):
    """How to talk, and to whom."""

    common: Common
    ready: _Ready | None

    def mounted(self, folder: str) -> None:
        """It can be used."""
        if self.ready is not None:
            self.ready.tell()
        elif not self.common.quiet:
            print(printable_line(f"mounted {folder}"), file=sys.stderr, flush=True)

    @property
    def warn(self) -> Callable[[str], object] | None:
        return None if self.common.quiet else warn


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


def _tree(
    disks: list[Disk], chosen: str | None, key: bytes | None, told: _Told, *, others: bool
) -> Tree:
    from diskkit.files import open_filesystem
    from diskkit.fuse.filestree import FilesTree, JoinedTree
    from diskkit.fuse.tree import DiskTree
    from diskkit.volumes import find_volumes

    if chosen is not None:
        one = find_volumes(*disks, key=key).volume(chosen)
        fs = open_filesystem(one)
        for text in fs.warnings if told.warn else ():
            warn(text)
        return FilesTree(one, fs)
    volumes: list[Volume] = []
    try:
        found = find_volumes(*disks, key=key)
        volumes = found.volumes
        for text in found.warnings if told.warn else ():
            warn(text)
    except FormatError as error:
        warn(f"{disks[0].path}: no volumes: {error}")
    whole = DiskTree(disks, volumes, uid=os.getuid(), gid=os.getgid(), others=others)
    return JoinedTree(whole, volumes, told.warn)


def _serve(disks: list[Disk], tree: Tree, folder: str, told: _Told, *, allow_other: bool) -> None:
    from diskkit.fuse import mounting
    from diskkit.fuse.session import Session

    first, read_only = disks[0].path, not disks[0].writable
    device = mounting.mount(first, folder, read_only=read_only, allow_other=allow_other)
    session = Session(device, tree, threads=_threads(disks), warn=told.warn)
    try:
        session.start()
        mounting.read_ahead(folder)
        told.mounted(folder)
        session.join()
    except BaseException as error:
        mounting.leave(folder)
        session.join()
        if not isinstance(error, KeyboardInterrupt):
            raise
    finally:
        session.close()


def _serve_to_kernel(
    disks: list[Disk], chosen: str, key: bytes | None, folder: str, writer: Writer, told: _Told
) -> None:
    """Let the kernel's own driver mount a volume, and serve it until it is unmounted."""
    from diskkit.fuse.kernelserver import KernelServer
    from diskkit.volumes import find_volumes

    volume = find_volumes(*disks, key=key).volume(chosen)
    writable = disks[0].writable
    if writable and not volume.writable:
        text = "can be read only, since it is deciphered: --kernel alone mounts it"
        raise UnsupportedFeature(text, structure=f"volume {volume.name}")
    with KernelServer(
        disks,
        volume,
        folder,
        writer,
        writable=writable,
        threads=_threads(disks),
        warn=told.warn,
    ) as server:
        try:
            server.start()
            told.mounted(server.note.folder)
            server.join()
        except BaseException as error:
            server.leave()
            if not isinstance(error, KeyboardInterrupt):
                raise


def _near(disk: Disk) -> Disk:
    """The disk, with a cache in front of it if it is far away."""
    if not disk.path.startswith(_FAR):
        return disk
    from diskkit.filters.cached import CachedDisk

    return CachedDisk(disk)


def _threads(disks: list[Disk]) -> int:
    from diskkit.fuse.session import THREADS

    return _FAR_THREADS if any(disk.path.startswith(_FAR) for disk in disks) else THREADS
