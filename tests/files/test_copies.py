# SPDX-License-Identifier: Apache-2.0
"""Files that real tools put into filesystems come out as they went in; nothing else comes out."""

from __future__ import annotations

import errno
import json
import os
import stat
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import diskkit
from diskkit import FormatError
from diskkit.cli import main
from diskkit.files import copying, open_filesystem
from diskkit.files.copying import leads_inside
from diskkit.files.walk import resolve
from diskkit.tasks.clone import clone
from diskkit.volumes import find_volumes
from files.guests import LONG, MAKERS, SPARSE, digest, make, walk
from makers.peers import SKIP_PREFIX

if TYPE_CHECKING:
    from pathlib import Path

    Out = pytest.CaptureFixture[str]

NOT_COPIED = {b"absolute", b"climbing", b"twisted", b"pipe"}
NEEDED = {"e": "pyfsext", "x": "pyfsxfs", "n": "pyfsntfs", "f": "pyfsfat"}


def reader_for(kind: str) -> None:
    name = NEEDED[kind[0]]
    pytest.importorskip(name, reason=f"{SKIP_PREFIX} {name}")


@pytest.mark.parametrize("kind", MAKERS)
def test_tree_comes_out_as_it_went_in(tmp_path: Path, capfd: Out, kind: str) -> None:
    reader_for(kind)
    volume, source = make(kind, tmp_path)
    wanted = walk(source)
    status = main(["cp", "-r", f"{volume}:/", str(tmp_path / "out"), "--json"])
    out, err = capfd.readouterr()
    got = walk(tmp_path / "out")
    got.pop(b"lost+found", None)
    unix = kind.startswith("ext")
    for name in NOT_COPIED if unix else ():
        del wanted[name]
    if "inline" in kind:
        # mke2fs 1.47 loses the hole at the end of it, with this feature only.
        del wanted[b"sparse"], got[b"sparse"]
    assert got == wanted
    assert status == (3 if unix else 0), err
    done = json.loads(out.splitlines()[-1])
    assert done["left_out"] == (len(NOT_COPIED) if unix else 0)
    for name in NOT_COPIED if unix else ():
        assert f"out/{name.decode()}: left out: " in err
    assert "\x1b" not in err


def test_times_modes_links_and_holes_are_kept(tmp_path: Path, capfd: Out) -> None:
    reader_for("ext4")
    volume, source = make("ext4", tmp_path)
    out = tmp_path / "out"
    main(["cp", "-r", f"{volume}:/", str(out), "-q"])
    capfd.readouterr()
    for name in ("hello.txt", "deep"):
        # mke2fs 1.47 puts in whole seconds.
        seconds = (source / name).stat().st_mtime_ns // 10**9
        assert (out / name).stat().st_mtime_ns // 10**9 == seconds
    assert stat.S_IMODE((out / "secret").stat().st_mode) == 0o600
    assert stat.S_IMODE((out / "setuid").stat().st_mode) == 0o755
    assert (out / "hello.txt").stat().st_ino == (out / "deep" / "second name").stat().st_ino
    sparse = (out / "sparse").stat()
    assert sparse.st_size == SPARSE
    assert sparse.st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("kind", ["monolithicSparse", "streamOptimized", "twoGbMaxExtentFlat"])
def test_files_come_out_of_vmdks(tmp_path: Path, capfd: Out, kind: str) -> None:
    reader_for("ext4")
    volume, source = make("ext4", tmp_path)
    vmdk = tmp_path / "disk.vmdk"
    with diskkit.open_disk(volume) as disk:
        clone(disk, vmdk, kind)
    assert main(["cp", f"{vmdk}:/big.bin", str(tmp_path)]) == 0
    capfd.readouterr()
    assert digest(tmp_path / "big.bin") == digest(source / "big.bin")
    assert main(["cp", f"{vmdk}:1:/deep/er/exactly", str(tmp_path / "under another name")]) == 0
    assert digest(tmp_path / "under another name") == digest(source / "deep/er/exactly")


def test_what_is_there_is_not_replaced(tmp_path: Path, capfd: Out) -> None:
    reader_for("ext4")
    volume, _ = make("ext2", tmp_path)
    target = tmp_path / "hello.txt"
    target.write_text("mine")
    assert main(["cp", f"{volume}:/hello.txt", str(target)]) == 1
    assert "File exists" in capfd.readouterr().err
    assert target.read_text() == "mine"
    assert main(["cp", f"{volume}:/hello.txt", str(target), "--force"]) == 0
    assert target.read_text() == "hello\n"
    assert main(["cp", f"{volume}:/deep", str(tmp_path / "x")]) == 2
    assert "a directory (-r copies it)" in capfd.readouterr().err
    # A link that lies in the way is not written through.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("untouched")
    target.unlink()
    target.symlink_to(elsewhere)
    assert main(["cp", f"{volume}:/hello.txt", str(target)]) == 1
    assert elsewhere.read_text() == "untouched"


def test_a_copy_that_fails_replaces_nothing(
    tmp_path: Path, capfd: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader_for("ext4")
    volume, _ = make("ext2", tmp_path)
    target = tmp_path / "big.bin"
    target.write_text("mine")

    def full(fd: int, data: object, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    assert main(["cp", f"{volume}:/big.bin", str(target), "--force"]) == 1
    assert "No space left on device" in capfd.readouterr().err
    assert target.read_text() == "mine"
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_progress_goes_up_to_all_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader_for("ext4")
    volume, source = make("ext4", tmp_path)
    monkeypatch.setattr(copying, "_EVERY", 0.0)
    steps: list[tuple[int, int]] = []
    with diskkit.open_disk(volume) as disk:
        (one,) = find_volumes(disk).volumes
        with open_filesystem(one) as fs:
            for path, recursive in ((b"/", True), (b"/big.bin", False)):
                told: list[str] = []
                report = lambda done, all_: steps.append((done, all_))  # noqa: E731
                copier = copying.Copier(fs, one, told.append, report)
                target = tmp_path / ("out" if recursive else "one")
                copier.copy(resolve(fs, path), str(target), recursive=recursive)
                size = (source / "big.bin").stat().st_size
                if recursive:
                    size = sum(
                        p.stat().st_size
                        for p in source.rglob("*")
                        if p.is_file() and not p.is_symlink()
                    )
                assert steps[-1] == (size, size)
                assert [done for done, _ in steps] == sorted(done for done, _ in steps)
                assert {total for _, total in steps} == {size}
                assert len(steps) > 1
                steps.clear()


@pytest.mark.parametrize(
    ("target", "depth", "inside"),
    [
        (b"a", 0, True),
        (b"a/./b//c", 0, True),
        (b"../a", 1, True),
        (b"./../a", 1, True),
        (b"..", 1, True),
        (b"../a", 0, False),
        (b"../../a", 1, False),
        (b"/a", 9, False),
        (b"", 9, False),
        (b"a/../b", 9, False),
        (b"a/..", 9, False),
        (b"..a/..b", 0, True),
        (b"a\0b", 9, False),
    ],
)
def test_links_are_made_only_where_they_stay_inside(
    target: bytes, depth: int, inside: bool
) -> None:
    assert leads_inside(target, depth) is inside


def test_cat_writes_holes_as_zeros(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    reader_for("ext4")
    volume, source = make("ext4 inline, 4 KiB", tmp_path)
    for name in ("hello.txt", "big.bin", "deep/up", LONG):
        assert main(["cat", f"{volume}:/{name}"]) == 0
        assert capfdbinary.readouterr().out == (source / name).read_bytes()


def test_cat_gives_alternate_streams(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    reader_for("ntfs")
    from files.guests import make_ntfs, tree

    source = tree(tmp_path / "tree")
    (source / "hello.txt:Zone.Identifier").write_bytes(b"[ZoneTransfer]" * 400)
    make_ntfs(tmp_path / "v.raw", source)
    # The name's upper and lower case do not matter on NTFS.
    words = ["cat", f"{tmp_path}/v.raw:/HELLO.txt", "--stream"]
    assert main([*words, "Zone.Identifier"]) == 0
    assert capfdbinary.readouterr().out == b"[ZoneTransfer]" * 400
    assert main([*words, "none"]) == 1


def test_zeros_that_come_through_the_reader_take_no_room() -> None:
    from diskkit.files.content import pieces
    from diskkit.files.filesystem import Node

    content = bytes(3 << 20) + b"x" + bytes(2 << 20)
    reader: Any = SimpleNamespace(
        kind="none",
        size=1 << 20,
        extents=lambda id, stream: None,
        read_at=lambda id, offset, length, stream: content[offset : offset + length],
    )
    node = Node(1, 0o100644, len(content), 1, 0, 0, 0, 0, 0, 0, 0, 0)
    found = [(at, len(part)) for at, part in pieces(reader, reader, node)]
    assert found == [(3 << 20, 1 << 20)]
    # A made-up size would keep us busy for ever.
    with pytest.raises(FormatError, match="is 1152921504606846976: more than the 1099511627776"):
        next(pieces(reader, reader, node._replace(size=1 << 60)))


def test_xattrs_of_users_come_out_and_no_others(tmp_path: Path, capfd: Out) -> None:
    reader_for("ext4")
    from files.guests import make_ext, run, tree

    source = tree(tmp_path / "tree")
    volume = tmp_path / "volume.raw"
    make_ext(volume, source, "ext4")
    for name, value in (("user.note", "from the guest"), ("security.capability", "x" * 20)):
        run("debugfs", "-w", "-R", f'ea_set /hello.txt {name} "{value}"', volume)
    run("debugfs", "-w", "-R", f"ea_set /hello.txt user.long {'v' * 900}", volume)
    with diskkit.open_disk(volume) as disk, open_filesystem(find_volumes(disk).volume(1)) as fs:
        found = fs.xattrs(resolve(fs, b"/hello.txt").node.id)
    assert found == {
        b"user.note": b"from the guest",
        b"user.long": b"v" * 900,
        b"security.capability": b"x" * 20,
    }
    try:
        os.setxattr(tmp_path, "user.probe", b"")
    except OSError:
        pytest.skip(f"{SKIP_PREFIX} extended attributes in the folder of the tests")
    main(["cp", f"{volume}:/hello.txt", str(tmp_path / "out"), "-q"])
    names = os.listxattr(tmp_path / "out")
    assert sorted(names) == ["user.long", "user.note"]
    assert os.getxattr(tmp_path / "out", "user.note") == b"from the guest"
