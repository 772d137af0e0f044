# SPDX-License-Identifier: Apache-2.0
"""Files of every filesystem, in a chain of disks, seen through a mount."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from files.chains import CHAINS, as_chain, partitioned
from files.filled import FILESYSTEMS, fill
from files.guests import MIB, SPARSE, make_ntfs, walk
from files.test_copies import reader_for

if TYPE_CHECKING:
    from pathlib import Path

    from fuse.conftest import Mounts


def stretches(path: Path) -> list[tuple[int, int]]:
    """Where a file has data."""
    found: list[tuple[int, int]] = []
    at = 0
    fd = os.open(path, os.O_RDONLY)
    try:
        while True:
            try:
                begin = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                return found
            at = os.lseek(fd, begin, os.SEEK_HOLE)
            found.append((begin, at))
    finally:
        os.close(fd)


@pytest.mark.parametrize("kind", FILESYSTEMS)
def test_all_files_are_seen_through_a_mount(mounts: Mounts, tmp_path: Path, kind: str) -> None:
    filled = fill(kind, tmp_path, large=True)
    chain = CHAINS[FILESYSTEMS.index(kind) % len(CHAINS)]
    disk = as_chain(partitioned(filled.image, tmp_path / "disk.raw"), chain, tmp_path)
    folder, process = mounts.mount(disk, "--volume", "1")
    found = walk(folder)
    found.pop(b"lost+found", None)
    assert found == filled.all
    if filled.sparse:
        sparse = folder / "sparse"
        assert sparse.stat().st_size == SPARSE
        holes = stretches(sparse)
        # The content is at the front and in the middle; a cluster or two are around it.
        assert holes[0][0] == 0
        assert any(begin <= 500 * MIB + 5 < end for begin, end in holes)
        assert sum(end - begin for begin, end in holes) <= 256 << 10
    assert mounts.end(process) == (0, "")


def test_streams_are_attributes_through_a_mount(mounts: Mounts, tmp_path: Path) -> None:
    reader_for("ntfs")
    source = tmp_path / "tree"
    source.mkdir()
    (source / "file").write_bytes(b"content")
    streams = {"Zone.Identifier": b"[ZoneTransfer]", "edge": bytes(range(256)) * 256, "empty": b""}
    for name, content in {**streams, "large": bytes(65537)}.items():
        (source / f"file:{name}").write_bytes(content)
    make_ntfs(tmp_path / "volume.raw", source)
    folder, _ = mounts.mount(tmp_path / "volume.raw", "--volume", "1")
    names = os.listxattr(folder / "file")
    assert {name: os.getxattr(folder / "file", name) for name in names} == {
        f"user.{name}": content for name, content in streams.items()
    }
