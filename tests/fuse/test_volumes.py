# SPDX-License-Identifier: Apache-2.0
"""Logical and encrypted volumes through the kernel: as files, and the files in them."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

import diskkit as dk
from diskkit.cli.umount import _settle
from diskkit.volumes.asdisk import open_volume
from files.guests import make, walk
from files.test_copies import reader_for
from fuse.conftest import TIMEOUT, diskkit
from fuse.test_mount import change_at_random, data_of, inside
from volumes.groups import NAME, group, layouts
from volumes.tables import put_mbr
from volumes.test_asdisk import striped, write_disk
from volumes.test_luks import locked

if TYPE_CHECKING:
    from pathlib import Path

    from fuse.conftest import Mounts

MIB = 1 << 20
LAYOUTS = ["one segment", "two segments", "two disks"]


class Filesystem:
    """An ext4, and what is in it."""

    def __init__(self, folder: Path) -> None:
        reader_for("ext4")
        image, source = make("ext4", folder)
        self.raw = image.read_bytes()
        self.files = walk(source)


@pytest.fixture(scope="module")
def ext4(tmp_path_factory: pytest.TempPathFactory) -> Filesystem:
    return Filesystem(tmp_path_factory.mktemp("ext4"))


def grouped(folder: Path, image: bytes, layout: str) -> list[Path]:
    """The disks of a group with the image as its volume."""
    raws = group(image, layouts(image)[layout])
    return [write_disk(folder, "monolithicSparse", raw, f"pv{n}") for n, raw in enumerate(raws)]


def with_(others: list[Path]) -> list[str]:
    return [word for path in others for word in ("--with", str(path))]


def encrypted(folder: Path, plain: bytes) -> Path:
    """A disk whose second partition is a LUKS volume."""
    volume, _ = locked("luks2 4096", plain)
    raw = bytearray(8 * MIB) + volume
    put_mbr(raw, [(0x83, 2048, 2048), (0x83, 8 * MIB // 512, len(volume) // 512)])
    return write_disk(folder, "monolithicSparse", bytes(raw), "encrypted")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_logical_volume_and_its_files(
    mounts: Mounts, tmp_path: Path, ext4: Filesystem, layout: str
) -> None:
    paths = grouped(tmp_path, ext4.raw, layout)
    folder, process = mounts.mount(paths[0], *with_(paths[1:]))
    file = folder / "vg0-root"
    assert file.read_bytes() == ext4.raw
    found = data_of(file)
    with open_volume([dk.open_disk(path) for path in paths], NAME) as volume:
        held = [(o, o + n) for o, n in volume.allocated(chunk=512)]
    # What lies in a hole of the disk's own file is none for those who read.
    assert all(any(low <= begin < end <= high for low, high in held) for begin, end in found)
    assert len(found) > 1
    assert sum(end - begin for begin, end in found) < len(ext4.raw) // 2
    at = 0
    for begin, end in [*found, (len(ext4.raw), 0)]:
        assert not any(ext4.raw[at:begin])
        at = end
    assert inside(folder / "files" / "vg0-root") == ext4.files
    names = {"flat", "whole", "vg0-root", "files"} | ({"d2whole"} if paths[1:] else set())
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "flat").read_bytes()[: 2 * MIB] == group(ext4.raw, layouts(ext4.raw)[layout])[
        0
    ][: 2 * MIB]
    assert mounts.end(process) == (0, "")
    # Its files alone.
    folder, process = mounts.mount(paths[0], "--volume", NAME, *with_(paths[1:]))
    assert inside(folder) == ext4.files
    assert mounts.end(process) == (0, "")


def test_a_group_needs_its_other_disk(mounts: Mounts, tmp_path: Path, ext4: Filesystem) -> None:
    first, _ = grouped(tmp_path, ext4.raw, "two disks")
    folder, process = mounts.mount(first)
    assert {path.name for path in folder.iterdir()} == {"flat", "whole"}
    assert mounts.end(process) == (0, "")
    done = diskkit("mount", first, mounts.folder(), "--volume", NAME)
    assert done.returncode == 1
    assert "physical volume pv1" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_written_volume_of_two_disks_against_a_model(mounts: Mounts, tmp_path: Path) -> None:
    """Striped, so that most changes go to both."""
    paths, content = striped(tmp_path)
    model = bytearray(content)
    for turn in ("1", "2"):
        folder, process = mounts.mount(paths[0], "--writable", *with_(paths[1:]))
        file = folder / "vg0-data"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.read_bytes() == model
        change_at_random(file, model, turn)
        assert mounts.end(process) == (0, "")
        with open_volume([dk.open_disk(path) for path in paths], "vg0/data") as volume:
            assert volume.read(0, volume.size) == model
        assert all(dk.check(path).ok for path in paths)


def test_a_written_volume_of_two_segments_against_a_model(
    mounts: Mounts, tmp_path: Path, ext4: Filesystem
) -> None:
    image = ext4.raw[: 8 * MIB]
    (path,) = grouped(tmp_path, image, "two segments")
    model = bytearray(image)
    folder, process = mounts.mount(path, "--writable")
    change_at_random(folder / "vg0-root", model, "segments")
    # The disk itself shows the same bytes: the volume's begin lies in its later segment.
    with (folder / "flat").open("rb") as flat:
        flat.seek(MIB + (8 // 2 + 3) * MIB)
        assert flat.read(4 * MIB) == model[: 4 * MIB]
    assert mounts.end(process) == (0, "")
    with open_volume([dk.open_disk(path)], NAME) as volume:
        assert volume.read(0, volume.size) == model


def test_all_disks_are_durable_once_it_is_unmounted(mounts: Mounts, tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.vmdk" for n in range(2)]
    for path in paths:
        dk.create_disk(path, 4 * MIB, "monolithicSparse")
    folder, process = mounts.mount(paths[0], "--writable", *with_(paths[1:]))
    for name in ("whole", "d2whole"):
        with (folder / name).open("r+b") as file:
            file.write(b"kept")
    # What umount does before it takes the folder away; whatever happens to the server then.
    _settle(str(folder))
    process.kill()
    process.wait(timeout=TIMEOUT)
    assert diskkit("umount", folder).returncode == 0
    for path in paths:
        with dk.open_disk(path) as disk:
            assert disk.read(0, 4) == b"kept"


def test_an_overlay_is_for_one_disk(mounts: Mounts, tmp_path: Path) -> None:
    paths, _ = striped(tmp_path)
    words = ["--overlay", str(tmp_path / "over"), *with_(paths[1:])]
    done = diskkit("mount", paths[0], mounts.folder(), *words)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "diskkit: mount: --overlay keeps what is written to one disk, and --with names more"
    ]
    assert not (tmp_path / "over").exists()


def test_what_is_inside_of_luks(
    mounts: Mounts, tmp_path: Path, ext4: Filesystem, key: Path
) -> None:
    path = encrypted(tmp_path, ext4.raw)
    before = path.read_bytes()
    folder, process = mounts.mount(path, "--key-file", key)
    names = {"flat", "p1", "p2", "p2.luks", "files"}
    assert {path.name for path in folder.iterdir()} == names
    file = folder / "p2.luks"
    assert file.read_bytes() == ext4.raw
    # Deciphered, and so all of it is data.
    assert data_of(file) == [(0, len(ext4.raw))]
    assert inside(folder / "files" / "p2.luks") == ext4.files
    assert mounts.end(process) == (0, "")
    folder, process = mounts.mount(path, "--key-file", key, "--volume", "p2.luks")
    assert inside(folder) == ext4.files
    assert mounts.end(process) == (0, "")
    assert path.read_bytes() == before


def test_a_group_inside_of_luks(
    mounts: Mounts, tmp_path: Path, ext4: Filesystem, key: Path
) -> None:
    (raw,) = group(ext4.raw, layouts(ext4.raw)["two segments"])
    path = encrypted(tmp_path, raw)
    folder, process = mounts.mount(path, "--key-file", key)
    assert (folder / "vg0-root").read_bytes() == ext4.raw
    assert inside(folder / "files" / "vg0-root") == ext4.files
    assert mounts.end(process) == (0, "")


def test_luks_on_a_disk_that_is_written_to(
    mounts: Mounts, tmp_path: Path, ext4: Filesystem, key: Path
) -> None:
    """The volume inside cannot be changed, and shows what becomes of the one around it."""
    path = encrypted(tmp_path, ext4.raw[: 4 * MIB])
    folder, process = mounts.mount(path, "--key-file", key, "--writable")
    outer, inner = folder / "p2", folder / "p2.luks"
    assert stat.S_IMODE(inner.stat().st_mode) == 0o400
    with pytest.raises(OSError, match="Read-only"):
        inner.open("r+b")
    assert inner.read_bytes() == ext4.raw[: 4 * MIB]
    with outer.open("r+b", buffering=0) as file:
        begin = outer.stat().st_size - 4 * MIB
        block = os.pread(file.fileno(), 4096, begin)
        os.pwrite(file.fileno(), bytes(4096), begin)
        changed = inner.read_bytes()
        assert changed[:4096] != ext4.raw[:4096]
        assert changed[4096:] == ext4.raw[4096 : 4 * MIB]
        os.pwrite(file.fileno(), block, begin)
        assert inner.read_bytes() == ext4.raw[: 4 * MIB]
    assert mounts.end(process) == (0, "")


def test_keys_that_open_nothing(mounts: Mounts, tmp_path: Path, key: Path) -> None:
    path = encrypted(tmp_path, bytes(MIB))
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"wrong")
    folder, process = mounts.mount(path, "--key-file", wrong)
    assert {path.name for path in folder.iterdir()} == {"flat", "p1", "p2"}
    assert mounts.end(process) == (0, "")
    for words, status, text in (
        (["--key-file", wrong, "--volume", "p2.luks"], 2, "the key opens none"),
        (["--volume", "p2"], 1, "give its key, and name p2.luks"),
        (["--key-file", tmp_path / "none"], 1, "No such file"),
    ):
        done = diskkit("mount", path, mounts.folder(), *words)
        assert (done.returncode, text in done.stderr) == (status, True), done.stderr
        assert len(done.stderr.splitlines()) == 1
