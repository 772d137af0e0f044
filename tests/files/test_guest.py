# SPDX-License-Identifier: Apache-2.0
"""Which system a volume holds, told by os-release and its elders, and by registry hives."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.cli import main
from diskkit.files import GuestOS, detect, open_filesystem
from diskkit.files.guest import hive_values
from diskkit.files.registry import MAX_VALUE
from diskkit.volumes import find_volumes
from files.guests import make_ext, make_ntfs
from files.hive import Tree, hive
from files.test_copies import reader_for
from makers.peers import SKIP_PREFIX

if TYPE_CHECKING:
    from pathlib import Path

ELF = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HH", 2, 62)


def found_in(path: Path) -> GuestOS | None:
    with diskkit.open_disk(path) as disk:
        (volume,) = find_volumes(disk).volumes
        with open_filesystem(volume) as fs:
            return detect(fs)


def linux(folder: Path, files: dict[str, bytes]) -> Path:
    reader_for("ext4")
    for name, content in files.items():
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "tree" / name).write_bytes(content)
    (folder / "tree" / "etc").mkdir(parents=True, exist_ok=True)
    make_ext(folder / "v.raw", folder / "tree", "ext4")
    return folder / "v.raw"


def test_linux_by_os_release(tmp_path: Path) -> None:
    text = (
        b"# made here\nID=debian\nVERSION_ID=\"12.4\"\nPRETTY_NAME='Debian GNU/Linux 12'\nbroken\n"
    )
    # As on a real system, a link leads to it, and it is a relative or an absolute one.
    path = linux(tmp_path, {"usr/lib/os-release": text, "etc/hostname": b"web01\n", "bin/sh": ELF})
    found = found_in(path)
    assert found == GuestOS(
        "linux", "debian", "Debian GNU/Linux 12", "12.4", 12, 4, "", "x86_64", "web01", "/"
    )
    assert found.is_64_bit


def test_linux_by_an_absolute_link(tmp_path: Path) -> None:
    (tmp_path / "tree" / "etc").mkdir(parents=True)
    (tmp_path / "tree" / "etc" / "os-release").symlink_to("/usr/lib/os-release")
    found = found_in(linux(tmp_path, {"usr/lib/os-release": b"ID=alpine\nVERSION_ID=3.19.1\n"}))
    assert found is not None
    assert (found.vendor, found.major, found.minor) == ("alpine", 3, 19)


@pytest.mark.parametrize(
    ("name", "text", "vendor", "major"),
    [
        ("etc/lsb-release", b"DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=8.04\n", "ubuntu", 8),
        ("etc/redhat-release", b"CentOS release 6.10 (Final)\n", "centos", 6),
        ("etc/debian_version", b"7.11\n", "debian", 7),
    ],
)
def test_old_linux(tmp_path: Path, name: str, text: bytes, vendor: str, major: int) -> None:
    found = found_in(linux(tmp_path, {name: text}))
    assert found is not None
    assert (found.vendor, found.major) == (vendor, major)


def test_no_system_is_none(tmp_path: Path) -> None:
    assert found_in(linux(tmp_path, {"etc/passwd": b"x"})) is None


def test_what_a_guest_says_steers_no_terminal(tmp_path: Path) -> None:
    found = found_in(linux(tmp_path, {"etc/os-release": b'ID="\x1b[31m"\nPRETTY_NAME="a\x07b"\n'}))
    assert found is not None
    assert found.vendor.isprintable()
    assert found.name == r"a\x07b"


def windows(folder: Path, software: bytes | Tree, system: bytes | Tree) -> Path:
    reader_for("ntfs")
    pytest.importorskip("pyregf", reason=f"{SKIP_PREFIX} pyregf")
    config = folder / "tree" / "Windows" / "System32" / "config"
    config.mkdir(parents=True)
    for name, content in (("SOFTWARE", software), ("SYSTEM", system)):
        raw = content if isinstance(content, bytes) else hive(content)
        (config / name).write_bytes(raw)
    make_ntfs(folder / "v.raw", folder / "tree")
    return folder / "v.raw"


def current_version(values: Tree) -> Tree:
    return {"Microsoft": {"Windows NT": {"CurrentVersion": values}}}


SYSTEM: Tree = {
    "Select": {"Current": 2},
    "ControlSet002": {
        "Control": {
            "Session Manager": {"Environment": {"PROCESSOR_ARCHITECTURE": "AMD64"}},
            "ComputerName": {"ComputerName": {"ComputerName": "DC01"}},
        }
    },
}


def test_windows_by_its_hives(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    values: Tree = {
        "ProductName": "Windows 10 Pro",
        "CurrentBuild": "22631",
        "EditionID": "Professional",
        "DisplayVersion": "23H2",
        "CurrentVersion": "6.3",
        "CurrentMajorVersionNumber": 10,
        "CurrentMinorVersionNumber": 0,
    }
    path = windows(tmp_path, current_version(values), SYSTEM)
    wanted = GuestOS(
        "windows",
        "Microsoft",
        "Windows 11 Pro 23H2",
        "10.0.22631",
        10,
        0,
        "Professional",
        "x86_64",
        "DC01",
        "/Windows",
    )
    assert found_in(path) == wanted
    assert main(["volumes", "--os", "--json", str(path)]) == 0
    (row,) = json.loads(capfd.readouterr().out)["volumes"]
    assert row["os"] == json.loads(json.dumps(wanted.as_dict()))
    assert main(["volumes", "--os", str(path)]) == 0
    assert "whole: Windows 11 Pro 23H2, x86_64, DC01" in capfd.readouterr().out


def test_old_windows_has_its_version_as_text(tmp_path: Path) -> None:
    values: Tree = {"ProductName": "Windows 7", "CurrentBuild": "7601", "CurrentVersion": "6.1"}
    found = found_in(windows(tmp_path, current_version(values), b"no hive"))
    assert found is not None
    assert (found.version, found.major, found.minor) == ("6.1.7601", 6, 1)
    assert found.architecture == ""
    assert found.is_64_bit is None


def test_values_of_all_kinds(tmp_path: Path) -> None:
    values: Tree = {
        "text": "é\n",
        "number": 7,
        "binary": bytes(range(256)),
        "short": b"\xff\0\1\2",
        "none": b"",
        "long": bytes(MAX_VALUE),
        "too long": bytes(MAX_VALUE + 5000),
    }
    path = windows(tmp_path, {"K": values}, {})
    wanted = [("K", name) for name in (*values, "missing")] + [("L", "text")]
    with diskkit.open_disk(path) as disk:
        (volume,) = find_volumes(disk).volumes
        with open_filesystem(volume) as fs:
            found = hive_values(fs, b"SOFTWARE", wanted)
            assert hive_values(fs, b"SAM", wanted) is None
    assert found == [*[v for k, v in values.items() if k != "too long"], None, None, None]


def test_damaged_hive_is_an_error(tmp_path: Path) -> None:
    raw = bytearray(hive(current_version({"ProductName": "x"})))
    raw[4096 + 32 :] = b"\xff" * (len(raw) - 4096 - 32)
    path = windows(tmp_path, bytes(raw), SYSTEM)
    with pytest.raises(diskkit.FormatError, match="registry hive"):
        found_in(path)
