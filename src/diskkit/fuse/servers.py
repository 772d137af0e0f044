# SPDX-License-Identifier: Apache-2.0
"""Notes of running servers: who serves what, whether they still do, and how they ended.

One file each below /run/diskkit, locked by its server for as long as it lives. So whoever gets the
lock knows that the server has ended, killed or not, and no process number is ever trusted. A server
that ends in order writes down how, and removes its note; others have it open and still can read it.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from diskkit.errors import StorageError
from diskkit.interfaces import Closing

if TYPE_CHECKING:
    from types import TracebackType

FOLDER = Path("/run/diskkit")
_LONGEST = 65536
_SUFFIX = ".server"


class Note(NamedTuple):
    """What a server wrote down."""

    label: str
    """Random; its loop device carries it, too."""
    disk: str
    """Path or URL."""
    folder: str
    """Where it is mounted."""
    loop: str
    """The loop device."""
    writable: bool


def _folder() -> Path:
    """The folder of notes, for root alone. Raises `StorageError` if it is not like that."""
    try:
        FOLDER.mkdir(mode=0o700, exist_ok=True)
        found = FOLDER.lstat()
    except OSError as error:
        raise StorageError(str(FOLDER), error.strerror or "cannot be made") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise StorageError(str(FOLDER), "is not a folder that is root's alone (mode 0700)")
    return FOLDER


class Writer(Closing):
    """A server's own note. Leaving the `with` block writes down how the server ended."""

    def __init__(self) -> None:
        """Make and lock an empty one. Raises `StorageError`."""
        self.label = f"diskkit-{secrets.token_hex(8)}"
        # Found by others once it says something, which is when it gets its suffix.
        self._path = _folder() / f"{self.label}.new"
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def write(self, note: Note) -> None:
        """Let others know."""
        os.pwrite(self._file, json.dumps(note._asdict()).encode() + b"\n", 0)
        self._path = self._path.rename(FOLDER / (self.label + _SUFFIX))

    def reader(self) -> Reader:
        """The same note as others see it, who wait for its end."""
        return Reader(self._path)

    def private_folder(self) -> Path:
        """A new folder for root alone, to mount in; the caller removes it."""
        path = FOLDER / self.label
        path.mkdir(mode=0o700)
        return path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it in order."""
        text = "" if error is None else str(error) or type(error).__name__
        end = os.lseek(self._file, 0, os.SEEK_END)
        os.pwrite(self._file, json.dumps({"ended": text}).encode() + b"\n", end)
        self.close()

    def close(self) -> None:
        """Remove the note and let those go on who wait."""
        if self._file >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1


class Reader(Closing):
    """Somebody's note."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises `FileNotFoundError` if it is gone."""
        self._path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def _lines(self) -> list[Any]:
        raw = os.pread(self._file, _LONGEST, 0)
        try:
            return [json.loads(line) for line in raw.splitlines()]
        except ValueError:
            return []

    @property
    def note(self) -> Note | None:
        """What it says; None while it says nothing."""
        lines = self._lines()
        try:
            return Note(**lines[0])
        except (IndexError, TypeError):
            return None

    def alive(self) -> bool:
        """Whether its server still runs."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._file, fcntl.LOCK_UN)
        return False

    def ended(self) -> str | None:
        """How an ended server ended: "" well, None without having had a chance to say."""
        last = (self._lines() or [None])[-1]
        return last.get("ended") if isinstance(last, dict) else None

    def remove(self) -> None:
        """Remove what a dead server left."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give it back."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def notes() -> list[Reader]:
    """All there are, oldest first, open; none for those who may not look. The caller closes."""
    try:
        found = [(p.stat().st_mtime_ns, p) for p in FOLDER.iterdir() if p.suffix == _SUFFIX]
    except (FileNotFoundError, PermissionError):
        return []
    readers = []
    for _, path in sorted(found):
        try:
            readers.append(Reader(path))
        except FileNotFoundError:
            continue
    return readers
