# SPDX-License-Identifier: Apache-2.0
"""Ten thousand files in one folder, for which each filesystem has another form of directory."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from diskkit.cli import main
from files.guests import make_ntfs
from files.kernel import make_by_kernel
from files.test_copies import reader_for
from makers.peers import requires

if TYPE_CHECKING:
    from pathlib import Path

    Out = pytest.CaptureFixture[str]

MANY = 10_000
NAMES = {f"file_{number:05d}_{'x' * (number % 40)}": number for number in range(MANY)}


def content(number: int) -> bytes:
    """Most have none, for the sake of time."""
    return b"" if number % 37 else b"%d " % number * (1 + number % 50)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many") / "tree"
    (folder / "many").mkdir(parents=True)
    for name, number in NAMES.items():
        (folder / "many" / name).write_bytes(content(number))
    return folder


@pytest.mark.parametrize("kind", ["ext4", "xfs", "ntfs"])
def test_a_folder_of_many_files_is_whole(
    tmp_path: Path, capfd: Out, source: Path, kind: str
) -> None:
    reader_for(kind)
    volume = tmp_path / "volume.raw"
    if kind == "ntfs":
        make_ntfs(volume, source)
    else:
        make_by_kernel(kind, volume, source, tmp_path / "mount")
    if kind == "ext4":
        dumped = subprocess.run(
            [requires("debugfs"), "-R", "htree_dump /many", volume],
            capture_output=True,
            timeout=60,
            check=True,
        )
        assert b"Indirect levels: 1" in dumped.stdout
    assert main(["ls", "--json", f"{volume}:/many"]) == 0
    rows = json.loads(capfd.readouterr().out)[0]["entries"]
    assert {row["name"]: row["size"] for row in rows} == {
        name: len(content(number)) for name, number in NAMES.items()
    }
    assert len(rows) == MANY
    for name in list(NAMES)[37::3700]:  # found by its name, among all
        assert main(["cp", f"{volume}:/many/{name}", str(tmp_path)]) == 0
        assert (tmp_path / name).read_bytes() == content(NAMES[name]) != b""
    if kind != "ext4":
        return  # making them here takes longer than all the rest
    assert main(["cp", "-r", f"{volume}:/many", str(tmp_path / "out"), "-q"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(NAMES)
    for name, number in NAMES.items():
        assert (tmp_path / "out" / name).read_bytes() == content(number)
