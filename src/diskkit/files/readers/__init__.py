# SPDX-License-Identifier: Apache-2.0
"""A reader for each kind of filesystem: a line here, a module beside it."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from diskkit.errors import UnsupportedFeature

if TYPE_CHECKING:
    from diskkit.files.filesystem import FileSystem
    from diskkit.filters.cache import BlockCache

READERS = {
    "ext2": ("ext", "pyfsext", "libfsext-python"),
    "ext3": ("ext", "pyfsext", "libfsext-python"),
    "ext4": ("ext", "pyfsext", "libfsext-python"),
    "xfs": ("xfs", "pyfsxfs", "libfsxfs-python"),
    "ntfs": ("ntfs", "pyfsntfs", "libfsntfs-python"),
    "fat12": ("fat", "pyfsfat", "libfsfat-python"),
    "fat16": ("fat", "pyfsfat", "libfsfat-python"),
    "fat32": ("fat", "pyfsfat", "libfsfat-python"),
}
"""Kind: module of ours, module it needs, package that has it."""


def check_installed(kind: str) -> None:
    """Raise `UnsupportedFeature` if the package that reads this kind is not there."""
    _, needed, package = READERS[kind]
    if find_spec(needed) is None:
        raise UnsupportedFeature(
            f"reading {kind} needs the package {package}, which is not installed",
            advice="pip install 'diskkit[files]'",
        )


def load(kind: str) -> Any:  # noqa: ANN401
    """The module with the reader of a kind."""
    return import_module(f"diskkit.files.readers.{READERS[kind][0]}")


def open_reader(kind: str, volume: BlockCache) -> FileSystem:
    """The reader of a kind, over a volume. It parses the volume in this very process."""
    opened: FileSystem = load(kind).Reader(kind, volume)
    return opened
