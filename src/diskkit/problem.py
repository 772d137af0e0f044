# SPDX-License-Identifier: Apache-2.0
"""`Problem`: one finding of a check. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from diskkit.errors import printable

if TYPE_CHECKING:
    from diskkit.errors import FormatError


@dataclass(frozen=True, slots=True)
class Problem:
    """Something a check found."""

    code: str
    """A stable short name, such as "grain-table.duplicate"."""
    severity: Literal["error", "warning"]
    """An error makes data wrong, unreadable or unsafe to write; a warning does not."""
    where: str
    """The file."""
    message: str
    """One line: structure, field, place, value, rule."""

    def __str__(self) -> str:
        """File and message."""
        return f"{printable(self.where)}: {self.message}"


def from_error(error: FormatError, where: str = "") -> Problem:
    """The finding that an error tells of."""
    return Problem(error.code, "error", error.path or where, error.what)
