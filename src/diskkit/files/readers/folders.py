# SPDX-License-Identifier: Apache-2.0
"""Directories whose names were read once: the next look into one costs no reading.

None of the libraries finds a name faster than by reading all that come before it. With 100,000
files in a directory that is a second for each file that is opened by its path.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import DiskkitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MOST = 1_000_000
"""Names that are kept, those of the last directory aside: about 150 bytes each."""


class Names(NamedTuple):
    """The ids of a directory's entries, by name, and by folded name."""

    exact: dict[bytes, int]
    folded: dict[bytes, int]


class Folders:
    """The names of directories that were looked into."""

    def __init__(self, most: int = MOST) -> None:
        """Keep up to `most` names."""
        self._most = most
        self._kept: OrderedDict[int, Names] = OrderedDict()
        self._count = 0

    def look(
        self,
        folder: int,
        name: bytes,
        rows: Callable[[], Iterable[tuple[bytes, int]]],
        fold: Callable[[bytes], bytes] | None = None,
    ) -> int | None:
        """The id of an entry, or None; `rows` gives all of the directory, if it is not kept.

        With `fold`, which makes names equal that mean the same, an exact match still wins. Of two
        entries of one name the first counts. What `rows` raises is raised, unless the name came
        before it.
        """
        kept = self._kept.get(folder)
        if kept is not None:
            self._kept.move_to_end(folder)
            return _find(kept, name, fold)
        kept = Names({}, {})
        try:
            for own, id in rows():
                kept.exact.setdefault(own, id)
                if fold is not None:
                    kept.folded.setdefault(fold(own), id)
        except DiskkitError:
            found = _find(kept, name, fold)
            if found is None:
                raise
            return found
        self._kept[folder] = kept
        self._count += len(kept.exact)
        while self._count > self._most and len(self._kept) > 1:
            self._count -= len(self._kept.popitem(last=False)[1].exact)
        return _find(kept, name, fold)


def _find(names: Names, name: bytes, fold: Callable[[bytes], bytes] | None) -> int | None:
    found = names.exact.get(name)
    return names.folded.get(fold(name)) if found is None and fold is not None else found


def upper(name: bytes) -> bytes:
    """For filesystems to which upper and lower case are alike."""
    return name.decode("utf-8", "surrogateescape").upper().encode("utf-8", "surrogateescape")
