# SPDX-License-Identifier: Apache-2.0
"""`TableMap`: what the drivers with grain tables have in common; numpy is loaded at first use."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from diskkit.formats.vmdk.layout import Rules
from diskkit.interfaces import BlockMap

if TYPE_CHECKING:
    from diskkit.errors import FormatError
    from diskkit.formats.vmdk.grains import GrainTables, Scheme
    from diskkit.interfaces import OpenPolicy, Storage
    from diskkit.table import RunTable


class TableMap(BlockMap):
    """An extent described by a directory and tables of grains."""

    def __init__(
        self,
        storage: Storage,
        scheme: Scheme,
        policy: OpenPolicy,
        spare: Scheme | None = None,
    ) -> None:
        """`spare` describes the redundant copy of the tables, where there is one."""
        self.length = scheme.length
        self.granularity = scheme.grain
        self.storage = storage
        self._parts = scheme, policy, spare

    @cached_property
    def tables(self) -> GrainTables:
        """Directory and tables."""
        from diskkit.formats.vmdk.grains import GrainTables

        scheme, policy, spare = self._parts
        rules = Rules("grain table", self.storage.name)
        twin = GrainTables(self.storage, spare, rules, policy) if spare else None
        return GrainTables(self.storage, scheme, rules, policy, twin)

    def scan(self, offset: int, length: int) -> RunTable:
        """Rows from the tables."""
        return self.tables.scan(offset, length)

    def explain(self, offset: int) -> FormatError:
        """The entry that cannot be right."""
        return self.tables.explain(offset)
