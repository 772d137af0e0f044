# SPDX-License-Identifier: Apache-2.0
"""Volumes named to the verbs: copied and served alone, on several disks, encrypted."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from diskkit.cli import main
from diskkit.nbd.client import NbdDisk
from diskkit.open import open_disk
from files.guests import make_ext, tree
from files.test_copies import reader_for
from makers.peers import SKIP_PREFIX
from volumes.groups import group, layouts
from volumes.test_asdisk import BEGIN, content, raw_with_partition, striped, write_disk
from volumes.test_luks import KEY, locked
from volumes.test_luks import content as secret

if TYPE_CHECKING:
    from pathlib import Path

    Out = pytest.CaptureFixture[str]


def test_volume_is_copied_alone(tmp_path: Path) -> None:
    disk = write_disk(tmp_path, "streamOptimized", raw_with_partition())
    for words, out in (([], "p1.raw"), (["-t", "monolithicSparse"], "p1.vmdk")):
        target = tmp_path / out
        assert main(["convert", str(disk), str(target), "--volume", "p1", "-q", *words]) == 0
        with open_disk(target) as copy:
            assert copy.read(0, copy.size) == content()
    verified = ["convert", str(disk), str(tmp_path / "v.raw"), "--volume", "1", "--verify", "-q"]
    assert main(verified) == 0


def test_volume_on_two_disks_is_copied(tmp_path: Path, capfd: Out) -> None:
    (first, second), wanted = striped(tmp_path)
    target = tmp_path / "data.raw"
    words = ["convert", str(first), str(target), "--volume", "vg0/data", "-q"]
    assert main(words) == 1
    assert "physical volume" in capfd.readouterr().err
    assert not target.exists()
    assert main([*words, "--with", str(second)]) == 0
    assert target.read_bytes() == wanted


def test_encrypted_volume_is_copied_in_the_clear(tmp_path: Path, capfd: Out) -> None:
    pytest.importorskip("cryptography", reason=f"{SKIP_PREFIX} cryptography")
    disk = write_disk(tmp_path, "monolithicSparse", bytes(locked("luks1")[0]))
    (tmp_path / "key").write_bytes(KEY)
    words = ["convert", str(disk), str(tmp_path / "plain.raw"), "--volume", "whole.luks"]
    assert main(words) == 2
    assert "no volume whole.luks: there are 1 (whole)" in capfd.readouterr().err
    (tmp_path / "wrong").write_bytes(b"wrong")
    assert main([*words, "--key-file", str(tmp_path / "wrong")]) == 2
    assert "the key opens none" in capfd.readouterr().err
    assert main([*words, "--key-file", str(tmp_path / "key"), "-q"]) == 0
    assert (tmp_path / "plain.raw").read_bytes() == secret()


@pytest.mark.parametrize(
    "words",
    [
        ["convert", "a", "b", "--with", "c"],
        ["convert", "a", "b", "--key-file", "c"],
        ["convert", "-", "b", "--volume", "1"],
        ["serve", "a", "--key-file", "c"],
    ],
)
def test_options_that_do_not_go_together_are_refused(words: list[str], capfd: Out) -> None:
    assert main(words) == 2
    assert "--volume" in capfd.readouterr().err


def test_files_of_a_group_over_two_disks(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    reader_for("ext4")
    make_ext(tmp_path / "fs.raw", tree(tmp_path / "tree"), "ext4")
    whole = (tmp_path / "fs.raw").read_bytes()
    first, second = (
        write_disk(tmp_path, "monolithicSparse", raw, f"pv{number}")
        for number, raw in enumerate(group(whole, layouts(whole)["two disks"]))
    )
    name = f"{first}:vg0/root:/big.bin"
    assert main(["cat", name]) == 1
    capfdbinary.readouterr()
    assert main(["cat", name, "--with", str(second)]) == 0
    assert capfdbinary.readouterr().out == (tmp_path / "tree" / "big.bin").read_bytes()
    # The only volume that can be read needs no name.
    assert main(["ls", f"{first}:/deep", "--with", str(second)]) == 0
    assert capfdbinary.readouterr().out == b"er\n"
    assert main(["cp", "-q", name, str(tmp_path / "copy"), "--with", str(second)]) == 0
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "tree" / "big.bin").read_bytes()


def test_volume_is_served_alone_and_written_through(tmp_path: Path) -> None:
    raw = raw_with_partition()
    path = write_disk(tmp_path, "monolithicSparse", raw)
    socket = tmp_path / "s"
    words = ["serve", str(path), "--volume", "p1", "--socket", str(socket), "--writable"]
    server = subprocess.Popen(
        [sys.executable, "-m", "diskkit", *words], stderr=subprocess.PIPE, env={**os.environ}
    )
    try:
        assert server.stderr is not None
        assert b"serving" in server.stderr.readline()
        with open_disk(f"nbd+unix:///?socket={socket}", writable=True) as disk:
            assert isinstance(disk, NbdDisk)
            assert disk.read(0, disk.size) == content()
            assert len(list(disk.runs())) > 3
            disk.write(12345, b"written")
    finally:
        server.terminate()
        _, told = server.communicate(timeout=60)
    assert server.returncode == 0, told
    with open_disk(path) as whole:
        wanted = bytearray(raw)
        wanted[BEGIN + 12345 : BEGIN + 12345 + 7] = b"written"
        assert whole.read(0, len(raw)) == wanted
