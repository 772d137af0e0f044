# SPDX-License-Identifier: Apache-2.0
"""qemu-io and we write into one disk in turns; everybody reads what both wrote."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

import diskkit
from makers.peers import dissect_raw, qemu_img, qemu_raw
from peers.asking import libvmdk_raw, qemu_io

if TYPE_CHECKING:
    from pathlib import Path

SIZE = (70 << 20) + 512
CASES = (
    ("monolithicSparse", None),
    ("twoGbMaxExtentSparse", None),
    ("monolithicFlat", None),
    ("twoGbMaxExtentFlat", None),
    ("vmfs", None),
    ("monolithicSparse", "monolithicSparse"),
    ("monolithicFlat", "twoGbMaxExtentSparse"),
    ("vmfs", "vmfsSparse"),
)
TURNS, OPERATIONS = 3, 150


def _operations(rng: random.Random) -> list[tuple[str, int, int, int]]:
    """(what, offset, length, byte), in whole sectors."""
    found = []
    for _ in range(OPERATIONS):
        length = rng.choice([512, 4096, 12288, 65536, 70144, 200704])
        offset = rng.randrange((SIZE - length) // 512) * 512
        what = rng.choices(["write", "zero", "read"], [7, 2, 1])[0]
        found.append((what, offset, length, rng.randrange(1, 256)))
    return found


def _note(content: bytearray, operations: list[tuple[str, int, int, int]]) -> None:
    for what, offset, length, byte in operations:
        if what != "read":
            content[offset : offset + length] = bytes([byte if what == "write" else 0]) * length


def _theirs(path: Path, operations: list[tuple[str, int, int, int]]) -> None:
    words = {"write": "write -q -P {byte}", "zero": "write -q -z", "read": "read -q"}
    lines = [
        f"{words[what].format(byte=byte)} {offset} {length}"
        for what, offset, length, byte in operations
    ]
    qemu_io(path, lines)


def _ours(path: Path, operations: list[tuple[str, int, int, int]], content: bytearray) -> None:
    with diskkit.open_disk(path, writable=True) as disk:
        for operation in operations:
            what, offset, length, byte = operation
            if what == "write":
                disk.write(offset, bytes([byte]) * length)
            elif what == "zero":
                disk.zero(offset, length)
            _note(content, [operation])
            if what == "read":
                assert disk.read(offset, length) == content[offset : offset + length]


@pytest.mark.parametrize(("base", "child"), CASES)
def test_turns(base: str, child: str | None, tmp_path: Path) -> None:
    rng = random.Random(f"{base} {child}")
    content = bytearray(SIZE)
    path = tmp_path / "disk.vmdk"
    diskkit.create_disk(path, SIZE, base, sync=False)
    if child is not None:
        _ours(path, _operations(rng), content)
        path = tmp_path / "child.vmdk"
        diskkit.create_child(tmp_path / "disk.vmdk", path, child, sync=False)
    left: set[str] = set()
    for _ in range(TURNS):
        mine = _operations(rng)
        _ours(path, mine, content)
        assert {p.code for p in diskkit.check(path, data=True).problems} <= left
        if child != "vmfsSparse":  # qemu reads these, but has no writer for them
            their = _operations(rng)
            _theirs(path, their)
            _note(content, their)
        # qemu changes the content ID and leaves the long one as it was, and it gives no room back.
        left = {"leaked"}
        found = diskkit.check(path, data=True).problems
        assert {p.code for p in found} <= left | {"descriptor.longContentID"}
        with diskkit.open_disk(path) as disk:
            assert disk.read(0, SIZE) == content
        assert qemu_raw(path) == content
        assert qemu_img("check", "-q", path).returncode in (0, 63)  # 63: flat, nothing to check
    if child is None:
        assert libvmdk_raw(path) == content
        assert dissect_raw(path) == content
