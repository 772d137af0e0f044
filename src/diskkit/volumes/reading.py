# SPDX-License-Identifier: Apache-2.0
"""Reading a structure of known size."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diskkit.interfaces import Readable


def read_at(source: Readable, offset: int, length: int) -> bytes:
    """Exactly these bytes; the caller has judged that they lie inside, and how many they are."""
    buffer = bytearray(length)
    source.read_into(offset, memoryview(buffer))
    return bytes(buffer)
