# SPDX-License-Identifier: Apache-2.0
"""The verb vdiskmanager takes the options of vmware-vdiskmanager, and does what they say."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.cli import main
from makers import sample_grain

if TYPE_CHECKING:
    from pathlib import Path


def run(*words: object) -> int:
    return main(["vdiskmanager", *map(os.fspath, map(str, words))])


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (0, "monolithicSparse"),
        (1, "twoGbMaxExtentSparse"),
        (2, "monolithicFlat"),
        (3, "twoGbMaxExtentFlat"),
        (4, "vmfs"),
        (5, "streamOptimized"),
        (6, "vmfs"),
    ],
)
def test_types_by_number(tmp_path: Path, number: int, kind: str) -> None:
    disk = tmp_path / "d.vmdk"
    assert run("-c", "-s", "10MB", "-a", "ide", "-t", number, disk) == 0
    with diskkit.open_disk(disk) as found:
        assert (found.info.create_type, found.size) == (kind, 10 << 20)
        assert found.info.adapter_type == "ide"
        assert (found.info.metadata.get("thinProvisioned") == "1") == (number == 6)


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096 * 512), ("64KB", 65536), ("3mb", 3 << 20), ("1GB", 1 << 30)]
)
def test_sizes(tmp_path: Path, text: str, size: int) -> None:
    assert run("-c", "-s", text, "-a", "lsilogic", "-t", "0", tmp_path / "d.vmdk") == 0
    with diskkit.open_disk(tmp_path / "d.vmdk") as found:
        assert found.size == size


def test_life_of_a_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk, other = tmp_path / "d.vmdk", tmp_path / "e.vmdk"
    run("-c", "-s", "4MB", "-a", "lsilogic", "-t", "0", disk)
    with diskkit.open_disk(disk, writable=True) as opened:
        opened.write(1 << 20, sample_grain(1))
        content = opened.read(0, opened.size)
    for operation in ("-d", "-k", "-e", "-R", "-D"):
        assert run(operation, disk) == 0
    assert diskkit.read_metadata(disk)["deletable"] == "true"
    assert run("-x", "8MB", disk) == 0
    assert run("-n", disk, other) == 0
    assert not disk.exists()
    capsys.readouterr()
    assert run("-q", "-r", other, "-t", "3", disk) == 0
    assert capsys.readouterr().out == ""
    with diskkit.open_disk(disk) as opened:
        assert opened.read(0, opened.size) == content + bytes(4 << 20)


def test_damage_is_found_and_repaired(tmp_path: Path) -> None:
    disk = tmp_path / "d.vmdk"
    run("-c", "-s", "4MB", "-a", "lsilogic", "-t", "0", disk)
    with diskkit.open_disk(disk, writable=True) as opened:
        opened.write(0, sample_grain(1))
    raw = bytearray(disk.read_bytes())
    directory = int.from_bytes(raw[56:64], "little") * 512
    raw[directory : directory + 4] = b"\xff\xff\xff\x7f"
    disk.write_bytes(raw)
    assert run("-e", disk) == 4
    assert run("-R", disk) == 0
    assert run("-e", disk) == 0
    with diskkit.open_disk(disk) as opened:
        assert opened.read(0, 65536) == sample_grain(1)


@pytest.mark.parametrize(
    "words",
    [
        "-c -s 1MB -t 0 d.vmdk",
        "-c -a ide -t 0 d.vmdk",
        "-c -a ide -s 1MB d.vmdk",
        "-c -a ide -s 1XB -t 0 d.vmdk",
        "-c -a ide -s 0 -t 0 d.vmdk",
        "-c -a sata -s 1MB -t 0 d.vmdk",
        "-c -a ide -s 1MB -t 7 d.vmdk",
        "-c -d d.vmdk",
        "-d",
        "d.vmdk",
        "-p d.vmdk",
        "-r a.vmdk d.vmdk",
        "-r a.vmdk -t 0 -h host d.vmdk",
        "--nothing",
        "",
    ],
)
def test_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words.split()) == 2
    out, err = capsys.readouterr()
    assert out or err.startswith("diskkit: ")
    assert not list(tmp_path.iterdir())


def test_help_and_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert "0 monolithicSparse" in capsys.readouterr().out
    assert run("-e", tmp_path / "none.vmdk") == 1
    with diskkit.open_disk(_made(tmp_path)):
        assert run("-k", tmp_path / "d.vmdk") == 11


def _made(folder: Path) -> Path:
    run("-c", "-s", "1MB", "-a", "ide", "-t", "0", folder / "d.vmdk")
    return folder / "d.vmdk"
