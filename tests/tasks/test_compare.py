# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import diskkit
from makers import hosted_sparse, sample_grain
from tasks.images import CAPACITY, child, packed, sparse

if TYPE_CHECKING:
    from pathlib import Path


def compare(a: Path, b: Path) -> tuple[bool, int | None]:
    with diskkit.open_disk(a) as one, diskkit.open_disk(b) as two:
        found = diskkit.compare(one, two)
    return found.identical, found.first_difference


def test_the_same_content_in_other_kinds_is_identical(tmp_path: Path) -> None:
    top = child(tmp_path, sparse(tmp_path))
    (tmp_path / "flat.raw").write_bytes(top.content)
    assert compare(top.path, tmp_path / "flat.raw") == (True, None)
    made = packed(tmp_path, "F")
    (tmp_path / "other.raw").write_bytes(made.content)
    assert compare(tmp_path / "other.raw", made.path) == (True, None)


@pytest.mark.parametrize("at", [0, 1, 65535, 65536, 8 * 65536 + 5, CAPACITY * 512 - 1])
def test_the_first_difference_is_exact(tmp_path: Path, at: int) -> None:
    made = sparse(tmp_path)
    other = bytearray(made.content)
    other[at] ^= 1
    for later in range(at + 70000, len(other), 70000):
        other[later] ^= 1
    (tmp_path / "other.raw").write_bytes(other)
    assert compare(made.path, tmp_path / "other.raw") == (False, at)


def test_a_longer_disk_differs_where_the_shorter_ends(tmp_path: Path) -> None:
    made = sparse(tmp_path)
    (tmp_path / "long.raw").write_bytes(made.content + bytes(512))
    assert compare(made.path, tmp_path / "long.raw") == (False, len(made.content))


def test_what_lies_in_the_same_place_is_not_read(tmp_path: Path) -> None:
    base = sparse(tmp_path)
    top = child(tmp_path, base)
    with diskkit.open_disk(base.path) as old, diskkit.open_disk(top.path) as new:
        for disk in (old, new):
            read = disk.chain.read_into

            def watched(offset: int, buffer: memoryview, read=read) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
                assert offset // 65536 in (1, 7, 20)
                read(offset, buffer)

            disk.chain.read_into = watched  # type: ignore[method-assign]
        first = diskkit.compare(old, new).first_difference
        assert first is not None
        assert first // 65536 == 1


def test_changed_between_links_is_told_by_their_tables(tmp_path: Path) -> None:
    base = sparse(tmp_path)
    top = child(tmp_path, base)
    with diskkit.open_disk(base.path) as old, diskkit.open_disk(top.path) as new:
        found = diskkit.changed(old, new)
        assert found.method == "metadata"
        assert [(r.offset // 65536, r.length // 65536) for r in found.ranges] == [
            (1, 1),
            (7, 1),
            (20, 1),
        ]
        assert list(diskkit.changed(new, new).ranges) == []


def test_changed_between_siblings_is_the_union_of_both(tmp_path: Path) -> None:
    base = sparse(tmp_path)
    one = child(tmp_path, base)
    hosted_sparse(
        tmp_path / "sibling.vmdk",
        CAPACITY,
        {2: sample_grain(9), 20: sample_grain(8)},
        parent_cid="12345678",
        parent_hint="base.vmdk",
    )
    with diskkit.open_disk(one.path) as a, diskkit.open_disk(tmp_path / "sibling.vmdk") as b:
        found = diskkit.changed(a, b)
        assert found.method == "metadata"
        grains = [(r.offset // 65536, r.length // 65536) for r in found.ranges]
        assert grains == [(1, 2), (7, 1), (20, 1)]


def test_changed_between_strangers_reads_and_says_so(tmp_path: Path) -> None:
    made = sparse(tmp_path)
    other = bytearray(made.content)
    other[3 * 65536 + 100] = 1
    other[4 * 65536] = 1
    other[33 * 65536 + 1] = 1
    (tmp_path / "other.raw").write_bytes(other + b"more" * 128)
    with diskkit.open_disk(made.path) as a, diskkit.open_disk(tmp_path / "other.raw") as b:
        found = diskkit.changed(a, b)
        assert found.method == "content"
        assert list(found.ranges) == [
            (3 * 65536, 2 * 65536),
            (33 * 65536, 65536),
            (len(made.content), 512),
        ]


@given(st.integers(0, 1 << 30), st.integers(0, 6))
def test_differences_are_exactly_the_units_that_differ(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int
) -> None:
    folder = tmp_path_factory.mktemp("compare")
    rng = random.Random(seed)
    size = rng.randrange(1, 40) * 4096 + rng.randrange(0, 4096, 512)
    one = bytearray(rng.randbytes(size))
    for _ in range(3):
        begin = rng.randrange(size)
        one[begin : begin + 9000] = bytes(len(one[begin : begin + 9000]))
    two = bytearray(one)
    for _ in range(count):
        two[rng.randrange(size)] ^= 0x55
    (folder / "a.raw").write_bytes(one)
    (folder / "b.raw").write_bytes(two)
    wanted = {at // 4096 for at in range(size) if one[at] != two[at]}
    with diskkit.open_disk(folder / "a.raw") as a, diskkit.open_disk(folder / "b.raw") as b:
        from diskkit.tasks.compare import differences

        units: set[int] = set()
        for begin, length in differences(a, b, unit=4096):
            units |= set(range(begin // 4096, -(-(begin + length) // 4096)))
        first = next((at for at in range(size) if one[at] != two[at]), None)
        assert diskkit.compare(a, b).first_difference == first
    assert units == wanted
