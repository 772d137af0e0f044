# SPDX-License-Identifier: Apache-2.0
"""Sizes as people write and read them, and rounding."""

from __future__ import annotations

import contextlib
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diskkit.errors import UsageError
from diskkit.units import align_down, align_up, ceil_div, format_size, parse_size

NUMBERS = st.integers(0, 1 << 70)
UNITS = st.integers(1, 1 << 40)


@given(NUMBERS, UNITS)
@example(0, 1)
@example(512, 512)
@example(513, 512)
def test_rounding_brackets_the_value(value: int, unit: int) -> None:
    low, high = align_down(value, unit), align_up(value, unit)
    assert low % unit == high % unit == 0
    assert low <= value <= high
    assert value - low < unit
    assert high - value < unit
    assert (low == high) == (value % unit == 0)


@given(NUMBERS, UNITS)
def test_ceil_div_is_the_least_that_covers(value: int, unit: int) -> None:
    count = ceil_div(value, unit)
    assert count * unit >= value
    assert count == 0 or (count - 1) * unit < value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64K", 65536),
        ("64KiB", 65536),
        ("64kb", 65536),
        ("1.5g", 3 << 29),
        ("0.5M", 1 << 19),
        ("2T", 2 << 40),
        ("1P", 1 << 50),
        (" 10G ", 10 << 30),
        ("10B", 10),
        ("1.0000001K", 1024),
    ],
)
def test_sizes_people_write(text: str, value: int) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "K",
        "-1",
        "+1",
        "1e3",
        "0x10",
        "1.5",
        "1.5B",
        ".5M",
        "1..5M",
        "1.5.5M",
        "1X",
        "1KK",
        "ten",
        "\u0661",
        "1.\u0662M",
        "1 0",
        "1_000",
        "9" * 40,
        "nan",
        "inf",
    ],
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="size"):
        parse_size(text)


@given(st.integers(0, 1 << 60), st.sampled_from(["", "K", "M", "G", "T", "P"]))
def test_whole_numbers_parse_exactly(number: int, suffix: str) -> None:
    factor = 1 << 10 * ["", "K", "M", "G", "T", "P"].index(suffix)
    assert parse_size(f"{number}{suffix}") == number * factor


@given(st.integers(0, 9999), st.integers(0, 999), st.sampled_from("KMGTP"))
def test_fractions_are_cut_to_whole_bytes(whole: int, thousandths: int, suffix: str) -> None:
    exact = Fraction(whole * 1000 + thousandths, 1000) * (1 << 10 * (1 + "KMGTP".index(suffix)))
    assert parse_size(f"{whole}.{thousandths:03d}{suffix}") == int(exact)


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse_size(text) >= 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (65536, "64 KiB"),
        ((1 << 20) - 1, "1 MiB"),
        (10 << 30, "10 GiB"),
        (62 << 40, "62 TiB"),
        (1 << 60, "1 EiB"),
        (1 << 70, "1024 EiB"),
    ],
)
def test_sizes_people_read(value: int, text: str) -> None:
    assert format_size(value) == text


@given(st.integers(0, 1 << 63))
def test_a_printed_size_is_near_the_value(value: int) -> None:
    number, unit = format_size(value).split()
    factor = 1 << 10 * ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB").index(unit)
    assert abs(float(number) * factor - value) <= factor * 0.051
