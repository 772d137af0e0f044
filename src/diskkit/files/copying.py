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
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import DiskkitError, StorageError, UsageError
from diskkit.files.attributes import Attributes
from diskkit.files.content import pieces
from diskkit.files.filesystem import Details
from diskkit.files.walk import MAX_DEPTH, Found, list_below
from diskkit.storage.nameless import named_when_whole
from diskkit.storage.room import make_room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from diskkit.files.filesystem import FileSystem, Node
    from diskkit.interfaces import Readable

    Batch = list[tuple[bytes, Node, Details]]

BATCH = 256
"""Entries of a folder that are looked up before the first of them is copied."""
MOST_EXTENTS = 100_000
"""Of all files of a batch."""
_EVERY = 0.1
"""Seconds between two reports of progress."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Copied(NamedTuple):
    """What was done."""

    files: int
    folders: int
    links: int
    """Symbolic ones."""
    bytes_written: int
    left_out: int
    """Entries that were not copied; each was told."""
    streams_left_out: int = 0
    attributes_left_out: int = 0
    system_attributes_left_out: int = 0
    """As `Attributes` counts them, and tells of all of a kind together."""

    @property
    def complete(self) -> bool:
        """Whether all was copied that is ever copied."""
        return not (self.left_out or self.streams_left_out or self.attributes_left_out)


class Copier:
    """Copies one file or tree. `tell` gets a line for each entry left out.

    `progress` gets (bytes of files done, bytes of files in all), holes counted; a tree is listed
    for it first.
    """

    def __init__(
        self,
        fs: FileSystem,
        volume: Readable,
        tell: Callable[[str], None],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Copy nothing yet."""
        self._fs = fs
        self._volume = volume
        self._say = tell
        self._progress = progress
        self._reported = 0.0
        self._passed = self._sizes = 0
        self._force = False
        self._first_names: dict[int, tuple[bytes, ...]] = {}
        self._open_folders: set[int] = set()
        self._root = -1
        self._files = self._folders = self._links = self._bytes = self._left_out = 0
        self._attributes = Attributes(fs.kind)

    @property
    def done(self) -> Copied:
        """What was done so far."""
        counted = (self._files, self._folders, self._links, self._bytes, self._left_out)
        return Copied(*counted, *self._attributes.left_out)

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
                self._force = force
                self._sizes = found.node.size
                (known,) = self._fs.details([found.node])
                self._file(found.node, known, self._root, (name,))
        except OSError as error:
            if isinstance(error, DiskkitError):
                raise
            where = str(Path(folder) / os.fsdecode(name))
            raise StorageError(where, error.strerror or str(error), errno=error.errno) from None
        finally:
            os.close(self._root)
        for text in self._attributes.told():
            self._say(text)
        return self.done

    def _fill_top(self, node: Node, name: bytes) -> None:
        if self._progress is not None:
            self._sizes = _sizes(self._fs, Found(b"/", node))
        # One thread asks for what comes next, while this one makes the files that are known.
        with ThreadPoolExecutor(1, "diskkit-files") as self._asking:
            if name:
                (known,) = self._fs.details([node])
                self._folder(node, known, self._root, (name,), top=1)
            else:
                self._entries(node, self._root, (), top=0)

    # --- one of each kind ---------------------------------------------------------------------

    def _folder(
        self, node: Node, known: Details, parent: int, path: tuple[bytes, ...], top: int
    ) -> None:
        os.mkdir(path[-1], 0o700, dir_fd=parent)
        here = os.open(path[-1], _FOLDER, dir_fd=parent)
        try:
            self._folders += 1
            self._entries(node, here, path, top)
            self._dress(node, known, here, path)
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
            for batch in self._ahead(self._batches(node)):
                for name, child, known in batch:
                    self._entry(child, known, here, (*path, name), top)
        except DiskkitError as error:
            self._tell(path, str(error))
        finally:
            self._open_folders.discard(node.id)

    def _batches(self, folder: Node) -> Iterator[Batch]:
        """What is in a folder, with all that copying it takes, many entries at a time.

        Raises what listing it raises, after all that came before.
        """
        rows = self._fs.scandir(folder.id)
        failure: DiskkitError | None = None
        while failure is None:
            found: list[tuple[bytes, Node]] = []
            try:
                found.extend(islice(rows, BATCH))
            except DiskkitError as error:
                failure = error
            if not found and failure is None:
                return
            told = self._told([node for _, node in found if not node.problem])
            batch: Batch = []
            extents = 0
            for name, node in found:
                known = Details() if node.problem else next(told)
                batch.append((name, node, known))
                extents += len(known.extents or ())
                # Files in very many pieces, real or made up, are not held side by side.
                if extents > MOST_EXTENTS:
                    yield batch
                    batch, extents = [], 0
            if batch:
                yield batch
        raise failure

    def _told(self, asked: list[Node]) -> Iterator[Details]:
        """Of each its details. If the reader cannot go on, that is what there is to know of it."""
        count = 0
        try:
            for details in self._fs.details(asked):
                count += 1
                yield details
        except DiskkitError as error:
            yield from repeat(Details(error=error), len(asked) - count)

    def _ahead(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same; the next one is made meanwhile."""
        coming = self._asking.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = self._asking.submit(next, batches, None)
            yield batch

    def _entry(
        self, node: Node, known: Details, here: int, path: tuple[bytes, ...], top: int
    ) -> None:
        name = path[-1]
        if node.problem:
            self._tell(path, node.problem)
            return
        if not name or b"/" in name or b"\0" in name or name in (b".", b".."):
            self._tell(path, "no file can have this name")
            return
        try:
            if node.is_dir:
                self._folder(node, known, here, path, top)
            elif node.is_file:
                self._file(node, known, here, path)
            elif node.is_link:
                self._link(node, known, here, path, top)
            else:
                self._tell(path, "a device, pipe or socket")
        except DiskkitError as error:
            self._tell(path, str(error))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
                raise
            self._tell(path, error.strerror or str(error))
        if node.is_file:
            self._passed += node.size
            self._report(0)

    def _file(self, node: Node, known: Details, parent: int, path: tuple[bytes, ...]) -> None:
        if node.links != 1 and self._second_name(node, parent, path):
            return
        with named_when_whole(parent, path[-1], replace=self._force) as target:
            os.ftruncate(target, node.size)
            room = partial(make_room, target)
            for offset, part in pieces(self._fs, self._volume, node, known=known, before=room):
                _write(target, offset, part)
                self._bytes += len(part)
                self._report(offset + len(part))
            self._dress(node, known, target, path)
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

    def _link(
        self, node: Node, known: Details, parent: int, path: tuple[bytes, ...], top: int
    ) -> None:
        if known.error is not None:
            raise known.error
        target = known.target
        if not leads_inside(target, len(path) - 1 - top):
            self._tell(path, f"a link that leads out: {_text(target)}")
            return
        os.symlink(target, path[-1], dir_fd=parent)
        with contextlib.suppress(OSError, OverflowError):
            times = (node.atime, node.mtime)
            os.utime(path[-1], ns=times, dir_fd=parent, follow_symlinks=False)
        self._links += 1

    def _dress(self, node: Node, known: Details, target: int, path: tuple[bytes, ...]) -> None:
        """Attributes, mode and times; in this order, because each ends what allowed the last."""
        if known.xattrs_error is not None:
            self._tell(path, f"attributes: {known.xattrs_error}")
        self._attributes.put(target, known.xattrs)
        os.fchmod(target, stat.S_IMODE(node.mode) & 0o777)
        try:
            os.utime(target, ns=(node.atime, node.mtime))
        except (OSError, OverflowError):
            self._tell(path, "its times cannot be kept here")

    def _report(self, done: int) -> None:
        """Now and then: `done` bytes of the file at hand are there."""
        if self._progress is not None and time.monotonic() - self._reported > _EVERY:
            self._reported = time.monotonic()
            self._progress(self._passed + done, max(self._sizes, self._passed + done))

    def _tell(self, path: tuple[bytes, ...], why: str) -> None:
        self._left_out += 1
        self._say(f"{_text(b'/'.join(path)) or '/'}: left out: {why}")


def _sizes(fs: FileSystem, start: Found) -> int:
    """Bytes of all files below a folder. What cannot be listed is told when it is copied."""
    return sum(
        node.size
        for listing in list_below(fs, start, recursive=True)
        for _, node in listing.rows
        if node.is_file and not node.problem
    )


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
