# SPDX-License-Identifier: Apache-2.0
"""What a volume holds, of filesystems that their own tools made, against blkid's opinion."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.cli import main
from diskkit.volumes import find_volumes, identify
from makers.peers import requires
from volumes.tables import Memory, put_mbr

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20

MADE = {
    "ext2": (8, ["mke2fs", "-q", "-t", "ext2", "-L", "my label"], "ext2"),
    "ext3": (8, ["mke2fs", "-q", "-t", "ext3"], "ext3"),
    "ext4": (8, ["mke2fs", "-q", "-t", "ext4", "-L", "0123456789abcdef"], "ext4"),
    "xfs": (300, ["mkfs.xfs", "-q", "-L", "xlabel"], "xfs"),
    "ntfs": (8, ["mkntfs", "-q", "-F", "-f", "-L", "Größe"], "ntfs"),
    "fat12": (2, ["mkfs.vfat", "-F", "12", "-n", "TWELVE"], "fat12"),
    "fat16": (16, ["mkfs.vfat", "-F", "16", "-n", "SIXTEEN"], "fat16"),
    "fat32": (40, ["mkfs.vfat", "-F", "32", "-n", "FAT LABEL"], "fat32"),
    "fat32 4K": (300, ["mkfs.vfat", "-F", "32", "-S", "4096"], "fat32"),
    "btrfs": (120, ["mkfs.btrfs", "-q", "-L", "butter"], "btrfs"),
    "swap": (2, ["mkswap", "-q", "-L", "swapped"], "swap"),
    "luks1": (4, ["cryptsetup", "-q", "luksFormat", "--type", "luks1"], "luks1"),
    "luks2": (
        20,
        ["cryptsetup", "-q", "luksFormat", "--type", "luks2", "--label", "vault"],
        "luks2",
    ),
}


def make(path: Path, name: str) -> None:
    size, (tool, *words), kind = MADE[name]
    with path.open("wb") as f:
        f.truncate(size * MIB)
    program = requires(tool)
    if kind == "luks1":
        words += ["--pbkdf-force-iterations", "1000"]
    elif kind == "luks2":
        words += ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
    subprocess.run(
        [program, *words, path], input=b"key", capture_output=True, timeout=60, check=True
    )


def blkid(path: Path, tag: str) -> str | None:
    done = subprocess.run(
        [requires("blkid"), "-p", "-o", "value", "-s", tag, path],
        capture_output=True,
        timeout=60,
        check=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    return done.stdout.decode().rstrip("\n") or None


@pytest.mark.parametrize("name", MADE)
def test_tools_and_blkid_agree(tmp_path: Path, name: str) -> None:
    path = tmp_path / "volume.raw"
    make(path, name)
    with diskkit.open_disk(path) as disk:
        table = find_volumes(disk)
    assert (table.scheme, table.warnings) == ("none", [])
    found = table.volumes[0].content
    assert found is not None
    assert found.filesystem == MADE[name][2]
    if name.startswith(("fat", "luks")):
        # blkid calls all of them vfat and crypto_LUKS.
        assert blkid(path, "TYPE") in ("vfat", "crypto_LUKS")
    else:
        assert found.filesystem == blkid(path, "TYPE")
    assert found.uuid == blkid(path, "UUID")
    assert found.label == blkid(path, "LABEL")


def test_partition_type_does_not_decide(tmp_path: Path) -> None:
    path = tmp_path / "v.raw"
    make(path, "ext4")
    disk = bytearray(MIB) + path.read_bytes()
    put_mbr(disk, [(0x07, 2048, 8 * 2048)])
    (volume,) = find_volumes(Memory(disk)).volumes
    assert volume.content is not None
    assert volume.content.filesystem == "ext4"


@pytest.mark.parametrize(
    ("at", "mark", "kind"),
    [
        (3, b"-FVE-FS-", "bitlocker"),
        (3, b"ReFS\0\0\0\0", "refs"),
        (3, b"EXFAT   ", "exfat"),
        (4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0", "linux_raid"),
        (0, b"\xfc\x4e\x2b\xa9\x01\0\0\0", "linux_raid"),
        (MIB - 8192, b"\xfc\x4e\x2b\xa9\x01\0\0\0", "linux_raid"),
        (MIB - 65536, b"\xfc\x4e\x2b\xa9\0\0\0\0", "linux_raid"),
        (0x8001, b"CD001", "iso9660"),
        (32, b"NXSB", "apfs"),
    ],
)
def test_what_cannot_be_made_here_is_known_by_its_mark(at: int, mark: bytes, kind: str) -> None:
    disk = bytearray(MIB)
    disk[at : at + len(mark)] = mark
    found = identify(Memory(disk))
    assert found is not None
    assert found.filesystem == kind


def test_dynamic_disks_are_named_and_not_read() -> None:
    disk = bytearray(2 * MIB)
    put_mbr(disk, [(0x42, 63, 2000)])
    (volume,) = find_volumes(Memory(disk)).volumes
    assert volume.content is not None
    assert volume.content.filesystem == "ldm"
    with pytest.raises(diskkit.UnsupportedFeature, match="dynamic disk"):
        volume.read(0, 1)


def test_volumes_answers_in_text_and_json(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "v.raw"
    make(path, "ext2")
    disk = bytearray(MIB) + path.read_bytes()
    put_mbr(disk, [(0x83, 2048, 8 * 2048), (0x83, 5, 1 << 30)])
    # A label is the guest's to choose; it must not steer the terminal.
    disk[MIB + 1024 + 120 : MIB + 1024 + 128] = b"\x1b[31mred"
    path.write_bytes(disk)
    assert main(["volumes", str(path)]) == 0
    out, err = capfd.readouterr()
    assert "\x1b" not in out
    assert r"\x1b[31mred" in out
    assert "p2: cannot be read: partition 2: length" in out
    assert "overlap" in err
    assert main(["volumes", str(path), "--json", "-q"]) == 0
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert err == ""
    assert found["scheme"] == "mbr"
    row = found["volumes"][0]
    keys = ("number", "offset", "length", "type", "filesystem", "label")
    assert [row[k] for k in keys] == [1, MIB, 8 * MIB, "0x83", "ext2", "\x1b[31mred"]
