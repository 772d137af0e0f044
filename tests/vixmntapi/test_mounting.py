# SPDX-License-Identifier: Apache-2.0
"""Volumes mounted through VixMntapi: for writing, and for reading without any change."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import diskkit as dk
from diskkit import vixdisklib as vix
from diskkit import vixmntapi as mnt
from diskkit.fuse import kernel, loop, mounting
from files.guests import make_ext
from files.test_copies import reader_for
from fuse.conftest import TIMEOUT, diskkit
from fuse.test_kernel import MAKERS, MIB, START, dirty, empty, gone, hashed, quiet, volume_of
from makers.peers import requires
from vixmntapi.conftest import code
from volumes.tables import PE_START, Part, lvm_text, put_mbr, put_pv

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuse.conftest import Mounts
    from vixmntapi.conftest import Started

    Needs = Callable[[str], None]

READ_ONLY = vix.VIXDISKLIB_FLAG_OPEN_READ_ONLY


def folder_of(volume: int) -> Path:
    info = mnt.GetVolumeInfo(volume)
    assert info.isMounted
    return Path(info.symbolicLink)


def read_by_debugfs(volume: Path, name: str) -> bytes:
    words = [requires("debugfs"), "-R", f"cat {name}", str(volume)]
    return subprocess.run(words, capture_output=True, timeout=TIMEOUT, check=True).stdout


def sound(path: Path, folder: Path, kind: str = "ext4") -> Path:
    """The second volume as a file, after the judges of disk and filesystem have seen them."""
    gone(path)
    assert dk.check(path).ok
    volume = volume_of(path, folder)
    quiet(*MAKERS[kind][2], volume)
    return volume


# --- for writing ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "filesystem"),
    [
        ("monolithicSparse", "ext4"),
        ("monolithicSparse", "ext2"),
        ("twoGbMaxExtentFlat", "ext4"),
        ("vmfsThin", "ext4"),
    ],
)
def test_what_is_written_is_in_the_image(
    started: Started, by_kernel: Needs, tmp_path: Path, kind: str, filesystem: str
) -> None:
    by_kernel(filesystem)
    path = empty(filesystem, tmp_path, kind)
    content = os.urandom(3 * MIB)
    with dk.open_disk(path) as disk:
        before = disk.info.cid
    disks, (_, volume) = started.open(path)
    mnt.MountVolume(volume, readOnly=False)
    folder = folder_of(volume)
    (folder / "written").write_bytes(content)
    assert code(mnt.MountVolume, volume, False) == vix.VIX_E_MNTAPI_VOLUME_ALREADY_MOUNTED
    mnt.DismountVolume(volume)
    assert not folder.exists()
    # The set is open still, and all is on the disk.
    copy = shutil.copytree(
        path.parent, tmp_path / "copy", ignore=shutil.ignore_patterns("m*", "*w")
    )
    assert read_by_debugfs(volume_of(copy / path.name, copy), "written") == content
    mnt.CloseDiskSet(disks)
    assert read_by_debugfs(sound(path, tmp_path), "written") == content
    with dk.open_disk(path) as disk:
        assert disk.info.cid != before
    assert started.warnings == []


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_journal_is_replayed_for_writing_only(
    started: Started, by_kernel: Needs, mounts: Mounts, tmp_path: Path, kind: str
) -> None:
    by_kernel(kind)
    path, content = dirty(mounts, tmp_path, kind)
    before = hashed(path)
    disks, (_, volume) = started.open(path)
    mnt.MountVolume(volume, readOnly=True)
    (folder_of(volume) / "kept").exists()
    with pytest.raises(OSError, match="Read-only"):
        (folder_of(volume) / "new").write_bytes(b"")
    mnt.DismountVolume(volume)
    assert hashed(path) == before
    mnt.MountVolume(volume, readOnly=False)
    assert (folder_of(volume) / "kept").read_bytes() == content
    mnt.CloseDiskSet(disks)
    sound(path, tmp_path, kind)


def test_a_volume_on_two_disks(started: Started, by_kernel: Needs, tmp_path: Path) -> None:
    by_kernel("ext4")
    reader_for("ext4")
    (tmp_path / "tree").mkdir()
    make_ext(tmp_path / "fs.raw", tmp_path / "tree", "ext4")
    whole = (tmp_path / "fs.raw").read_bytes()
    half = len(whole) // MIB // 2
    # The second half lies on the first disk.
    parts = [Part(0, half, [(1, 0)]), Part(half, half, [(0, 0)])]
    text = lvm_text({"root": parts}, pvs=(0, 1), extent_sectors=MIB // 512)
    begin, paths = PE_START * 512, []
    for number, content in enumerate((whole[half * MIB :], whole[: half * MIB])):
        disk = bytearray(begin + len(content) + MIB)
        disk[begin : begin + len(content)] = content
        put_pv(disk, 0, len(disk), number, text)
        raw = tmp_path / f"pv{number}.raw"
        raw.write_bytes(disk)
        with dk.open_disk(raw) as made:
            dk.clone(made, tmp_path / f"pv{number}.vmdk", "monolithicSparse")
        paths.append(tmp_path / f"pv{number}.vmdk")
    before = [hashed(path) for path in paths]
    disks, volumes = started.open(*paths)
    (volume,) = [v for v in volumes if mnt.GetVolumeInfo(v).type == mnt.LVM_VOLUME]
    mnt.MountVolume(volume, readOnly=False)
    content = os.urandom(30 * MIB)  # more than one half can hold
    (folder_of(volume) / "big").write_bytes(content)
    mnt.DismountVolume(volume)
    mnt.CloseDiskSet(disks)
    gone(paths[1])
    assert all(old != hashed(path) for old, path in zip(before, paths, strict=True))
    out = tmp_path / "big"
    words = ("cp", f"{paths[0]}:vg0/root:/big", out, "--with", paths[1])
    assert diskkit(*words).returncode == 0
    assert out.read_bytes() == content


# --- opened for writing only when something is to be written ----------------------------------


def test_nothing_is_locked_or_changed_before_it_has_to_be(
    started: Started, by_kernel: Needs, tmp_path: Path
) -> None:
    by_kernel("ext4")
    path = empty("ext4", tmp_path)
    before = hashed(path)
    disks, (_, volume) = started.open(path)
    flat = Path(mnt.GetDiskSetInfo(disks).mountPath)
    mnt.MountVolume(volume, readOnly=True)
    mnt.GetOsInfo(disks)
    with dk.open_disk(path):  # others may read it all the time
        mnt.DismountVolume(volume)
        # It is not read by stealth while it is written: the mount waits for nobody.
        assert code(mnt.MountVolume, volume, False) == vix.VIX_E_FILE_ALREADY_LOCKED
        # And what was read before goes on.
        mnt.MountVolume(volume, readOnly=True)
        assert (folder_of(volume) / "lost+found").is_dir()
        with flat.open("rb") as file:
            file.seek(START + 1024 + 0x38)
            assert file.read(2) == b"\x53\xef"
    mnt.CloseDiskSet(disks)
    assert hashed(path) == before


def test_readers_see_what_is_written_beside_them(
    started: Started, by_kernel: Needs, tmp_path: Path
) -> None:
    by_kernel("ext4")
    path = empty("ext4", tmp_path)
    disks, (_, volume) = started.open(path)
    flat = Path(mnt.GetDiskSetInfo(disks).mountPath)
    with flat.open("rb") as held:
        mnt.MountVolume(volume, readOnly=False)
        (folder_of(volume) / "needle").write_bytes(b"a needle in a haystack")
        mnt.DismountVolume(volume)
        assert len(held.read(512)) == 512
    assert b"a needle in a haystack" in flat.read_bytes()
    # For others it is locked as long as the set is open.
    with pytest.raises(dk.LockedError):
        dk.open_disk(path)
    mnt.CloseDiskSet(disks)
    sound(path, tmp_path)


@pytest.mark.parametrize("how", ["flag", "connection"])
def test_read_only_sets_are_never_written_to(started: Started, tmp_path: Path, how: str) -> None:
    path = empty("ext4", tmp_path)
    before = hashed(path)
    if how == "connection":
        started.connection = vix.ConnectEx(None, True, None, None)
    disks, (_, volume) = started.open(path, flags=READ_ONLY if how == "flag" else 0)
    assert code(mnt.MountVolume, volume, False) == vix.VIX_E_MNTAPI_VOLUME_NOT_WRITABLE
    assert not mnt.GetVolumeInfo(volume).isMounted
    mnt.CloseDiskSet(disks)
    assert hashed(path) == before


def test_flags_are_those_of_open(started: Started, tmp_path: Path) -> None:
    path = empty("ext4", tmp_path)
    for flags in (1 << 3, 16 | 32):
        assert code(mnt.OpenDisks, started.connection, [str(path)], flags) == vix.VIX_E_INVALID_ARG


def test_what_cannot_be_written_to_says_why(
    started: Started, by_kernel: Needs, tmp_path: Path
) -> None:
    by_kernel("ext4")
    path = empty("ext4", tmp_path)
    with dk.open_disk(path) as disk:
        dk.clone(disk, tmp_path / "stream.vmdk", "streamOptimized")
    dk.create_child(path, tmp_path / "child.vmdk")
    for name, expected in (
        (path, vix.VIX_E_FILE_READ_ONLY),  # it has a child
        (tmp_path / "stream.vmdk", vix.VIX_E_DISK_NOTSUPPORTED),
    ):
        before = hashed(name)
        disks, (first, volume) = started.open(name)
        assert code(mnt.MountVolume, volume, False) == expected
        assert code(mnt.MountVolume, first, False) == vix.VIX_E_NOT_SUPPORTED
        mnt.MountVolume(volume, readOnly=True)
        mnt.CloseDiskSet(disks)
        assert hashed(name) == before
    # The child is what may be written to.
    disks, (_, volume) = started.open(tmp_path / "child.vmdk")
    mnt.MountVolume(volume, readOnly=False)
    (folder_of(volume) / "x").write_bytes(b"x")
    mnt.CloseDiskSet(disks)
    sound(tmp_path / "child.vmdk", tmp_path)


def test_what_is_missing_is_told_by_its_code(
    started: Started, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = empty("ext4", tmp_path)
    _, (_, volume) = started.open(path)
    monkeypatch.setattr(kernel, "known_to_kernel", lambda: {"ext4"})

    def fails() -> None:
        raise loop.NoLoop("/dev/loop-control", "no loop devices here")

    for module, name, value, expected in (
        (os, "geteuid", lambda: 1000, vix.VIX_E_MNTAPI_NO_ROOT),
        (kernel, "known_to_kernel", set, vix.VIX_E_MNTAPI_NO_DRIVER),
        (loop, "check_usable", fails, vix.VIX_E_MNTAPI_LOOP_FAILED),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            with pytest.raises(vix.VixError) as caught:
                mnt.MountVolume(volume, readOnly=False)
        assert caught.value.code == expected
        assert "can be mounted for reading only" in caught.value.text
        assert "--" not in caught.value.text
    with dk.open_disk(path):  # and it was not opened for writing
        pass


def test_a_filesystem_that_the_kernel_refuses(
    started: Started, by_kernel: Needs, tmp_path: Path
) -> None:
    by_kernel("ext4")
    path = empty("ext4", tmp_path)
    with dk.open_disk(path, writable=True) as disk:
        disk.write(START + 1024 + 0x18, b"\xff" * 4)  # the size of blocks
    disks, (_, volume) = started.open(path)
    assert code(mnt.MountVolume, volume, False) == vix.VIX_E_MNTAPI_OS_ERROR
    assert not mnt.GetVolumeInfo(volume).isMounted
    gone(path)
    mnt.CloseDiskSet(disks)


# --- ending -----------------------------------------------------------------------------------


def test_busy_folders_stay_unless_forced(
    started: Started, by_kernel: Needs, tmp_path: Path
) -> None:
    by_kernel("ext4")
    path = empty("ext4", tmp_path)
    disks, (_, volume) = started.open(path)
    mnt.MountVolume(volume, readOnly=False)
    folder = folder_of(volume)
    with (folder / "open").open("wb", buffering=0) as file:
        file.write(b"before")
        assert code(mnt.DismountVolume, volume) == vix.VIX_E_MNTAPI_UMOUNT
        assert folder_of(volume) == folder
        mnt.DismountVolume(volume, force=True)
        assert not folder.exists()
        assert not mnt.GetVolumeInfo(volume).isMounted
        # What was written before is durable, though somebody is inside.
        copy = tmp_path / "copy"
        copy.mkdir()
        shutil.copy(path, copy)
        assert read_by_debugfs(volume_of(copy / path.name, copy), "open") == b"before"
        file.write(b" and after")
    gone(path)  # the last one has left
    mnt.CloseDiskSet(disks)
    assert read_by_debugfs(sound(path, tmp_path), "open") == b"before and after"


def test_closing_a_set_ends_all_its_mounts(
    started: Started, by_kernel: Needs, tmp_path: Path
) -> None:
    by_kernel("ext4")
    path = empty("ext4", tmp_path)
    disks, (_, volume) = started.open(path)
    mnt.MountVolume(volume, readOnly=False)
    folder = folder_of(volume)
    with (folder / "open").open("wb", buffering=0) as file:
        file.write(b"before")
        mnt.CloseDiskSet(disks)
        assert not folder.exists()
        assert [text for text in started.warnings if "taken away all the same" in text]
        with dk.open_disk(path):
            pass
    gone(path)
    # Its journal was never closed, and what is in it is whole.
    volume_file = volume_of(path, tmp_path)
    words = [requires("e2fsck"), "-p", str(volume_file)]
    subprocess.run(words, capture_output=True, timeout=TIMEOUT, check=False)
    quiet("e2fsck", "-fn", volume_file)
    assert read_by_debugfs(volume_file, "open") == b"before"


def test_unmounted_by_others(started: Started, by_kernel: Needs, tmp_path: Path) -> None:
    by_kernel("ext4")
    path = empty("ext4", tmp_path)
    disks, (_, volume) = started.open(path)
    for words in (["umount"], ["umount", "-l"]):
        mnt.MountVolume(volume, readOnly=False)
        folder = folder_of(volume)
        (folder / "x").write_bytes(b"x")
        quiet(*words, folder)
        mnt.DismountVolume(volume)
        assert not folder.exists()
    mnt.MountVolume(volume, readOnly=False)
    (folder_of(volume) / "x").write_bytes(b"by our own program")
    done = diskkit("umount", folder_of(volume))
    assert (done.returncode, done.stderr) == (0, "")
    # It waited until all was durable.
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(path, copy)
    assert read_by_debugfs(volume_of(copy / path.name, copy), "x") == b"by our own program"
    mnt.DismountVolume(volume)
    mnt.MountVolume(volume, readOnly=True)
    quiet("umount", folder_of(volume))
    mnt.DismountVolume(volume)
    mnt.CloseDiskSet(disks)
    assert started.warnings == []
    sound(path, tmp_path)


@pytest.mark.parametrize("how", ["dismount", "close"])
def test_what_found_no_room_is_an_error(
    started: Started, by_kernel: Needs, tmp_path: Path, how: str
) -> None:
    by_kernel("ext4")
    small = tmp_path / "small"
    small.mkdir()
    quiet("mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", small)
    try:
        path = Path(shutil.copy(empty("ext4", tmp_path), small))
        disks, (_, volume) = started.open(path)
        mnt.MountVolume(volume, readOnly=False)
        folder = folder_of(volume)
        # The filesystem has the room, and the disk's file has not. Nobody waits for it here.
        (folder / "more").write_bytes(os.urandom(16 * MIB))
        if how == "dismount":
            assert code(mnt.DismountVolume, volume) == vix.VIX_E_DISK_FULL
            assert code(mnt.DismountVolume, volume) == vix.VIX_E_MNTAPI_VOLUME_NOT_MOUNTED
            mnt.CloseDiskSet(disks)
        else:
            assert code(mnt.CloseDiskSet, disks) == vix.VIX_E_DISK_FULL
        assert not folder.exists()
        gone(path)
    finally:
        quiet("umount", "-l", small)


# --- without a reader -------------------------------------------------------------------------


def test_btrfs_is_read_by_the_kernel(
    started: Started, by_kernel: Needs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    by_kernel("btrfs")
    path = empty("btrfs", tmp_path)
    disks, (_, volume) = started.open(path)
    mnt.MountVolume(volume, readOnly=False)
    (folder_of(volume) / "x").write_bytes(b"x")
    mnt.DismountVolume(volume)
    # For reading, although the disk is open for writing now.
    before = hashed(path)
    mnt.MountVolume(volume, readOnly=True)
    with pytest.raises(OSError, match="Read-only"):
        (folder_of(volume) / "y").write_bytes(b"")
    mnt.DismountVolume(volume)
    assert hashed(path) == before
    mnt.CloseDiskSet(disks)
    before = hashed(path)
    disks, (_, volume) = started.open(path)
    for _ in range(2):
        mnt.MountVolume(volume, readOnly=True)
        folder = folder_of(volume)
        assert (folder / "x").read_bytes() == b"x"
        with pytest.raises(OSError, match="Read-only"):
            (folder / "y").write_bytes(b"")
        row = next(row for row in mounting.rows() if row.folder == str(folder))
        assert {"ro", "nosuid", "nodev"} <= set(row.options.split(","))
        with dk.open_disk(path):  # nobody is locked out
            pass
        mnt.DismountVolume(volume)
    monkeypatch.setattr(kernel, "known_to_kernel", set)
    assert code(mnt.MountVolume, volume, True) == vix.VIX_E_MNTAPI_NO_DRIVER
    mnt.CloseDiskSet(disks)
    gone(path)
    assert hashed(path) == before


def test_what_nobody_knows_is_refused(started: Started, tmp_path: Path) -> None:
    raw = bytearray(4 * MIB)
    put_mbr(raw, [(0x83, 2048, 1024), (0x83, 4096, 1 << 30)])
    (tmp_path / "d.raw").write_bytes(raw)
    with dk.open_disk(tmp_path / "d.raw") as disk:
        dk.clone(disk, tmp_path / "d.vmdk", "monolithicSparse")
    _, (nothing, outside) = started.open(tmp_path / "d.vmdk")
    for read_only in (True, False):
        for volume in (nothing, outside):
            assert code(mnt.MountVolume, volume, read_only) == vix.VIX_E_NOT_SUPPORTED
