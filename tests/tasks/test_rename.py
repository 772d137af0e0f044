# SPDX-License-Identifier: Apache-2.0
"""A disk is renamed, or removed, with all of its files and none of anybody else's."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.cli import main
from diskkit.errors import ChainError, DiskkitError, LockedError, UsageError
from diskkit.interfaces import OpenPolicy
from diskkit.tasks.remove import remove_disk
from diskkit.tasks.rename import rename_disk
from makers import cowd, flat, sample_grain, split_sparse, stream, text_replace, write_descriptor
from makers.peers import qemu_img

from .images import child, sparse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECTOR = 512
QUIET = OpenPolicy(warn=lambda _: None)


def split(folder: Path) -> list[str]:
    split_sparse(folder / "disk.vmdk", 512, {0: sample_grain(1), 3: sample_grain(2)}, 128)
    track(folder)
    return ["new-ctk.vmdk", *(f"new-s00{i}.vmdk" for i in (1, 2, 3, 4)), "new.vmdk"]


def track(folder: Path) -> None:
    text = (folder / "disk.vmdk").read_text()
    tracking = '\n# Change Tracking File\nchangeTrackPath="disk-ctk.vmdk"\n\n# The Disk Data'
    (folder / "disk.vmdk").write_text(text.replace("\n# The Disk Data", tracking))
    (folder / "disk-ctk.vmdk").write_bytes(b"tracks")


def shared_flat(folder: Path) -> list[str]:
    flat(folder / "disk-flat.vmdk", sample_grain(3))
    lines = ['RW 64 FLAT "disk-flat.vmdk" 64', "RW 8 ZERO", 'RW 64 FLAT "disk-flat.vmdk" 0']
    write_descriptor(folder / "disk.vmdk", "twoGbMaxExtentFlat", lines)
    return ["new-flat.vmdk", "new.vmdk"]


def oddly_named(folder: Path) -> list[str]:
    for name in ("one", "disk2.vmdk"):
        flat(folder / name, sample_grain(len(name)))
    lines = ['RW 128 FLAT "one" 0', 'RW 128 FLAT "disk2.vmdk" 0']
    write_descriptor(folder / "disk.vmdk", "twoGbMaxExtentFlat", lines)
    return ["new-f001.vmdk", "new-f002.vmdk", "new.vmdk"]


def redo(folder: Path) -> list[str]:
    cowd(folder / "disk-delta.vmdk", 256, {0: b"x" * 512})
    write_descriptor(folder / "disk.vmdk", "vmfsSparse", ['RW 256 VMFSSPARSE "disk-delta.vmdk"'])
    return ["new-delta.vmdk", "new.vmdk"]


def single(folder: Path) -> list[str]:
    sparse(folder, "disk.vmdk")
    return ["new.vmdk"]


def packed(folder: Path) -> list[str]:
    stream(folder / "disk.vmdk", 256, {1: sample_grain(1)})
    return ["new.vmdk"]


MAKERS = [split, shared_flat, oddly_named, redo, single, packed]


def read(path: Path) -> bytes:
    with diskkit.open_disk(path, policy=QUIET) as disk:
        return disk.read(0, disk.size)


def listed(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_file())


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("make", MAKERS)
def test_all_files_follow(tmp_path: Path, make: Callable[[Path], list[str]], moved: bool) -> None:
    wanted = make(tmp_path)
    content = read(tmp_path / "disk.vmdk")
    (tmp_path / "disk.vmdk").chmod(0o600)
    there = tmp_path / "there" if moved else tmp_path
    there.mkdir(exist_ok=True)
    done = rename_disk(tmp_path / "disk.vmdk", there / "new.vmdk")
    assert listed(there) == wanted
    assert sorted(p.rpartition("/")[2] for p in done.files.values()) == wanted
    assert not moved or listed(tmp_path) == []
    assert read(there / "new.vmdk") == content
    assert (there / "new.vmdk").stat().st_mode & 0o777 == 0o600
    assert {p.stat().st_nlink for p in there.iterdir()} <= {1, 2 if not moved else 1}
    assert diskkit.check(there / "new.vmdk").ok


def test_single_file_names_itself_anew(tmp_path: Path) -> None:
    single(tmp_path)
    rename_disk(tmp_path / "disk.vmdk", tmp_path / "n\xe9w.vmdk")
    assert '"n\xe9w.vmdk"'.encode() in (tmp_path / "n\xe9w.vmdk").read_bytes()[:4096]
    assert qemu_img("check", tmp_path / "n\xe9w.vmdk").returncode == 0


def test_change_tracking_of_a_single_file(tmp_path: Path) -> None:
    single(tmp_path)
    tracking = '"\n\nchangeTrackPath="disk-ctk.vmdk"\n\n# The'
    text_replace(tmp_path / "disk.vmdk", '"\n\n# The', tracking)
    (tmp_path / "disk-ctk.vmdk").write_bytes(b"tracks")
    rename_disk(tmp_path / "disk.vmdk", tmp_path / "new.vmdk")
    assert listed(tmp_path) == ["new-ctk.vmdk", "new.vmdk"]
    assert b'"new-ctk.vmdk"' in (tmp_path / "new.vmdk").read_bytes()[:4096]


def test_renamed_disk_opens_in_qemu(tmp_path: Path) -> None:
    split(tmp_path)
    rename_disk(tmp_path / "disk.vmdk", tmp_path / "new.vmdk")
    done = qemu_img("convert", "-f", "vmdk", "-O", "raw", tmp_path / "new.vmdk", tmp_path / "r")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r").read_bytes() == read(tmp_path / "new.vmdk")


@pytest.mark.parametrize("layout", ["single", "split"])
def test_child_that_moves_away_still_finds_its_parent(tmp_path: Path, layout: str) -> None:
    made = child(tmp_path, sparse(tmp_path))
    if layout == "split":
        made.path.unlink()
        diskkit.create_child(tmp_path / "base.vmdk", made.path, "twoGbMaxExtentSparse")
    content = read(made.path)
    there = tmp_path / "away" / "there"
    there.mkdir(parents=True)
    rename_disk(made.path, there / "moved.vmdk")
    everywhere = OpenPolicy(allow=("/",))
    with diskkit.open_disk(there / "moved.vmdk", policy=everywhere) as disk:
        assert disk.read(0, disk.size) == content
        assert disk.info.links[0].parent_hint == os.fspath(tmp_path / "base.vmdk")
    rename_disk(there / "moved.vmdk", tmp_path / "back.vmdk")
    assert read(tmp_path / "back.vmdk") == content
    # It leads to the parent from there too: left as it was.
    with diskkit.open_disk(tmp_path / "back.vmdk") as disk:
        assert disk.info.links[0].parent_hint == os.fspath(tmp_path / "base.vmdk")


def test_child_whose_parent_is_gone_is_renamed_in_place_only(tmp_path: Path) -> None:
    made = child(tmp_path, sparse(tmp_path))
    (tmp_path / "base.vmdk").unlink()
    (tmp_path / "there").mkdir()
    with pytest.raises(ChainError):
        rename_disk(made.path, tmp_path / "there" / "new.vmdk")
    rename_disk(made.path, tmp_path / "new.vmdk")
    assert listed(tmp_path) == ["new.vmdk"]


def test_children_are_named_and_left_alone(tmp_path: Path) -> None:
    base = sparse(tmp_path)
    made = child(tmp_path, base)
    before = made.path.read_bytes()
    said: list[str] = []
    done = rename_disk(base.path, tmp_path / "new.vmdk", policy=OpenPolicy(warn=said.append))
    assert done.children == [os.fspath(made.path)]
    assert "child.vmdk: its parent is now" in said[0]
    assert made.path.read_bytes() == before


@pytest.mark.parametrize("taken", ["new.vmdk", "new-s003.vmdk", "new-ctk.vmdk"])
def test_nothing_is_replaced(tmp_path: Path, taken: str) -> None:
    split(tmp_path)
    (tmp_path / taken).write_bytes(b"theirs")
    before = listed(tmp_path)
    with pytest.raises(UsageError, match="exists already"):
        rename_disk(tmp_path / "disk.vmdk", tmp_path / "new.vmdk")
    assert listed(tmp_path) == before
    assert (tmp_path / taken).read_bytes() == b"theirs"


def test_name_taken_at_the_last_moment_is_left_to_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split(tmp_path)
    before = listed(tmp_path)
    real = os.link

    def race(old: str, new: str) -> None:
        if new.endswith("s003.vmdk"):
            (tmp_path / "new-s003.vmdk").write_bytes(b"theirs")
        real(old, new)

    monkeypatch.setattr(os, "link", race)
    with pytest.raises(UsageError, match="exists already"):
        rename_disk(tmp_path / "disk.vmdk", tmp_path / "new.vmdk")
    assert listed(tmp_path) == sorted([*before, "new-s003.vmdk"])
    assert (tmp_path / "new-s003.vmdk").read_bytes() == b"theirs"


def test_filesystem_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    split(tmp_path / "one")
    single(tmp_path / "two")
    before = listed(tmp_path / "one")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(diskkit.StorageError, match="without hard links"):
        rename_disk(tmp_path / "one" / "disk.vmdk", tmp_path / "one" / "new.vmdk")
    assert listed(tmp_path / "one") == before
    rename_disk(tmp_path / "two" / "disk.vmdk", tmp_path / "two" / "new.vmdk")
    assert listed(tmp_path / "two") == ["new.vmdk"]


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ("folder", "is a folder"),
        ("missing/new.vmdk", "no such folder"),
        ("new.raw", "raw image"),
        ('n"w.vmdk', "cannot be written"),
    ],
)
def test_unfit_names(tmp_path: Path, target: str, match: str) -> None:
    single(tmp_path)
    (tmp_path / "folder").mkdir()
    before = (tmp_path / "disk.vmdk").read_bytes()
    with pytest.raises(UsageError, match=match):
        rename_disk(tmp_path / "disk.vmdk", tmp_path / target)
    assert (tmp_path / "disk.vmdk").read_bytes() == before


# --- Removing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MAKERS)
def test_removed_with_all_its_files(tmp_path: Path, make: Callable[[Path], list[str]]) -> None:
    count = len(make(tmp_path))
    (tmp_path / "disk-notes.txt").touch()
    assert len(remove_disk(tmp_path / "disk.vmdk")) == count
    assert listed(tmp_path) == ["disk-notes.txt"]


def test_parent_stays_when_its_child_goes(tmp_path: Path) -> None:
    base = sparse(tmp_path)
    made = child(tmp_path, base)
    with pytest.raises(ChainError, match=r"is the parent of child\.vmdk"):
        remove_disk(base.path)
    remove_disk(made.path)
    assert listed(tmp_path) == ["base.vmdk"]
    assert read(base.path) == base.content


def test_parent_goes_by_force(tmp_path: Path) -> None:
    base = sparse(tmp_path)
    child(tmp_path, base)
    remove_disk(base.path, force=True)
    assert listed(tmp_path) == ["child.vmdk"]


def test_files_elsewhere_and_unopened_ones_of_other_names_stay(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("sub/a-flat.vmdk", "precious.txt", "disk-rdm.vmdk"):
        flat(tmp_path / name, bytes(512 * 8))
    lines = ['RW 8 FLAT "sub/a-flat.vmdk" 0']
    write_descriptor(tmp_path / "disk.vmdk", "monolithicFlat", lines)
    said: list[str] = []
    remove_disk(tmp_path / "disk.vmdk", policy=OpenPolicy(warn=said.append))
    assert "sub/a-flat.vmdk is not removed" in said[0]
    lines = ['RW 8 VMFSRDM "precious.txt"', 'RW 8 VMFSRDM "disk-rdm.vmdk"']
    write_descriptor(tmp_path / "disk.vmdk", "vmfsRDM", lines)
    remove_disk(tmp_path / "disk.vmdk", policy=QUIET)
    assert listed(tmp_path) == ["precious.txt"]
    assert listed(tmp_path / "sub") == ["a-flat.vmdk"]


@pytest.mark.parametrize("task", ["rename", "rm"])
def test_what_is_not_the_disks_alone_to_change(tmp_path: Path, task: str) -> None:
    def work(path: Path) -> object:
        return remove_disk(path) if task == "rm" else rename_disk(path, tmp_path / "new.vmdk")

    def refused(path: Path, kind: type[DiskkitError], match: str) -> None:
        before = listed(tmp_path)
        with pytest.raises(kind, match=match):
            work(path)
        assert listed(tmp_path) == before

    split(tmp_path)
    (tmp_path / "copy.vmdk").write_bytes((tmp_path / "disk.vmdk").read_bytes())
    refused(tmp_path / "disk.vmdk", UsageError, r"copy\.vmdk uses its extents too")
    (tmp_path / "copy.vmdk").unlink()
    (tmp_path / "alias.vmdk").symlink_to("disk.vmdk")
    refused(tmp_path / "alias.vmdk", UsageError, "symbolic link")
    (tmp_path / "a.raw").write_bytes(bytes(512))
    refused(tmp_path / "a.raw", UsageError, "plain file")
    with diskkit.open_disk(tmp_path / "disk.vmdk"):
        refused(tmp_path / "disk.vmdk", LockedError, "another program reads")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split(tmp_path)
    old, new = os.fspath(tmp_path / "disk.vmdk"), os.fspath(tmp_path / "new.vmdk")
    assert main(["rename", old, new, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["verb"], done["files"][old], len(done["files"])) == ("rename", new, 6)
    assert main(["create", os.fspath(tmp_path / "child.vmdk"), "--parent", new, "-q"]) == 0
    assert main(["rm", new]) == 1
    assert "is the parent of child.vmdk" in capsys.readouterr().err
    assert main(["rm", new, "--force", "-q"]) == 0
    assert capsys.readouterr().err == ""
    assert listed(tmp_path) == ["child.vmdk"]
