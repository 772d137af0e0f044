# SPDX-License-Identifier: Apache-2.0
"""A volume of each filesystem with all that it can keep: odd names, holes, links, real files."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from files.chains import add_real_files
from files.guests import MAKERS, MIB, SPARSE, tree, unix_tree, walk
from files.kernel import make_by_kernel
from files.test_copies import NOT_COPIED, reader_for

if TYPE_CHECKING:
    from pathlib import Path

    Seen = dict[bytes, tuple[str, str]]

FILESYSTEMS = ("ext2", "ext3", "ext4", "xfs", "ntfs", "fat16", "fat32")


class Filled(NamedTuple):
    """A volume, and what is in it."""

    image: Path
    all: Seen
    copied: Seen
    """What of that `cp` makes."""
    sparse: bool
    """Whether `sparse` is in it, a file of 1 GiB with three blocks of data."""


def ntfs_tree(folder: Path) -> Path:
    """`tree`, with what NTFS has besides."""
    tree(folder)
    sparse = folder / "sparse"
    with sparse.open("wb") as f:
        f.write(b"begin")
        f.seek(500 * MIB + 5)
        f.write(b"middle")
        f.truncate(SPARSE)
    for name in ("old.compressed", "links.wsl"):
        (folder / name).mkdir()
    (folder / "old.compressed" / "file").write_bytes(b"packs well, line by line\n" * 20000)
    (folder / "link").symlink_to("deep/er/exactly")
    (folder / "links.wsl" / "up").symlink_to("../hello.txt")
    return folder


def fill(kind: str, folder: Path, *, large: bool) -> Filled:
    """Make it, with hundreds of files or with tens.

    The kernel itself fills XFS, since the prototypes of mkfs have no holes.
    """
    reader_for(kind)
    plant, put = MAKERS[kind]
    plant = {"xfs": unix_tree, "ntfs": ntfs_tree}.get(kind, plant)
    source = plant(folder / "tree")
    if large:
        add_real_files(source)
    else:
        add_real_files(source, ("asyncio",), MIB // 8)
        for path in sorted((source / "deep" / "er").glob("*.dat"))[30:]:
            path.unlink()
    image = folder / "volume.raw"
    if kind == "xfs":
        make_by_kernel(kind, image, source, folder / "mount")
    else:
        put(image, source)
    found = walk(source)
    unix = plant is unix_tree
    copied = {name: seen for name, seen in found.items() if not (unix and name in NOT_COPIED)}
    return Filled(image, found, copied, b"sparse" in found)
