# SPDX-License-Identifier: Apache-2.0
"""The same files come out of every kind of disk, of chains, and of the kernel's own mount."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.cli import main
from diskkit.tasks.clone import KINDS
from files.chains import CHAINS, Chain, add_real_files, as_chain, as_kind, partitioned
from files.filled import FILESYSTEMS, Filled, fill
from files.guests import MAKERS, MIB, SPARSE, unix_tree, walk
from files.kernel import make_by_kernel, mounted
from files.test_copies import NOT_COPIED, reader_for

if TYPE_CHECKING:
    from pathlib import Path

    Out = pytest.CaptureFixture[str]
    Seen = dict[bytes, tuple[str, str]]

ACROSS = (2 << 30) - 20 * MIB
"""Where a volume begins that lies in two extents of a split disk."""


@pytest.fixture(scope="module", params=FILESYSTEMS)
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Filled:
    kind: str = request.param
    return fill(kind, tmp_path_factory.mktemp("filled"), large=kind == "ext4")


def copied(disk: Path, out: Path, capfd: Out) -> Seen:
    status = main(["cp", "-r", f"{disk}:1:/", str(out), "-q"])
    told = capfd.readouterr().err
    assert status in (0, 3), told
    got = walk(out)
    got.pop(b"lost+found", None)
    return got


def come_out(disk: Path, out: Path, capfd: Out, filled: Filled) -> None:
    assert len(filled.copied) > 75
    assert copied(disk, out, capfd) == filled.copied
    if filled.sparse:
        sparse = (out / "sparse").stat()
        assert sparse.st_size == SPARSE
        assert sparse.st_blocks * 512 < MIB


@pytest.mark.parametrize("kind", KINDS)
def test_files_come_out_of_every_kind(
    tmp_path: Path, capfd: Out, filled: Filled, kind: str
) -> None:
    at = ACROSS if "2gb" in kind.lower() else MIB
    raw = partitioned(filled.image, tmp_path / "disk.raw", at)
    disk = as_kind(raw, kind, tmp_path / "disk.vmdk")
    raw.unlink()
    come_out(disk, tmp_path / "out", capfd, filled)


@pytest.mark.parametrize("chain", CHAINS, ids="-".join)
def test_files_come_out_of_chains(tmp_path: Path, capfd: Out, filled: Filled, chain: Chain) -> None:
    disk = as_chain(partitioned(filled.image, tmp_path / "disk.raw"), chain, tmp_path)
    with diskkit.open_disk(disk) as opened:
        assert opened.link_count == 3
    come_out(disk, tmp_path / "out", capfd, filled)


def test_xfs_that_mkfs_filled_comes_out_of_a_chain(tmp_path: Path, capfd: Out) -> None:
    """The one above takes root and the kernel's driver."""
    reader_for("xfs")
    plant, put = MAKERS["xfs"]
    source = plant(tmp_path / "tree")
    add_real_files(source)
    put(tmp_path / "volume.raw", source)
    disk = as_chain(
        partitioned(tmp_path / "volume.raw", tmp_path / "disk.raw"), CHAINS[0], tmp_path
    )
    assert copied(disk, tmp_path / "out", capfd) == walk(source)


def looks(folder: Path) -> dict[bytes, tuple[int, int, int]]:
    """Mode, time and size of all files and folders."""
    found = {}
    root = os.fsencode(folder)
    for where, folders, files in os.walk(root):
        for name in folders + files:
            whole = where + b"/" + name
            seen = os.lstat(whole)
            if stat.S_ISREG(seen.st_mode) or stat.S_ISDIR(seen.st_mode):
                size = 0 if stat.S_ISDIR(seen.st_mode) else seen.st_size
                key = whole.removeprefix(root + b"/")
                found[key] = seen.st_mode & ~0o7000, seen.st_mtime_ns, size
    return found


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_files_are_as_the_kernel_shows_them(tmp_path: Path, capfd: Out, kind: str) -> None:
    """Filled by the kernel, read by us from a chain, and by the kernel from a converted copy."""
    reader_for(kind)
    source = unix_tree(tmp_path / "tree")
    add_real_files(source)
    image = tmp_path / "volume.raw"
    make_by_kernel(kind, image, source, tmp_path / "mount")
    disk = as_chain(image, CHAINS[0], tmp_path)
    ours = copied(disk, tmp_path / "out", capfd)
    assert main(["convert", str(disk), str(tmp_path / "copy.raw"), "-q"]) == 0
    with mounted(tmp_path / "copy.raw", kind, tmp_path / "mount"):
        theirs, shown = walk(tmp_path / "mount"), looks(tmp_path / "mount")
    for name in NOT_COPIED:
        del theirs[name]
    theirs.pop(b"lost+found", None)
    assert ours == theirs
    mine = looks(tmp_path / "out")
    assert mine == {name: shown[name] for name in mine}


def test_btrfs_is_left_to_the_kernel_which_gets_it_whole(tmp_path: Path, capfd: Out) -> None:
    source = unix_tree(tmp_path / "tree")
    add_real_files(source)
    image = tmp_path / "volume.raw"
    make_by_kernel("btrfs", image, source, tmp_path / "mount")
    disk = as_chain(image, CHAINS[0], tmp_path)
    assert main(["ls", f"{disk}:/"]) == 1
    assert "btrfs is read by the kernel only: mount the volume" in capfd.readouterr().err
    assert main(["convert", str(disk), str(tmp_path / "copy.raw"), "-q"]) == 0
    with mounted(tmp_path / "copy.raw", "btrfs", tmp_path / "mount"):
        assert walk(tmp_path / "mount") == walk(source)
