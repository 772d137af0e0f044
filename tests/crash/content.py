# SPDX-License-Identifier: Apache-2.0
"""The bytes of one small file in memory: pages that are not zeros, and a size."""

from __future__ import annotations

import errno
import os

PAGE = 4096
_ZEROS = bytes(PAGE)


class Content:
    """What a file holds. Copies share their pages."""

    def __init__(self, size: int = 0, pages: dict[int, bytes] | None = None) -> None:
        self.size = size
        self.pages: dict[int, bytes] = {} if pages is None else pages

    @classmethod
    def load(cls, path: str) -> Content:
        """The file as it is now, its holes skipped."""
        fd = os.open(path, os.O_RDONLY)
        try:
            found = cls(os.fstat(fd).st_size)
            at = 0
            while at < found.size:
                try:
                    at = os.lseek(fd, at, os.SEEK_DATA)
                except OSError as error:
                    if error.errno == errno.ENXIO:
                        break
                    raise
                end = os.lseek(fd, at, os.SEEK_HOLE)
                while at < end:
                    data = os.pread(fd, min(1 << 20, end - at), at)
                    found.write(at, data)
                    at += len(data)
        finally:
            os.close(fd)
        return found

    def copy(self) -> Content:
        return Content(self.size, dict(self.pages))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Content):
            return NotImplemented
        return (self.size, self.pages) == (other.size, other.pages)

    __hash__ = None  # type: ignore[assignment]

    def write(self, offset: int, data: bytes) -> None:
        view, at = memoryview(data), offset
        while view:
            page, inside = divmod(at, PAGE)
            part = bytes(view[: PAGE - inside])
            if len(part) < PAGE:
                old = self.pages.get(page, _ZEROS)
                part = old[:inside] + part + old[inside + len(part) :]
            self._put(page, part)
            step = min(PAGE - inside, len(view))
            view, at = view[step:], at + step
        self.size = max(self.size, offset + len(data)) if data else self.size

    def punch(self, offset: int, length: int) -> None:
        """Zeros over a range; the size stays."""
        end = offset + length
        first, last = offset // PAGE, (end - 1) // PAGE
        if last - first > len(self.pages):
            touched = [page for page in self.pages if first <= page <= last]
        else:
            touched = [page for page in range(first, last + 1) if page in self.pages]
        for page in touched:
            begin = max(offset - page * PAGE, 0)
            stop = min(end - page * PAGE, PAGE)
            old = self.pages[page]
            self._put(page, old[:begin] + bytes(stop - begin) + old[stop:])

    def resize(self, size: int) -> None:
        if size < self.size:
            self.punch(size, self.size - size)
        self.size = size

    def write_out(self, path: str) -> None:
        """Make the file, which must not be there, with its holes."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.ftruncate(fd, self.size)
            run: list[bytes] = []
            begin = -1
            for page in sorted(self.pages):
                if page != begin + len(run):
                    self._put_run(fd, begin, run)
                    begin, run = page, []
                run.append(self.pages[page])
            self._put_run(fd, begin, run)
        finally:
            os.close(fd)

    def _put_run(self, fd: int, first: int, run: list[bytes]) -> None:
        at = first * PAGE
        view = memoryview(b"".join(run))[: self.size - at]
        while view:
            done = os.pwrite(fd, view, at)
            view, at = view[done:], at + done

    def _put(self, page: int, data: bytes) -> None:
        if data == _ZEROS:
            self.pages.pop(page, None)
        else:
            self.pages[page] = data
