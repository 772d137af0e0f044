# SPDX-License-Identifier: Apache-2.0
"""What VixMntapi tells of the guest."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import diskkit as dk
from capi.test_volumes import guest
from diskkit import vixmntapi as mnt
from files.test_letters import mounted_devices, on_gpt, two_partitions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vixmntapi.conftest import Started


def test_letters_of_a_windows_guest(started: Started, tmp_path: Path) -> None:
    letters = {"C": on_gpt(uuid.UUID(int=1000)), "D": on_gpt(uuid.UUID(int=77))}
    raw = two_partitions(tmp_path, "gpt", mounted_devices(letters))
    with dk.open_disk(raw) as disk:
        dk.clone(disk, tmp_path / "d.vmdk", "monolithicSparse")
    disks, volumes = started.open(tmp_path / "d.vmdk")
    found = [mnt.GetVolumeInfo(volume) for volume in volumes]
    assert [one.inGuestMountPoints for one in found] == [("C:",), ()]
    assert [one.type for one in found] == [mnt.GPT_PARTITION] * 2
    system = mnt.GetOsInfo(disks)
    assert (system.family, system.osIs64Bit) == (mnt.WINDOWS, True)
    assert started.warnings == []


def test_what_the_guest_says_is_not_asked_of_what_is_being_changed(
    started: Started, by_kernel: Callable[[str], None], tmp_path: Path
) -> None:
    by_kernel("ext4")
    disks, (_, volume) = started.open(guest(tmp_path))
    mnt.MountVolume(volume, readOnly=False)
    (folder,) = (tmp_path / "mounts").iterdir()
    for name in ("os-release", "fstab"):
        (folder / "etc" / name).write_bytes(b"")
    mnt.DismountVolume(volume)
    assert mnt.GetVolumeInfo(volume).inGuestMountPoints == ("/", "/srv/a b")
    assert mnt.GetOsInfo(disks).vendor == "debian"
