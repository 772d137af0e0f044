# SPDX-License-Identifier: Apache-2.0
"""A link gets another parent: only one that fits, and by rebase only one that reads the same."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.cli import main
from diskkit.errors import ChainError, DiskkitError, UsageError
from diskkit.interfaces import OpenPolicy
from diskkit.tasks.attach import attach, rebase
from makers import cowd, flat, hosted_sparse, sample_grain, text_replace, write_descriptor
from makers.peers import qemu_img

from .images import CAPACITY, child, packed, sparse

if TYPE_CHECKING:
    from pathlib import Path


def read(path: Path) -> bytes:
    with diskkit.open_disk(path) as disk:
        return disk.read(0, disk.size)


def refused(kind: type[DiskkitError], match: str, disk: Path, parent: Path) -> None:
    before = disk.read_bytes()
    with pytest.raises(kind, match=match):
        attach(parent, disk)
    with pytest.raises(DiskkitError):
        rebase(disk, parent)
    assert disk.read_bytes() == before


def test_attached_child_reads_through(tmp_path: Path) -> None:
    made = child(tmp_path, sparse(tmp_path))
    sparse(tmp_path, "other.vmdk", seed=50)
    text_replace(tmp_path / "other.vmdk", "CID=12345678", "CID=abcdef01")
    attach(tmp_path / "other.vmdk", made.path)
    other = read(tmp_path / "other.vmdk")
    now = read(made.path)
    assert now[: 128 * 512] == other[: 128 * 512]
    assert now[128 * 512 : 256 * 512] == made.content[128 * 512 : 256 * 512]
    with diskkit.open_disk(made.path) as disk:
        assert disk.info.parent_cid == "abcdef01"
        assert disk.info.cid == "00000002"
    done = qemu_img("convert", "-f", "vmdk", "-O", "raw", made.path, tmp_path / "q.raw")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "q.raw").read_bytes() == now


def test_base_becomes_a_child(tmp_path: Path) -> None:
    base = sparse(tmp_path)
    hosted_sparse(tmp_path / "new.vmdk", CAPACITY, {})
    attach(base.path, tmp_path / "new.vmdk")
    assert read(tmp_path / "new.vmdk") == base.content


def test_missing_or_changed_parent_is_mended(tmp_path: Path) -> None:
    base = sparse(tmp_path)
    made = child(tmp_path, base)
    text_replace(base.path, "CID=12345678", "CID=00000009")
    with pytest.raises(ChainError):
        read(made.path)
    attach(base.path, made.path)
    assert read(made.path) == made.content
    base.path.rename(tmp_path / "moved.vmdk")
    attach(tmp_path / "moved.vmdk", made.path)
    assert read(made.path) == made.content


def test_rebase_onto_the_same_content(tmp_path: Path) -> None:
    base = sparse(tmp_path)
    made = child(tmp_path, base)
    with diskkit.open_disk(base.path) as disk:
        diskkit.clone(disk, tmp_path / "copy.vmdk", "monolithicFlat")
    rebase(made.path, tmp_path / "copy.vmdk")
    base.path.unlink()
    assert read(made.path) == made.content
    assert diskkit.check(made.path).ok


def test_rebase_looks_only_at_what_the_link_does_not_hold(tmp_path: Path) -> None:
    base = sparse(tmp_path)
    made = child(tmp_path, base)
    grains = {i: sample_grain(i) for i in (0, 1, 2, 7, 9, 30, 40)}
    hosted_sparse(
        tmp_path / "near.vmdk", CAPACITY, {**grains, 1: sample_grain(77), 7: b"z" * 65536}
    )
    rebase(made.path, tmp_path / "near.vmdk")
    assert read(made.path) == made.content


def test_rebase_onto_other_content_is_refused(tmp_path: Path) -> None:
    base = sparse(tmp_path)
    made = child(tmp_path, base)
    grains = {i: sample_grain(i) for i in (0, 1, 2, 7, 9, 30)}
    hosted_sparse(tmp_path / "far.vmdk", CAPACITY, {**grains, 40: sample_grain(9)})
    first = next(i for i in range(65536) if sample_grain(9)[i] != sample_grain(40)[i])
    before = made.path.read_bytes()
    with pytest.raises(ChainError, match=rf"at byte {40 * 65536 + first} first .*--unsafe"):
        rebase(made.path, tmp_path / "far.vmdk")
    assert made.path.read_bytes() == before
    rebase(made.path, tmp_path / "far.vmdk", unsafe=True)
    assert read(made.path) != made.content


def test_middle_of_a_chain(tmp_path: Path) -> None:
    base = sparse(tmp_path)
    made = child(tmp_path, base)
    diskkit.create_child(made.path, tmp_path / "leaf.vmdk")
    with pytest.raises(ChainError, match="is the parent of"):
        attach(base.path, made.path)
    attach(base.path, made.path, policy=OpenPolicy(force=True))
    with diskkit.open_disk(base.path) as disk:
        diskkit.clone(disk, tmp_path / "copy.vmdk", "monolithicSparse")
    rebase(made.path, tmp_path / "copy.vmdk")
    assert read(tmp_path / "leaf.vmdk") == made.content


def test_circles_are_refused(tmp_path: Path) -> None:
    made = child(tmp_path, sparse(tmp_path))
    refused(ChainError, "circle", tmp_path / "base.vmdk", made.path)
    refused(ChainError, "circle", made.path, made.path)


def test_too_deep_a_chain_is_refused(tmp_path: Path) -> None:
    base = sparse(tmp_path)
    made = child(tmp_path, base)
    hosted_sparse(tmp_path / "new.vmdk", CAPACITY, {})
    with pytest.raises(ChainError, match="more than 2 links"):
        attach(made.path, tmp_path / "new.vmdk", policy=OpenPolicy(max_depth=2))
    attach(made.path, tmp_path / "new.vmdk", policy=OpenPolicy(max_depth=3))


def test_links_that_cannot_be_parent_and_child(tmp_path: Path) -> None:
    base = sparse(tmp_path)
    hosted_sparse(tmp_path / "small.vmdk", 128, {})
    refused(ChainError, "bytes", tmp_path / "small.vmdk", base.path)
    (tmp_path / "a.raw").write_bytes(bytes(128 * 512))
    refused(UsageError, "raw image", tmp_path / "small.vmdk", tmp_path / "a.raw")
    refused(UsageError, "raw image", tmp_path / "a.raw", tmp_path / "small.vmdk")
    refused(UsageError, "streamOptimized", packed(tmp_path, "B").path, base.path)
    flat(tmp_path / "f-flat.vmdk", bytes(128 * 512))
    write_descriptor(tmp_path / "f.vmdk", "monolithicFlat", ['RW 128 FLAT "f-flat.vmdk" 0'])
    refused(UsageError, "FLAT extent", tmp_path / "f.vmdk", tmp_path / "small.vmdk")
    cowd(tmp_path / "c-delta.vmdk", 128, {})
    write_descriptor(tmp_path / "c.vmdk", "vmfsSparse", ['RW 128 VMFSSPARSE "c-delta.vmdk"'])
    refused(UsageError, "hosted", tmp_path / "c.vmdk", tmp_path / "small.vmdk")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = sparse(tmp_path)
    new = tmp_path / "new.vmdk"
    hosted_sparse(new, CAPACITY, {})
    assert main(["chain", "attach", os.fspath(base.path), os.fspath(new)]) == 0
    assert read(new) == base.content
    assert main(["chain", os.fspath(new), "-q"]) == 0
    assert "base.vmdk" in capsys.readouterr().out
    assert main(["chain", "attach", os.fspath(new)]) == 2
    assert main(["chain", "tear", os.fspath(base.path), os.fspath(new)]) == 2
    with diskkit.open_disk(base.path) as disk:
        diskkit.clone(disk, tmp_path / "copy.vmdk", "monolithicSparse")
    assert main(["rebase", os.fspath(new), "--parent", os.fspath(tmp_path / "copy.vmdk")]) == 0
    base.path.unlink()
    assert read(new) == base.content


def test_disk_called_attach_can_be_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sparse(tmp_path, "attach")
    monkeypatch.chdir(tmp_path)
    assert main(["chain", "attach"]) == 0
    assert "attach" in capsys.readouterr().out
