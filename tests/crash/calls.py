# SPDX-License-Identifier: Apache-2.0
"""Standing between the process and the calls by which it changes the files below one folder."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import diskkit.chain
from diskkit.storage import punching

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

_REAL_PWRITE, _REAL_WRITE, _REAL_OPEN = os.pwrite, os.write, os.open
_PUNCH_HOLE, _ZERO_RANGE, _KEEP_SIZE = 0x02, 0x10, 0x01


class Call(NamedTuple):
    """One call that changes, or makes durable, something below the folder."""

    kind: str
    """create, write, size, punch, sync, sync-folder, link, symlink, rename or unlink."""
    function: str
    """Its name in `os`."""
    name: str
    """The file below the folder; the new one of link and rename; for a message otherwise."""
    fd: int = -1
    old: str = ""
    """What link and rename begin with; what a symlink says."""
    offset: int = 0
    """Of write and punch; the new size of size."""
    length: int = 0
    data: bytes = b""
    names_too: bool = False
    """Whether a sync also makes the file's name durable: fdatasync does not."""

    def __str__(self) -> str:
        size = len(self.data) or self.length
        where = f" {size}@{self.offset}" if self.kind in ("write", "punch") else ""
        where = f" {self.offset}" if self.kind == "size" else where
        return f"{self.function} {self.old}{' ' if self.old else ''}{self.name}{where}"


class Interceptor:
    """Hands every such call to `around`, one at a time, while it is active."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = os.path.realpath(folder)
        self._lock = RLock()
        self._stack = ExitStack()

    def around(self, call: Call, run: Callable[..., Any]) -> Any:
        """Do what `call` says by `run()`; a write also by `run(n)`, its first n bytes."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        patches: dict[str, Any] = {
            "open": self._open,
            "pwrite": self._pwrite,
            "pwritev": self._pwritev,
            "write": self._write,
            "writev": self._unknown("writev"),
            "sendfile": self._unknown("sendfile"),
            "mkdir": self._unknown("mkdir"),
            "rmdir": self._unknown("rmdir"),
            "ftruncate": self._size("ftruncate"),
            "truncate": self._size("truncate"),
            "posix_fallocate": self._posix_fallocate,
            "copy_file_range": self._copy_file_range,
            "fsync": self._sync("fsync"),
            "fdatasync": self._sync("fdatasync"),
            "link": self._two_names("link", "link"),
            "rename": self._two_names("rename", "rename"),
            "replace": self._two_names("replace", "rename"),
            "symlink": self._symlink,
            "unlink": self._unlink("unlink"),
            "remove": self._unlink("remove"),
        }
        for name, function in patches.items():
            self._stack.enter_context(mock.patch.object(os, name, function))
        self._stack.enter_context(mock.patch.object(punching, "allocate", self._allocate))
        if hasattr(diskkit.chain, "_kernel_copy"):
            self._stack.enter_context(
                mock.patch.object(diskkit.chain, "_kernel_copy", self._copy_file_range)
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    # --- which file ---------------------------------------------------------------------------

    def inside(self, path: Any) -> str | None:
        """The name below the folder; "" for the folder itself, None outside of it."""
        if isinstance(path, int):
            return self._of_fd(path)
        text = os.fsdecode(path)
        real = os.path.join(os.path.realpath(os.path.dirname(text) or "."), os.path.basename(text))
        return self._below(real)

    def _of_fd(self, fd: int) -> str | None:
        try:
            return self._below(os.readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)"))
        except FileNotFoundError:
            return None

    def _below(self, real: str) -> str | None:
        if real == self.folder:
            return ""
        return real[len(self.folder) + 1 :] if real.startswith(self.folder + "/") else None

    # --- the calls ----------------------------------------------------------------------------

    def _open(self, path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        writes = flags & (os.O_CREAT | os.O_TRUNC)
        name = self.inside(path) if writes and not more else None
        if not name:
            return _REAL_OPEN(path, flags, mode, **more)
        with self._lock:
            there = os.path.exists(path)
            if there and not flags & os.O_TRUNC:
                return _REAL_OPEN(path, flags, mode)
            kind = "size" if there else "create"

            def run() -> int:
                return _REAL_OPEN(path, flags, mode)

            found: int = self.around(Call(kind, "open", name), run)
            return found

    def _pwrite(self, fd: int, data: Any, offset: int) -> int:
        name = self._of_fd(fd)
        if name is None:
            return _REAL_PWRITE(fd, data, offset)
        return self._put("pwrite", fd, name, bytes(data), offset)

    def _pwritev(self, fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        name = self._of_fd(fd)
        if name is None:
            return _REAL_PWRITEV(fd, buffers, offset, flags)
        return self._put("pwritev", fd, name, b"".join(buffers), offset)

    def _write(self, fd: int, data: Any) -> int:
        name = self._of_fd(fd)
        if name is None:
            return _REAL_WRITE(fd, data)
        with self._lock:
            offset, whole = os.lseek(fd, 0, os.SEEK_CUR), bytes(data)

            def run(n: int | None = None) -> int:
                return _REAL_WRITE(fd, whole[:n])

            done: int = self.around(Call("write", "write", name, fd, "", offset, 0, whole), run)
            return done

    def _copy_file_range(
        self,
        src: int,
        dst: int,
        count: int,
        offset_src: int | None = None,
        offset_dst: int | None = None,
    ) -> int:
        name = self._of_fd(dst)
        if name is None:
            return _REAL_COPY(src, dst, count, offset_src, offset_dst)
        assert offset_src is not None, "a copy without places is not modelled"
        assert offset_dst is not None, "a copy without places is not modelled"
        data = os.pread(src, min(count, 1 << 20), offset_src)
        return self._put("copy_file_range", dst, name, data, offset_dst) if data else 0

    def _put(self, function: str, fd: int, name: str, data: bytes, offset: int) -> int:
        def run(n: int | None = None) -> int:
            return _REAL_PWRITE(fd, data[:n], offset)

        with self._lock:
            call = Call("write", function, name, fd, "", offset, 0, data)
            done: int = self.around(call, run)
            return done

    def _size(self, function: str) -> Callable[..., Any]:
        real = getattr(os, function)

        def call(file: Any, length: int) -> None:
            name = self.inside(file)
            if name is None:
                real(file, length)
                return
            fd = file if isinstance(file, int) else -1
            with self._lock:
                self.around(
                    Call("size", function, name, fd, "", length), lambda: real(file, length)
                )

        return call

    def _posix_fallocate(self, fd: int, offset: int, length: int) -> None:
        name = self._of_fd(fd)
        if name is None:
            _REAL_FALLOCATE(fd, offset, length)
            return
        with self._lock:
            size = max(os.fstat(fd).st_size, offset + length)
            call = Call("size", "posix_fallocate", name, fd, "", size)
            self.around(call, lambda: _REAL_FALLOCATE(fd, offset, length))

    def _allocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        name = self._of_fd(fd)
        if name is None:
            _REAL_ALLOCATE(fd, mode, offset, length)
            return
        with self._lock:
            if mode & (_PUNCH_HOLE | _ZERO_RANGE):
                assert mode & _KEEP_SIZE, "zeroing that lengthens the file is not modelled"
                call = Call("punch", "fallocate", name, fd, "", offset, length)
            else:
                assert not mode, f"fallocate mode {mode:#x} is not modelled"
                size = max(os.fstat(fd).st_size, offset + length)
                call = Call("size", "fallocate", name, fd, "", size)
            self.around(call, lambda: _REAL_ALLOCATE(fd, mode, offset, length))

    def _sync(self, function: str) -> Callable[..., Any]:
        real = getattr(os, function)

        def call(fd: Any) -> None:
            number = fd if isinstance(fd, int) else fd.fileno()
            name = self._of_fd(number)
            if name is None:
                real(fd)
                return
            folder = stat.S_ISDIR(os.fstat(number).st_mode)
            kind = "sync-folder" if folder else "sync"
            names_too = function == "fsync"
            with self._lock:
                made = Call(kind, function, name, number, names_too=names_too)
                self.around(made, lambda: real(number))

        return call

    def _two_names(self, function: str, kind: str) -> Callable[..., Any]:
        real = getattr(os, function)

        def call(src: Any, dst: Any, **more: Any) -> None:
            old, new = self.inside(src), self.inside(dst)
            if old is None and new is None:
                real(src, dst, **more)
                return
            assert not more, "folders given as descriptors are not modelled"
            assert old, "a file that comes from outside is not modelled"
            assert new, "a file that leaves is not modelled"
            with self._lock:
                self.around(Call(kind, function, new, old=old), lambda: real(src, dst))

        return call

    def _symlink(self, src: Any, dst: Any, *rest: Any, **more: Any) -> None:
        name = self.inside(dst)
        if name is None:
            _REAL_SYMLINK(src, dst, *rest, **more)
            return
        with self._lock:
            call = Call("symlink", "symlink", name, old=os.fsdecode(src))
            self.around(call, lambda: _REAL_SYMLINK(src, dst))

    def _unlink(self, function: str) -> Callable[..., Any]:
        real = getattr(os, function)

        def call(path: Any, **more: Any) -> None:
            name = self.inside(path) if not more else None
            if name is None:
                real(path, **more)
                return
            with self._lock:
                self.around(Call("unlink", function, name), lambda: real(path))

        return call

    def _unknown(self, function: str) -> Callable[..., Any]:
        real = getattr(os, function)

        def call(file: Any, *rest: Any, **more: Any) -> Any:
            if not more.get("dir_fd"):
                assert self.inside(file) is None, f"{function} is not modelled"
            return real(file, *rest, **more)

        return call


_REAL_PWRITEV, _REAL_COPY, _REAL_FALLOCATE = os.pwritev, os.copy_file_range, os.posix_fallocate
_REAL_SYMLINK, _REAL_ALLOCATE = os.symlink, punching.allocate
