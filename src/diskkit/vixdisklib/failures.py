# SPDX-License-Identifier: Apache-2.0
"""`VixError`, and which code stands for which of diskkit's errors."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

from diskkit.chain import MismatchedParent
from diskkit.errors import (
    ChainError,
    FormatError,
    LockedError,
    OutOfRange,
    ShortRead,
    UnsupportedFeature,
    UsageError,
)
from diskkit.vixdisklib.codes import NUMBERS, error_text

if TYPE_CHECKING:
    from collections.abc import Iterator

_BY_ERRNO = {
    errno.ENOENT: "FILE_NOT_FOUND",
    errno.ENOTDIR: "FILE_NOT_FOUND",
    errno.EACCES: "FILE_ACCESS_ERROR",
    errno.EPERM: "FILE_ACCESS_ERROR",
    errno.EROFS: "FILE_READ_ONLY",
    errno.ENOSPC: "DISK_FULL",
    errno.EDQUOT: "DISK_FULL",
    errno.EEXIST: "FILE_ALREADY_EXISTS",
    errno.EFBIG: "FILE_TOO_BIG",
    errno.EMFILE: "DISK_TOOMANYOPENFILES",
    errno.ENFILE: "DISK_TOOMANYOPENFILES",
    errno.EBUSY: "FILE_ALREADY_LOCKED",
    errno.ENAMETOOLONG: "FILE_NAME_TOO_LONG",
    errno.ELOOP: "FILE_NAME_INVALID",
    errno.EISDIR: "NOT_A_FILE",
}


class VixError(Exception):
    """A call failed. `code` is a number of `codes.NUMBERS`, `text` says what happened here.

    `required` is the number of bytes that a buffer needs, where it was too small, else None.
    """

    def __init__(self, code: int, text: str = "", *, required: int | None = None) -> None:
        """Without `text`, the code's own."""
        self.code = code
        self.text = text or error_text(code)
        self.required = required
        super().__init__(code, self.text)

    def __str__(self) -> str:
        """Code and text."""
        return f"{self.code}: {self.text}"


def vix_error(name: str, text: str = "") -> VixError:
    """The error `VIX_E_` `name`."""
    return VixError(NUMBERS[f"VIX_E_{name}"], text)


@contextmanager
def translated() -> Iterator[None]:
    """Every failure inside becomes a `VixError`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, VixError):
            raise
        raise from_exception(error) from error


def from_exception(error: Exception) -> VixError:
    """What an error means to a VixDiskLib program."""
    if isinstance(error, VixError):
        return error
    if isinstance(error, OSError | FormatError | UsageError):
        return vix_error(_name(error), str(error))
    if isinstance(error, MemoryError):
        return vix_error("OUT_OF_MEMORY")
    return vix_error("FAIL", f"{type(error).__name__}: {error}")


def _name(error: OSError | FormatError | UsageError) -> str:
    if isinstance(error, FormatError):
        return _format_name(error)
    if isinstance(error, UsageError):
        if isinstance(error, OutOfRange):
            return "DISK_OUTOFRANGE"
        return "FILE_ALREADY_EXISTS" if "exists already" in str(error) else "INVALID_ARG"
    if isinstance(error, LockedError):
        return "FILE_ALREADY_LOCKED"
    if isinstance(error, ShortRead):
        return "HOST_FILE_ERROR_EOF"
    return _BY_ERRNO.get(error.errno or 0, "FILE_ERROR")


def _format_name(error: FormatError) -> str:
    cause = error.__cause__
    if isinstance(error, ChainError):
        if isinstance(error, MismatchedParent):
            return "DISK_CID_MISMATCH"
        # What is refused because others depend on the disk, and not for what it says itself.
        return "DISK_OPENPARENT" if error.structure == "descriptor" else "FILE_READ_ONLY"
    if isinstance(cause, OSError) and cause.errno in _BY_ERRNO:
        return _BY_ERRNO[cause.errno]
    if error.field == "version":
        return "DISK_UNSUPPORTEDDISKVERSION"
    if isinstance(error, UnsupportedFeature):
        return "DISK_NEEDKEY" if "encrypted" in error.problem else "DISK_NOTSUPPORTED"
    if error.structure == "file":
        return "DISK_INVALIDDISK"
    if error.structure == "flat extent":
        return "HOST_FILE_ERROR_EOF"  # it is shorter than its descriptor says
    if error.structure == "descriptor":
        return "INVALID_XML"
    return "INCORRECT_FILE_TYPE" if "header" in error.structure else "DISK_NEEDSREPAIR"
