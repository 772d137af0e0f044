# SPDX-License-Identifier: Apache-2.0
"""Copying files out of a disk into a folder here.

What is inside was named by a guest, so nothing it says may reach beyond the target: names are made
one by one below folders held open, without following links; a link is made only if it cannot lead
out of what is copied; devices, pipes and sockets are not made; set-uid, set-gid and sticky bits,
owners, and attributes outside of `user.` are left out. What is left out is told.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import DiskkitError, StorageError, UsageError
from diskkit.files.content import pieces
from diskkit.files.walk import MAX_DEPTH
from diskkit.storage.room import make_room

if TYPE_CHECKING:
    from collections.abc import Callable

    from diskkit.files.filesystem import FileSystem, Node
    from diskkit.files.walk import Found
    from diskkit.interfaces import Readable

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_XATTRS = (errno.ENOTSUP, errno.EPERM, errno.ENOSPC, errno.E2BIG, errno.ERANGE)


class Copied(NamedTuple):
    """What was done."""

    files: int
    folders: int
    links: int
    """Symbolic ones."""
    bytes_written: int
    left_out: int
    """Entries, or attributes of theirs, that were not copied; each was told."""


class Copier:
    """Copies one file or tree. `tell` gets a line for everything left out."""

    def __init__(self, fs: FileSystem, volume: Readable, tell: Callable[[str], None]) -> None:
        """Copy nothing yet."""
        self._fs = fs
        self._volume = volume
        self._say = tell
        self._first_names: dict[int, tuple[bytes, ...]] = {}
        self._open_folders: set[int] = set()
        self._root = -1
        self._files = self._folders = self._links = self._bytes = self._left_out = 0

    @property
    def done(self) -> Copied:
        """What was done so far."""
        return Copied(self._files, self._folders, self._links, self._bytes, self._left_out)

    def copy(self, found: Found, target: str, *, recursive: bool, force: bool = False) -> Copied:
        """Copy `found` to `target`, or into it if it is a folder.

        `force` replaces a file that is there. Raises if the file itself cannot be copied; what
        is wrong below a folder is told, and counted in `left_out`.
        """
        folder, name = _place(found, target)
        if found.node.is_dir and not recursive:
            raise UsageError(f"{_text(found.path)}: a directory (-r copies it)")
        try:
            # The folder is the user's own: there a link may be followed.
            self._root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError(folder, error.strerror or str(error), errno=error.errno) from None
        try:
            if found.node.is_dir:
                self._fill_top(found.node, name)
            elif not found.node.is_file:
                raise StorageError(_text(found.path), "not a file that can be copied")
            else:
                if force:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=self._root)
                self._file(found.node, self._root, (name,))
        except OSError as error:
            if isinstance(error, DiskkitError):
                raise
            where = str(Path(folder) / os.fsdecode(name))
            raise StorageError(where, error.strerror or str(error), errno=error.errno) from None
        finally:
            os.close(self._root)
        return self.done

    def _fill_top(self, node: Node, name: bytes) -> None:
        if name:
            self._folder(node, self._root, (name,), top=1)
            return
        self._entries(node, self._root, (), top=0)

    # --- one of each kind ---------------------------------------------------------------------

    def _folder(self, node: Node, parent: int, path: tuple[bytes, ...], top: int) -> None:
        os.mkdir(path[-1], 0o700, dir_fd=parent)
        here = os.open(path[-1], _FOLDER, dir_fd=parent)
        try:
            self._folders += 1
            self._entries(node, here, path, top)
            self._dress(node, here, path)
        finally:
            os.close(here)

    def _entries(self, node: Node, here: int, path: tuple[bytes, ...], top: int) -> None:
        if node.id in self._open_folders:
            self._tell(path, "a directory that is inside of itself")
            return
        if len(path) > MAX_DEPTH:
            self._tell(path, f"deeper than {MAX_DEPTH} directories")
            return
        self._open_folders.add(node.id)
        try:
            for name, child in self._fs.scandir(node.id):
                self._entry(name, child, here, (*path, name), top)
        except DiskkitError as error:
            self._tell(path, str(error))
        finally:
            self._open_folders.discard(node.id)

    def _entry(self, name: bytes, node: Node, here: int, path: tuple[bytes, ...], top: int) -> None:
        if node.problem:
            self._tell(path, node.problem)
            return
        if not name or b"/" in name or b"\0" in name or name in (b".", b".."):
            self._tell(path, "no file can have this name")
            return
        try:
            if node.is_dir:
                self._folder(node, here, path, top)
            elif node.is_file:
                self._file(node, here, path)
            elif node.is_link:
                self._link(node, here, path, top)
            else:
                self._tell(path, "a device, pipe or socket")
        except DiskkitError as error:
            self._tell(path, str(error))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
                raise
            self._tell(path, error.strerror or str(error))

    def _file(self, node: Node, parent: int, path: tuple[bytes, ...]) -> None:
        if node.links != 1 and self._second_name(node, parent, path):
            return
        target = os.open(path[-1], _NEW, 0o600, dir_fd=parent)
        try:
            os.ftruncate(target, node.size)
            room = partial(make_room, target)
            for offset, part in pieces(self._fs, self._volume, node, before=room):
                _write(target, offset, part)
                self._bytes += len(part)
            self._dress(node, target, path)
        except BaseException:
            os.unlink(path[-1], dir_fd=parent)
            raise
        finally:
            os.close(target)
        self._files += 1
        if node.links != 1:
            self._first_names.setdefault(node.id, path)

    def _second_name(self, node: Node, parent: int, path: tuple[bytes, ...]) -> bool:
        """Make a hard link to the copy of the same file, if there is one."""
        first = self._first_names.get(node.id)
        if first is None:
            return False
        try:
            os.link(
                b"/".join(first),
                path[-1],
                src_dir_fd=self._root,
                dst_dir_fd=parent,
                follow_symlinks=False,
            )
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise
            return False
        self._files += 1
        return True

    def _link(self, node: Node, parent: int, path: tuple[bytes, ...], top: int) -> None:
        target = self._fs.readlink(node.id)
        if not leads_inside(target, len(path) - 1 - top):
            self._tell(path, f"a link that leads out: {_text(target)}")
            return
        os.symlink(target, path[-1], dir_fd=parent)
        with contextlib.suppress(OSError, OverflowError):
            times = (node.atime, node.mtime)
            os.utime(path[-1], ns=times, dir_fd=parent, follow_symlinks=False)
        self._links += 1

    def _dress(self, node: Node, target: int, path: tuple[bytes, ...]) -> None:
        """Attributes, mode and times; in this order, because each ends what allowed the last."""
        try:
            attributes = self._fs.xattrs(node.id)
        except DiskkitError as error:
            self._tell(path, f"attributes: {error}")
            attributes = {}
        for name, value in attributes.items():
            if not name.startswith(b"user.") or b"\0" in name:
                continue
            try:
                os.setxattr(target, name, value)
            except OSError as error:
                if error.errno not in _NO_XATTRS:
                    raise
                self._tell(path, f"attribute {_text(name)}: {error.strerror}")
        os.fchmod(target, stat.S_IMODE(node.mode) & 0o777)
        try:
            os.utime(target, ns=(node.atime, node.mtime))
        except (OSError, OverflowError):
            self._tell(path, "its times cannot be kept here")

    def _tell(self, path: tuple[bytes, ...], why: str) -> None:
        self._left_out += 1
        self._say(f"{_text(b'/'.join(path)) or '/'}: left out: {why}")


def leads_inside(target: bytes, depth: int) -> bool:
    """Whether a link in a folder `depth` levels below the top cannot lead out of it.

    Only leading `..` are allowed, and no more than there are levels: behind a name, which may be
    a link itself, `..` can lead anywhere.
    """
    if not target or target.startswith(b"/") or b"\0" in target:
        return False
    parts = [part for part in target.split(b"/") if part not in (b"", b".")]
    up = 0
    while up < len(parts) and parts[up] == b"..":
        up += 1
    return up <= depth and b".." not in parts[up:]


def _place(found: Found, target: str) -> tuple[str, bytes]:
    """The folder to work in, and the name there; no name for the root into a folder that is there.

    A name from the guest is judged; one from the user is as it is.
    """
    own = found.path.rpartition(b"/")[2]
    if Path(target).is_dir():
        if b"\0" in own or own in (b".", b".."):
            raise StorageError(_text(found.path), "no file can have this name")
        return target, own
    folder, name = os.path.split(target.rstrip("/"))
    return folder or ".", os.fsencode(name)


def _write(target: int, offset: int, part: memoryview) -> None:
    while part:
        count = os.pwrite(target, part, offset)
        offset += count
        part = part[count:]


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
