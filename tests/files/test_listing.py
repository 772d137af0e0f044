# SPDX-License-Identifier: Apache-2.0
"""ls: all names, no control characters, paths and links that stay inside, volumes by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from diskkit.cli import main
from diskkit.files.naming import Named, parse_name
from files.guests import LONG, make, make_ext, unix_tree
from files.test_copies import reader_for
from volumes.tables import put_mbr

if TYPE_CHECKING:
    from pathlib import Path

    Out = pytest.CaptureFixture[str]


def listed(capfd: Out, *words: str) -> tuple[int, Any]:
    status = main(["ls", *words, "--json"])
    return status, json.loads(capfd.readouterr().out)


@pytest.fixture(scope="module")
def ext4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    reader_for("ext4")
    folder = tmp_path_factory.mktemp("ext4")
    return make("ext4", folder)[0]


def test_long_listing_shows_kinds_and_steers_nothing(ext4: Path, capfd: Out) -> None:
    assert main(["ls", "-l", f"{ext4}:/"]) == 0
    out = capfd.readouterr().out
    assert "\x1b" not in out
    lines = {line.split(None, 7)[-1]: line for line in out.splitlines()}
    assert lines["steer \\x1b[31m\\nterminal"].startswith("-rw-r--r--")
    assert lines["absolute -> /etc/passwd"].startswith("lrwxrwxrwx")
    assert lines["pipe"].startswith("prw")
    assert lines["setuid"].startswith("-rwsr-sr-x")
    assert lines["hello.txt"].split()[1] == "2"
    assert "2017-07-14 02:40:00" in lines["hello.txt"]
    assert r"bad\xff\xfename" in lines
    assert LONG in lines


def test_recursive_listing_is_complete(ext4: Path, capfd: Out) -> None:
    status, found = listed(capfd, "-R", f"{ext4}:/deep")
    assert status == 0
    assert [folder["path"] for folder in found] == ["/deep", "/deep/er"]
    assert len(found[1]["entries"]) == 151
    by_name = {row["name"]: row for row in found[0]["entries"]}
    assert by_name["up"]["target"] == "../hello.txt"
    assert by_name["er"]["type"] == "directory"
    assert main(["ls", "-R", f"{ext4}:/deep"]) == 0
    assert capfd.readouterr().out.startswith("/deep:\ner\nsecond name\nup\n\n/deep/er:\nexactly\n")


def test_links_on_the_way_stay_inside(ext4: Path, capfd: Out) -> None:
    # "climbing" leads to ../../outside, which is /outside here; "absolute" to the guest's /etc.
    for name, missing in (("climbing", "/outside"), ("absolute", "/etc")):
        assert main(["ls", f"{ext4}:/{name}"]) == 1
        assert f"{missing}: no such file" in capfd.readouterr().err
    assert main(["ls", f"{ext4}:/../../deep/er/../up"]) == 0
    assert capfd.readouterr().out == "hello.txt\n"
    assert main(["ls", f"{ext4}:/hello.txt/x"]) == 1
    assert "not a directory" in capfd.readouterr().err


def test_volume_may_be_left_out_where_there_is_one(tmp_path: Path, capfd: Out) -> None:
    reader_for("ext4")
    make_ext(tmp_path / "v.raw", unix_tree(tmp_path / "tree"), "ext2")
    content = (tmp_path / "v.raw").read_bytes()
    disk = bytearray(1 << 20) + content + bytes(1 << 20)
    put_mbr(disk, [(0x83, 2048, len(content) // 512), (0x82, 2048 + len(content) // 512, 2048)])
    one = tmp_path / "one.raw"
    one.write_bytes(disk)
    for name in (f"{one}:/deep", f"{one}:1:/deep", f"{one}:p1:/deep"):
        assert main(["ls", name]) == 0
        assert capfd.readouterr().out == "er\nsecond name\nup\n"
    assert main(["ls", f"{one}:2:/"]) == 1
    assert "no filesystem was recognised" in capfd.readouterr().err
    assert main(["ls", f"{one}:3:/"]) == 2
    disk[1 << 20 :] = content + content
    put_mbr(disk, [(0x83, 2048 + n * len(content) // 512, len(content) // 512) for n in (0, 1)])
    one.write_bytes(disk)
    assert main(["ls", f"{one}:/"]) == 2
    assert "name a volume, as in DISK:1:/: 1 (ext2), 2 (ext2)" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a.vmdk:/x", ("a.vmdk", None, "/x")),
        ("a.vmdk:2:/x:/y", ("a.vmdk", "2", "/x:/y")),
        ("a.vmdk:p12:/", ("a.vmdk", "p12", "/")),
        ("a.vmdk:vg0/root:/etc", ("a.vmdk", "vg0/root", "/etc")),
        ("dir/a:b.vmdk:/", ("dir/a:b.vmdk", None, "/")),
        ("nbd://host:10809/e:/x", ("nbd://host:10809/e", None, "/x")),
        ("nbd://host:10809:/x", ("nbd://host:10809", None, "/x")),
        ("nbd://host:10809/e:2:/x", ("nbd://host:10809/e", "2", "/x")),
        ("nbd://host/e:vg/l:/x", ("nbd://host/e", "vg/l", "/x")),
    ],
)
def test_names_are_taken_apart(text: str, parts: tuple[str, str | None, str]) -> None:
    assert parse_name(text) == Named(*parts)


@pytest.mark.parametrize("text", ["a.vmdk", ":/x", "nbd://host/e", "a.vmdk:2", ""])
def test_other_names_are_none(text: str) -> None:
    assert parse_name(text) is None
