# SPDX-License-Identifier: Apache-2.0
"""File names in descriptors that reach too far: row 22 and the kinds of file behind a name."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from diskkit import StorageError
from hostile.images import content, flat_disk, policy, refusal, says, split
from makers import flat, text_replace, write_descriptor

if TYPE_CHECKING:
    from pathlib import Path

DATA = b"s" * 4096


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A good flat file in a folder beside the disk's."""
    folder = tmp_path / "outside"
    folder.mkdir()
    flat(folder / "secret.bin", DATA)
    return folder / "secret.bin"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The disk's folder."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def named(folder: Path, name: str, kind: str = "FLAT") -> Path:
    """A disk whose one extent has that name."""
    line = f'RW 8 {kind} "{name}"' + (" 0" if kind == "FLAT" else "")
    return flat_disk(folder, line, create_type="custom")


def refused(disk: Path, name: str, *why: str) -> None:
    says(refusal(disk), f"{disk}: descriptor: extent file name is {name}", *why)


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["FLAT", "VMFS", "SPARSE", "VMFSSPARSE", "SESPARSE"])
def test_absolute_name(home: Path, outside: Path, kind: str) -> None:
    why = "outside the disk's own folder", f"allow {outside.parent} to open it"
    refused(named(home, str(outside), kind), str(outside), *why)


@pytest.mark.parametrize(
    "name", ["../outside/secret.bin", "./../outside/secret.bin", "x/../../outside/secret.bin"]
)
def test_name_that_climbs(home: Path, outside: Path, name: str) -> None:
    (home / "x").mkdir()
    refused(named(home, name), name, "outside the disk's own folder")


def test_names_below_the_folder_are_fine(home: Path) -> None:
    (home / "parts").mkdir()
    flat(home / "parts" / "a.bin", DATA)
    for name in ("parts/a.bin", "./parts/a.bin", "parts/../parts/a.bin", str(home / "parts/a.bin")):
        assert content(named(home, name)) == DATA


def test_folder_whose_name_only_begins_like_the_disks(tmp_path: Path, home: Path) -> None:
    (tmp_path / "home2").mkdir()
    flat(tmp_path / "home2" / "a.bin", DATA)
    refused(named(home, "../home2/a.bin"), "../home2/a.bin", "outside the disk's own folder")


@pytest.mark.parametrize(
    "name",
    [
        "C:\\disk.bin",
        "c:disk.bin",
        "nbd:localhost:10809",
        'json:{\\"driver\\":1}'.replace('\\"', "'"),
        "http://127.0.0.1/x",
        "https://127.0.0.1/x",
        "file:///etc/passwd",
        "ssh://host/x",
        "fat:rw:/tmp",
        "rbd:pool/image",
        "iscsi://host/x",
    ],
)
def test_drive_letters_and_protocols(home: Path, name: str) -> None:
    refused(named(home, name), name, "a drive letter or a protocol")


@pytest.mark.parametrize("name", ["\\\\server\\share\\x.bin", "sub\\flat.bin", "..\\flat.bin"])
def test_backslashes(home: Path, name: str) -> None:
    refused(named(home, name), name, "a backslash")


@pytest.mark.parametrize("kind", ["FLAT", "SPARSE"])
def test_vsan_names_open_nothing_in_other_kinds(home: Path, kind: str) -> None:
    from diskkit import UnsupportedFeature

    says(refusal(named(home, "vsan://52", kind), UnsupportedFeature), "vsan://52", "vSAN object")


@pytest.mark.parametrize("name", ["", "sub/"])
def test_no_name(home: Path, name: str) -> None:
    refused(named(home, name), name, "names no file")


@pytest.mark.parametrize("name", [".", "..", "sub", "/"])
def test_folder(home: Path, name: str) -> None:
    (home / "sub").mkdir()
    why = "names no file" if name == "/" else "it is a folder, not a regular file"
    refused(named(home, name), name, why)


def test_name_longer_than_a_file_system_has(home: Path) -> None:
    text = refusal(named(home, "n" * 5000))
    says(text, "extent file name is nnn", "File name too long")
    assert len(text) < 1000


def test_name_that_the_file_systems_encoding_lacks(home: Path) -> None:
    disk = named(home, "größe.bin")
    code = "import sys, diskkit\ntry: diskkit.open_disk(sys.argv[1])\n"
    code += "except diskkit.FormatError as error: print(error)"
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    found = subprocess.run(
        [sys.executable, "-c", code, str(disk)],
        env={**os.environ, **plain, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=30,
    )
    says(found.stdout, "extent file name is größe.bin", "not a usable name")


# --- what is behind a name -----------------------------------------------------------------------


def test_link_that_leaves_the_folder(home: Path, outside: Path) -> None:
    (home / "innocent.bin").symlink_to(outside)
    refused(named(home, "innocent.bin"), "innocent.bin", "outside the disk's own folder")


def test_link_to_a_folder_outside(home: Path, outside: Path) -> None:
    (home / "sub").symlink_to(outside.parent)
    refused(named(home, "sub/secret.bin"), "sub/secret.bin", "outside the disk's own folder")


def test_link_inside_the_folder_is_fine(home: Path) -> None:
    flat(home / "real.bin", DATA)
    (home / "link.bin").symlink_to("real.bin")
    assert content(named(home, "link.bin")) == DATA


def test_descriptor_reached_by_a_link_is_confined_to_where_it_lies(
    home: Path, outside: Path, tmp_path: Path
) -> None:
    disk = named(home, "flat.bin")
    link = tmp_path / "outside" / "disk.vmdk"
    link.symlink_to(disk)
    assert content(link) == (home / "flat.bin").read_bytes()
    text_replace(disk, "flat.bin", "../outside/secret.bin")
    says(refusal(link), "outside the disk's own folder")


def test_link_to_itself(home: Path) -> None:
    (home / "loop.bin").symlink_to("loop.bin")
    refused(named(home, "loop.bin"), "loop.bin", "cannot be opened")


def test_fifo_does_not_hang(home: Path) -> None:
    os.mkfifo(home / "fifo")
    refused(named(home, "fifo"), "fifo", "it is a FIFO, not a regular file")


def test_socket(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)  # the name of a socket may not be long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("sock")
        refused(named(home, "sock"), "sock", "it is a socket, not a regular file")


@pytest.mark.parametrize("name", ["/dev/null", "/dev/zero", "/dev/full", "/dev/tty"])
@pytest.mark.parametrize("devices", [False, True])
def test_character_device(home: Path, name: str, devices: bool) -> None:
    disk = named(home, name)
    text = refusal(disk, allow_devices=devices, allow=("/",))
    says(text, f"extent file name is {name}", "character device" if name != "/dev/tty" else "")
    assert "allow devices" not in text


def test_block_device(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = named(home, "flat.bin")
    fields = list((home / "flat.bin").stat())
    fields[0] = 0o60600
    device = os.stat_result(fields)
    real = os.stat
    monkeypatch.setattr(
        os, "stat", lambda path, **k: device if str(path).endswith(".bin") else real(path, **k)
    )
    refused(disk, "flat.bin", "it is a block device", "(allow devices)")
    assert content(disk, allow_devices=True)


def test_descriptor_names_itself(home: Path) -> None:
    disk = named(home, "disk.vmdk")
    says(refusal(disk), "line 9, extent file name is disk.vmdk", "names the descriptor itself")
    os.link(disk, home / "other.bin")
    text_replace(disk, '"disk.vmdk"', '"other.bin"')
    says(refusal(disk), "extent file name is other.bin", "names the descriptor itself")


def test_one_file_twice(home: Path) -> None:
    disk = split(home)
    text_replace(disk, "disk-s002.vmdk", "disk-s001.vmdk")
    why = "names a file that another extent uses already"
    says(refusal(disk), "line 10, extent file name is disk-s001.vmdk", why)


def test_one_file_twice_under_two_names(home: Path) -> None:
    disk = split(home)
    (home / "disk-s002.vmdk").unlink()
    os.link(home / "disk-s001.vmdk", home / "disk-s002.vmdk")
    says(refusal(disk), "extent file name is disk-s002.vmdk", "another extent uses already")


def test_one_file_as_flat_and_as_sparse(home: Path) -> None:
    disk = split(home)
    line = 'RW 8 FLAT "disk-s001.vmdk" 0\nRW 512 SPARSE "disk-s001.vmdk"'
    write_descriptor(disk, "custom", [line])
    says(refusal(disk), "line 10, extent file name is disk-s001.vmdk", "uses already")


# --- what the caller may lift --------------------------------------------------------------------


def test_allow_lifts_the_confinement(home: Path, outside: Path) -> None:
    for name in (str(outside), "../outside/secret.bin"):
        assert content(named(home, name), allow=(str(outside.parent),)) == DATA
        assert content(named(home, name), allow=("/",)) == DATA
    (home / "link.bin").symlink_to(outside)
    assert content(named(home, "link.bin"), allow=(str(outside.parent),)) == DATA


def test_allow_lifts_nothing_else(home: Path, outside: Path, tmp_path: Path) -> None:
    allow = (str(outside.parent),)
    other = tmp_path / "other"
    other.mkdir()
    flat(other / "x.bin", DATA)
    says(refusal(named(home, "../other/x.bin"), allow=allow), "outside the disk's own folder")
    (outside.parent / "leads-on.bin").symlink_to(other / "x.bin")
    says(refusal(named(home, "../outside/leads-on.bin"), allow=allow), "outside the disk's")
    os.mkfifo(outside.parent / "fifo")
    says(refusal(named(home, "../outside/fifo"), allow=allow), "FIFO")
    says(refusal(named(home, "nbd:x"), allow=("/",)), "protocol")
    says(refusal(named(home, "..\\outside\\secret.bin"), allow=("/",)), "backslash")
    says(refusal(named(home, "../outside"), allow=("/",)), "a folder")


def test_own_folder_stays_allowed_beside_others(home: Path, outside: Path) -> None:
    assert content(named(home, "flat.bin"), allow=(str(outside.parent),))


# --- the file the user names ---------------------------------------------------------------------


def test_the_disk_itself_must_be_a_regular_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    says(refusal(fifo, StorageError), fifo, "is a FIFO, not a regular file")
    says(refusal(tmp_path, StorageError), tmp_path, "is a folder, not a regular file")
    missing = tmp_path / "missing.vmdk"
    says(refusal(missing, StorageError), missing, "No such file")
    from pathlib import Path

    says(refusal(Path("/dev/null"), StorageError), "is a character device")


def test_name_with_a_nul(tmp_path: Path) -> None:
    from diskkit import open_disk

    with pytest.raises(StorageError, match="not a usable name"):
        open_disk(f"{tmp_path}/a\0b", policy=policy())
