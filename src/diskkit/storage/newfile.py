# SPDX-License-Identifier: Apache-2.0
"""New files that appear complete or not at all."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import DiskkitError, StorageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Part(NamedTuple):
    """A file under its passing name."""

    fd: int
    temporary: str
    name: str


@contextmanager
def new_file(name: str, *, force: bool, sync: bool) -> Iterator[tuple[int, str]]:
    """A file descriptor and the passing name of a file that becomes `name` when all went well.

    Without `force` an existing `name` is refused, even one that appears meanwhile.
    """
    with new_files([name], force=force, sync=sync) as made:
        yield made[0]


@contextmanager
def new_files(names: list[str], *, force: bool, sync: bool) -> Iterator[list[tuple[int, str]]]:
    """The same for several files that belong together: they get their names in the order given.

    So the one that makes the others a disk, the descriptor, comes last. If one cannot get its name,
    none keeps it. `force` replaces, which for several files cannot be undone.
    """
    made: list[_Part] = []
    passing: list[str] = []
    published: list[str] = []
    try:
        with write_errors(names[-1]):
            for name in names:
                # Noted before it is made: an interruption can come between the two.
                passing.append(passing_name(name))
                made.append(_Part(_make(passing[-1], name, force), passing[-1], name))
            yield [(part.fd, part.temporary) for part in made]
            for part in made:
                if sync:
                    os.fsync(part.fd)
            for part in made:
                _publish(part.temporary, part.name, force)
                published.append(part.name)
            if sync:
                sync_folder(os.path.dirname(names[-1]))
    except BaseException:
        for temporary in passing:
            if os.path.lexists(temporary):
                os.unlink(temporary)
        for name in published if not force else []:
            os.unlink(name)
        raise
    finally:
        for part in made:
            os.close(part.fd)


def passing_name(name: str) -> str:
    """A name beside `name` that a file has until it is whole."""
    folder, base = os.path.split(name)
    return os.path.join(folder, f".{base[:200]}.{os.urandom(4).hex()}.part")


def is_passing(name: str) -> bool:
    """Whether a file's name is a passing one: what a crash left under it belongs to nobody."""
    return name.startswith(".") and name.endswith(".part")


def _make(temporary: str, name: str, force: bool) -> int:
    if not force and os.path.lexists(name):
        raise UsageError(f"{name}: exists already (--force replaces it)")
    try:
        return os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise StorageError(name, f"cannot be made: {error.strerror}", errno=error.errno) from error


@contextmanager
def write_errors(name: str) -> Iterator[None]:
    """Say which file it was when the system refuses a write."""
    try:
        yield
    except DiskkitError:
        raise
    except OSError as error:
        text = f"writing failed: {error.strerror}"
        if error.errno == errno.EPIPE:
            text = "the reader of the pipe went away"
        raise StorageError(name, text, errno=error.errno) from error


def _publish(temporary: str, name: str, force: bool) -> None:
    if force:
        os.replace(temporary, name)
        return
    try:
        # Unlike a rename, a link never replaces what another process made meanwhile.
        os.link(temporary, name)
    except FileExistsError:
        raise UsageError(f"{name}: exists already (--force replaces it)") from None
    except OSError:
        # A filesystem without links.
        if os.path.lexists(name):
            raise UsageError(f"{name}: exists already (--force replaces it)") from None
        os.rename(temporary, name)
    else:
        try:
            os.unlink(temporary)
        except OSError:
            os.unlink(name)  # whoever is told of a failure finds no file
            raise


def sync_folder(folder: str) -> None:
    """Make durable which names a folder holds."""
    fd = os.open(folder or ".", os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def is_device(name: str) -> bool:
    """Whether `name` is a block device."""
    try:
        return stat.S_ISBLK(os.stat(name).st_mode)
    except OSError:
        return False
