# SPDX-License-Identifier: Apache-2.0
"""A disk's metadata, by key."""

from __future__ import annotations

from diskkit.tasks.metadata import write_metadata
from diskkit.vixdisklib.codes import NUMBERS
from diskkit.vixdisklib.failures import VixError, translated, vix_error
from diskkit.vixdisklib.library import library


def ReadMetadata(diskHandle: int, key: str, bufLen: int | None = None) -> str:
    """The value of a key, in any case.

    With `bufLen`, bytes of a C buffer, a value that does not fit with its NUL is an error that
    tells the bytes it needs (`VixError.required`).
    """
    with translated():
        handle = library.disk(diskHandle)
        if not key:
            raise vix_error("INVALID_ARG", "the key is NULL or empty")
        with handle.using() as disk:
            found = disk.info.metadata
        for name, value in found.items():
            if name.lower() == key.lower():
                _check_room(len(value.encode()) + 1, bufLen)
                return value
        raise vix_error("DISK_KEY_NOTFOUND", f"{handle.path}: its metadata has no key {key}")


def WriteMetadata(diskHandle: int, key: str, val: str) -> None:
    """Set a key, known or new, durably. It can be set to "", but not removed."""
    with translated():
        handle = library.disk(diskHandle)
        handle.check_writable()
        if not key or val is None:
            raise vix_error("INVALID_ARG", "the key or the value is NULL")
        with handle.set_aside():
            write_metadata(handle.path, {key: val}, policy=library.policy())


def GetMetadataKeys(diskHandle: int, maxLen: int | None = None) -> list[str]:
    """All keys. `maxLen` is as in `ReadMetadata`: each key has a NUL, and there is one more."""
    with translated(), library.disk(diskHandle).using() as disk:
        keys = list(disk.info.metadata)
        _check_room(sum(len(key.encode()) + 1 for key in keys) + 1, maxLen)
        return keys


def _check_room(needed: int, room: int | None) -> None:
    if room is not None and room < needed:
        text = f"the buffer has {room} bytes, {needed} are needed"
        raise VixError(NUMBERS["VIX_E_BUFFER_TOOSMALL"], text, required=needed)
