# SPDX-License-Identifier: Apache-2.0
"""Extended attributes, and alternate data streams as such, on copies of files."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from diskkit.files.filesystem import LARGE_STREAM

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NOT_KEPT = (errno.ENOTSUP, errno.EPERM, errno.ENOSPC, errno.E2BIG, errno.ERANGE, errno.EDQUOT)


class LeftOut(NamedTuple):
    """What stayed behind."""

    streams: int
    """Alternate data streams, which are content."""
    attributes: int
    """Attributes of the user that the target does not keep."""
    system_attributes: int
    """All others: they mean something to the guest's system alone, and are never copied."""


class Attributes:
    """Puts attributes of the user on copies. Of those that stay behind it tells all together."""

    def __init__(self, kind: str) -> None:
        """For copies out of a filesystem of this kind."""
        self._has_streams = kind == "ntfs"
        self._streams = self._attributes = self._system = 0

    @property
    def left_out(self) -> LeftOut:
        """So far."""
        return LeftOut(self._streams, self._attributes, self._system)

    def put(self, target: int, attributes: Mapping[bytes, bytes]) -> None:
        """On an open file or folder."""
        for name, value in attributes.items():
            # Whatever the reader says, nothing becomes an attribute of the system here.
            if self._has_streams and name.startswith(LARGE_STREAM):
                self._streams += 1
            elif not name.startswith(b"user."):
                self._system += 1
            elif not _kept(target, name, value):
                self._streams += self._has_streams
                self._attributes += not self._has_streams

    def told(self) -> Iterator[str]:
        """A line for each kind of what was left out."""
        why = "the target keeps none, or none so large"
        if self._streams:
            yield (
                f"{self._streams} alternate data streams were left out: {why}; "
                "cat --stream gives them"
            )
        if self._attributes:
            yield f"{self._attributes} attributes were left out: {why}"
        if self._system:
            yield f"{self._system} attributes of the guest's system were left out"


def _kept(target: int, name: bytes, value: bytes) -> bool:
    """Give the copy the attribute, if the filesystem here keeps such ones."""
    if b"\0" in name:
        return False
    try:
        os.setxattr(target, name, value)
    except OSError as error:
        if error.errno not in _NOT_KEPT:
            raise
        return False
    return True
