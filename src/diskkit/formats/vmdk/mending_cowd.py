# SPDX-License-Identifier: Apache-2.0
"""What mends an ESX redo log (COWD): freeSector, and uncleanShutdown. Its tables have no copies."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from diskkit.formats.vmdk.examine import examine
from diskkit.formats.vmdk.mending import Mend, Patch, Stage
from diskkit.runs import State
from diskkit.units import SECTOR, align_up, ceil_div

if TYPE_CHECKING:
    from diskkit.errors import FormatError
    from diskkit.formats.link import Extent
    from diskkit.formats.vmdk.cowd import CowdScheme
    from diskkit.formats.vmdk.mending import Plan
    from diskkit.formats.vmdk.tablemap import TableMap
    from diskkit.interfaces import Storage

_FREE_AT, _UNCLEAN_AT = 28, 1648
_TABLES = 256


def revive_cowd(error: FormatError, storage: Storage) -> Mend | None:
    """What lets a redo log open again whose freeSector lies beyond its file's end."""
    if error.code != "COWD-header.freeSector" or storage.size < 2048:
        return None
    value = int.from_bytes(storage.read(_FREE_AT, 4), "little")
    end = ceil_div(storage.size, SECTOR)
    if value <= end:
        return None
    text = f"COWD header: freeSector is {value}, beyond the file's end: it becomes {end}"
    patch = Patch(Stage.HEAD, _FREE_AT, 4, struct.pack("<I", end))
    return Mend("cowd.freeSector", storage.name, text, patches=(patch,))


def mend_cowd(extent: Extent, of: TableMap, scheme: CowdScheme, plan: Plan) -> None:
    """Add to `plan` what mends `extent`."""
    path, claimed = of.storage.name, scheme.free
    scheme.free = align_up(scheme.size, SECTOR)
    free = align_up(_end(of, scheme), SECTOR)
    if free > claimed:
        text = (
            f"COWD header: freeSector is {claimed // SECTOR}, but entries go up to "
            f"{free // SECTOR}: it becomes that"
        )
        patch = Patch(Stage.HEAD, _FREE_AT, 4, struct.pack("<I", free // SECTOR))
        plan.add(Mend("cowd.freeSector", path, text, patches=(patch,)))
    for problem in examine(extent, lambda done: None):
        if problem.severity == "error":
            plan.leave(problem.code, problem.where, problem.message)
    if scheme.unclean and not plan.hopeless(path):
        text = "not closed cleanly (uncleanShutdown): cleared, now that the rest is in order"
        patch = Patch(Stage.CLOSE, _UNCLEAN_AT, 4, bytes(4))
        plan.add(Mend("unclean", path, text, patches=(patch,)))


def _end(of: TableMap, scheme: CowdScheme) -> int:
    """Where the last of what can be right, inside the file, ends."""
    high = 0
    for first in range(0, scheme.tables, _TABLES):
        places, reasons = of.tables.directory(first, min(first + _TABLES, scheme.tables))
        rows = np.flatnonzero((places > 0) & (reasons == 0))
        if not len(rows):
            continue
        high = max(high, int(places[rows].max()) + scheme.entries * scheme.width)
        judged = scheme.judge(of.tables.read_tables(places[rows]), of.tables.needs(first + rows))
        filled = (judged.states == State.DATA) & (judged.reasons == 0)
        if filled.any():
            high = max(high, int(judged.positions[filled].max()) + scheme.grain)
    return min(high, scheme.free)
