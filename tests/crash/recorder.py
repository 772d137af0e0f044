# SPDX-License-Identifier: Apache-2.0
"""Recording, in order, everything that happens to the files below one folder.

A name maps to a file, and a file outlives its names; so renames over other names, links, and files
that are open but have no name come out right. When the recording ends, the operations are replayed
in memory and must give the folder as it is: what went past the recorder is noticed.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from crash.calls import Call, Interceptor
from crash.content import Content

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Operation(NamedTuple):
    """One thing that was done. Which fields count depends on `kind`."""

    kind: str
    """write, size, punch, sync, sync-folder, create, link, rename, unlink."""
    file: int = -1
    """Number of the file; for a name operation the one that the name (new name) gets."""
    offset: int = 0
    """Of write and punch; the new size of size."""
    length: int = 0
    data: bytes = b""
    name: str = ""
    """What a name operation changes; rename: the new name; sync-folder: the folder."""
    old: str = ""
    """The name that rename takes away."""
    names_too: bool = False
    """Whether this sync makes the names of the file durable as well."""

    def __str__(self) -> str:
        size = len(self.data) or self.length
        where = f" {size}@{self.offset}" if self.kind in ("write", "punch") else ""
        where = f" {self.offset}" if self.kind == "size" else where
        file = f" #{self.file}" if self.file >= 0 else ""
        return " ".join(f"{self.kind}{file}{where} {self.old} {self.name}".split())


MUTATIONS = ("write", "size", "punch")
NAMINGS = ("create", "link", "rename", "unlink")


class Recording:
    """The folder before, and what was done to it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.names: dict[str, int] = {}
        """Before: the number of each file, by its name below the folder."""
        self.contents: dict[int, Content | str] = {}
        """Before: what each file holds; of a symbolic link, its text."""
        self.links: dict[int, str] = {}
        """Symbolic links made meanwhile: their text."""
        self.operations: list[Operation] = []
        self._numbers: dict[tuple[int, int], int] = {}
        self._count = 0
        self.now: dict[str, int] = {}
        """Names after the operations so far."""
        for path in _files(folder):
            name = os.path.relpath(path, folder)
            number = self._number_of(os.lstat(path))
            self.names[name] = number
            if number not in self.contents:
                is_link = os.path.islink(path)
                self.contents[number] = os.readlink(path) if is_link else Content.load(path)
        self.now = dict(self.names)

    def _number_of(self, found: os.stat_result) -> int:
        key = found.st_dev, found.st_ino
        if key not in self._numbers:
            self._numbers[key] = self._new(key)
        return self._numbers[key]

    def _new(self, key: tuple[int, int]) -> int:
        self._count += 1
        self._numbers[key] = self._count
        return self._count

    def new_file(self, fd: int) -> int:
        """A number for a file just made; the system may have used its inode before."""
        found = os.fstat(fd)
        return self._new((found.st_dev, found.st_ino))

    def new_name(self) -> int:
        """A number for a symbolic link."""
        self._count += 1
        return self._count

    def of_fd(self, fd: int) -> int:
        found = os.fstat(fd)
        return self._numbers[found.st_dev, found.st_ino]

    def check(self) -> None:
        """Fail unless the operations explain what is in the folder."""
        from crash.states import after

        state = after(self)
        found = {os.path.relpath(path, self.folder): path for path in _files(self.folder)}
        assert sorted(found) == sorted(state.names), "a name changed that nobody recorded"
        for name, path in found.items():
            expected = state.contents[state.names[name]]
            real = os.readlink(path) if os.path.islink(path) else Content.load(path)
            assert real == expected, f"{name} changed in a way that nobody recorded"


def _files(folder: str) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in sorted(names + links):
            path = os.path.join(place, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
                yield path


class _Recorder(Interceptor):
    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__(folder)
        self.recording = Recording(self.folder)

    def around(self, call: Call, run: Callable[..., Any]) -> Any:
        result = run()
        made = self._operation(call, result)
        if made is not None:
            self.recording.operations.append(made)
        return result

    def _operation(self, call: Call, result: Any) -> Operation | None:
        log, now = self.recording, self.recording.now
        match call.kind:
            case "write":
                if not result:
                    return None
                return Operation("write", log.of_fd(call.fd), call.offset, 0, call.data[:result])
            case "size":
                file = log.of_fd(call.fd) if call.fd >= 0 else now[call.name]
                return Operation("size", file, call.offset)
            case "punch":
                return Operation("punch", log.of_fd(call.fd), call.offset, call.length)
            case "sync":
                file = log.of_fd(call.fd)
                return Operation("sync", file, names_too=call.names_too)
            case "sync-folder":
                return Operation("sync-folder", name=call.name)
            case "create":
                now[call.name] = log.new_file(result)
                return Operation("create", now[call.name], name=call.name)
            case "symlink":
                now[call.name] = log.new_name()
                log.links[now[call.name]] = call.old
                return Operation("create", now[call.name], name=call.name)
            case "link":
                now[call.name] = now[call.old]
                return Operation("link", now[call.name], name=call.name)
            case "rename":
                if now.get(call.name) == now[call.old]:
                    return None  # Two names of one file: POSIX leaves both.
                now[call.name] = now.pop(call.old)
                return Operation("rename", now[call.name], name=call.name, old=call.old)
            case "unlink":
                return Operation("unlink", now.pop(call.name), name=call.name)
        raise AssertionError(call)


@contextmanager
def record(folder: str | os.PathLike[str]) -> Iterator[Recording]:
    """Record what this process does to the files below `folder`, which is read first."""
    recorder = _Recorder(folder)
    with recorder:
        yield recorder.recording
    recorder.recording.check()
