# SPDX-License-Identifier: Apache-2.0
"""What the bytes mean: the table of disk formats. A new one is a folder and a line here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from diskkit.formats.link import Link
    from diskkit.interfaces import OpenPolicy, Place, Storage


class Format(NamedTuple):
    """One disk format."""

    module: str
    """Its home, loaded when first needed."""
    endings: tuple[str, ...]
    """File name endings that alone decide for it; for formats that cannot be recognised."""

    def open_link(self, storage: Storage, place: Place, policy: OpenPolicy) -> Link:
        """Open the one link that `storage` holds; takes it over. Raises `FormatError`."""
        found: Callable[[Storage, Place, OpenPolicy], Link]
        found = import_module(f"{__name__}.{self.module}").open_link
        return found(storage, place, policy)

    def make_writable(self, link: Link, policy: OpenPolicy) -> None:
        """Give the extents of `link`, opened for writing, their writers. Raises `FormatError`."""
        found: Callable[[Link, OpenPolicy], None]
        found = import_module(f"{__name__}.{self.module}").make_writable
        found(link, policy)


FORMATS = {
    "vmdk": Format("vmdk", ()),
    "raw": Format("raw", (".raw", ".img", ".dd")),
}


def make_writable(link: Link, policy: OpenPolicy) -> None:
    """`Format.make_writable` of the format that `link` is of."""
    FORMATS["raw" if link.descriptor is None else "vmdk"].make_writable(link, policy)


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
