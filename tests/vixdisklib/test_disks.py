# SPDX-License-Identifier: Apache-2.0
"""Disks through the VixDiskLib functions: each one does what its name says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit import vixdisklib as vix

from .conftest import SECTORS

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Started

READ_ONLY, SINGLE = 4, 2
HOSTED = (1, 2, 3, 4, 5, 7)


def code(call: Callable[..., object], *words: object) -> int:
    with pytest.raises(vix.VixError) as caught:
        call(*words)
    assert str(caught.value.code) in str(caught.value)
    return caught.value.code


def listed(started: Started) -> list[str]:
    return sorted(p.name for p in started.folder.iterdir())


def test_there_are_43_functions() -> None:
    assert len({f.__name__ for f in vix.FUNCTIONS}) == 43
    assert all(getattr(vix, f.__name__) is f for f in vix.FUNCTIONS)


@pytest.mark.parametrize("kind", HOSTED)
def test_written_data_is_read_after_reopening(started: Started, kind: int) -> None:
    content = started.filled(kind=kind)
    handle = started.open(flags=READ_ONLY)
    assert started.content(handle) == content
    vix.Close(handle)


@pytest.mark.parametrize("kind", [*HOSTED, 6])
def test_create_makes_what_was_asked(started: Started, kind: int) -> None:
    steps: list[int] = []
    path = started.path("d.vmdk")
    params = vix.CreateParams(kind, 2, 11, 4096)
    vix.Create(started.connection, path, params, steps.append)
    assert (steps[0], steps[-1]) == (0, 100)
    with diskkit.open_disk(path) as disk:
        assert (
            disk.info.create_type
            == {
                1: "monolithicSparse",
                2: "monolithicFlat",
                3: "twoGbMaxExtentSparse",
                4: "twoGbMaxExtentFlat",
                5: "vmfs",
                6: "streamOptimized",
                7: "vmfs",
            }[kind]
        )
        assert (disk.size, disk.info.adapter_type) == (4096 * 512, "buslogic")
        assert disk.info.hw_version == "11"
    assert code(vix.Create, started.connection, path, params) == vix.VIX_E_FILE_ALREADY_EXISTS


@pytest.mark.parametrize(
    ("kind", "adapter", "sectors"), [(8, 3, 128), (256, 3, 128), (1, 256, 128), (1, 3, 0)]
)
def test_create_refuses(started: Started, kind: int, adapter: int, sectors: int) -> None:
    params = vix.CreateParams(kind, adapter, 7, sectors)
    path = started.path("d.vmdk")
    assert code(vix.Create, started.connection, path, params) == vix.VIX_E_INVALID_ARG
    assert not Path(path).exists()


def test_info_of_a_chain(started: Started) -> None:
    started.filled()
    base = started.open(flags=READ_ONLY)
    vix.CreateChild(base, started.path("c.vmdk"), 1)
    child = started.open("c.vmdk", READ_ONLY)
    found = vix.GetInfo(child)
    assert (found.capacity, found.numLinks, found.adapterType) == (SECTORS, 2, 3)
    assert (found.parentFileNameHint, found.uuid) == ("d.vmdk", vix.GetInfo(base).uuid)
    assert (found.logicalSectorSize, found.physicalSectorSize) == (512, 512)
    assert found.physGeo.heads > 0
    assert found.biosGeo == found.physGeo
    assert vix.GetInfo(base).parentFileNameHint is None
    alone = started.open("c.vmdk", READ_ONLY | SINGLE)
    assert vix.GetInfo(alone).numLinks == 1
    assert vix.GetTransportMode(child) == "file"
    vix.FreeInfo(found)
    vix.FreeInfo(None)


@pytest.mark.parametrize("kind", [1, 3])
def test_child_takes_writes_and_its_parent_no_more(started: Started, kind: int) -> None:
    content = started.filled()
    base = started.open()
    vix.CreateChild(base, started.path("c.vmdk"), kind)
    child = started.open("c.vmdk")
    vix.Write(child, 0, 1, b"y" * 512)
    vix.Close(child)
    assert code(vix.Write, base, 0, 1, b"z" * 512) == vix.VIX_E_FILE_READ_ONLY
    assert started.content(base) == content
    child = started.open("c.vmdk", READ_ONLY)
    assert started.content(child) == b"y" * 512 + content[512:]
    assert any("is the parent of c.vmdk" in text for text in started.warnings)


def test_child_kinds_and_names(started: Started) -> None:
    started.create()
    base = started.open(flags=READ_ONLY)
    for kind in (2, 4, 5, 6, 7, 256):
        assert code(vix.CreateChild, base, started.path("c.vmdk"), kind) == vix.VIX_E_INVALID_ARG
    taken = started.path("d.vmdk")
    assert code(vix.CreateChild, base, taken, 1) == vix.VIX_E_FILE_ALREADY_EXISTS


def test_stream_opens_for_reading_with_a_warning(started: Started) -> None:
    started.create(kind=6)
    handle = started.open()
    assert "written once" in started.warnings[0]
    assert code(vix.Write, handle, 0, 1, bytes(512)) == vix.VIX_E_FILE_READ_ONLY
    assert started.content(handle) == bytes(SECTORS * 512)


@pytest.mark.parametrize("flags", [1, 16, 32, 64, 1 | 4 | 16])
def test_flags_without_effect_on_files(started: Started, flags: int) -> None:
    started.create()
    vix.Close(started.open(flags=flags))


@pytest.mark.parametrize("flags", [8, 16 | 32, 128 | 64, 1 << 12, -1])
def test_flags_that_are_wrong(started: Started, flags: int) -> None:
    path = started.create()
    assert code(vix.Open, started.connection, path, flags) == vix.VIX_E_INVALID_ARG


def test_metadata(started: Started) -> None:
    started.filled()
    handle = started.open()
    vix.WriteMetadata(handle, "note", "h\xe9")
    vix.WriteMetadata(handle, "empty", "")
    assert vix.ReadMetadata(handle, "NOTE") == "h\xe9"
    assert vix.ReadMetadata(handle, "note", 4) == "h\xe9"
    assert vix.ReadMetadata(handle, "empty", 1) == ""
    for room in (0, 3):
        with pytest.raises(vix.VixError) as caught:
            vix.ReadMetadata(handle, "note", room)
        assert (caught.value.code, caught.value.required) == (vix.VIX_E_BUFFER_TOOSMALL, 4)
    keys = vix.GetMetadataKeys(handle)
    assert {"adapterType", "note", "empty", "uuid"} <= set(keys)
    needed = len("".join(key + "\0" for key in keys)) + 1
    assert vix.GetMetadataKeys(handle, needed) == keys
    with pytest.raises(vix.VixError) as caught:
        vix.GetMetadataKeys(handle, needed - 1)
    assert caught.value.required == needed
    assert code(vix.ReadMetadata, handle, "none") == vix.VIX_E_DISK_KEY_NOTFOUND
    assert code(vix.ReadMetadata, handle, "") == vix.VIX_E_INVALID_ARG
    assert code(vix.WriteMetadata, handle, "a b", "x") == vix.VIX_E_INVALID_ARG
    assert code(vix.WriteMetadata, handle, "a", None) == vix.VIX_E_INVALID_ARG
    vix.Write(handle, 0, 1, b"w" * 512)
    vix.Close(handle)
    handle = started.open(flags=READ_ONLY)
    assert vix.ReadMetadata(handle, "note") == "h\xe9"
    assert code(vix.WriteMetadata, handle, "a", "b") == vix.VIX_E_FILE_READ_ONLY


def test_rename_and_unlink(started: Started) -> None:
    content = started.filled(kind=3)
    vix.Rename(started.path("d.vmdk"), started.path("e.vmdk"))
    handle = started.open("e.vmdk", READ_ONLY)
    assert started.content(handle) == content
    busy = vix.VIX_E_FILE_ALREADY_LOCKED
    assert code(vix.Unlink, started.connection, started.path("e.vmdk")) == busy
    vix.Close(handle)
    started.create("f.vmdk")
    names = started.path("e.vmdk"), started.path("f.vmdk")
    assert code(vix.Rename, *names) == vix.VIX_E_FILE_ALREADY_EXISTS
    assert code(vix.Rename, started.path("x"), names[0]) == vix.VIX_E_FILE_NOT_FOUND
    vix.Unlink(started.connection, names[0])
    assert listed(started) == ["f.vmdk"]
    assert code(vix.Unlink, started.connection, names[0]) == vix.VIX_E_FILE_NOT_FOUND


def test_parent_is_not_removed(started: Started) -> None:
    path = started.create()
    handle = started.open(flags=READ_ONLY)
    vix.CreateChild(handle, started.path("c.vmdk"), 1)
    vix.Close(handle)
    assert code(vix.Unlink, started.connection, path) == vix.VIX_E_FILE_READ_ONLY
    assert Path(path).exists()


def test_grow(started: Started) -> None:
    content = started.filled()
    path = started.path("d.vmdk")
    steps: list[int] = []
    vix.Grow(started.connection, path, SECTORS * 2, True, steps.append)
    assert (steps[0], steps[-1], sorted(set(steps))) == (0, 100, steps)
    handle = started.open(flags=READ_ONLY)
    assert vix.GetInfo(handle).capacity == SECTORS * 2
    assert started.content(handle) == content
    locked = vix.VIX_E_FILE_ALREADY_LOCKED
    assert code(vix.Grow, started.connection, path, SECTORS * 3, True) == locked
    vix.Close(handle)
    assert code(vix.Grow, started.connection, path, SECTORS, True) == vix.VIX_E_INVALID_ARG


def test_shrink_and_defragment_keep_the_handle(started: Started) -> None:
    content = started.filled()
    handle = started.open()
    vix.Write(handle, 1280, 256, b"x" * 256 * 512)
    vix.Write(handle, 1280, 256, bytes(256 * 512))
    before = Path(started.path("d.vmdk")).stat().st_size
    for call in (vix.Defragment, vix.Shrink):
        steps: list[int] = []
        call(handle, steps.append)
        assert (steps[0], steps[-1]) == (0, 100)
        assert started.content(handle) == content
    assert Path(started.path("d.vmdk")).stat().st_size < before
    vix.Write(handle, 0, 1, b"a" * 512)
    vix.Close(handle)
    handle = started.open(flags=READ_ONLY)
    assert started.content(handle) == b"a" * 512 + content[512:]
    for call in (vix.Defragment, vix.Shrink):
        assert code(call, handle) == vix.VIX_E_FILE_READ_ONLY


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 6, 7])
def test_clone_into_every_kind(started: Started, kind: int) -> None:
    content = started.filled()
    steps: list[int] = []
    names = (started.connection, started.path("n.vmdk"), started.connection, started.path("d.vmdk"))
    vix.Clone(*names, vix.CreateParams(kind, 1, 9, 1), steps.append, False)
    assert (steps[0], steps[-1], sorted(steps)) == (0, 100, steps)
    handle = started.open("n.vmdk", READ_ONLY)
    assert started.content(handle) == content
    assert vix.GetInfo(handle).adapterType == 1
    assert vix.ReadMetadata(handle, "virtualHWVersion") == "9"
    vix.Close(handle)
    assert code(vix.Clone, *names, None, None, False) == vix.VIX_E_FILE_ALREADY_EXISTS


@pytest.mark.parametrize(("old", "new"), [(1, 1), (1, 4), (3, 1), (4, 3), (6, 6)])
def test_clone_over_another_disk(started: Started, old: int, new: int) -> None:
    content = started.filled()
    started.create("n.vmdk", old, 64)
    names = (started.connection, started.path("n.vmdk"), started.connection, started.path("d.vmdk"))
    vix.Clone(*names, vix.CreateParams(new), None, True)
    handle = started.open("n.vmdk", READ_ONLY)
    assert started.content(handle) == content
    extra = {1: 0, 4: 1, 3: 1, 6: 0}[new]
    assert len(listed(started)) == 2 + extra


def test_failed_clone_leaves_the_disk_it_would_replace(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    started.filled()
    content = started.filled("n.vmdk", 3)
    before = listed(started)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diskkit.vixdisklib.upkeep.clone", fail)
    names = (started.connection, started.path("n.vmdk"), started.connection, started.path("d.vmdk"))
    assert code(vix.Clone, *names, vix.CreateParams(3), None, True) == vix.VIX_E_DISK_FULL
    assert listed(started) == before
    assert started.content(started.open("n.vmdk", READ_ONLY)) == content


def test_space_needed_is_enough(started: Started) -> None:
    started.filled()
    handle = started.open(flags=READ_ONLY)
    for kind in (1, 2, 3, 4, 5, 6, 7):
        needed = vix.SpaceNeededForClone(handle, kind)
        folder = Path(started.path(f"to{kind}"))
        folder.mkdir()
        vix.Clone(
            started.connection,
            f"{folder}/n.vmdk",
            started.connection,
            started.path("d.vmdk"),
            vix.CreateParams(kind),
        )
        assert needed >= sum(p.stat().st_blocks * 512 for p in folder.iterdir())
    assert vix.SpaceNeededForClone(handle, 256) == vix.SpaceNeededForClone(handle, 1)
    assert code(vix.SpaceNeededForClone, handle, 8) == vix.VIX_E_INVALID_ARG


def damage(path: str, directory_at: int) -> None:
    raw = bytearray(Path(path).read_bytes())
    directory = int.from_bytes(raw[directory_at : directory_at + 8], "little") * 512
    raw[directory : directory + 4] = b"\xff\xff\xff\x7f"
    Path(path).write_bytes(raw)


def test_check_and_repair(started: Started) -> None:
    content = started.filled()
    path = started.path("d.vmdk")
    for mend in (False, True):
        vix.CheckRepair(started.connection, path, mend)
    damage(path, 56)
    assert code(vix.CheckRepair, started.connection, path, False) == vix.VIX_E_DISK_NEEDSREPAIR
    vix.CheckRepair(started.connection, path, True)
    assert started.content(started.open(flags=READ_ONLY)) == content
    assert any("holds what it was before" in text for text in started.warnings)


def test_check_of_what_cannot_be_repaired(started: Started) -> None:
    started.filled()
    base = started.open(flags=READ_ONLY)
    vix.CreateChild(base, started.path("c.vmdk"), 1)
    vix.Close(base)
    Path(started.path("d.vmdk")).unlink()
    orphan = started.path("c.vmdk")
    assert code(vix.CheckRepair, started.connection, orphan, True) == vix.VIX_E_DISK_CANTREPAIR
    Path(started.path("x.vmdk")).write_bytes(b"nothing" * 100)
    bad = started.path("x.vmdk")
    assert code(vix.CheckRepair, started.connection, bad, False) == vix.VIX_E_DISK_INVALIDDISK
    missing = started.path("y.vmdk")
    assert code(vix.CheckRepair, started.connection, missing, True) == vix.VIX_E_FILE_NOT_FOUND


def test_attach(started: Started) -> None:
    content = started.filled()
    base = started.open(flags=READ_ONLY)
    vix.CreateChild(base, started.path("c.vmdk"), 1)
    child = started.open("c.vmdk")
    vix.Write(child, 7, 1, b"c" * 512)
    vix.Close(child)
    child = started.open("c.vmdk", READ_ONLY | SINGLE)
    before = Path(started.path("c.vmdk")).read_bytes()
    vix.IsAttachPossible(base, child)
    vix.Attach(base, child)
    combined = content[: 7 * 512] + b"c" * 512 + content[8 * 512 :]
    assert started.content(child) == combined
    assert vix.GetInfo(child).numLinks == 2
    assert code(vix.GetInfo, base) == vix.VIX_E_DISK_INVAL
    vix.Close(base)
    assert started.content(child) == combined
    vix.Close(child)
    assert Path(started.path("c.vmdk")).read_bytes() == before
    # Everything was given back.
    vix.Unlink(started.connection, started.path("c.vmdk"))
    vix.Unlink(started.connection, started.path("d.vmdk"))


def test_attach_refusals(started: Started) -> None:
    started.filled()
    started.create("small.vmdk", 1, 64)
    base, small = started.open(flags=READ_ONLY), started.open("small.vmdk", READ_ONLY)
    assert code(vix.Attach, base, small) == vix.VIX_E_DISK_ATTACH_ROOTLINK
    assert code(vix.Attach, base, base) == vix.VIX_E_INVALID_ARG
    vix.CreateChild(base, started.path("c.vmdk"), 1)
    child = started.open("c.vmdk", READ_ONLY | SINGLE)
    assert code(vix.IsAttachPossible, small, child) == vix.VIX_E_DISK_CAPACITY_MISMATCH
    started.create("other.vmdk")
    other = started.open("other.vmdk", READ_ONLY)
    assert code(vix.Attach, other, child) == vix.VIX_E_DISK_CID_MISMATCH
    started.create("esx.vmdk", 5)
    esx = started.open("esx.vmdk", READ_ONLY)
    assert code(vix.Attach, esx, child) == vix.VIX_E_DISK_INVALIDCHAIN
    vix.Attach(base, child)
