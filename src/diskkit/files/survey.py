# SPDX-License-Identifier: Apache-2.0
"""`survey`: what the files on a disk's volumes tell of the systems there, in one look at each."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

from diskkit.errors import DiskkitError
from diskkit.files import fstab, letters
from diskkit.files.guest import detect
from diskkit.files.opening import open_filesystem, why_unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from diskkit.files.filesystem import FileSystem
    from diskkit.files.guest import GuestOS
    from diskkit.volumes import Volume

    T = TypeVar("T")


class Survey(NamedTuple):
    """By the number of a volume, in their order."""

    systems: dict[int, GuestOS]
    """The system that begins on it."""
    places: dict[int, list[str]]
    """Where the guest mounts it: folders of a Linux, letters of a Windows ("C:")."""


def survey(volumes: Sequence[Volume], warn: Callable[[str], object]) -> Survey:
    """Look at all volumes whose files can be read; what keeps something from being told is warned.

    Of several fstabs, and several registries, the first counts.
    """
    systems: dict[int, GuestOS] = {}
    rows: list[tuple[str, str]] = []
    named: list[tuple[bytes, str]] = []
    for volume in volumes:
        if why_unreadable(volume):
            continue
        failures: dict[str, None] = {}  # a reader that is dead says the same to each question
        try:
            with open_filesystem(volume) as fs:
                failures.update(dict.fromkeys(fs.warnings))
                system = _ask(detect, fs, failures)
                if system is not None:
                    systems[volume.number] = system
                rows = rows or _ask(fstab.read_fstab, fs, failures) or []
                named = named or _ask(letters.read_letters, fs, failures) or []
        except DiskkitError as error:
            failures[str(error)] = None
        for text in failures:
            warn(f"volume {volume.name}: {text}")
    places: dict[int, list[str]] = {}
    _place(rows, fstab.means, volumes, places)
    _place(named, letters.means, volumes, places)
    return Survey(systems, places)


def _ask(
    question: Callable[[FileSystem], T], fs: FileSystem, failures: dict[str, None]
) -> T | None:
    try:
        return question(fs)
    except DiskkitError as error:
        failures[str(error)] = None
        return None


def _place(
    rows: Iterable[tuple[T, str]],
    means: Callable[[T, Volume], bool],
    volumes: Sequence[Volume],
    places: dict[int, list[str]],
) -> None:
    """Add where rows say that something is, to the first volume that is meant."""
    for what, where in rows:
        for volume in volumes:
            if means(what, volume):
                places.setdefault(volume.number, []).append(where)
                break
