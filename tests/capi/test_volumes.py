# SPDX-License-Identifier: Apache-2.0
"""VixMntapi from C: the files of a volume, in a folder."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.fuse.kernel import known_to_kernel
from files.guests import make_ext, plain_names
from makers.peers import SKIP_PREFIX, requires
from volumes.tables import put_mbr

from .test_programs import PROGRAMS, check

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Native

MIB = 1 << 20


def guest(folder: Path) -> Path:
    """A disk with an empty partition and one that holds a Debian."""
    source = plain_names(folder / "tree")
    (source / "hello.txt").write_bytes(b"hello\n")
    (source / "etc").mkdir()
    (source / "etc" / "os-release").write_text('ID=debian\nVERSION_ID="12"\nNAME=Debian\n')
    image, raw = folder / "volume.raw", folder / "disk.raw"
    fstab = "# root\n/dev/sda2 / ext4 defaults 0 1\nUUID=none /home ext4\n"
    (source / "etc" / "fstab").write_text(fstab + "/dev/vda2 /srv/a\\040b none bind\n")
    make_ext(image, source, "ext4")
    table = bytearray(2 * MIB)
    put_mbr(table, [(0x83, 2048, 1024), (0x83, 4096, image.stat().st_size // 512)])
    raw.write_bytes(bytes(table) + image.read_bytes())
    with diskkit.open_disk(raw) as disk:
        diskkit.clone(disk, folder / "guest.vmdk", "monolithicSparse")
    return folder / "guest.vmdk"


def run(native: Native, folder: Path, *words: str | Path) -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.geteuid():
        pytest.skip(f"{SKIP_PREFIX} /dev/fuse, as root")
    program = native.compile(PROGRAMS / "volumes.c", libraries=("vixDiskLib", "vixMntapi"))
    try:
        check(native.run(program, *words, env={"TMPDIR": str(folder)}))
    finally:
        for left in folder.glob("vixmntapi-*"):
            subprocess.run(["umount", "-l", str(left)], capture_output=True, check=False)
    assert not list(folder.glob("vixmntapi-*"))


def test_the_files_of_a_volume(native: Native, tmp_path: Path) -> None:
    path = guest(tmp_path)
    before = path.read_bytes()
    run(native, tmp_path, path)
    assert path.read_bytes() == before


def test_a_file_is_written(native: Native, tmp_path: Path) -> None:
    if not os.access("/dev/loop-control", os.R_OK | os.W_OK):
        pytest.skip(f"{SKIP_PREFIX} /dev/loop-control, as root")
    if "ext4" not in known_to_kernel():
        pytest.skip(f"{SKIP_PREFIX} ext4 in this kernel")
    path, volume = guest(tmp_path), tmp_path / "again.raw"
    run(native, tmp_path, path, "write")
    assert diskkit.check(path).ok
    with diskkit.open_disk(path) as disk:
        volume.write_bytes(disk.read(2 * MIB, disk.size - 2 * MIB))
    words = [requires("e2fsck"), "-fn", str(volume)]
    subprocess.run(words, capture_output=True, timeout=60, check=True)
    for name, content in (("new.txt", b"written by C\n"), ("hello.txt", b"hello\n")):
        words = [requires("debugfs"), "-R", f"cat {name}", str(volume)]
        done = subprocess.run(words, capture_output=True, timeout=60, check=True)
        assert done.stdout == content
