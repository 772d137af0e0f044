# SPDX-License-Identifier: Apache-2.0
"""Paths inside of a filesystem: from a text to a file, and all files below one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import DiskkitError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future, ThreadPoolExecutor

    from diskkit.files.filesystem import FileSystem, Node

    Read = tuple[list[tuple[bytes, Node]], DiskkitError | None]

MAX_LINKS = 40
"""Symbolic links followed on the way, as Linux does."""
MAX_DEPTH = 256


class NotThere(StorageError):
    """No file has this path."""


class Found(NamedTuple):
    """A file and where it is."""

    path: bytes
    """From the root, with a slash before each name; the root is b"/"."""
    node: Node


def resolve(fs: FileSystem, path: bytes, *, follow: bool = True) -> Found:
    """The file at a path. Links lead within the filesystem, wherever they point.

    Without `follow` the last part may be a link. Raises `NotThere`.
    """
    trail = [Found(b"/", fs.stat(fs.root))]
    parts = [part for part in path.split(b"/")[::-1] if part]
    links = 0
    while parts:
        part = parts.pop()
        here = trail[-1]
        if part == b".":
            continue
        if part == b"..":
            if len(trail) > 1:
                trail.pop()
            continue
        if not here.node.is_dir:
            raise _missing(here.path, "not a directory")
        node = fs.lookup(here.node.id, part)
        if node is None:
            raise _missing(_join(here.path, part), "no such file")
        if node.is_link and (parts or follow):
            links += 1
            if links > MAX_LINKS:
                raise _missing(path, f"more than {MAX_LINKS} links on the way")
            target = fs.readlink(node.id)
            if target.startswith(b"/"):
                del trail[1:]
            parts += [p for p in target.split(b"/")[::-1] if p]
            continue
        trail.append(Found(_join(here.path, part), node))
    return trail[-1]


def _join(folder: bytes, name: bytes) -> bytes:
    return folder.rstrip(b"/") + b"/" + name


def _missing(path: bytes, problem: str) -> NotThere:
    return NotThere(path.decode("utf-8", "backslashreplace"), problem)


class Listing(NamedTuple):
    """A directory, and what is in it, sorted by name; or why it cannot be had."""

    path: bytes
    rows: list[tuple[bytes, Node]]
    problem: DiskkitError | None


def list_below(fs: FileSystem, start: Found, *, recursive: bool) -> Iterator[Listing]:
    """A directory, then those below it. One that is met twice is not entered again.

    The next directory is read while the caller looks at this one.
    """
    if not recursive:
        rows, problem = _read(fs, start)
        yield Listing(start.path, sorted(rows, key=_name), problem)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1, "diskkit-list") as reader:
        yield from _list_all(fs, start, reader)


def _list_all(fs: FileSystem, start: Found, reader: ThreadPoolExecutor) -> Iterator[Listing]:
    seen: set[int] = set()
    waiting = [(start, 0)]
    coming: Future[Read] | None = None
    while waiting:
        found, depth = waiting.pop()
        if found.node.id in seen:
            problem = StorageError(_text(found.path), "a directory that is inside of itself")
            yield Listing(found.path, [], problem)
            continue
        seen.add(found.node.id)
        rows, met = coming.result() if coming is not None else _read(fs, found)
        folders = sorted((row for row in rows if row[1].is_dir), key=_name, reverse=True)
        too_deep = depth >= MAX_DEPTH and bool(folders)
        if not too_deep:
            waiting += [
                (Found(_join(found.path, name), node), depth + 1)
                for name, node in folders
                if not node.problem
            ]
        following = waiting[-1][0] if waiting else None
        coming = None
        if following is not None and following.node.id not in seen:
            coming = reader.submit(_read, fs, following)
        rows.sort(key=_name)
        yield Listing(found.path, rows, met)
        if too_deep:
            problem = StorageError(_text(found.path), f"deeper than {MAX_DEPTH} directories")
            yield Listing(found.path, [], problem)


def _read(fs: FileSystem, found: Found) -> Read:
    """What is in a directory, as far as it can be had, and why not more."""
    rows: list[tuple[bytes, Node]] = []
    try:
        rows.extend(fs.scandir(found.node.id))
    except DiskkitError as error:
        return rows, error
    return rows, None


def _name(row: tuple[bytes, Node]) -> bytes:
    return row[0]


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
