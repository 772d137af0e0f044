# SPDX-License-Identifier: Apache-2.0
"""Volumes mounted by the kernel's own drivers, on our file and a loop device."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

import diskkit as dk
from diskkit.errors import StorageError, UnsupportedFeature
from diskkit.fuse import kernel, loop, mounting, servers
from diskkit.fuse.servers import Note, Writer
from files.guests import make, plain_names, unix_tree, walk
from fuse.conftest import TIMEOUT, diskkit, require_driver
from fuse.test_volumes import encrypted, grouped, with_
from makers.peers import requires
from volumes.groups import NAME
from volumes.tables import put_mbr

if TYPE_CHECKING:
    from collections.abc import Callable

    from diskkit.volumes import Volume
    from fuse.conftest import Mounts

MIB = 1 << 20
START = 8 * MIB
MAKERS = {
    "ext2": (64, ["mke2fs", "-q", "-t", "ext2"], ["e2fsck", "-fn"]),
    "ext4": (64, ["mke2fs", "-q", "-t", "ext4"], ["e2fsck", "-fn"]),
    "xfs": (320, ["mkfs.xfs", "-q"], ["xfs_repair", "-n"]),
    "btrfs": (160, ["mkfs.btrfs", "-q"], ["btrfs", "check", "--readonly"]),
}


@pytest.fixture
def needs(mounts: Mounts) -> Callable[[str], None]:
    """`require_driver`, once it is known that there is FUSE."""
    return require_driver


def quiet(*words: str | Path) -> None:
    done = subprocess.run(
        [requires(str(words[0])), *words[1:]], capture_output=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")


def empty_volume(kind: str, folder: Path, words: tuple[str, ...] = ()) -> Path:
    """An empty filesystem."""
    size, make, _ = MAKERS[kind]
    volume = folder / "volume.raw"
    volume.touch()
    os.truncate(volume, size * MIB)
    quiet(*make, *words, volume)
    return volume


def empty(
    kind: str, folder: Path, disk_kind: str = "monolithicSparse", words: tuple[str, ...] = ()
) -> Path:
    """A disk whose second partition holds an empty filesystem."""
    size = MAKERS[kind][0]
    volume, raw, path = (
        empty_volume(kind, folder, words),
        folder / "disk.raw",
        folder / f"{folder.name}.vmdk",
    )
    table = bytearray(START)
    put_mbr(table, [(0x83, 2048, 2048), (0x83, START // 512, size * MIB // 512)])
    raw.write_bytes(table)
    seek = [f"if={volume}", f"of={raw}", "bs=1M", "seek=8", "conv=sparse,notrunc", "status=none"]
    quiet("dd", *seek)
    os.truncate(raw, START + size * MIB)
    with dk.open_disk(raw) as disk:
        dk.clone(disk, path, disk_kind)
    return path


def volume_of(path: Path, folder: Path) -> Path:
    """Its second partition as a file."""
    raw, found = folder / "again.raw", folder / "again.volume"
    assert diskkit("convert", path, raw, "--type", "raw", "--force", "-q").returncode == 0
    quiet("dd", f"if={raw}", f"of={found}", "bs=1M", "skip=8", "conv=sparse", "status=none")
    os.truncate(found, raw.stat().st_size - START)
    return found


def hashed(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def left(path: Path) -> list[str]:
    """What is left of mounts of a disk: loop devices and notes."""
    files = [f.read_text() for f in Path("/sys/block").glob("loop*/loop/backing_file")]
    found = [file for file in files if path.name in file]
    for reader in servers.notes():
        with reader:
            note = reader.note
            if note is not None and note.disk == str(path):
                found.append(note.label)
    return found


def gone(path: Path) -> None:
    """Nothing is left, or soon nothing is: the kernel gives loop devices back when it has time."""
    until = time.monotonic() + TIMEOUT
    while left(path):
        assert time.monotonic() < until, left(path)
        os.sched_yield()


def inside(folder: Path) -> dict[bytes, tuple[str, str]]:
    found = walk(folder)
    found.pop(b"lost+found", None)
    return found


@pytest.mark.parametrize("kind", MAKERS)
def test_written_by_the_kernel(
    mounts: Mounts, needs: Callable[[str], None], tmp_path: Path, kind: str
) -> None:
    needs(kind)
    path, source = empty(kind, tmp_path), tmp_path / "tree"
    (plain_names if kind == "xfs" else unix_tree)(source)
    folder = mounts.folder()
    done = diskkit("mount", path, folder, "--volume", "2", "--writable")
    assert done.returncode == 0, done.stderr
    try:
        quiet("cp", "-a", f"{source}/.", folder)
        (folder / "big.bin").write_bytes(b"another")
        (folder / "big.bin").unlink()
        quiet("cp", "-a", source / "big.bin", folder)
        assert inside(folder) == walk(source)
    finally:
        done = diskkit("umount", folder)
    assert done.returncode == 0, done.stderr
    gone(path)
    # The server has ended: the disk is free, sound, and its filesystem is clean.
    assert dk.check(path).ok
    quiet(*MAKERS[kind][2], volume_of(path, tmp_path))
    if kind == "btrfs":
        folder, process = mounts.mount(path, "--volume", "2", "--kernel")
    else:
        folder, process = mounts.mount(path, "--volume", "2")
    assert {k: v for k, v in inside(folder).items() if v[0] != "other"} == {
        k: v for k, v in walk(source).items() if v[0] != "other"
    }
    assert mounts.end(process) == (0, "")


def dirty(mounts: Mounts, tmp_path: Path, kind: str) -> tuple[Path, bytes]:
    """A disk whose filesystem needs its journal, since its server was killed, and a file in it."""
    path, content = empty(kind, tmp_path), os.urandom(MIB)
    folder, process = mounts.mount(path, "--volume", "2", "--writable")
    with (folder / "kept").open("wb") as file:
        file.write(content)
        os.fsync(file.fileno())
    process.kill()
    process.wait(timeout=TIMEOUT)
    done = diskkit("umount", folder)
    assert done.returncode == 1
    assert "its server had died" in done.stderr
    gone(path)
    with dk.open_disk(path) as disk:
        needs_recovery = disk.read(START + 1024 + 0x60, 1)[0] & 4
        assert needs_recovery or kind != "ext4"
    return path, content


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_journal_is_replayed_into_the_overlay(
    mounts: Mounts, needs: Callable[[str], None], tmp_path: Path, kind: str
) -> None:
    needs(kind)
    path, content = dirty(mounts, tmp_path, kind)
    before = hashed(path)
    # For reading only, the journal is left alone.
    folder, process = mounts.mount(path, "--volume", "2", "--kernel")
    with pytest.raises(OSError, match="Read-only"):
        (folder / "new").write_bytes(b"")
    assert mounts.end(process) == (0, "")
    assert hashed(path) == before
    over = tmp_path / "over"
    folder, process = mounts.mount(path, "--volume", "2", "--overlay", over)
    assert (folder / "kept").read_bytes() == content
    (folder / "more").write_bytes(b"into the overlay")
    assert mounts.end(process) == (0, "")
    assert hashed(path) == before
    folder, process = mounts.mount(path, "--volume", "2", "--overlay", over, "--kernel")
    assert (folder / "more").read_bytes() == b"into the overlay"
    assert mounts.end(process) == (0, "")
    # Into the disk only if it may be written to.
    over.unlink()
    folder, process = mounts.mount(path, "--volume", "2", "--writable")
    assert (folder / "kept").read_bytes() == content
    assert mounts.end(process) == (0, "")
    assert hashed(path) != before
    quiet(*MAKERS[kind][2], volume_of(path, tmp_path))
    gone(path)


@pytest.mark.parametrize("layout", ["two segments", "two disks"])
def test_a_logical_volume_is_written_by_the_kernel(
    mounts: Mounts, needs: Callable[[str], None], tmp_path: Path, layout: str
) -> None:
    """Without device-mapper, on one disk and on two."""
    needs("ext4")
    paths = grouped(tmp_path, empty_volume("ext4", tmp_path).read_bytes(), layout)
    first, others = paths[0], with_(paths[1:])
    source = unix_tree(tmp_path / "tree")
    folder = mounts.folder()
    done = diskkit("mount", first, folder, "--volume", NAME, "--writable", *others)
    assert done.returncode == 0, done.stderr
    try:
        quiet("cp", "-a", f"{source}/.", folder)
        assert inside(folder) == walk(source)
    finally:
        done = diskkit("umount", folder)
    assert done.returncode == 0, done.stderr
    gone(first)
    assert all(dk.check(path).ok for path in paths)
    volume = tmp_path / "again.raw"
    done = diskkit("convert", first, volume, "--volume", NAME, *others, "-q")
    assert done.returncode == 0, done.stderr
    quiet(*MAKERS["ext4"][2], volume)
    folder, process = mounts.mount(first, "--volume", NAME, *others)
    assert inside(folder) == walk(source)
    assert mounts.end(process) == (0, "")
    # For reading only, and into an overlay, which takes what is written to one disk.
    before = [hashed(path) for path in paths]
    over = [] if others else ["--overlay", str(tmp_path / "over")]
    for words in (["--kernel"], over):
        folder, process = mounts.mount(first, "--volume", NAME, *others, *words)
        assert inside(folder) == walk(source)
        if words == over and over:
            (folder / "more").write_bytes(b"into the overlay")
        assert mounts.end(process) == (0, "")
    assert [hashed(path) for path in paths] == before
    gone(first)


def test_an_encrypted_volume_is_shown_by_the_kernel(
    mounts: Mounts, needs: Callable[[str], None], tmp_path: Path, key: Path
) -> None:
    needs("ext4")
    image, source = make("ext4", tmp_path)
    path = encrypted(tmp_path, image.read_bytes())
    before = hashed(path)
    words = ["--key-file", str(key), "--volume", "p2.luks"]
    folder, process = mounts.mount(path, "--kernel", *words)
    assert inside(folder) == walk(source)
    with pytest.raises(OSError, match="Read-only"):
        (folder / "new").write_bytes(b"")
    assert mounts.end(process) == (0, "")
    gone(path)
    for more, text in (
        (["--writable"], "volume p2.luks: can be read only, since it is deciphered"),
        (["--overlay", str(tmp_path / "over")], "volume p2.luks: can be read only"),
        (["--kernel", "--volume", "p2"], "luks2 is not mounted by the kernel (give its key"),
    ):
        done = diskkit("mount", path, mounts.folder(), *words, *more)
        assert (done.returncode, text in done.stderr) == (1, True), done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert hashed(path) == before
    gone(path)


def test_listed_busy_and_unmounted_by_others(
    mounts: Mounts, needs: Callable[[str], None], tmp_path: Path
) -> None:
    needs("ext4")
    path = empty("ext4", tmp_path)
    folder, process = mounts.mount(path, "--volume", "p2", "--writable")
    listed = json.loads(diskkit("mount", "--list", "--json").stdout)["mounts"]
    (one,) = [one for one in listed if one["folder"] == str(folder)]
    assert (one["disk"], one["kernel"], one["alive"]) == (str(path), True, True)
    assert one["loop"].startswith("/dev/loop")
    row = next(row for row in mounting.rows() if row.folder == str(folder))
    assert {"rw", "nosuid", "nodev"} <= set(row.options.split(","))
    with (folder / "open").open("wb") as file:
        busy = diskkit("umount", folder)
        assert (busy.returncode, "is in use" in busy.stderr) == (1, True)
        assert diskkit("umount", folder, "--lazy").returncode == 0
        assert process.poll() is None
        file.write(b"still there")
    # The last one inside has gone: the server ends by itself.
    assert process.communicate(timeout=TIMEOUT)[1] == ""
    assert process.returncode == 0
    folder, process = mounts.mount(path, "--volume", "p2", "--writable")
    assert (folder / "open").read_bytes() == b"still there"
    quiet("umount", folder)
    assert process.communicate(timeout=TIMEOUT)[1] == ""
    assert process.returncode == 0
    gone(path)


def test_interrupted_while_somebody_is_inside(
    mounts: Mounts, needs: Callable[[str], None], tmp_path: Path
) -> None:
    needs("ext4")
    path = empty("ext4", tmp_path, "monolithicFlat")
    folder, process = mounts.mount(path, "--volume", "2", "--writable")
    with (folder / "open").open("wb") as file:
        process.send_signal(signal.SIGINT)
        while any(folder.iterdir()):
            os.sched_yield()
        file.write(b"late")
    assert process.communicate(timeout=TIMEOUT)[1] == ""
    assert process.returncode == 0
    folder, process = mounts.mount(path, "--volume", "2")
    assert (folder / "open").read_bytes() == b"late"
    assert mounts.end(process) == (0, "")


def test_after_a_killed_server_all_goes_on(
    mounts: Mounts, needs: Callable[[str], None], tmp_path: Path
) -> None:
    needs("ext4")
    path = empty("ext4", tmp_path)
    folder, process = mounts.mount(path, "--volume", "2", "--kernel")
    process.kill()
    process.wait(timeout=TIMEOUT)
    listed = diskkit("mount", "--list").stdout
    assert [line for line in listed.splitlines() if str(folder) in line and "died" in line]
    # Nothing could be lost, so there is nothing to complain about.
    done = diskkit("umount", folder)
    assert (done.returncode, done.stderr) == (0, "")
    gone(path)
    folder, process = mounts.mount(path, "--volume", "2", "--writable")
    (folder / "x").write_bytes(b"x")
    process.kill()
    process.wait(timeout=TIMEOUT)
    quiet("umount", folder)
    diskkit("mount", "--list")
    gone(path)


def test_what_found_no_room_is_told_when_it_is_unmounted(
    mounts: Mounts, needs: Callable[[str], None], tmp_path: Path
) -> None:
    needs("ext4")
    small = tmp_path / "small"
    small.mkdir()
    quiet("mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", small)
    try:
        path = Path(shutil.copy(empty("ext4", tmp_path), small))
        folder = mounts.folder()
        done = diskkit("mount", path, folder, "--volume", "2", "--writable")
        assert done.returncode == 0, done.stderr
        # The filesystem has the room, and the disk's file has not. Nobody waits for it here.
        (folder / "more").write_bytes(os.urandom(16 * MIB))
        done = diskkit("umount", folder)
        assert done.returncode == 1
        assert "what was written may be lost" in done.stderr
        assert "No space left" in done.stderr
        gone(path)
    finally:
        quiet("umount", "-l", small)


@pytest.mark.parametrize("how", ["--kernel", "--writable"])
def test_no_image_decides_that_this_machine_panics(
    mounts: Mounts, needs: Callable[[str], None], tmp_path: Path, how: str
) -> None:
    needs("ext4")
    path = empty("ext4", tmp_path, words=("-e", "panic"))
    folder, process = mounts.mount(path, "--volume", "2", how)
    rows = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    options = next(row[3].split(",") for row in rows if row[1] == str(folder))
    assert "errors=remount-ro" in options
    assert mounts.end(process) == (0, "")


def test_what_cannot_be_mounted(
    mounts: Mounts, needs: Callable[[str], None], tmp_path: Path
) -> None:
    needs("ext4")
    path, folder = empty("ext4", tmp_path), mounts.folder()
    with dk.open_disk(path, writable=True) as disk:
        disk.write(START + 1024 + 0x18, b"\xff" * 4)  # the size of blocks
    for words, status, text in (
        (["--kernel"], 2, "say which by --volume"),
        (["--kernel", "--volume", "1"], 1, "no filesystem was recognised"),
        (["--writable", "--volume", "2", "--allow-other"], 2, "the files' modes"),
        (["--writable", "--volume", "2"], 1, "the kernel's ext4 does not mount it"),
    ):
        done = diskkit("mount", path, folder, *words)
        assert (done.returncode, text in done.stderr) == (status, True), done.stderr
        assert len(done.stderr.splitlines()) == 1
    gone(path)
    assert not [row for row in mounting.rows() if row.folder == str(folder)]


def held(kind: str) -> Volume:
    content = SimpleNamespace(filesystem=kind)
    return SimpleNamespace(problem=None, name="p1", content=content)  # type: ignore[return-value]


def test_nothing_is_promised_that_the_kernel_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(loop, "check_usable", lambda: None)
    monkeypatch.setattr(kernel, "known_to_kernel", lambda: {"ext4", "btrfs"})
    assert kernel.driver_for(held("ext3"))[0] == "ext4"
    with pytest.raises(UnsupportedFeature, match=r"no driver for ntfs .*shown by readers"):
        kernel.driver_for(held("ntfs"))
    with pytest.raises(UnsupportedFeature, match=r"no driver for f2fs .*no reader"):
        kernel.driver_for(held("f2fs"))
    with pytest.raises(UnsupportedFeature, match="lvm2 is not mounted by the kernel"):
        kernel.driver_for(held("lvm2"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UnsupportedFeature, match=r"only root .*shown by readers"):
        kernel.driver_for(held("ext4"))


def test_notes_tell_how_a_server_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(servers, "FOLDER", tmp_path / "run")
    note = Note("l", "disk", "/mnt", "/dev/loop9", writable=True)
    with Writer() as writer:
        assert servers.notes() == []
        writer.write(note)
        (reader,) = servers.notes()
        assert (reader.note, reader.alive(), reader.ended()) == (note, True, None)
    assert (reader.alive(), reader.ended()) == (False, "")
    reader.close()
    assert servers.notes() == []
    writer = Writer()
    writer.write(note)
    (reader,) = servers.notes()
    error = StorageError("disk", "No space left on device")
    writer.__exit__(StorageError, error, None)
    monkeypatch.setattr(mounting, "unmount", lambda *_, **__: None)
    with reader, pytest.raises(StorageError, match="may be lost: disk: No space left"):
        kernel.unmount_volume(reader, note, lazy=False)
    (tmp_path / "run").chmod(0o755)
    with pytest.raises(StorageError, match="0700"):
        Writer()
