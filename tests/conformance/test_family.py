# SPDX-License-Identifier: Apache-2.0
"""Who is a parent is found out from its children, and a parent is not written into."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.errors import ChainError
from diskkit.formats.vmdk.family import children_of
from diskkit.interfaces import OpenPolicy
from diskkit.open import open_links
from diskkit.storage.local import open_file
from makers import descriptor, flat, hosted_sparse, sample_grain, split_sparse, write_descriptor

if TYPE_CHECKING:
    from pathlib import Path

HINT = {"parent_cid": "12345678", "parent_hint": "base.vmdk"}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    hosted_sparse(tmp_path / "base.vmdk", 256, {0: sample_grain(1)})
    return tmp_path / "base.vmdk"


def names(path: Path) -> list[str]:
    return [os.path.basename(p) for p in children_of(os.fspath(path))]  # noqa: PTH119


def test_children_of_every_layout_are_found(base: Path) -> None:
    folder = base.parent
    hosted_sparse(folder / "b.vmdk", 256, {}, parent_cid="1", parent_hint=os.fspath(base))
    split_sparse(folder / "a.vmdk", 256, {}, 128, **HINT)  # type: ignore[arg-type]
    hosted_sparse(folder / "other name", 256, {}, **HINT)  # type: ignore[arg-type]
    (folder / "link.vmdk").symlink_to("base.vmdk")
    hosted_sparse(folder / "d.vmdk", 256, {}, parent_cid="1", parent_hint="link.vmdk")
    hosted_sparse(folder / "e.vmdk", 256, {}, parent_cid="1", parent_hint="c:\\vms\\base.vmdk")
    hosted_sparse(folder / "grandchild.vmdk", 256, {}, parent_cid="1", parent_hint="b.vmdk")
    hosted_sparse(folder / "gone.vmdk", 256, {}, parent_cid="1", parent_hint="gone too.vmdk")
    assert names(base) == ["a.vmdk", "b.vmdk", "d.vmdk", "e.vmdk", "other name"]
    assert names(folder / "link.vmdk") == names(base)
    assert names(folder / "b.vmdk") == ["grandchild.vmdk"]
    assert names(folder / "a.vmdk") == []


def test_disk_that_names_itself_is_not_its_own_child(base: Path) -> None:
    hosted_sparse(base, 256, {}, **HINT)  # type: ignore[arg-type]
    assert names(base) == []


def test_descriptor_that_would_not_open_counts(base: Path) -> None:
    text = descriptor("monolithicSparse", [], hint="base.vmdk") + "rubbish\n"
    (base.parent / "a.vmdk").write_text(text)
    assert names(base) == ["a.vmdk"]


def test_what_guests_write_makes_no_child(base: Path) -> None:
    folder = base.parent
    hosted_sparse(folder / "x-flat.vmdk", 256, {}, **HINT)  # type: ignore[arg-type]
    size = (folder / "x-flat.vmdk").stat().st_size // 512
    write_descriptor(folder / "x.vmdk", "monolithicFlat", [f'RW {size} FLAT "x-flat.vmdk" 0'])
    text = descriptor("monolithicSparse", ['RW 1 SPARSE "a"'], hint="base.vmdk", parent_cid="1")
    flat(folder / "guest.img", text.encode())
    assert names(base) == []


def test_locked_child_is_found(base: Path) -> None:
    hosted_sparse(base.parent / "a.vmdk", 256, {}, **HINT)  # type: ignore[arg-type]
    held = open_file(os.fspath(base.parent / "a.vmdk"), write=True)
    assert names(base) == ["a.vmdk"]
    held.close()


def test_unreadable_vmdk_is_not_taken_for_no_child(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (base.parent / "a.vmdk").touch()
    (base.parent / "notes.txt").touch()
    refused = {"notes.txt"}
    real = os.open

    def fail(path: str, flags: int) -> int:
        if path.rpartition("/")[2] in refused:
            raise PermissionError(13, "Permission denied")
        return real(path, flags)

    monkeypatch.setattr(os, "open", fail)
    assert names(base) == []
    refused.add("a.vmdk")
    with pytest.raises(diskkit.StorageError, match=r"a\.vmdk: it may be a child"):
        names(base)


def test_parent_is_opened_for_writing_only_by_force(base: Path) -> None:
    open_links(base, policy=OpenPolicy(writable=True))[0].close()
    hosted_sparse(base.parent / "a.vmdk", 256, {}, **HINT)  # type: ignore[arg-type]
    with pytest.raises(ChainError, match=r"base\.vmdk: .*is the parent of a\.vmdk: .*--force"):
        open_links(base, policy=OpenPolicy(writable=True))
    open_links(base, policy=OpenPolicy(writable=True, force=True))[0].close()
    for link in open_links(base.parent / "a.vmdk", policy=OpenPolicy(writable=True)):
        link.close()


def test_folder_of_thousands_is_searched_quickly(base: Path) -> None:
    for number in range(3000):
        (base.parent / f"n{number}").write_bytes(b"x" * 600)
    hosted_sparse(base.parent / "a.vmdk", 256, {}, **HINT)  # type: ignore[arg-type]
    began = time.monotonic()
    assert names(base) == ["a.vmdk"]
    assert time.monotonic() - began < 5


def test_what_a_crash_left_under_a_passing_name_is_no_child(base: Path) -> None:
    hosted_sparse(base.with_name("child.vmdk"), 256, {}, **HINT)  # type: ignore[arg-type]
    assert names(base) == ["child.vmdk"]
    base.with_name("child.vmdk").rename(base.with_name(".child.vmdk.0badcafe.part"))
    assert names(base) == []
