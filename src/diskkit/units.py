# SPDX-License-Identifier: Apache-2.0
"""Sizes: the sector, rounding, and how people write and read byte counts. Pure."""

from __future__ import annotations

from diskkit.errors import UsageError

SECTOR = 512
"""Bytes in a sector. Every VMDK structure counts in these; nothing else in diskkit does."""

_SUFFIXES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}


def align_down(value: int, unit: int) -> int:
    """The largest multiple of `unit` that is not above `value`."""
    return value - value % unit


def align_up(value: int, unit: int) -> int:
    """The smallest multiple of `unit` that is not below `value`."""
    return value + -value % unit


def ceil_div(value: int, unit: int) -> int:
    """How many pieces of `unit` cover `value`."""
    return -(-value // unit)


def parse_size(text: str) -> int:
    """Bytes meant by `text`: a number with an optional K, M, G, T or P (powers of 1024).

    "64K", "64KiB", "1.5g" and "4096" are accepted; a `UsageError` says what was not.
    """
    body = text.strip().upper().removesuffix("IB").removesuffix("B")
    factor = _SUFFIXES.get(body[-1:] if body[-1:].isalpha() else "")
    digits = body[:-1] if body[-1:].isalpha() else body
    whole, _, fraction = digits.partition(".")
    if (
        factor is None
        or not whole.isdecimal()
        or not whole.isascii()
        or len(digits) > 30
        or (fraction and not (fraction.isdecimal() and fraction.isascii()))
        or (fraction and factor == 1)
    ):
        raise UsageError(f"size {text!r} is not a number with an optional K, M, G, T or P")
    return int(whole) * factor + (int(fraction) * factor // 10 ** len(fraction) if fraction else 0)


def format_size(value: int) -> str:
    """`value` bytes for people: "0 B", "64 KiB", "9.3 GiB". At most one decimal."""
    if value < 1024:
        return f"{value} B"
    amount = float(value)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        amount /= 1024
        if amount < 1023.95 or unit == "EiB":
            return f"{amount:.1f} {unit}".replace(".0 ", " ")
    raise AssertionError("unreachable")
