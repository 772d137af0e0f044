# SPDX-License-Identifier: Apache-2.0
"""Chains that do not hold together: rows 27 to 29."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from diskkit import ChainError, FormatError, UnsupportedFeature, UsageError, open_disk
from diskkit.chain import MismatchedParent
from hostile.images import (
    CAPACITY,
    ESX_CAPACITY,
    GRAIN,
    GRAINS,
    SECTOR,
    Warnings,
    base,
    content,
    cowd_chain,
    hosted_chain,
    open_files,
    policy,
    put,
    refusal,
    says,
    se_chain,
)
from makers import cowd, expected, flat, hosted_sparse, sample_grain, text_replace, write_descriptor

if TYPE_CHECKING:
    from pathlib import Path


def long_chain(folder: Path, links: int) -> Path:
    """`links` redo logs and descriptors, the last one a base; returns the leaf."""
    leaf = folder / "disk-0.vmdk"
    for number in range(links - 1):
        extent = f"disk-{number}-delta.vmdk"
        cowd(folder / extent, 128, {number % 128: bytes([1 + number % 255]) * SECTOR})
        write_descriptor(
            folder / f"disk-{number}.vmdk",
            "vmfsSparse",
            [f'RW 128 VMFSSPARSE "{extent}"'],
            parent_cid="12345678",
            hint=f"disk-{number + 1}.vmdk",
        )
    flat(folder / "base-flat.vmdk", b"z" * 128 * SECTOR)
    last = folder / f"disk-{links - 1}.vmdk"
    write_descriptor(last, "vmfs", ['RW 128 VMFS "base-flat.vmdk"'])
    return leaf


def hinted(folder: Path, hint: str) -> Path:
    """A redo log whose parent hint is `hint`, beside a good base."""
    leaf = cowd_chain(folder)
    text_replace(leaf, '"base.vmdk"', f'"{hint}"')
    return leaf


def hint_error(disk: Path, hint: str, *why: str, **changes: object) -> None:
    text = refusal(disk, ChainError, opens=False, **changes)
    says(text, f"{disk}: descriptor: parentFileNameHint is {hint}", *why)


# --- row 27: finding the parent ------------------------------------------------------------------


def test_parent_id_without_a_hint(tmp_path: Path) -> None:
    disk = cowd_chain(tmp_path)
    text_replace(disk, 'parentFileNameHint="base.vmdk"\n', "")
    says(refusal(disk), disk, "descriptor: parentFileNameHint: it has a parentCID, but no hint")


def test_hint_without_a_parent_id(tmp_path: Path) -> None:
    disk = cowd_chain(tmp_path)
    text_replace(disk, "parentCID=aaaaaaaa", "parentCID=ffffffff")
    says(refusal(disk), "parentFileNameHint is base.vmdk", "parentCID says no parent")


@pytest.mark.parametrize(
    "hint",
    [
        "missing.vmdk",
        "/vmfs/volumes/5c8/vm/missing.vmdk",
        "C:\\vms\\missing.vmdk",
        "\\\\server\\share\\missing.vmdk",
        "../elsewhere/missing.vmdk",
        "vsan://52-a/missing.vmdk",
        "json:{}",
        "",
        "..",
        "/",
    ],
)
def test_parent_missing(tmp_path: Path, hint: str) -> None:
    disk = hinted(tmp_path, hint)
    text = refusal(disk, ChainError)
    says(text, f"{disk}: descriptor: parentFileNameHint is {hint}", "copy the parent beside")


def test_single_link_opens_without_its_parent(tmp_path: Path) -> None:
    disk = hinted(tmp_path, "missing.vmdk")
    with open_disk(disk, policy=policy(single_link=True)) as opened:
        assert opened.read(3 * SECTOR, SECTOR) == b"a" * SECTOR
        assert opened.read(0, SECTOR) == bytes(SECTOR)


@pytest.mark.parametrize(
    "hint",
    ["/vmfs/volumes/5c8/vm/base.vmdk", "C:\\vms\\base.vmdk", "nbd://host/base.vmdk", "x/base.vmdk"],
)
def test_parent_that_moved_is_found_beside_its_child(tmp_path: Path, hint: str) -> None:
    good = content(cowd_chain(tmp_path))
    assert content(hinted(tmp_path, hint)) == good


def test_parent_outside_the_folder(tmp_path: Path) -> None:
    outside, home = tmp_path / "outside", tmp_path / "home"
    outside.mkdir()
    home.mkdir()
    disk = cowd_chain(home)
    good = content(disk)
    for name in ("base.vmdk", "base-flat.vmdk"):
        shutil.move(home / name, outside / name)
    for hint in (str(outside / "base.vmdk"), "../outside/base.vmdk"):
        text_replace(disk, disk.read_text().split('Hint="')[1].split('"')[0], hint)
        why = "outside the disk's own folder", f"allow {outside} to open it"
        hint_error(disk, hint, *why)
        assert content(disk, allow=(str(outside),)) == good


def test_parent_reached_by_a_link_out_of_the_folder(tmp_path: Path) -> None:
    outside, home = tmp_path / "outside", tmp_path / "home"
    outside.mkdir()
    home.mkdir()
    disk = cowd_chain(home)
    shutil.move(home / "base.vmdk", outside / "base.vmdk")
    (home / "base.vmdk").symlink_to(outside / "base.vmdk")
    hint_error(disk, "base.vmdk", "outside the disk's own folder")


def test_parent_below_may_not_lead_back_above(tmp_path: Path) -> None:
    """A folder that a parent brings in is no wider than its child's."""
    home = tmp_path / "home"
    (home / "sub").mkdir(parents=True)
    disk = cowd_chain(home)
    base(home / "sub")
    text_replace(disk, '"base.vmdk"', '"sub/base.vmdk"')
    flat(tmp_path / "secret.bin", bytes(ESX_CAPACITY * SECTOR))
    text_replace(home / "sub" / "base.vmdk", "base-flat.vmdk", "../../secret.bin")
    says(refusal(disk), home / "sub" / "base.vmdk", "outside the disk's own folder")
    flat(home / "fine.bin", bytes(ESX_CAPACITY * SECTOR))
    text_replace(home / "sub" / "base.vmdk", "../../secret.bin", "../fine.bin")
    assert content(disk)


@pytest.mark.parametrize("hint", ["/dev/zero", "/dev/null", "/dev/full"])
def test_parent_is_a_device(tmp_path: Path, hint: str) -> None:
    disk = hinted(tmp_path, hint)
    hint_error(disk, hint, "a character device, not a regular file", allow=("/",))


def test_parent_is_a_fifo_or_a_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "sub").mkdir()
    hint_error(hinted(tmp_path, "fifo"), "fifo", "the parent is a FIFO, not a regular file")
    hint_error(hinted(tmp_path, "sub"), "sub", "the parent is a folder, not a regular file")


def test_parent_is_the_child(tmp_path: Path) -> None:
    disk = hinted(tmp_path, "child.vmdk")
    text_replace(disk, "parentCID=aaaaaaaa", "parentCID=12345678")
    hint_error(disk, "child.vmdk", "the chain runs in a circle")


def test_parent_is_the_child_under_another_name(tmp_path: Path) -> None:
    disk = hinted(tmp_path, "twin.vmdk")
    os.link(disk, tmp_path / "twin.vmdk")
    hint_error(disk, "twin.vmdk", "the chain runs in a circle")


def test_longer_circle(tmp_path: Path) -> None:
    disk = long_chain(tmp_path, 4)
    text_replace(tmp_path / "disk-2.vmdk", '"disk-3.vmdk"', '"disk-1.vmdk"')
    text = refusal(disk, ChainError)
    says(text, tmp_path / "disk-2.vmdk", "is disk-1.vmdk", "the chain runs in a circle")


def test_depth_is_64_links_unless_more_are_allowed(tmp_path: Path) -> None:
    disk = long_chain(tmp_path, 65)
    text = refusal(disk, ChainError)
    says(text, tmp_path / "disk-63.vmdk", "is disk-64.vmdk", "more than 64 links", "greater depth")
    with open_disk(disk, policy=policy(max_depth=65)) as opened:
        assert len(opened.info.links) == 65
        assert opened.read(63 * SECTOR, SECTOR) == bytes([64]) * SECTOR
        assert opened.read(64 * SECTOR, SECTOR) == b"z" * SECTOR


def test_depth_is_never_above_256(tmp_path: Path) -> None:
    disk = long_chain(tmp_path, 257)
    says(refusal(disk, ChainError, max_depth=256), "more than 256 links")
    assert content(tmp_path / "disk-1.vmdk", max_depth=256)
    for depth in (257, 0, -1):
        says(refusal(disk, UsageError, max_depth=depth), f"1 to 256, not {depth}")


def test_nothing_stays_open_after_a_refusal(tmp_path: Path) -> None:
    disk = long_chain(tmp_path, 20)
    before = open_files()
    refusal(disk, ChainError, max_depth=10)
    text_replace(tmp_path / "disk-5.vmdk", "disk-5-delta.vmdk", "gone.vmdk")
    refusal(disk)
    text_replace(tmp_path / "disk-3.vmdk", "RW 128 ", "RW 127 ")
    refusal(disk)
    assert open_files() == before


# --- row 28: links that do not belong together ---------------------------------------------------


def test_parent_changed_after_the_child_was_made(tmp_path: Path) -> None:
    disk = hosted_chain(tmp_path)
    good = content(disk)
    text_replace(tmp_path / "parent.vmdk", "CID=aaaaaaaa", "CID=bbbbbbbb")
    why = "content ID is bbbbbbbb", "the child recorded aaaaaaaa", "allow the mismatch"
    says(refusal(disk, MismatchedParent), f"{disk}: descriptor: parentCID is aaaaaaaa", *why)
    warnings = Warnings()
    assert content(disk, warnings, allow_mismatch=True) == good
    assert warnings.has(str(disk), "bbbbbbbb", "aaaaaaaa")


def test_parent_of_another_size(tmp_path: Path) -> None:
    disk = hosted_chain(tmp_path)
    other = CAPACITY + GRAIN
    hosted_sparse(tmp_path / "parent.vmdk", other, GRAINS, cid="aaaaaaaa")
    why = f"its parent has {other * SECTOR} bytes, it has {CAPACITY * SECTOR}"
    hint_error(disk, "parent.vmdk", why)
    hint_error(disk, "parent.vmdk", why, allow_mismatch=True)


def test_snapshot_of_the_storage_array(tmp_path: Path) -> None:
    disk = cowd_chain(tmp_path)
    text_replace(disk, "parentCID=aaaaaaaa", 'parentCID=aaaaaaaa\nisNativeSnapshot="yes"')
    says(refusal(disk, UnsupportedFeature), disk, "isNativeSnapshot is yes", "storage array")
    text_replace(disk, '"yes"', '"no"')
    assert content(disk)
    text_replace(disk, 'isNativeSnapshot="no"', 'isNativeSnapshot="maybe"')
    says(refusal(disk), "isNativeSnapshot is maybe", 'neither "yes" nor "no"')


def test_redo_log_over_sesparse(tmp_path: Path) -> None:
    middle = se_chain(tmp_path)
    leaf = tmp_path / "leaf.vmdk"
    cowd(tmp_path / "leaf-delta.vmdk", ESX_CAPACITY, {})
    write_descriptor(
        leaf,
        "vmfsSparse",
        [f'RW {ESX_CAPACITY} VMFSSPARSE "leaf-delta.vmdk"'],
        parent_cid="12345678",
        hint=middle.name,
    )
    hint_error(leaf, middle.name, "vmfsSparse and seSparse links do not mix")


# --- row 29: parents of other kinds --------------------------------------------------------------


def test_parent_is_a_raw_image(tmp_path: Path) -> None:
    disk = hinted(tmp_path, "base-flat.vmdk")
    says(refusal(disk), tmp_path / "base-flat.vmdk", "is not a VMDK", "begins with b'sector 0'")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"QFI\xfb\0\0\0\x03" + bytes(4096), "is not a VMDK"),
        (b"", "is not a VMDK: it is empty"),
        (b"COWD" + bytes(4096), "a redo log without its descriptor"),
    ],
)
def test_parent_of_another_format(tmp_path: Path, data: bytes, why: str) -> None:
    disk = hinted(tmp_path, "other.img")
    (tmp_path / "other.img").write_bytes(data)
    says(refusal(disk), tmp_path / "other.img", why)


def test_parent_named_raw_is_still_not_taken_for_raw(tmp_path: Path) -> None:
    disk = hinted(tmp_path, "parent.raw")
    (tmp_path / "parent.raw").write_bytes(bytes(ESX_CAPACITY * SECTOR))
    says(refusal(disk), tmp_path / "parent.raw", "is not a VMDK")


def test_damaged_parent_is_named(tmp_path: Path) -> None:
    disk = hosted_chain(tmp_path)
    put(tmp_path / "parent.vmdk", "grainSize", 3)
    says(refusal(disk), f"{tmp_path / 'parent.vmdk'}: sparse header: grainSize at byte 20 is 3")


def test_damage_in_a_parent_counts_only_where_it_is_asked(tmp_path: Path) -> None:
    from hostile.images import table_entry
    from makers import poke

    disk = hosted_chain(tmp_path)
    parent = tmp_path / "parent.vmdk"
    for directory in ("gdOffset", "rgdOffset"):
        for grain in (2, 9):
            poke(parent, table_entry(parent, grain, directory), "<I", 0xFFFFFFFF)
    with open_disk(disk, policy=policy()) as opened:
        wanted = expected(CAPACITY, {**GRAINS, 1: sample_grain(7), 2: "zero"}, GRAIN)
        assert opened.read(0, 9 * GRAIN * SECTOR) == wanted[: 9 * GRAIN * SECTOR]
        with pytest.raises(FormatError, match="entry 9 at byte"):
            opened.read(9 * GRAIN * SECTOR, 512)
