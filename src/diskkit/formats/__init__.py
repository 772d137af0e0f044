# SPDX-License-Identifier: Apache-2.0
"""What the bytes mean: the table of disk formats. A new one is a folder and a line here."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import UsageError
from diskkit.formats import raw, vmdk

if TYPE_CHECKING:
    from collections.abc import Callable

    from diskkit.formats.link import Link
    from diskkit.interfaces import OpenPolicy, Place, Storage


class Format(NamedTuple):
    """One disk format."""

    open_link: Callable[[Storage, Place, OpenPolicy], Link]
    endings: tuple[str, ...]
    """File name endings that alone decide for it; for formats that cannot be recognised."""


FORMATS = {
    "vmdk": Format(vmdk.open_link, ()),
    "raw": Format(raw.open_link, (".raw", ".img", ".dd")),
}


def choose(name: str, wanted: str | None) -> str:
    """The format by which to open the file `name`: as asked for, else by its ending, else VMDK."""
    if wanted is not None:
        if wanted not in FORMATS:
            raise UsageError(f"format {wanted!r} is not one of: {', '.join(FORMATS)}")
        return wanted
    for key, known in FORMATS.items():
        if known.endings and name.lower().endswith(known.endings):
            return key
    return "vmdk"
