# SPDX-License-Identifier: Apache-2.0
"""Alternate data streams and extended attributes: copied, or told."""

from __future__ import annotations

import errno
import json
import os
import random
import struct
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit import FormatError
from diskkit.cli import main
from diskkit.files import open_filesystem
from diskkit.files.attributes import Attributes
from diskkit.files.walk import resolve
from diskkit.volumes import find_volumes
from files.guests import make_ext, make_ntfs, run
from files.test_copies import reader_for
from makers.peers import SKIP_PREFIX

if TYPE_CHECKING:
    from pathlib import Path

    Out = pytest.CaptureFixture[str]

CHANCE = random.Random(1)
STREAMS = {
    "file:Zone.Identifier": b"[ZoneTransfer]\r\nZoneId=3\r\n",
    "file:é 漢": CHANCE.randbytes(900),
    "file:empty": b"",
    "folder:of a folder": b"1",
}
LARGE = {"file:edge": CHANCE.randbytes(65536), "file:large": CHANCE.randbytes(65537)}


def with_streams(folder: Path, streams: dict[str, bytes]) -> Path:
    reader_for("ntfs")
    source = folder / "tree"
    (source / "folder").mkdir(parents=True)
    (source / "file").write_bytes(b"content")
    for name, content in streams.items():
        (source / name).write_bytes(content)
    make_ntfs(folder / "v.raw", source)
    return folder / "v.raw"


def attributes(volume: Path, path: bytes) -> dict[bytes, bytes]:
    with (
        diskkit.open_disk(volume) as disk,
        open_filesystem(find_volumes(disk).volume(1)) as fs,
    ):
        return fs.xattrs(resolve(fs, path).node.id)


def needs_attributes(folder: Path) -> None:
    try:
        os.setxattr(folder, "user.probe", b"")
    except OSError:
        pytest.skip(f"{SKIP_PREFIX} extended attributes in the folder of the tests")


def kept(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path)}


def test_small_streams_come_out_as_attributes(tmp_path: Path, capfd: Out) -> None:
    volume = with_streams(tmp_path, STREAMS)
    needs_attributes(tmp_path)
    assert main(["cp", "-r", f"{volume}:/", str(tmp_path / "out"), "--json"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert json.loads(out)["streams_left_out"] == 0
    for name in ("file", "folder"):
        assert kept(tmp_path / "out" / name) == {
            f"user.{stream.partition(':')[2]}": content
            for stream, content in STREAMS.items()
            if stream.startswith(f"{name}:")
        }


def test_streams_that_fit_nowhere_are_told_in_one_line(
    tmp_path: Path, capfd: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = with_streams(tmp_path, STREAMS | LARGE)
    found = attributes(volume, b"/file")
    assert len(found) == 5
    assert found[b"user.edge"] == LARGE["file:edge"]
    assert found[b"stream.large"] == b""

    def refuse(target: int, name: bytes, value: bytes) -> None:
        if len(value) > 4096 or name == b"user.empty":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "setxattr", refuse)
    assert main(["cp", "-r", f"{volume}:/", str(tmp_path / "out"), "--json"]) == 3
    out, err = capfd.readouterr()
    assert err == (
        "diskkit: 3 alternate data streams were left out: the target keeps none, or none so large; "
        "cat --stream gives them\n"
    )
    done = json.loads(out)
    assert (done["streams_left_out"], done["attributes_left_out"], done["left_out"]) == (3, 0, 0)
    assert main(["cp", f"{volume}:/file", str(tmp_path / "one")]) == 3
    assert "3 alternate data streams" in capfd.readouterr().err


def test_many_streams_do_not_make_one_answer_large(tmp_path: Path) -> None:
    """All of them, written for the wire, would be more than a message may have."""
    streams = {f"file:{n:02}": CHANCE.randbytes(65536) for n in range(60)}
    found = attributes(with_streams(tmp_path, streams), b"/file")
    given = {name: value for name, value in found.items() if name.startswith(b"user.")}
    assert len(given) == 16
    assert all(value == streams[f"file:{name[5:].decode()}"] for name, value in given.items())
    assert sorted(name.partition(b".")[2] for name in found) == [b"%02d" % n for n in range(60)]


def test_what_was_never_written_of_a_stream_is_zeros(tmp_path: Path) -> None:
    content = CHANCE.randbytes(5000)
    volume = with_streams(tmp_path, {"file:stream": content})
    raw = bytearray(volume.read_bytes())
    at = raw.index(struct.pack("<QQ", 5000, 5000))
    struct.pack_into("<Q", raw, at + 8, 1001)
    volume.write_bytes(raw)
    assert attributes(volume, b"/file") == {b"user.stream": content[:1001] + bytes(3999)}


def test_stream_that_lies_nowhere_is_one_error(tmp_path: Path, capfd: Out) -> None:
    volume = with_streams(tmp_path, {"file:stream": CHANCE.randbytes(5000)})
    raw = bytearray(volume.read_bytes())
    at = raw.index(struct.pack("<QQ", 5000, 5000))
    # Its only run, which is behind the sizes, begins far outside of the volume.
    name = raw.index("stream".encode("utf-16-le"), at)
    assert raw[name + 16] >> 4 < 4
    raw[name + 16 : name + 24] = b"\x41\x02\xff\xff\xff\x7f\0\0"
    volume.write_bytes(raw)
    with pytest.raises(FormatError, match="streams of"):
        attributes(volume, b"/file")
    assert main(["cp", f"{volume}:/file", str(tmp_path / "out"), "-q"]) == 3
    (line,) = capfd.readouterr().err.splitlines()
    assert "attributes: " in line
    assert (tmp_path / "out").read_bytes() == b"content"


def test_attributes_of_the_system_are_counted(tmp_path: Path, capfd: Out) -> None:
    reader_for("ext4")
    source = tmp_path / "tree"
    source.mkdir()
    (source / "file").write_bytes(b"content")
    volume = tmp_path / "v.raw"
    make_ext(volume, source, "ext4")
    for name in ("user.note", "security.selinux", "trusted.x"):
        run("debugfs", "-w", "-R", f"ea_set /file {name} value", volume)
    needs_attributes(tmp_path)
    # They are no part of a copy, like owners; so nothing is missing.
    assert main(["cp", f"{volume}:/file", str(tmp_path / "out"), "--json"]) == 0
    out, err = capfd.readouterr()
    assert err == "diskkit: 2 attributes of the guest's system were left out\n"
    assert json.loads(out)["system_attributes_left_out"] == 2
    assert kept(tmp_path / "out") == {"user.note": b"value"}


def test_attributes_that_the_target_does_not_keep_are_counted(
    tmp_path: Path, capfd: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader_for("ext4")
    source = tmp_path / "tree"
    source.mkdir()
    for name in ("a", "b"):
        (source / name).write_bytes(b"content")
    volume = tmp_path / "v.raw"
    make_ext(volume, source, "ext4")
    for name in ("a", "b"):
        run("debugfs", "-w", "-R", f"ea_set /{name} user.note value", volume)

    def refuse(target: int, name: bytes, value: bytes) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "setxattr", refuse)
    assert main(["cp", "-r", f"{volume}:/", str(tmp_path / "out"), "--json"]) == 3
    out, err = capfd.readouterr()
    assert err == ("diskkit: 2 attributes were left out: the target keeps none, or none so large\n")
    assert json.loads(out)["attributes_left_out"] == 2


def test_names_that_no_attribute_can_have_are_left_out(tmp_path: Path) -> None:
    needs_attributes(tmp_path)
    target = os.open(tmp_path, os.O_RDONLY)
    try:
        found = Attributes("ntfs")
        found.put(target, {b"user.a\0b": b"", b"user." + b"n" * 300: b"", b"user.good": b"1"})
    finally:
        os.close(target)
    assert found.left_out == (2, 0, 0)
    assert os.getxattr(tmp_path, "user.good") == b"1"


@pytest.mark.parametrize("kind", ["ntfs", "ext4"])
def test_no_reader_sets_attributes_of_the_system_here(tmp_path: Path, kind: str) -> None:
    """Not even one that an image took over: as root that would be a capability of the file."""
    needs_attributes(tmp_path)
    copied = Attributes(kind)
    (tmp_path / "copy").touch()
    fd = os.open(tmp_path / "copy", os.O_RDONLY)
    try:
        names = (b"security.capability", b"trusted.x", b"system.posix_acl_access", b"userx", b"")
        copied.put(fd, dict.fromkeys(names, b"\1\0\0\2" + bytes(16)))
        assert os.listxattr(fd) == []
    finally:
        os.close(fd)
    assert copied.left_out == (0, 0, len(names))
