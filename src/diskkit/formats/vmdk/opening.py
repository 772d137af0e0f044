# SPDX-License-Identifier: Apache-2.0
"""`Opening`: what a driver is given to open one extent."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from diskkit.formats.vmdk.descriptor import ExtentLine
    from diskkit.formats.vmdk.layout import SparseHeader
    from diskkit.interfaces import OpenPolicy, Storage


class Opening(NamedTuple):
    """One extent about to be opened."""

    path: str
    """The file with the descriptor, for messages."""
    line: ExtentLine
    storage: Storage | None
    """The extent's file, open; None for kinds that have none."""
    policy: OpenPolicy
    header: SparseHeader | None = None
    """The header, when the extent is the file that embeds the descriptor."""
