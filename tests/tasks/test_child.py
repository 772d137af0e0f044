# SPDX-License-Identifier: Apache-2.0
"""New children read as their parents, in every kind, for us and for qemu."""

from __future__ import annotations

import os
import random
import struct
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.cli import main
from diskkit.errors import ChainError, DiskkitError, UsageError
from diskkit.formats.vmdk.esx import parse_sesparse_header
from diskkit.formats.vmdk.writing import grains as grains_writing
from diskkit.formats.vmdk.writing import sesparse as sesparse_writing
from diskkit.tasks.child import create_child
from makers import cowd, flat, sample_grain, sesparse_regions, write_descriptor
from makers.peers import qemu_img

from .images import sparse

if TYPE_CHECKING:
    from pathlib import Path

SECTOR = 512
HOSTED = ("monolithicSparse", "twoGbMaxExtentSparse")
ESX = ("vmfsSparse", "seSparse")
DDB = {
    "adapterType": "ide",
    "geometry.cylinders": "7",
    "geometry.heads": "16",
    "geometry.sectors": "63",
    "longContentID": "00000000000000000000000012345678",
    "uuid": "60 00 C2 90 00 00 00 00-00 00 00 00 00 00 00 01",
    "virtualHWVersion": "13",
    "toolsVersion": "1",
}


def esx_base(folder: Path, sectors: int = 5000) -> tuple[Path, bytes]:
    content = (sample_grain(3) * (sectors // 128 + 1))[: sectors * SECTOR]
    flat(folder / "base-flat.vmdk", content)
    line = f'RW {sectors} VMFS "base-flat.vmdk"'
    write_descriptor(folder / "base.vmdk", "vmfs", [line], ddb=DDB)
    return folder / "base.vmdk", content


def base_for(kind: str, folder: Path) -> tuple[Path, bytes]:
    if kind in ESX:
        return esx_base(folder)
    made = sparse(folder)
    return made.path, made.content


def read(path: Path) -> bytes:
    with diskkit.open_disk(path) as disk:
        return disk.read(0, disk.size)


@pytest.mark.parametrize("kind", [*HOSTED, *ESX])
def test_child_reads_as_its_parent(tmp_path: Path, kind: str) -> None:
    base, content = base_for(kind, tmp_path)
    create_child(base, tmp_path / "child.vmdk", kind, experimental=True)
    create_child(tmp_path / "child.vmdk", tmp_path / "grand.vmdk", kind, experimental=True)
    assert read(tmp_path / "grand.vmdk") == content
    assert diskkit.check(tmp_path / "grand.vmdk").problems == []
    with diskkit.open_disk(tmp_path / "child.vmdk") as disk:
        assert disk.info.create_type == kind
        assert disk.info.links[0].parent_hint == "base.vmdk"
        assert disk.info.cid != disk.info.links[1].cid


@pytest.mark.parametrize("kind", [*HOSTED, *ESX])
def test_qemu_reads_the_parent_through_the_child(tmp_path: Path, kind: str) -> None:
    base, _ = base_for(kind, tmp_path)
    create_child(base, tmp_path / "child.vmdk", kind, experimental=True)
    done = qemu_img("info", "--backing-chain", "--output=json", tmp_path / "child.vmdk")
    assert done.returncode == 0, done.stderr
    assert os.fspath(base) in done.stdout
    done = qemu_img("compare", "-f", "vmdk", "-F", "vmdk", tmp_path / "child.vmdk", base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "identical" in done.stdout


@pytest.mark.parametrize("kind", [*HOSTED, *ESX])
def test_qemu_refuses_the_child_of_another_parent(tmp_path: Path, kind: str) -> None:
    # So what was compared above did come from the parent.
    base, _ = base_for(kind, tmp_path)
    create_child(base, tmp_path / "child.vmdk", kind, experimental=True)
    text = base.read_bytes().replace(b"CID=12345678", b"CID=87654321", 1)
    base.write_bytes(text)
    with pytest.raises(ChainError):
        diskkit.open_disk(tmp_path / "child.vmdk")
    done = qemu_img("compare", "-f", "vmdk", "-F", "vmdk", tmp_path / "child.vmdk", base)
    assert done.returncode > 1, done.stdout


def test_child_keeps_the_identity_of_the_disk_but_not_its_content_id(tmp_path: Path) -> None:
    base, _ = esx_base(tmp_path)
    create_child(base, tmp_path / "child.vmdk")
    with diskkit.open_disk(tmp_path / "child.vmdk", single_link=True) as disk:
        ours = dict(disk.info.metadata)
        assert disk.info.cid is not None
        assert ours.pop("longContentID").endswith(disk.info.cid)
        assert disk.info.cid != "12345678"
        assert disk.info.parent_cid == "12345678"
    assert ours == {k: v for k, v in DDB.items() if k not in ("longContentID", "toolsVersion")}


def test_child_of_a_disk_without_uuid_invents_none(tmp_path: Path) -> None:
    made = sparse(tmp_path)
    create_child(made.path, tmp_path / "child.vmdk")
    with diskkit.open_disk(tmp_path / "child.vmdk") as disk:
        assert disk.info.uuid is None


def test_grandchild_finds_the_uuid_above_its_parent(tmp_path: Path) -> None:
    esx_base(tmp_path)
    cowd(tmp_path / "child-delta.vmdk", 5000, {})
    line = 'RW 5000 VMFSSPARSE "child-delta.vmdk"'
    how = {"parent_cid": "12345678", "hint": "base.vmdk", "cid": "2", "ddb": {}}
    write_descriptor(tmp_path / "child.vmdk", "vmfsSparse", [line], **how)  # type: ignore[arg-type]
    create_child(tmp_path / "child.vmdk", tmp_path / "grand.vmdk")
    with diskkit.open_disk(tmp_path / "grand.vmdk", single_link=True) as disk:
        assert disk.info.create_type == "vmfsSparse"
        assert disk.info.uuid == DDB["uuid"]


def test_parent_in_another_folder_is_named_by_its_whole_path(tmp_path: Path) -> None:
    made = sparse(tmp_path)
    (tmp_path / "a").mkdir()
    child = tmp_path / "a" / "child.vmdk"
    (tmp_path / "alias.vmdk").symlink_to("base.vmdk")
    create_child(tmp_path / "alias.vmdk", child)
    with diskkit.open_disk(child, allow=(os.fspath(tmp_path),)) as disk:
        assert disk.info.links[0].parent_hint == os.fspath(made.path)
        assert disk.read(0, disk.size) == made.content
    assert qemu_img("compare", "-F", "vmdk", "-f", "vmdk", child, made.path).returncode == 0


def test_relative_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sparse(tmp_path)
    monkeypatch.chdir(tmp_path)
    create_child("base.vmdk", "child.vmdk", "twoGbMaxExtentSparse")
    assert read(tmp_path / "child.vmdk") == made.content
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "base.vmdk",
        "child-s001.vmdk",
        "child.vmdk",
    ]


@pytest.mark.parametrize("name", ["c:base.vmdk", 'a"b.vmdk', "a\\b.vmdk"])
def test_parent_that_no_hint_can_name_is_refused(tmp_path: Path, name: str) -> None:
    made = sparse(tmp_path)
    made.path.rename(tmp_path / name)
    with pytest.raises(UsageError):
        create_child(tmp_path / name, tmp_path / "child.vmdk")
    assert len(list(tmp_path.iterdir())) == 1


def refused(
    folder: Path, parent: Path, kind: str | None, match: str, *, experimental: bool = False
) -> None:
    before = sorted(folder.iterdir())
    with pytest.raises(DiskkitError, match=match):
        create_child(parent, folder / "child.vmdk", kind, experimental=experimental)
    assert sorted(folder.iterdir()) == before


def test_kinds_that_do_not_go_together(tmp_path: Path) -> None:
    made = sparse(tmp_path)
    (tmp_path / "esx").mkdir()
    esx, _ = esx_base(tmp_path / "esx")
    refused(tmp_path, made.path, "vmfsSparse", "hosted")
    refused(esx.parent, esx, "monolithicSparse", "hosted")
    refused(tmp_path, made.path, "monolithicFlat", "not one of a child")
    refused(esx.parent, esx, "seSparse", "--experimental")
    create_child(esx, esx.parent / "se.vmdk", "seSparse", experimental=True)
    refused(esx.parent, esx.parent / "se.vmdk", "vmfsSparse", "do not mix")
    refused(esx.parent, esx.parent / "se.vmdk", None, "--experimental")
    create_child(esx, esx.parent / "delta.vmdk", "vmfsSparse")
    refused(esx.parent, esx.parent / "delta.vmdk", "seSparse", "do not mix", experimental=True)


def test_raw_and_encrypted_parents_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(SECTOR))
    refused(tmp_path, tmp_path / "a.raw", None, "raw image")
    base, _ = esx_base(tmp_path)
    base.write_bytes(base.read_bytes().replace(b"createType", b'keyID="x"\ncreateType', 1))
    refused(tmp_path, base, None, "encrypted")


@pytest.mark.parametrize(
    ("sectors", "kind"), [((1 << 32), "vmfsSparse"), ((1 << 37) + 8, "seSparse")]
)
def test_capacity_beyond_the_kind_is_refused(tmp_path: Path, sectors: int, kind: str) -> None:
    esx_parent(tmp_path, sectors)
    refused(tmp_path, tmp_path / "base.vmdk", kind, "at most", experimental=True)


@pytest.mark.parametrize("existing", ["child.vmdk", "child-s001.vmdk"])
def test_existing_files_are_refused(tmp_path: Path, existing: str) -> None:
    made = sparse(tmp_path)
    (tmp_path / existing).write_bytes(b"mine")
    refused(tmp_path, made.path, "twoGbMaxExtentSparse", "exists already")
    assert (tmp_path / existing).read_bytes() == b"mine"


@pytest.mark.parametrize("sectors", [1, 4096, 4097, 512 * 4096 + 1, (1 << 32) - 1])
def test_empty_cowd_is_laid_out_as_others_are(tmp_path: Path, sectors: int) -> None:
    esx_parent(tmp_path, sectors)
    create_child(tmp_path / "base.vmdk", tmp_path / "child.vmdk")
    made = tmp_path / "child-delta.vmdk"
    assert made.stat().st_size % 4096 == 0
    assert made.stat().st_blocks <= 16
    if sectors <= 4097:
        cowd(tmp_path / "other", sectors, {})
        assert made.read_bytes() == (tmp_path / "other").read_bytes()
    with made.open("rb") as file:
        _, _, _, found, grain, gd, tables, free = struct.unpack("<4s7I", file.read(32))
    assert (found, grain, gd, tables) == (sectors, 1, 4, -(-sectors // 4096))
    assert free == 4 + -(-tables // 128)


@pytest.mark.parametrize("sectors", [1, 204800, 32768 + 1, 1 << 32, 1 << 37])
def test_empty_sesparse_is_laid_out_as_esxi_logged_it(tmp_path: Path, sectors: int) -> None:
    esx_parent(tmp_path, sectors)
    create_child(tmp_path / "base.vmdk", tmp_path / "child.vmdk", "seSparse", experimental=True)
    made = tmp_path / "child-sesparse.vmdk"
    with made.open("rb") as file:
        head = file.read(SECTOR)
    parse_sesparse_header(head, made.stat().st_size, "x")
    words = struct.unpack_from("<16Q", head, 80)
    wanted = [word for region in sesparse_regions(sectors).values() for word in region]
    assert list(words) == wanted
    if sectors == 204800:
        starts_and_sizes = "1:1 2:2 2048:2048 4096:2048 6144:2048 8192:2048 10240:2048 12288:204800"
        assert " ".join(f"{a}:{b}" for a, b in zip(*[iter(words)] * 2, strict=True)) == (
            starts_and_sizes
        )
    assert made.stat().st_blocks <= 16
    with diskkit.open_disk(tmp_path / "child.vmdk", single_link=True) as disk:
        assert {str(run.state) for run in disk.runs(0, min(disk.size, 1 << 30))} == {"hole"}


def esx_parent(folder: Path, sectors: int) -> None:
    """An empty disk of any size, in files of a size that any filesystem has."""
    lines: list[str] = []
    while sectors:
        size = min(sectors, 1 << 33)
        name = f"base-{len(lines)}.vmdk"
        flat(folder / name, b"")
        os.truncate(folder / name, size * SECTOR)
        lines.append(f'RW {size} VMFS "{name}"')
        sectors -= size
    write_descriptor(folder / "base.vmdk", "vmfs", lines)


@pytest.mark.parametrize("kind", [*HOSTED, *ESX])
def test_child_can_be_written_to(tmp_path: Path, kind: str) -> None:
    base, content = base_for(kind, tmp_path)
    child = tmp_path / "child.vmdk"
    create_child(base, child, kind, experimental=True)
    with diskkit.open_disk(child, writable=True, experimental=True) as disk:
        disk.write(100 * SECTOR, b"\1" * SECTOR)
    new = content[: 100 * SECTOR] + b"\1" * SECTOR + content[101 * SECTOR :]
    assert read(child) == new
    assert read(base) == content
    assert diskkit.check(child).ok
    raw = tmp_path / "qemu.raw"
    done = qemu_img("convert", "-f", "vmdk", "-O", "raw", child, raw)
    assert done.returncode == 0, done.stderr
    assert raw.read_bytes() == new


@pytest.mark.parametrize("reopened", [True, False])
def test_a_full_sesparse_file_takes_what_was_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reopened: bool
) -> None:
    """A little of the file at a time is looked through for it, once nobody knows whose it was."""
    monkeypatch.setattr(sesparse_writing, "_SEARCHED", 50)
    monkeypatch.setattr(sesparse_writing, "_CHUNK", 7)
    if not reopened:
        monkeypatch.setattr(grains_writing, "_PARKED", 0)
    capacity = 1 << 20
    (base, _), child = esx_base(tmp_path, capacity // SECTOR), tmp_path / "child.vmdk"
    create_child(base, child, "seSparse", experimental=True)
    dice = random.Random(1)
    model = bytearray(dice.randbytes(capacity))
    disk = diskkit.open_disk(child, writable=True, experimental=True)
    try:
        disk.write(0, model)
        disk.flush()
        size = (tmp_path / "child-sesparse.vmdk").stat().st_size
        for _ in range(4):
            given = dice.sample(range(capacity // 4096), 90)
            for grain in given:
                disk.discard(grain * 4096, 4096)
            disk.flush()
            if reopened:
                disk.close()
                disk = diskkit.open_disk(child, writable=True, experimental=True)
            for grain in dice.sample(given, 90):
                data = dice.randbytes(4096)
                disk.write(grain * 4096, data)
                model[grain * 4096 : grain * 4096 + 4096] = data
            assert disk.read(0, capacity) == model
        assert (tmp_path / "child-sesparse.vmdk").stat().st_size == size
    finally:
        disk.close()
    assert read(child) == model
    assert diskkit.check(child).ok


def test_command_line_makes_children(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = sparse(tmp_path)
    child = os.fspath(tmp_path / "child.vmdk")
    assert main(["create", child, "--parent", os.fspath(made.path)]) == 0
    assert "child of" in capsys.readouterr().err
    assert read(tmp_path / "child.vmdk") == made.content
    assert main(["create", child, "--parent", os.fspath(made.path), "--size", "1G"]) == 2
    assert "--size" in capsys.readouterr().err
    assert main(["create", os.fspath(tmp_path / "other.vmdk")]) == 2
    assert "--size" in capsys.readouterr().err
