# SPDX-License-Identifier: Apache-2.0
"""What all calls share: whether Init was called, where messages go, and the tables of handles.

Handles are numbers that are never used twice, so that a stale one is an error and nothing worse.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from itertools import count
from threading import Condition, Lock, get_ident
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import LostWrites
from diskkit.interfaces import OpenPolicy
from diskkit.open import open_disk
from diskkit.vixdisklib.config import Config
from diskkit.vixdisklib.failures import VixError, from_exception, vix_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import ThreadPoolExecutor

    from diskkit.disk import Disk
    from diskkit.errors import DiskkitError
    from diskkit.vixdisklib.params import ConnectParams

    Log = Callable[[str], object]

_THREADS = 4
_LONG = 1 << 20
_PIECE_SHIFT = 28
_TRIES = 64
_WRITTEN_SHIFT = 24
_logger = logging.getLogger("diskkit.vixdisklib")


class Connection(NamedTuple):
    """An open connection; all are local."""

    params: ConnectParams | None
    read_only: bool
    old: bool
    """Its parameters have none of 6.7's features."""


class Handle:
    """An open disk, and who is using it.

    Many calls may use it at once. A call that needs its files for itself waits for the others.
    """

    def __init__(
        self, path: str, policy: OpenPolicy, connection: int, old: bool, unbuffered: bool = False
    ) -> None:
        """Open the disk `path`."""
        self.path = path
        self.policy = policy
        self.connection = connection
        self.old = old
        self.unbuffered = unbuffered
        """Buffers must begin where a sector may."""
        self.why_read_only = f"{path}: was opened for reading only"
        self.attached = False
        """It is a parent whose files now belong to its child's handle."""
        self.joined = False
        """It reads the links of an attached parent too, and cannot be opened again by its path."""
        self.lost: LostWrites | None = None
        """What was written may never be durable; `Close` says so once more."""
        self.pending = 0
        """Asynchronous calls whose callback has not returned."""
        self.calling: set[int] = set()
        """Threads that are in such a callback."""
        # One item per user: adding and taking one needs no lock, and a read is short.
        self._users: list[None] = []
        self._alone = False
        self._owner = 0  # the thread that is alone with it
        self.number = 0
        """What programs call it; 0 until they know."""
        self._tries = 0 if unbuffered else _TRIES
        self._written = -1
        """The 16 MiB in which a write was offered last."""
        self._changed = Condition()
        self._disk: Disk | None = self._open()

    def _open(self) -> Disk:
        try:
            return open_disk(self.path, format="vmdk", policy=self.policy)
        except Exception as error:
            if not self.policy.writable or isinstance(error, OSError):
                raise
            # It may still be read, and programs ask for writing when they only want to read.
            reading = self.policy._replace(writable=False)
            disk = open_disk(self.path, format="vmdk", policy=reading)
            self.policy = reading
            self.why_read_only = f"opened for reading only, because: {error}"
            library.warn(f"{self.path}: {self.why_read_only}")
            return disk

    @contextmanager
    def using(self) -> Iterator[Disk]:
        """The open disk, for a call that may run beside others."""
        disk = self.enter()
        try:
            yield disk
        finally:
            self.leave()

    def enter(self) -> Disk:
        """Begin to use it; `leave` ends that."""
        while True:
            # First come in, then look: who wants to be alone does it the other way round, so that
            # at least one of the two sees the other.
            self._users.append(None)
            if not self._alone:
                disk = self._disk
                if disk is not None:
                    return disk
                self.leave()
                raise vix_error("DISK_INVAL", f"{self.path}: the handle is closed")
            self.leave()
            with self._changed:
                self._check_not_mine()
                self._changed.wait_for(lambda: not self._alone)

    def _check_not_mine(self) -> None:
        """Raise in a callback of a call that is alone with it: that would wait for itself."""
        if self._owner == get_ident():
            raise vix_error(
                "OBJECT_IS_BUSY", f"{self.path}: this call was made from within another"
            )

    def leave(self) -> None:
        """End a use."""
        self._users.pop()
        if self._alone:
            with self._changed:
                self._changed.notify_all()

    def offer(self, disk: Disk, offset: int, *, written: bool = False) -> None:
        """While in use: tell the C library of a long stretch around `offset` that stays in place.

        Disks that have no such stretches are soon no longer asked for them.
        """
        if self._tries and library.keep is not None:
            if written:
                # What fills a disk makes its stretches longer with every write: now and then is
                # often enough to look.
                piece = offset >> _WRITTEN_SHIFT
                if piece == self._written:
                    return
                self._written = piece
            found = disk.stretch(offset)
            if found is None or found.end - found.begin < _LONG:
                self._tries -= 1
                return
            self._tries = _TRIES
            begin = max(found.begin, offset >> _PIECE_SHIFT << _PIECE_SHIFT)
            position = found.position + begin - found.begin
            library.keep(self.number, begin, found.end, found.file, position, found.writable)

    def withdraw(self, failure: DiskkitError) -> None:
        """After a failure: every call is Python's from now on, which knows what is lost."""
        if isinstance(failure, LostWrites):
            self.lost = failure
        self._tries = 0
        if library.forget is not None:
            library.forget(self.number)

    def will_call_back(self) -> None:
        """An asynchronous call begins; `called_back` ends it."""
        with self._changed:
            self.pending += 1

    def called_back(self) -> None:
        """A callback has returned."""
        with self._changed:
            self.pending -= 1
            self._changed.notify_all()

    def wait(self) -> None:
        """Return when no asynchronous call is under way."""
        if get_ident() in self.calling:
            raise vix_error("OBJECT_IS_BUSY", "a completion callback cannot wait for its own end")
        with self._changed:
            self._changed.wait_for(lambda: not self.pending)

    @contextmanager
    def alone(self) -> Iterator[Disk]:
        """The open disk, when no other call uses it; new ones wait."""
        with self._changed:
            self._check_not_mine()
            self._changed.wait_for(lambda: not self._alone)
            self._alone, self._owner = True, get_ident()
            self._changed.wait_for(lambda: not self._users)
        if library.forget is not None:
            library.forget(self.number)
        try:
            if self._disk is None:
                raise vix_error("DISK_INVAL", f"{self.path}: the handle is closed")
            yield self._disk
        finally:
            with self._changed:
                self._alone, self._owner = False, 0
                self._changed.notify_all()

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Its files are closed, durably, so that a task can have them; then opened again."""
        with self.alone() as disk:
            if self.joined:
                raise vix_error("NOT_SUPPORTED", f"{self.path}: has an attached parent; reopen it")
            self._disk = None
            disk.close()
            try:
                yield
            finally:
                self._disk = self._open()

    def replace(self, disk: Disk | None) -> None:
        """Put another disk in place, while `alone`."""
        self._disk = disk

    @property
    def writable(self) -> bool:
        """Whether it is open for writing."""
        return self.policy.writable

    def check_writable(self) -> None:
        """Raise unless it is."""
        if not self.policy.writable:
            raise vix_error("FILE_READ_ONLY", self.why_read_only)

    def close(self) -> None:
        """Wait for what is under way, make it durable, close the files."""
        self.wait()
        with self.alone() as disk:
            self._disk = None
            disk.close()


class Library:
    """The state between Init and Exit."""

    def __init__(self) -> None:
        """As before Init."""
        self.lock = Lock()
        self.ready = False
        self.config = Config()
        self.connections: dict[int, Connection] = {}
        self.disks: dict[int, Handle] = {}
        self._numbers = count(1)
        self._log: Log | None = None
        self._warn: Log | None = None
        self._panic: Log | None = None
        self._pool: ThreadPoolExecutor | None = None
        self.keep: Callable[[int, int, int, int, int, bool], object] | None = None
        """Of the C library: handle, begin, end, descriptor, position, whether it may be written."""
        self.forget: Callable[[int], object] | None = None
        """Of the C library: what it keeps of a handle, and no longer uses when it returns."""

    def start(self, config: Config, log: Log | None, warn: Log | None, panic: Log | None) -> None:
        """Init."""
        with self.lock:
            again = self.ready
            self.ready, self.config = True, config
            self._log, self._warn, self._panic = log, warn, panic
        if again:
            self.warn("Init was called again without Exit: what is open stays open")
        for note in config.notes:
            self.warn(note)

    def listen(self, log: Log | None, warn: Log | None) -> None:
        """Let these have the lines that nobody has."""
        with self.lock:
            self._log, self._warn = self._log or log, self._warn or warn

    def stop(self) -> None:
        """Exit: close what is open, and forget everything."""
        with self.lock:
            disks, self.disks = list(self.disks.values()), {}
            self.connections = {}
            pool, self._pool = self._pool, None
        for disk in disks:
            self.close(disk)
        if pool is not None:
            pool.shutdown()
        with self.lock:
            self.ready, self.config = False, Config()
            self._log = self._warn = self._panic = None

    def close(self, handle: Handle) -> None:
        """Close a disk that its program left open; a failure can only be logged."""
        try:
            if not handle.attached:
                handle.close()
        except Exception as error:
            self.warn(f"{handle.path}: closing failed: {from_exception(error)}")

    def check_ready(self) -> None:
        """Raise unless Init was called."""
        if not self.ready:
            raise vix_error("DISK_NOINIT")

    def new_number(self) -> int:
        """A handle that no other is."""
        return next(self._numbers)

    def add_connection(self, connection: Connection) -> int:
        """Its handle."""
        with self.lock:
            number = next(self._numbers)
            self.connections[number] = connection
            return number

    def connection(self, number: int | None) -> Connection:
        """The connection of a handle."""
        self.check_ready()
        found = self.connections.get(number or 0)
        if found is None:
            raise vix_error("DISK_INVALID_CONNECTION")
        return found

    def add_disk(self, handle: Handle) -> int:
        """Its handle."""
        with self.lock:
            if handle.connection not in self.connections:
                gone = True
            else:
                gone = False
                number = next(self._numbers)
                self.disks[number] = handle
                handle.number = number
        if gone:
            handle.close()
            raise vix_error("DISK_INVALID_CONNECTION")
        return number

    def disk(self, number: int | None) -> Handle:
        """The disk of a handle."""
        self.check_ready()
        if not number:
            raise vix_error("INVALID_ARG", "the disk handle is NULL")
        found = self.disks.get(number)
        if found is None:
            raise vix_error("DISK_INVAL", f"{number} is not the handle of an open disk")
        if found.attached:
            raise vix_error("DISK_INVAL", f"{found.path}: belongs to the child it is attached to")
        return found

    def policy(self, *, writable: bool = False, single_link: bool = False) -> OpenPolicy:
        """How disks are opened."""
        return OpenPolicy(
            allow=self.config.allow,
            writable=writable,
            single_link=single_link,
            max_depth=256,
            warn=self.warn,
        )

    def pool(self) -> ThreadPoolExecutor:
        """The threads of asynchronous calls."""
        from concurrent.futures import ThreadPoolExecutor

        with self.lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_THREADS, "vixdisklib")
            return self._pool

    def log(self, text: str) -> None:
        """Tell what is done."""
        if self.config.informing:
            self._say(self._log, logging.INFO, text)

    def warn(self, text: str) -> None:
        """Tell what is odd."""
        self._say(self._warn, logging.WARNING, text)

    def _say(self, to: Log | None, level: int, text: str) -> None:
        if to is not None:
            to(text)
        elif self.config.log_file is not None:
            with open(self.config.log_file, "a", encoding="utf-8") as file:  # noqa: PTH123
                file.write(f"{logging.getLevelName(level)} {text}\n")
        else:
            _logger.log(level, "%s", text)


library = Library()
"""There is one per process, as in VDDK."""

__all__ = ["Connection", "Handle", "Library", "VixError", "library"]
