# SPDX-License-Identifier: Apache-2.0
"""diskkit: open, map, compare and convert virtual disks.

    import diskkit

    with diskkit.open_disk("disk.vmdk") as disk:
        first_sector = disk.read(0, 512)
        for run in disk.runs():
            print(run)

Names are loaded when they are first used, so that importing diskkit costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diskkit.disk import Disk as Disk
    from diskkit.errors import ChainError as ChainError
    from diskkit.errors import DiskkitError as DiskkitError
    from diskkit.errors import FormatError as FormatError
    from diskkit.errors import LockedError as LockedError
    from diskkit.errors import OutOfRange as OutOfRange
    from diskkit.errors import ShortRead as ShortRead
    from diskkit.errors import StorageError as StorageError
    from diskkit.errors import UnsupportedFeature as UnsupportedFeature
    from diskkit.errors import UsageError as UsageError
    from diskkit.interfaces import OpenPolicy as OpenPolicy
    from diskkit.open import open_disk as open_disk
    from diskkit.runs import Range as Range
    from diskkit.runs import Run as Run
    from diskkit.runs import State as State
    from diskkit.tasks.attach import attach as attach
    from diskkit.tasks.attach import rebase as rebase
    from diskkit.tasks.changed import changed as changed
    from diskkit.tasks.check import check as check
    from diskkit.tasks.child import create_child as create_child
    from diskkit.tasks.clone import clone as clone
    from diskkit.tasks.clone import create_disk as create_disk
    from diskkit.tasks.compact import defragment as defragment
    from diskkit.tasks.compact import shrink as shrink
    from diskkit.tasks.compare import compare as compare
    from diskkit.tasks.copy import convert as convert
    from diskkit.tasks.grow import grow as grow
    from diskkit.tasks.merge import commit as commit
    from diskkit.tasks.merge import flatten as flatten
    from diskkit.tasks.metadata import read_metadata as read_metadata
    from diskkit.tasks.metadata import write_metadata as write_metadata
    from diskkit.tasks.remove import remove_disk as remove_disk
    from diskkit.tasks.rename import rename_disk as rename_disk
    from diskkit.tasks.repair import repair as repair
    from diskkit.tasks.repair import undo_repair as undo_repair
    from diskkit.tasks.space import space_needed as space_needed

__version__ = "0.1.0"

_HOMES = {
    "attach": "tasks.attach",
    "rebase": "tasks.attach",
    "changed": "tasks.changed",
    "check": "tasks.check",
    "commit": "tasks.merge",
    "flatten": "tasks.merge",
    "clone": "tasks.clone",
    "compare": "tasks.compare",
    "create_child": "tasks.child",
    "create_disk": "tasks.clone",
    "convert": "tasks.copy",
    "read_metadata": "tasks.metadata",
    "remove_disk": "tasks.remove",
    "rename_disk": "tasks.rename",
    "write_metadata": "tasks.metadata",
    "defragment": "tasks.compact",
    "grow": "tasks.grow",
    "shrink": "tasks.compact",
    "repair": "tasks.repair",
    "undo_repair": "tasks.repair",
    "space_needed": "tasks.space",
    "Disk": "disk",
    **dict.fromkeys(
        (
            "ChainError",
            "DiskkitError",
            "FormatError",
            "LockedError",
            "OutOfRange",
            "ShortRead",
            "StorageError",
            "UnsupportedFeature",
            "UsageError",
        ),
        "errors",
    ),
    "OpenPolicy": "interfaces",
    "open_disk": "open",
    **dict.fromkeys(("Range", "Run", "State"), "runs"),
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    """Load a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module 'diskkit' has no attribute {name!r}")
    value = getattr(import_module(f"diskkit.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
