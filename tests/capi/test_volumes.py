# SPDX-License-Identifier: Apache-2.0
"""VixMntapi from C: the files of a volume, in a folder."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

import diskkit
from files.guests import make_ext, plain_names
from makers.peers import SKIP_PREFIX
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


def test_the_files_of_a_volume(native: Native, tmp_path: Path) -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.geteuid():
        pytest.skip(f"{SKIP_PREFIX} /dev/fuse, as root")
    program = native.compile(PROGRAMS / "volumes.c", libraries=("vixDiskLib", "vixMntapi"))
    try:
        check(native.run(program, guest(tmp_path), env={"TMPDIR": str(tmp_path)}))
    finally:
        for left in tmp_path.glob("vixmntapi-*"):
            subprocess.run(["umount", "-l", str(left)], capture_output=True, check=False)
    assert not list(tmp_path.glob("vixmntapi-*"))
