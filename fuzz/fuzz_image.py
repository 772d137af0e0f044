# SPDX-License-Identifier: Apache-2.0
# Invariant: any files open, map and read, or raise a printable DiskkitError; the map covers the
# disk without gaps, and reading where it is no error gives the same bytes twice.
"""A whole image through `open_disk`, with an extent beside it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from running import search, tolerate

from diskkit import Disk, OpenPolicy, open_disk

PIECE = 64 << 10


def one_input(data: bytes) -> None:
    """A byte of choices, the length of disk.vmdk (3 bytes; 0: all), it, and extent.bin."""
    choices, length = data[0] if data else 0, int.from_bytes(data[1:4], "little")
    body = data[4:]
    folder = Path(tempfile.mkdtemp(prefix="diskkit-fuzz-"))
    try:
        (folder / "disk.vmdk").write_bytes(body[:length] if length else body)
        (folder / "extent.bin").write_bytes(body[length:] if length else b"")
        policy = OpenPolicy(
            warn=lambda text: None,
            allow_truncated=bool(choices & 1),
            noaccess_zeros=bool(choices & 2),
            single_link=bool(choices & 4),
        )
        tolerate(lambda: examine(folder / "disk.vmdk", policy))
    finally:
        shutil.rmtree(folder)


def examine(path: Path, policy: OpenPolicy) -> None:
    """Describe, map and read one image."""
    with open_disk(path, policy=policy) as disk:
        disk.info.as_dict()
        tolerate(lambda: check_map(disk))
        for at in {0, disk.size // 2 // PIECE * PIECE, max(0, disk.size - PIECE)}:
            read_twice(disk, at, min(PIECE, disk.size - at))


def check_map(disk: Disk) -> None:
    """Runs ascend without gaps and cover the disk."""
    at = 0
    for run in disk.runs():
        assert run.offset == at
        assert run.length > 0
        assert (run.path is None) == (run.file_offset is None)
        assert run.file_offset is None or run.file_offset >= 0
        at += run.length
    assert at == disk.size


def read_twice(disk: Disk, at: int, length: int) -> None:
    """Reading gives the same both times, bytes or error."""
    found: list[bytes] = []
    errors = [tolerate(lambda: found.append(disk.read(at, length))) for _ in range(2)]
    assert str(errors[0]) == str(errors[1])
    assert len(set(found)) <= 1
    assert all(len(data) == length for data in found)


if __name__ == "__main__":
    search(one_input)
