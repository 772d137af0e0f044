# SPDX-License-Identifier: Apache-2.0
"""The verbs for files inside of disks: ls, cat, cp."""

from __future__ import annotations

import json
import stat
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from diskkit.cli.failures import DONE, say, warn
from diskkit.cli.options import Common, Json, with_common
from diskkit.cli.part import KeyFile, With, read_key
from diskkit.cli.progress import watched
from diskkit.errors import DiskkitError, UsageError, printable_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diskkit.files import FileSystem, Node
    from diskkit.files.walk import Found, Listing
    from diskkit.volumes import Volume

INCOMPLETE = 3

Name = Annotated[
    str, typer.Argument(metavar="DISK[:VOLUME]:/PATH", help="A file or folder inside of a disk.")
]


class Opened(NamedTuple):
    """A filesystem, and the volume under it."""

    fs: FileSystem
    volume: Volume
    path: bytes


@contextmanager
def opened(
    name: str, common: Common, key_file: str | None, others: list[str] | None
) -> Iterator[Opened]:
    """Open the disk, the volume and the filesystem that a name means."""
    from diskkit.files.naming import choose, parse_name
    from diskkit.files.process import Started

    named = parse_name(name)
    if named is None:
        raise UsageError(f"{name}: write DISK:/PATH, or DISK:VOLUME:/PATH")
    # It gets ready while the rest is loaded and the disk opened here, which takes as long.
    with Started() as started, ExitStack() as stack:
        import diskkit.files.copying  # noqa: F401
        from diskkit.files import open_filesystem
        from diskkit.volumes import find_volumes

        disks = [stack.enter_context(common.open(n)) for n in (named.disk, *(others or ()))]
        volume = choose(find_volumes(*disks, key=read_key(key_file)), named.volume)
        with open_filesystem(volume, started=started) as fs:
            for text in fs.warnings if not common.quiet else ():
                warn(text)
            yield Opened(fs, volume, named.path.encode("utf-8", "surrogateescape"))


@with_common
def ls(
    name: Name,
    common: Common,
    long: Annotated[bool, typer.Option("-l", help="Modes, owners, sizes and times.")] = False,
    recursive: Annotated[bool, typer.Option("-R", help="All folders below.")] = False,
    others: With = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> int:
    """List files inside of a disk, without mounting it. Times are UTC."""
    from diskkit.files.walk import Listing, list_below, resolve

    left_out = False
    with opened(name, common, key_file, others) as (fs, _, path):
        found = resolve(fs, path, follow=not long)
        if found.node.is_dir:
            listings = list_below(fs, found, recursive=recursive)
        else:
            folder, _, own = found.path.rpartition(b"/")
            listings = iter([Listing(folder or b"/", [(own, found.node)], None)])
        printed = _print_json if as_json else _print
        for number, listing in enumerate(listings):
            printed(fs, listing, number, long=long, heads=recursive)
            if listing.problem is not None:
                left_out = True
                say(f"{_text(listing.path)}: {listing.problem}")
            left_out |= any(node.problem for _, node in listing.rows)
        if as_json:
            print("\n]")
    return INCOMPLETE if left_out else DONE


def _print(fs: FileSystem, listing: Listing, number: int, *, long: bool, heads: bool) -> None:
    lines = []
    if heads:
        lines.append(("\n" if number else "") + printable_line(_text(listing.path)) + ":")
    for name, node in listing.rows:
        text = printable_line(_text(name))
        if long:
            target = f" -> {printable_line(_target(fs, node))}" if node.is_link else ""
            problem = f"  [{printable_line(node.problem)}]" if node.problem else ""
            text = f"{_columns(node)} {text}{target}{problem}"
        lines.append(text)
    if lines:
        sys.stdout.write("\n".join(lines) + "\n")


def _columns(node: Node) -> str:
    device = stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode)
    size = f"{node.major}, {node.minor}" if device else str(node.size)
    when = _when(node.mtime)
    links = node.links or 1
    return f"{stat.filemode(node.mode)} {links:>3} {node.uid:>5} {node.gid:>5} {size:>12} {when}"


def _when(nanoseconds: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(nanoseconds // 1_000_000_000))
    except (ValueError, OverflowError, OSError):
        return f"{nanoseconds // 1_000_000_000:>19}"


def _target(fs: FileSystem, node: Node) -> str:
    try:
        return _text(fs.readlink(node.id))
    except DiskkitError as error:
        return f"? ({error})"


def _print_json(fs: FileSystem, listing: Listing, number: int, *, long: bool, heads: bool) -> None:
    """One document: a list of folders, written as they come."""
    rows = [_row(fs, name, node) for name, node in listing.rows]
    problem = str(listing.problem) if listing.problem is not None else None
    document = {"path": _text(listing.path), "entries": rows, "problem": problem}
    sys.stdout.write((",\n" if number else "[\n") + json.dumps(document))


def _row(fs: FileSystem, name: bytes, node: Node) -> dict[str, Any]:
    from diskkit.files.filesystem import NO_TIME

    return {
        "name": _text(name),
        "type": _KINDS.get(stat.S_IFMT(node.mode), "other"),
        "size": node.size,
        "mode": stat.S_IMODE(node.mode),
        "links": node.links or None,
        "uid": node.uid,
        "gid": node.gid,
        "mtime_ns": node.mtime,
        "atime_ns": node.atime,
        "ctime_ns": node.ctime,
        "btime_ns": None if node.btime == NO_TIME else node.btime,
        "id": node.id,
        "target": _target(fs, node) if node.is_link else None,
        "problem": node.problem or None,
    }


_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}


@with_common
def cat(
    name: Name,
    common: Common,
    stream: Annotated[
        str, typer.Option("--stream", metavar="NAME", help="An alternate data stream of NTFS.")
    ] = "",
    others: With = None,
    key_file: KeyFile = None,
) -> int:
    """Write a file inside of a disk to standard output."""
    from diskkit.files.content import pieces
    from diskkit.files.walk import resolve

    out = sys.stdout.buffer
    with opened(name, common, key_file, others) as (fs, volume, path):
        node = _file(resolve(fs, path)).node
        at = 0
        for offset, part in pieces(fs, volume, node, stream):
            _zeros(offset - at)
            out.write(part)
            at = offset + len(part)
        size = dict(fs.streams(node.id))[stream] if stream else node.size
        _zeros(size - at)
        out.flush()
    return DONE


def _zeros(count: int) -> None:
    block = bytes(min(count, 1 << 20))
    while count > 0:
        sys.stdout.buffer.write(block[:count])
        count -= len(block)


def _file(found: Found) -> Found:
    if not found.node.is_file:
        raise UsageError(f"{_text(found.path)}: not a regular file")
    return found


@with_common
def cp(
    name: Name,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A file or folder here.")],
    common: Common,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Copy folders with all that is in them.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace TARGET if it exists.")] = False,
    others: With = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> int:
    """Copy files out of a disk. Exit status 3: something was left out."""
    began = time.monotonic()
    with opened(name, common, key_file, others) as (fs, volume, path):
        from diskkit.files.copying import Copier
        from diskkit.files.walk import resolve

        found = resolve(fs, path)
        with watched("copying", common, as_json=as_json, status_lines=True) as progress:
            copier = Copier(fs, volume, say, progress)
            done = copier.copy(found, target, recursive=recursive, force=force)
    if as_json:
        seconds = round(time.monotonic() - began, 3)
        summary = {"message_type": "summary", "verb": "cp", **done._asdict(), "seconds": seconds}
        print(json.dumps(summary))
    elif not common.quiet:
        text = f"copied {done.files} files, {done.folders} folders, {done.links} links"
        more = f"; {done.left_out} left out" if done.left_out else ""
        print(text + more, file=sys.stderr)
    return DONE if done.complete else INCOMPLETE


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
