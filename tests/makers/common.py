# SPDX-License-Identifier: Apache-2.0
"""What every maker shares: the shape of the input, the expected guest bytes, pokes."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

SECTOR = 512

Grain: TypeAlias = bytes | Literal["zero", "unmapped"]
"""One grain: its bytes in full, or the word for an entry that reads as zeros without data.

``"unmapped"`` exists in seSparse only.
"""

Grains: TypeAlias = Mapping[int, Grain]
"""Grain index -> content. An index that is missing is not allocated."""


def ceil_div(a: int, b: int) -> int:
    """Quotient rounded towards plus infinity."""
    return -(-a // b)


def round_up(a: int, b: int) -> int:
    """Smallest multiple of ``b`` that is at least ``a``."""
    return ceil_div(a, b) * b


def sample_grain(seed: int, grain_sectors: int = 128, *, noise: bool = False) -> bytes:
    """One grain of reproducible content, no sector of it all zero.

    Plain grains compress very well; with ``noise`` they grow when compressed.
    """
    if noise:
        return random.Random(seed).randbytes(grain_sectors * SECTOR)
    sectors = (b"grain %d sector %d " % (seed, i) for i in range(grain_sectors))
    return b"".join((text * (SECTOR // len(text) + 1))[:SECTOR] for text in sectors)


def expected(
    capacity_sectors: int, grains: Grains, grain_sectors: int, parent: bytes | None = None
) -> bytes:
    """Bytes the guest has to see; built in memory, so for small disks only."""
    size = capacity_sectors * SECTOR
    grain_size = grain_sectors * SECTOR
    disk = bytearray(size)
    if parent is not None:
        disk[:] = parent[:size].ljust(size, b"\0")
    for index, content in grains.items():
        start = index * grain_size
        end = min(start + grain_size, size)
        disk[start:end] = bytes(end - start) if isinstance(content, str) else content[: end - start]
    return bytes(disk)


def check_grains(
    capacity_sectors: int, grains: Grains, grain_sectors: int, words: Sequence[str]
) -> None:
    """Refuse input that the kind cannot hold, so that a test never starts from a wrong image."""
    count = ceil_div(capacity_sectors, grain_sectors)
    for index, content in grains.items():
        if not 0 <= index < count:
            raise ValueError(f"grain {index} is outside a disk of {count} grains")
        if isinstance(content, str):
            if content not in words:
                raise ValueError(f"grain {index}: this kind has no {content!r} entry")
        elif len(content) != grain_sectors * SECTOR:
            raise ValueError(f"grain {index}: {len(content)} bytes are not one grain")


def file_order(stored: Sequence[int], order: Sequence[int] | None) -> list[int]:
    """Order in which stored grains go to the file: ascending unless the caller says otherwise."""
    if order is None:
        return sorted(stored)
    if sorted(order) != sorted(stored):
        raise ValueError("order must name each grain that has data exactly once")
    return list(order)


def poke(path: Path, offset: int, fmt: str, value: int | bytes) -> None:
    """Overwrite one field in place; ``fmt`` is a struct format (``"<I"``), offset in bytes."""
    raw = struct.pack(fmt, value)
    if offset + len(raw) > path.stat().st_size:
        raise ValueError("poke would lengthen the file")
    with path.open("r+b") as f:
        f.seek(offset)
        f.write(raw)
