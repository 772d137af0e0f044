# SPDX-License-Identifier: Apache-2.0
"""Files and block devices of this machine, and the gate through which images name files.

Rule: the text inside an image opens nothing but regular files below the image's own folder,
symbolic links followed first, unless the caller's `OpenPolicy` names more
(CVE-2022-47951 and its kin: a descriptor whose extent is /etc/shadow).
"""

from __future__ import annotations

import errno
import ntpath
import os
import stat
from typing import TYPE_CHECKING

from diskkit.errors import ChainError, FormatError, LockedError, LostWrites, ShortRead, StorageError
from diskkit.interfaces import Place, WritableStorage
from diskkit.storage.writing import write_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diskkit.interfaces import OpenPolicy

_UNSUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY)


class LocalFile(WritableStorage):
    """An open regular file or block device, read and written by position."""

    def __init__(self, fd: int, name: str) -> None:
        """Take over `fd`."""
        found = os.fstat(fd)
        self._fd = fd
        self.name = name
        self.is_device = stat.S_ISBLK(found.st_mode)
        self.identity = (found.st_rdev if self.is_device else found.st_dev, found.st_ino)
        self.size = os.lseek(fd, 0, os.SEEK_END) if self.is_device else found.st_size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill all of `buffer` from `offset`."""
        while buffer:
            try:
                done = os.preadv(self._fd, [buffer], offset)
            except OSError as error:
                raise self._failed("reading", offset, len(buffer), error) from error
            if not done:
                raise self._short(offset, len(buffer))
            offset += done
            buffer = buffer[done:]

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`."""
        try:
            data = os.pread(self._fd, length, offset)
        except OSError as error:
            raise self._failed("reading", offset, length, error) from error
        return data if len(data) == length else super().read(offset, length)

    def data_ranges(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """What the filesystem says is not a hole; all of it where it cannot tell."""
        end = offset + length
        while offset < end:
            try:
                begin = os.lseek(self._fd, offset, os.SEEK_DATA)
                stop = os.lseek(self._fd, begin, os.SEEK_HOLE) if begin < end else end
            except OSError as error:
                if error.errno == errno.ENXIO:
                    known = self.size if self.is_device else os.fstat(self._fd).st_size
                    if known < min(end, self.size):
                        # No hole, but an end that was not there when the file was opened.
                        raise self._short(offset, end - offset) from error
                    return
                if error.errno not in _UNSUPPORTED:
                    raise self._failed("looking for holes", offset, length, error) from error
                begin, stop = offset, end
            if begin >= end:
                return
            yield begin, min(stop, end)
            offset = stop

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Put all of `data` at `offset`."""
        try:
            write_all(self._fd, data, offset)
        except OSError as error:
            raise self._failed("writing", offset, len(data), error) from error
        end = offset + len(data)
        if end > self.size:
            self.size = end

    def erase(self, offset: int, length: int, *, give_back: bool) -> None:
        """Make a range read as zeros: by the filesystem where it can, else by writing them."""
        from diskkit.storage import punching

        try:
            punching.erase(self._fd, offset, length, give_back=give_back)
        except OSError as error:
            raise self._failed("writing zeros to", offset, length, error) from error

    def resize(self, size: int) -> None:
        """Cut the file or make it longer."""
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            text = f"giving it a size of {size} bytes failed: {error.strerror}"
            raise StorageError(self.name, text, errno=error.errno) from error
        self.size = size

    def flush(self) -> None:
        """Wait until the medium has it."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            text = f"flushing failed: {error.strerror}; what was written since the last is in doubt"
            raise LostWrites(self.name, text, errno=error.errno) from error

    @property
    def physical_bytes(self) -> int:
        """Bytes the filesystem has given it; a device's whole size."""
        return self.size if self.is_device else os.fstat(self._fd).st_blocks * 512

    @property
    def descriptor(self) -> int:
        """The file descriptor."""
        return self._fd

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _failed(self, doing: str, offset: int, length: int, error: OSError) -> StorageError:
        text = f"{doing} {length} bytes at byte {offset} failed: {error.strerror}"
        return StorageError(self.name, text, errno=error.errno)

    def _short(self, offset: int, length: int) -> ShortRead:
        text = f"the file ends before byte {offset + length}; it was cut after it was opened"
        return ShortRead(self.name, text)


def open_file(
    path: str,
    policy: OpenPolicy | None = None,
    *,
    device: bool = False,
    write: bool = False,
) -> LocalFile:
    """Open a regular file, or with `device` a block device too, and lock it for what it is for.

    With `write` for writing too. Never waits, on a FIFO or a lock. Raises `StorageError` with the
    system's reason, `LockedError` if another program is in the way.
    """
    try:
        fd = _open(path, write=write)
    except OSError as error:
        raise StorageError(path, error.strerror or str(error), errno=error.errno) from error
    except ValueError as error:
        raise StorageError(path, f"not a usable name: {error}") from error
    try:
        _check_kind(fd, path, device=device)
        if write or policy is None or not policy.ignore_locks:
            _lock(fd, path, policy, write=write)
        return LocalFile(fd, path)
    except BaseException:
        os.close(fd)
        raise


def _check_kind(fd: int, path: str, *, device: bool) -> None:
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode) and not (device and stat.S_ISBLK(mode)):
        raise StorageError(path, f"is {_kind(mode)}, not a regular file")


def _lock(fd: int, path: str, policy: OpenPolicy | None, *, write: bool) -> None:
    from diskkit.storage import locking

    held = locking.hold(fd, path, write=write)
    if not write:
        return
    if not held and policy is not None:
        policy.warning(f"{path}: its filesystem has no locks: nothing keeps others from writing")
    now = os.stat(path)
    if (now.st_dev, now.st_ino) != (os.fstat(fd).st_dev, os.fstat(fd).st_ino):
        raise LockedError(path, "another program replaced it just now")
    if folder := locking.product_lock(path):
        text = f"a VMware product has it open, or left its lock behind: {folder}"
        raise LockedError(path, f"{text} (if none has, remove that folder)")


def _open(path: str, *, write: bool) -> int:
    flags = os.O_RDWR if write else os.O_RDONLY
    flags |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        return os.open(path, flags)
    except OSError as error:
        if error.errno != errno.EMFILE or not _raise_file_limit():
            raise
    return os.open(path, flags)


def _raise_file_limit() -> bool:
    """Lift this process's soft limit of open files to the hard one: split disks have thousands."""
    try:
        import resource
    except ImportError:
        return False
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return True


def _kind(mode: int) -> str:
    for test, word in (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISCHR, "a character device"),
    ):
        if test(mode):
            return word
    return "something special"


class LocalPlace(Place):
    """The folder of one image file, and the folders its text may reach."""

    def __init__(self, path: str, policy: OpenPolicy, roots: tuple[str, ...] = ()) -> None:
        """`path` is the image; `roots` are the folders its child was already confined to."""
        self.path = path
        try:
            self.folder = os.path.dirname(os.path.realpath(path))
        except ValueError as error:
            raise StorageError(path, f"not a usable name: {error}") from error
        self._policy = policy
        allowed = tuple(os.path.realpath(p) for p in policy.allow)
        roots = roots or allowed
        self.roots = roots if _inside(self.folder, roots) else (*roots, self.folder)

    def open_extent(self, name: str, *, write: bool = False) -> LocalFile:
        """The file that an extent line names."""
        if problem := self._forbidden(name):
            raise self._refused(name, problem, "")
        try:
            real = os.path.realpath(os.path.join(self.folder, name))
            mode = os.stat(real).st_mode
        except OSError as error:
            text = f"the extent cannot be opened: {error.strerror}"
            advice = "copy it beside the descriptor" if error.errno == errno.ENOENT else ""
            raise self._refused(name, text, advice) from error
        except ValueError as error:  # the filesystem's encoding lacks a character
            raise self._refused(name, f"not a usable name: {error}", "") from error
        device, advice = stat.S_ISBLK(mode), ""
        if device and not self._policy.allow_devices:
            problem = "it is a block device; these are opened only on request"
            advice = "allow devices"
        elif not device and not stat.S_ISREG(mode):
            problem = f"it is {_kind(mode)}, not a regular file"
        elif write and real != os.path.join(self.folder, os.path.normpath(name)):
            problem = "a symbolic link leads to it; these are never written through"
        elif not device and not _inside(os.path.dirname(real), self.roots):
            problem = "it lies outside the disk's own folder"
            advice = f"allow {os.path.dirname(real)} to open it"
        if problem:
            raise self._refused(name, problem, advice)
        return open_file(real, self._policy, device=device, write=write)

    def find_parent(self, hint: str) -> str:
        """The first of: the hint as written, its file beside the child, and in a sibling folder."""
        outside = odd = ""
        for candidate in _candidates(self.folder, hint):
            try:
                real = os.path.realpath(candidate)
            except ValueError:  # the filesystem's encoding lacks a character
                continue
            if not os.path.isfile(real):
                odd = odd or (_kind(os.stat(real).st_mode) if os.path.exists(real) else "")
                continue
            if _inside(os.path.dirname(real), self.roots):
                return real
            outside = outside or real
        if outside:
            raise ChainError(
                "the parent lies outside the disk's own folder",
                path=self.path,
                structure="descriptor",
                field="parentFileNameHint",
                value=hint,
                advice=f"allow {os.path.dirname(outside)} to open it",
            )
        raise ChainError(
            f"the parent is {odd}, not a regular file"
            if odd
            else "the parent is not there: neither as written nor beside the child",
            path=self.path,
            structure="descriptor",
            field="parentFileNameHint",
            value=hint,
            advice="copy the parent beside the child, or open this link alone",
        )

    def _forbidden(self, name: str) -> str:
        """Why a name is refused whatever it points at; "" if it is not."""
        if "\0" in name:
            return "it holds a NUL"
        if _has_scheme(name):
            return "it begins with a drive letter or a protocol; only plain file names are opened"
        if "\\" in name:
            return "it holds a backslash; only plain file names are opened"
        if not name or name.endswith("/"):
            return "it names no file"
        return ""

    def _refused(self, name: str, problem: str, advice: str) -> FormatError:
        return FormatError(
            problem,
            path=self.path,
            structure="descriptor",
            field="extent file name",
            value=name,
            advice=advice,
        )


def _has_scheme(name: str) -> bool:
    """Whether a name begins with a drive letter or a protocol."""
    scheme, colon, _ = name.partition(":")
    marks = scheme.translate({ord(c): "a" for c in "+.-"})
    return bool(colon) and scheme[:1].isalpha() and marks.isalnum()


def _candidates(folder: str, hint: str) -> list[str]:
    """Where a parent may be, best first (vmdk-formats, 4.1 rule 5). Names only; nothing opened."""
    if "\0" in hint:
        return []
    found = []
    if not _has_scheme(hint) and "\\" not in hint:
        found.append(os.path.join(folder, hint))
    plain = hint.replace("\\", "/")
    base = ntpath.basename(plain)
    if base in ("", ".", ".."):
        return found
    found.append(os.path.join(folder, base))
    sibling = os.path.basename(os.path.dirname(plain))
    if sibling not in ("", ".", ".."):
        found.append(os.path.join(os.path.dirname(folder), sibling, base))
    return found


def _inside(folder: str, roots: tuple[str, ...]) -> bool:
    return any(folder == r or folder.startswith(r.rstrip("/") + "/") for r in roots)
