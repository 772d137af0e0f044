# SPDX-License-Identifier: Apache-2.0
"""Drive letters of a Windows guest, by its registry; and what of that the verbs show."""

from __future__ import annotations

import json
import struct
import uuid
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.cli import main
from diskkit.files.fstab import MAX_ROWS
from diskkit.files.letters import means
from diskkit.files.survey import survey
from diskkit.volumes import Segment, Volume, find_volumes
from diskkit.volumes.volume import Stripe
from files.guests import make_ext
from files.hive import Tree, hive
from files.test_guest import SYSTEM, current_version, linux, windows
from volumes.tables import GptPartition, Memory, put_gpt, put_mbr

if TYPE_CHECKING:
    from pathlib import Path

    Out = pytest.CaptureFixture[str]

MIB = 1 << 20
DISK_ID = 0x1234ABCD
GUID = "1234abcd-0000-4000-8000-0123456789ab"
USB = "\\??\\USBSTOR#Disk&Ven_X#0#{53f56307-b6bf-11d0-94f2-00a0c91efb8b}".encode("utf-16-le")


def on_mbr(begin: int, disk_id: int = DISK_ID) -> bytes:
    return struct.pack("<IQ", disk_id, begin)


def on_gpt(guid: str | uuid.UUID) -> bytes:
    return b"DMIO:ID:" + uuid.UUID(str(guid)).bytes_le


def volume(kind: str, part_uuid: str | None) -> Volume:
    """One that begins at 1 MiB."""
    place = Stripe(Memory(bytes(3 * MIB)), MIB)
    made = Volume([Segment(0, MIB, [place], MIB)], number=1, name="p1", type=kind)
    made.part_uuid = part_uuid
    return made


MBR = volume("0x07", "1234abcd-01")
GPT = volume("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", GUID)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (on_mbr(MIB), [MBR]),
        (on_mbr(2 * MIB), []),
        (on_mbr(MIB, 0x1234ABCE), []),
        (on_mbr(MIB, 0), []),
        (on_gpt(GUID), [GPT]),
        (on_gpt(uuid.UUID(int=5)), []),
        (b"DMIO:XX:" + uuid.UUID(GUID).bytes_le, []),
        (b"", []),
        (on_mbr(MIB)[:-1], []),
        (on_mbr(MIB) + b"\0", []),
        (on_gpt(GUID)[:-1], []),
        (on_gpt(GUID) + b"\0", []),
        (USB, []),
        (b"\xff" * 65536, []),
    ],
    ids=lambda value: str(len(value)),
)
def test_what_a_value_means(what: bytes, expected: list[Volume]) -> None:
    known = [volume("none", None), volume("lvm", GUID[:8] + "x" * 24), MBR, GPT]
    assert [one for one in known if means(what, one)] == expected


def mounted_devices(values: dict[str, bytes]) -> Tree:
    """As a hive SYSTEM has it, between what else is there."""
    names = {f"\\DosDevices\\{letter}:": value for letter, value in values.items()}
    others = {"\\??\\Volume{1}": on_mbr(MIB), "#{2}": USB, "n" * 30000: b""}
    return {**SYSTEM, "MountedDevices": {**others, **names}}


def two_partitions(folder: Path, scheme: str, system: bytes | Tree) -> Path:
    """A disk whose first partition holds a Windows, and whose second one some files."""
    software = current_version({"ProductName": "Windows 10 Pro"})
    first = windows(folder, software, system).read_bytes()
    (folder / "files").mkdir()
    make_ext(folder / "second.raw", folder / "files", "ext4")
    second = (folder / "second.raw").read_bytes()
    disk = bytearray(MIB) + first + second + bytes(MIB)
    begin, middle, end = (n // 512 for n in (MIB, MIB + len(first), len(disk) - MIB))
    if scheme == "mbr":
        put_mbr(disk, [(7, begin, middle - begin), (0x83, middle, end - middle)])
        disk[440:444] = DISK_ID.to_bytes(4, "little")
    else:
        put_gpt(disk, [GptPartition(begin, middle - 1), GptPartition(middle, end - 1)])
    path = folder / "disk.raw"
    path.write_bytes(disk)
    return path


def places_of(path: Path) -> tuple[dict[int, list[str]], list[str]]:
    warnings: list[str] = []
    with diskkit.open_disk(path) as disk:
        return survey(find_volumes(disk).volumes, warnings.append).places, warnings


SECOND = MIB + 48 * MIB


@pytest.mark.parametrize("scheme", ["mbr", "gpt"])
def test_letters_of_a_guest(tmp_path: Path, scheme: str, capfd: Out) -> None:
    values = {
        "mbr": {"C": on_mbr(MIB), "D": on_mbr(SECOND), "S": on_mbr(SECOND)},
        "gpt": {
            "C": on_gpt(uuid.UUID(int=1000)),
            **dict.fromkeys("DS", on_gpt(uuid.UUID(int=1001))),
        },
    }[scheme]
    others = {"A": USB, "E": on_mbr(MIB, 77), "F": on_gpt(uuid.UUID(int=77)), "Z": b"\xff" * 12}
    path = two_partitions(tmp_path, scheme, mounted_devices({**values, **others}))
    assert places_of(path) == ({1: ["C:"], 2: ["D:", "S:"]}, [])
    assert main(["volumes", "--os", "--json", str(path)]) == 0
    rows = json.loads(capfd.readouterr().out)["volumes"]
    assert [row["mount_points"] for row in rows] == [["C:"], ["D:", "S:"]]
    assert [row["os"] and row["os"]["hostname"] for row in rows] == ["DC01", None]
    assert main(["volumes", "--os", str(path)]) == 0
    told = capfd.readouterr().out
    assert "p1: Windows 10 Pro, x86_64, DC01\np1: mounted by the guest on C:\n" in told
    assert told.endswith("p2: mounted by the guest on D:, S:\n")
    # Nothing of that is asked for, nothing is told.
    assert main(["volumes", "--json", str(path)]) == 0
    assert "mount_points" not in capfd.readouterr().out


def spoiled(what: str) -> bytes:
    """A hive in whose key MountedDevices the value before the letter C cannot be right."""
    raw = bytearray(hive(mounted_devices({"B": b"\xff" * 12, "C": on_mbr(MIB)})))
    name = raw.index(b"\\DosDevices\\B:")
    value = name - 20
    if what == "name of surrogates":
        raw[value + 16 : value + 18] = b"\0\0"  # no longer a letter a byte
        raw[name : name + 14] = b"\x00\xd8" * 7
    elif what == "name of half a letter":
        raw[value + 16 : value + 18] = b"\0\0"
        raw[value + 2 : value + 4] = b"\x0d\0"
    elif what == "name beyond its cell":
        raw[value + 2 : value + 4] = b"\xff\xff"
    elif what == "data of 2 GiB":
        raw[value + 4 : value + 8] = b"\xff\xff\xff\x7f"
    elif what == "data outside":
        raw[value + 8 : value + 12] = b"\xff\xff\xff\x7f"
    return bytes(raw)


@pytest.mark.parametrize(
    ("what", "readable"),
    [
        ("nothing", True),
        ("name of surrogates", True),
        ("name of half a letter", False),
        ("name beyond its cell", False),
        ("data of 2 GiB", False),
        ("data outside", True),
    ],
)
def test_hostile_values_give_letters_or_one_warning(
    tmp_path: Path, what: str, readable: bool
) -> None:
    path = two_partitions(tmp_path, "mbr", spoiled(what))
    places, warnings = places_of(path)
    if readable:
        assert (places, warnings) == ({1: ["C:"]}, [])
    else:
        assert places == {}
        assert len(warnings) == 1
        assert warnings[0].startswith("volume p1: registry hive: unable to retrieve value")


def test_no_hive_is_no_letters(tmp_path: Path) -> None:
    path = two_partitions(tmp_path, "mbr", b"no hive")
    places, warnings = places_of(path)
    assert places == {}
    assert [text.split(":")[1] for text in warnings] == [" registry hive"]


def mounted_by(folder: Path, fstab: bytes) -> Path:
    """A disk with one partition, which holds a Linux."""
    files = {"etc/fstab": fstab, "etc/os-release": b"ID=debian\n"}
    content = linux(folder, files).read_bytes()
    disk = bytearray(MIB) + content
    put_mbr(disk, [(0x83, 2048, len(content) // 512)])
    path = folder / "disk.raw"
    path.write_bytes(disk)
    return path


def test_folders_of_a_linux_guest(tmp_path: Path, capfd: Out) -> None:
    fstab = b"LABEL=none /none ext4\n/dev/sda1 / ext4\n/dev/vda1 /srv/a\\040\\033b none bind\n"
    path = mounted_by(tmp_path, fstab)
    assert main(["volumes", "--os", "--json", str(path)]) == 0
    (row,) = json.loads(capfd.readouterr().out)["volumes"]
    assert row["mount_points"] == ["/", "/srv/a \x1bb"]
    assert main(["volumes", "--os", str(path)]) == 0
    # What a guest says steers no terminal.
    assert "p1: mounted by the guest on /, /srv/a \\x1bb\n" in capfd.readouterr().out


def test_so_many_lines_are_believed(tmp_path: Path) -> None:
    before = b"LABEL=none /none ext4\n" * (MAX_ROWS - 1)
    path = mounted_by(tmp_path, before + b"/dev/sda1 / ext4\n" + b"/dev/sda1 /more ext4\n" * 9999)
    assert places_of(path) == ({1: ["/"]}, [])
