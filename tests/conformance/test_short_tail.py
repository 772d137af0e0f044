# SPDX-License-Identifier: Apache-2.0
"""A last grain that its file does not hold whole keeps its room to itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import diskkit
from makers import hosted_sparse, sample_grain

if TYPE_CHECKING:
    from pathlib import Path


def test_no_grain_is_put_where_the_last_one_ends(tmp_path: Path) -> None:
    """Its place is no multiple of the grain size, so rounding up alone would overlap it."""
    path, capacity = tmp_path / "disk.vmdk", 128 + 40
    hosted_sparse(path, capacity, {1: sample_grain(1)})
    data = bytearray(path.read_bytes())
    directory = int.from_bytes(data[56:64], "little") * 512
    spare = int.from_bytes(data[48:56], "little") * 512
    place = 0
    for at in (directory, spare):
        entry = int.from_bytes(data[at : at + 4], "little") * 512 + 4
        place = int.from_bytes(data[entry : entry + 4], "little")
        data[entry : entry + 4] = (place + 70).to_bytes(4, "little")
    begin = place * 512
    data[begin:] = bytes(70 * 512) + data[begin : begin + 40 * 512]
    path.write_bytes(data)
    content = bytearray(128 * 512) + sample_grain(1)[: 40 * 512]
    with diskkit.open_disk(path, writable=True) as disk:
        assert disk.read(0, disk.size) == content
        disk.write(0, b"x" * 65536)
        content[:65536] = b"x" * 65536
        disk.write(65536, b"y" * 100)
        content[65536 : 65536 + 100] = b"y" * 100
        assert disk.read(0, disk.size) == content
    with diskkit.open_disk(path) as disk:
        assert disk.read(0, disk.size) == content
    assert not [p for p in diskkit.check(path).problems if p.severity == "error"]
