# SPDX-License-Identifier: Apache-2.0
"""Names that a guest's own tools cannot make, put into real filesystems: none leads anywhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from diskkit.cli import main
from files.chains import data
from files.guests import MAKERS, run, walk
from files.test_copies import reader_for

if TYPE_CHECKING:
    from pathlib import Path

    Out = pytest.CaptureFixture[str]

LIES = {
    "q1zzx": "../zx",
    "q2zzx": "a/b/x",
    "q3zzx": "/zzzx",
    "q4zzx": "\x1b[2Jx",
    "q5zzx": "q6zzx",
    "q7zzx": "\x07\r\n\tx",
}
"""What names begin with, and what is put in place of it: as many letters."""
REST = "_of_File"
"""Upper and lower case, so that FAT keeps a long name: 13 letters, which is one entry of it."""
ESCAPED = {"\x1b[2Jx": "\\x1b[2Jx", "\x07\r\n\tx": "\\x07\\r\\n\\tx"}


def make_lying(kind: str, folder: Path) -> Path:
    source = folder / "tree"
    (source / "Below").mkdir(parents=True)
    for name in (*LIES, "q6zzx"):
        (source / f"{name}{REST}").write_bytes(b"content")
    (source / "Below" / f"q1zzx{REST}").write_bytes(b"below")
    (source / "good").write_bytes(b"good")
    volume = folder / "volume.raw"
    MAKERS[kind][1](volume, source)
    coding = "utf-16-le" if kind.startswith(("fat", "ntfs")) else "latin-1"
    met = dict.fromkeys(LIES, 0)
    with volume.open("r+b") as f:
        for at, chunk in data(volume):
            told = chunk
            for name, lie in LIES.items():
                met[name] += told.count(name.encode(coding))
                told = told.replace(name.encode(coding), lie.encode(coding))
            if told != chunk:
                f.seek(at)
                f.write(told)
    assert min(met.values()) > 0
    return volume


@pytest.mark.parametrize("kind", ["ext2", "ext4", "xfs", "ntfs", "fat16", "fat32"])
def test_no_name_leads_out_or_steers(tmp_path: Path, capfd: Out, kind: str) -> None:
    reader_for(kind)
    volume = make_lying(kind, tmp_path)
    outer = tmp_path / "outer"
    (outer / "target").mkdir(parents=True)
    assert main(["cp", "-r", f"{volume}:/", str(outer / "target")]) == 3
    told = capfd.readouterr().err
    assert "\x1b" not in told
    assert "\x07" not in told
    got = walk(outer)
    got.pop(b"target/lost+found", None)
    # Nothing beside the target, and nothing in it under a name with a path in it.
    assert sorted(got) == sorted(
        b"target" + name
        for name in (
            b"",
            b"/good",
            b"/Below",
            b"/q6zzx_of_File",
            b"/\x1b[2Jx_of_File",
            b"/\x07\r\n\tx_of_File",
        )
    )
    for lie in ("../zx", "a/b/x", "/zzzx"):
        assert f"{lie}{REST}: left out: no file can have this name" in told
    assert told.count("no file can have this name") == 4
    assert f"q6zzx{REST}: left out: File exists" in told

    for words in (["ls", "-lR"], ["ls"], ["ls", "-R"]):
        assert main([*words, f"{volume}:/"]) == 3
        out = capfd.readouterr().out
        assert not set(out) & {"\x1b", "\x07", "\r", "\t"}
        for shown in ESCAPED.values():
            assert f"{shown}{REST}\n" in out
    # A file of that name is not found by a path that goes another way.
    assert main(["cat", f"{volume}:/../zx{REST}"]) == 1
    assert main(["ls", "--json", f"{volume}:/"]) == 3
    rows: list[dict[str, Any]] = json.loads(capfd.readouterr().out)[0]["entries"]
    problems = {row["name"]: row["problem"] for row in rows}
    assert problems[f"../zx{REST}"] == "no file can have this name"
    assert problems["good"] is None


def test_folder_that_is_inside_of_itself_is_told(tmp_path: Path, capfd: Out) -> None:
    reader_for("ext4")
    source = tmp_path / "tree"
    (source / "a" / "b").mkdir(parents=True)
    (source / "a" / "b" / "file").write_bytes(b"1")
    volume = tmp_path / "v.raw"
    MAKERS["ext2"][1](volume, source)
    run("debugfs", "-w", "-R", "link a a/b/again", volume)
    assert main(["cp", "-r", f"{volume}:/", str(tmp_path / "out"), "-q"]) == 3
    told = capfd.readouterr().err
    assert "again: left out: a directory that is inside of itself" in told
    assert (tmp_path / "out/a/b/file").read_bytes() == b"1"
    assert main(["ls", "-R", f"{volume}:/"]) == 3
    assert "a directory that is inside of itself" in capfd.readouterr().err
