# SPDX-License-Identifier: Apache-2.0
"""Bytes of files kept before they are changed, in one file, and put back from it.

The file begins with a line of JSON: the files by name, their sizes, and the ranges that follow, one
after the other. When the change is done, a last line is added, the seal: what each range and each
size is then. So putting back can tell whether the files were changed since.
"""

from __future__ import annotations

import json
import os
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from diskkit.errors import FormatError, UsageError
from diskkit.storage.newfile import new_file, write_errors
from diskkit.storage.writing import write_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from diskkit.interfaces import Storage, WritableStorage

_PIECE = 1 << 20
_MOST_HEAD = 64 << 20
_KIND = "bytes before a repair"


class Kept(NamedTuple):
    """What is to be kept of one file."""

    name: str
    storage: Storage
    ranges: Sequence[tuple[int, int]]
    """Ascending (begin, end), bytes; what lies beyond the file's end is left out."""


def keep(beside: str, kept: Iterable[Kept]) -> str:
    """Write, durably, what is to be kept to a new file beside `beside`; returns its name.

    Raises `StorageError`, and leaves nothing then.
    """
    files = [(k, _inside(k)) for k in kept]
    head = {
        "diskkit": _KIND,
        "version": 1,
        "files": [
            {
                "name": os.path.relpath(os.path.realpath(k.name), _folder(beside)),
                "size": k.storage.size,
                "ranges": [[a, b - a] for a, b in ranges],
            }
            for k, ranges in files
        ],
    }
    number = 1
    while True:
        name = f"{beside}.before-repair" + (f".{number}" if number > 1 else "")
        number += 1
        if os.path.lexists(name):
            continue
        with new_file(name, force=False, sync=True) as (fd, _):
            line = json.dumps(head).encode() + b"\n"
            write_all(fd, line, 0)
            at = len(line)
            for k, ranges in files:
                for data in _pieces(k.storage, ranges):
                    write_all(fd, data, at)
                    at += len(data)
        return name


def seal(name: str, files: Iterable[Storage]) -> None:
    """Note, durably, what the ranges and sizes are now; `files` as given to `keep`."""
    with open(name, "rb") as file:
        head = _head(name, file.readline(_MOST_HEAD))
    after = []
    for entry, storage in zip(head["files"], files, strict=True):
        after.append({"size": storage.size, "sum": _sum(storage, entry["ranges"])})
    with write_errors(name):
        fd = os.open(name, os.O_RDWR | os.O_CLOEXEC)
        try:
            line = b"\n" + json.dumps({"after": after}).encode() + b"\n"
            write_all(fd, line, os.fstat(fd).st_size)
            os.fsync(fd)
        finally:
            os.close(fd)


class Keepsake:
    """Kept bytes, to be put back."""

    def __init__(self, name: str) -> None:
        """Read what is kept. Raises `FormatError` if `name` is no such file."""
        self.name = name
        with open(name, "rb") as file:
            line = file.readline(_MOST_HEAD)
            self._head = _head(name, line)
            self._at = len(line)
            size = sum(n for f in self._head["files"] for _, n in f["ranges"])
            file.seek(self._at + size)
            rest = file.read(_MOST_HEAD)
            if file.tell() < self._at + size:
                raise _damaged(name)
        try:
            self._after = json.loads(rest)["after"] if rest.strip() else None
        except (ValueError, KeyError, TypeError):
            self._after = None
        folder = _folder(name)
        self.paths = [
            os.path.normpath(os.path.join(folder, f["name"])) for f in self._head["files"]
        ]
        """The files, by their paths."""

    def judge(self, files: Mapping[str, Storage], *, force: bool) -> None:
        """Raise `UsageError` if a file is not what it was right after the change, or before it."""
        for number, path in enumerate(self.paths):
            if path not in files:
                raise UsageError(
                    f"{self.name}: holds bytes of {path}, which is no part of the disk"
                )
            if force:
                continue
            storage, entry = files[path], self._head["files"][number]
            if self._after is None:
                text = "the repair was interrupted, so whether the disk was used since is unknown"
                raise UsageError(f"{self.name}: {text} (--force puts the bytes back)")
            after = self._after[number]
            if storage.size != after["size"] or _sum(storage, entry["ranges"]) != after["sum"]:
                text = "was changed after the repair: putting the old bytes back could destroy it"
                raise UsageError(f"{path}: {text} (--force does it)")

    def restore(self, files: Mapping[str, WritableStorage]) -> None:
        """Put all bytes and sizes back, durably."""
        at = self._at
        with open(self.name, "rb") as file:
            for path, entry in zip(self.paths, self._head["files"], strict=True):
                storage = files[path]
                if storage.size < entry["size"]:
                    storage.resize(entry["size"])
                for offset, length in entry["ranges"]:
                    done = 0
                    while done < length:
                        file.seek(at)
                        data = file.read(min(_PIECE, length - done))
                        storage.write(offset + done, data)
                        done, at = done + len(data), at + len(data)
                storage.flush()
                if storage.size != entry["size"]:
                    storage.resize(entry["size"])
                    storage.flush()


def _folder(name: str) -> str:
    return os.path.dirname(os.path.realpath(name))


def _head(name: str, line: bytes) -> dict[str, Any]:
    try:
        head = json.loads(line)
        good = head["diskkit"] == _KIND and head["version"] == 1
        for entry in head["files"]:
            good = good and isinstance(entry["name"], str) and entry["size"] >= 0
            good = good and all(a >= 0 and n > 0 for a, n in entry["ranges"])
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise _damaged(name)
    return cast("dict[str, Any]", head)


def _damaged(name: str) -> FormatError:
    return FormatError("is not, or not wholly, what a repair kept", path=name, structure="file")


def _inside(kept: Kept) -> list[tuple[int, int]]:
    size = kept.storage.size
    return [(a, min(b, size)) for a, b in kept.ranges if a < size]


def _pieces(storage: Storage, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    for begin, end in ranges:
        for at in range(begin, end, _PIECE):
            yield storage.read(at, min(_PIECE, end - at))


def _sum(storage: Storage, ranges: Iterable[Sequence[int]]) -> int:
    """A checksum of what is in these ranges, as far as the file goes."""
    total = 0
    inside = [(a, min(a + n, storage.size)) for a, n in ranges if a < storage.size]
    for data in _pieces(storage, inside):
        total = zlib.crc32(data, total)
    return total
