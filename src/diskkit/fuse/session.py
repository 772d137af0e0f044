# SPDX-License-Identifier: Apache-2.0
"""`Session`: what the kernel asks of a mount, answered from a tree by threads (`worker.py`).

Every request is answered, also when answering it fails: who waits for an answer cannot be killed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import threading
from itertools import count, islice
from typing import TYPE_CHECKING

from diskkit.errors import DiskkitError, OutOfRange, StorageError, UsageError
from diskkit.fuse import wire
from diskkit.fuse.wire import Op
from diskkit.fuse.worker import Turns, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from diskkit.fuse.tree import OpenFile, Tree

THREADS = 2
"""More only help with disks that are far away (mount.md, 3.5)."""
_PR_SET_IO_FLUSHER = 57
_MOST_XATTRS = 65536
_MOST_ERRORS = 512


class Folder:
    """An opened folder: where its listing stands."""

    def __init__(self, tree: Tree, node: int) -> None:
        """At the beginning."""
        self._tree = tree
        self._node = node
        self._rest: Iterator[tuple[bytes, wire.Attributes]] = iter(())
        self._next = -1
        self._held: tuple[bytes, wire.Attributes] | None = None
        self.lock = threading.Lock()

    def list(self, offset: int, room: int, *, plus: bool) -> bytes:
        """As many entries from number `offset` as there is room for."""
        if offset != self._next:
            entries = self._tree.entries(self._node)
            self._rest = islice(entries, max(0, offset - 2), None)
            self._next, self._held = offset, None
        parts: list[bytes] = []
        while True:
            found = self._held or self._entry()
            self._held = None
            if found is None:
                break
            label, a = found
            part = wire.dirent(a.node, self._next + 1, a.mode, label)
            if plus:
                # The folder itself and the one above are known.
                known = label in (b".", b"..")
                part = (wire.nothing() if known else wire.entry(a)) + part
            if len(part) > room:
                self._held = found
                break
            parts.append(part)
            room -= len(part)
            self._next += 1
        return b"".join(parts)

    def _entry(self) -> tuple[bytes, wire.Attributes] | None:
        if self._next < 2:
            return (b".", b"..")[self._next], self._tree.stat(self._node)
        return next(self._rest, None)


class Session:
    """Answers requests that come over `device` until the mount is gone."""

    def __init__(
        self,
        device: int,
        tree: Tree,
        *,
        threads: int = THREADS,
        warn: Callable[[str], object] | None = None,
    ) -> None:
        """Take over `device`, an open /dev/fuse; the tree stays the caller's."""
        self._device = device
        self._tree = tree
        self._warn = warn
        self._files: dict[int, OpenFile] = {}
        self._folders: dict[int, Folder] = {}
        self._turns: Turns | None = None
        self._numbers = count(1)
        self._count = threads
        self.failure: StorageError | None = None
        self._working = 0
        self._ended = threading.Condition()
        self._answers: dict[int, Callable[[wire.Request, memoryview], bytes]] = {
            Op.LOOKUP: self._lookup,
            Op.GETATTR: lambda r, _: wire.attribute_answer(tree.stat(r.node)),
            Op.SETATTR: self._setattr,
            Op.READLINK: lambda r, _: tree.readlink(r.node),
            Op.OPEN: self._open,
            Op.READ: self._read,
            Op.WRITE: self._write,
            Op.STATFS: lambda _, __: wire.statfs_answer(tree.size),
            Op.RELEASE: self._release,
            Op.FSYNC: self._fsync,
            Op.GETXATTR: self._getxattr,
            Op.LISTXATTR: self._listxattr,
            Op.OPENDIR: self._opendir,
            Op.READDIR: lambda r, raw: self._readdir(r, raw, plus=False),
            Op.READDIRPLUS: lambda r, raw: self._readdir(r, raw, plus=True),
            Op.RELEASEDIR: self._release,
            Op.FSYNCDIR: lambda _, __: b"",
            Op.FALLOCATE: self._fallocate,
            Op.LSEEK: self._lseek,
            Op.DESTROY: lambda _, __: b"",
        }

    def start(self) -> None:
        """Greet the kernel and begin to answer. Returns when the mount can be used."""
        # Writing back dirty pages of this mount must not wait for this process to get memory.
        ctypes.CDLL(None).prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0)
        buffer = memoryview(bytearray(wire.MAX_WRITE + wire.HEAD))
        while True:
            n = os.readv(self._device, [buffer])
            request = wire.request(buffer[:n])
            if request.opcode == Op.INIT:
                break
            os.write(self._device, wire.refusal(request.unique, errno.EIO))
        major, minor, read_ahead, flags = wire.init(buffer[:n])
        if (major, minor) < (wire.MAJOR, wire.MINOR):
            os.write(self._device, wire.refusal(request.unique, errno.EPROTO))
            raise StorageError("/dev/fuse", f"the kernel's FUSE {major}.{minor} is too old")
        body = wire.init_answer(read_ahead, flags & wire.WANTED)
        os.write(self._device, wire.OUT.pack(wire.OUT.size + len(body), 0, request.unique) + body)
        self._turns = Turns(self._device)
        for number in range(self._count):
            thread = threading.Thread(target=self._work, name=f"fuse-{number}", daemon=True)
            with self._ended:
                self._working += 1
            thread.start()

    def join(self) -> None:
        """Return when the mount is gone. Raises `StorageError` if it cannot be served any more."""
        # A Thread.join that a signal interrupts takes the thread for ended (CPython 3.11).
        with self._ended:
            self._ended.wait_for(lambda: not self._working)
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        """After `join`."""
        if self._turns is not None:
            self._turns.close()
        os.close(self._device)
        self._files.clear()
        self._folders.clear()

    def _work(self) -> None:
        # In a program that is not ours its signals are not for this thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            assert self._turns is not None
            Worker(self._turns, self).run()
        except StorageError as error:
            self.failure = error
        finally:
            with self._ended:
                self._working -= 1
                self._ended.notify_all()

    # --- for the workers ----------------------------------------------------------------------

    def body(self, request: wire.Request, raw: memoryview) -> bytes | None:
        """The answer's body; None for what nobody answers. Raises whatever goes wrong."""
        if request.opcode in wire.SILENT:
            return None
        known = self._answers.get(request.opcode)
        if known is None:
            raise OSError(errno.ENOSYS, "is not known")
        return known(request, raw)

    def error_number(self, error: BaseException) -> int:
        """The error number that a failure becomes; what is ours is told too."""
        if isinstance(error, OutOfRange):
            return errno.EINVAL
        if isinstance(error, StorageError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return errno.ENOSPC
        if isinstance(error, UsageError):
            return errno.EROFS
        if isinstance(error, OSError) and not isinstance(error, DiskkitError):
            # With any other number, the kernel takes the answer for none.
            number = error.errno
            return number if number is not None and 0 < number < _MOST_ERRORS else errno.EIO
        self.tell(f"{type(error).__name__}: {error}")
        return errno.EIO

    def tell(self, text: str) -> None:
        """Warn. A terminal that is gone must not end a thread."""
        warn = self._warn
        if warn is not None:
            try:
                warn(text)
            except Exception:
                self._warn = None

    def opened(self, number: int) -> OpenFile:
        """The file under a number. Raises `OSError`."""
        found = self._files.get(number)
        if found is None:
            raise OSError(errno.EBADF, "no such open file")
        return found

    # --- requests -----------------------------------------------------------------------------

    def _read(self, _: wire.Request, raw: memoryview) -> bytes:
        """A READ that is longer than the worker knows it."""
        number, offset, size = wire.transfer(raw)
        if size > wire.MAX_WRITE:
            raise OSError(errno.EINVAL, "more than was agreed on")
        data = bytearray(size)
        n = self.opened(number).read_into(offset, memoryview(data))
        return bytes(data[:n])

    def _write(self, _: wire.Request, raw: memoryview) -> bytes:
        """A WRITE that is not as long as it says: the worker takes all others."""
        size = wire.transfer(raw).size
        raise wire.Malformed(f"{len(raw) - wire.WRITE_DATA} bytes to write, and says {size}")

    def _lookup(self, request: wire.Request, raw: memoryview) -> bytes:
        found = self._tree.lookup(request.node, wire.name(raw))
        return wire.nothing() if found is None else wire.entry(found)

    def _setattr(self, request: wire.Request, raw: memoryview) -> bytes:
        """Nothing can be set; asking for the size that is there is no change."""
        found = self._tree.stat(request.node)
        size = wire.setattr_size(raw)
        if size is not None and size != found.size:
            raise OSError(errno.EPERM, "the size is the disk's")
        return wire.attribute_answer(found)

    def _open(self, request: wire.Request, raw: memoryview) -> bytes:
        writing = wire.open_flags(raw) & os.O_ACCMODE != os.O_RDONLY
        number = next(self._numbers)
        file = self._files[number] = self._tree.open(request.node, writing=writing)
        # Without it, the kernel forgets at each open what it has of a file.
        keep = wire.KEEP_CACHE if file.alone else 0
        # No question at each close, to which there is no answer. It could be asked by a child of
        # this very process that closes what it inherited, before it becomes another program: until
        # then Python's lock is held here, and nobody would answer.
        return wire.open_answer(number, keep | wire.NOFLUSH | wire.PARALLEL_DIRECT_WRITES)

    def _opendir(self, request: wire.Request, _: memoryview) -> bytes:
        number = next(self._numbers)
        self._folders[number] = Folder(self._tree, request.node)
        return wire.open_answer(number, wire.KEEP_CACHE | wire.CACHE_DIR)

    def _release(self, _: wire.Request, raw: memoryview) -> bytes:
        number = wire.handle(raw)
        self._files.pop(number, None)
        self._folders.pop(number, None)
        return b""

    def _fsync(self, _: wire.Request, raw: memoryview) -> bytes:
        self.opened(wire.handle(raw)).flush()
        return b""

    def _readdir(self, _: wire.Request, raw: memoryview, *, plus: bool) -> bytes:
        number, offset, size = wire.transfer(raw)
        folder = self._folders.get(number)
        if folder is None:
            raise OSError(errno.EBADF, "no such open folder")
        with folder.lock:
            return folder.list(offset, size, plus=plus)

    def _fallocate(self, _: wire.Request, raw: memoryview) -> bytes:
        offset, length, mode = wire.fallocate(raw)
        if mode not in (wire.PUNCH_HOLE | wire.KEEP_SIZE, wire.ZERO_RANGE | wire.KEEP_SIZE):
            raise OSError(errno.EOPNOTSUPP, "the size is the disk's")
        give_back = bool(mode & wire.PUNCH_HOLE)
        self.opened(wire.handle(raw)).erase(offset, length, give_back=give_back)
        return b""

    def _lseek(self, _: wire.Request, raw: memoryview) -> bytes:
        offset, whence = wire.lseek(raw)
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise OSError(errno.EINVAL, "neither data nor hole")
        return wire.lseek_answer(self.opened(wire.handle(raw)).seek(offset, whence))

    def _getxattr(self, request: wire.Request, raw: memoryview) -> bytes:
        value = self._tree.xattrs(request.node).get(wire.xattr_name(raw))
        if value is None:
            raise OSError(errno.ENODATA, "no such attribute")
        return _sized(value, wire.xattr_size(raw))

    def _listxattr(self, request: wire.Request, raw: memoryview) -> bytes:
        names = b"".join(name + b"\0" for name in self._tree.xattrs(request.node))
        return _sized(names, wire.xattr_size(raw))


def _sized(value: bytes, room: int) -> bytes:
    if not room:
        return wire.xattr_answer(len(value))
    if len(value) > min(room, _MOST_XATTRS):
        raise OSError(errno.ERANGE, "the buffer is too small")
    return value
