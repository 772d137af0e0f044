# SPDX-License-Identifier: Apache-2.0
"""Damage of every kind that can be mended, mended; and what cannot be is left and told."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit import OpenPolicy, check, repair, undo_repair
from diskkit.cli import main
from diskkit.errors import UnsupportedFeature, UsageError
from hostile.images import (
    CAPACITY,
    ESX_CAPACITY,
    GRAIN_BYTES,
    SAMPLES,
    SECTOR,
    content,
    cowd_chain,
    get,
    hosted_chain,
    mono,
    mono_bytes,
    packed,
    put,
    se_chain,
    split,
    table_entry,
    truncate,
    u32,
)
from makers import (
    hosted_sparse,
    poke,
    sample_grain,
    sesparse_entry,
    sesparse_regions,
    stream,
    text_replace,
)
from makers.peers import qemu_img

if TYPE_CHECKING:
    from pathlib import Path

    from diskkit.tasks.repair import Repaired
    from makers import Grains

BOTH = ("gdOffset", "rgdOffset")
MANY = 40 * 512 * 128
"""Sectors of a disk of forty tables."""
MANY_GRAINS: Grains = {i: sample_grain(i) for i in (0, 3, 511, 512, 5 * 512 + 7, 20 * 512, 20479)}
_QUIET = OpenPolicy(warn=lambda text: None)


def digests(folder: Path) -> dict[str, str]:
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.iterdir())
        if p.is_file()
    }


def errors(path: Path) -> list[str]:
    return [str(p) for p in check(path, data=True).problems if p.severity == "error"]


def mended(path: Path, *codes: str, damaged: bool = True, **options: object) -> Repaired:
    """Repair it: a dry run changes nothing, undoing gives all back, qemu finds nothing wrong."""
    before = digests(path.parent)
    if damaged:
        assert errors(path)
    dry = repair(path, dry_run=True, **options)  # type: ignore[arg-type]
    assert digests(path.parent) == before
    done = repair(path, **options)  # type: ignore[arg-type]
    assert done.ok, done
    assert [s.code for s in dry.plan] == [s.code for s in done.plan]
    assert {s.code for s in done.plan} == set(codes), done.plan
    assert done.backup is not None
    after = digests(path.parent)
    del after[done.backup.rpartition("/")[2]]
    undo_repair(path, done.backup)
    undone = digests(path.parent)
    del undone[done.backup.rpartition("/")[2]]
    assert undone == before
    again = repair(path, **options)  # type: ignore[arg-type]
    assert again.ok
    assert again.backup == f"{path}.before-repair.2"
    if "descriptor.lost" not in codes:
        now = digests(path.parent)
        assert {k: v for k, v in now.items() if k != again.backup.rpartition("/")[2]} == {
            **after,
            done.backup.rpartition("/")[2]: now[done.backup.rpartition("/")[2]],
        }
    assert errors(path) == []
    assert repair(path).plan == []
    return done


def agrees(path: Path, wanted: bytes) -> None:
    """Its content is what it has to be, and qemu says the same."""
    assert content(path) == wanted
    done = qemu_img("convert", "-f", "vmdk", "-O", "raw", path, path.with_suffix(".raw"))
    assert done.returncode == 0, done.stderr
    assert path.with_suffix(".raw").read_bytes() == wanted
    with path.open("rb") as f:
        if f.read(4) == b"KDMV" and not get(path, "flags") & 0x10000:
            done = qemu_img("check", "-f", "vmdk", path)
            assert done.returncode == 0, done.stdout + done.stderr


def many(folder: Path, **options: object) -> Path:
    path = folder / "disk.vmdk"
    hosted_sparse(path, MANY, MANY_GRAINS, **options)  # type: ignore[arg-type]
    return path


def same_many(path: Path) -> None:
    with diskkit.open_disk(path, policy=_QUIET) as disk:
        for number, grain in MANY_GRAINS.items():
            assert disk.read(number * GRAIN_BYTES, GRAIN_BYTES) == grain
        allocated = sum(r.length for r in disk.runs() if r.state == diskkit.State.DATA)
        assert allocated == len(MANY_GRAINS) * GRAIN_BYTES
    done = qemu_img("check", "-f", "vmdk", path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", sorted(SAMPLES))
def test_a_good_disk_is_not_touched(kind: str, tmp_path: Path) -> None:
    path = SAMPLES[kind].make(tmp_path)
    before = digests(tmp_path)
    done = repair(path)
    assert done.ok
    assert done.plan == []
    assert done.backup is None
    assert digests(tmp_path) == before


# --- directories ---------------------------------------------------------------------------------

BAD_ENTRIES = [0xFFFFFFFF, 1, 30, 25]


@pytest.mark.parametrize("value", BAD_ENTRIES)
@pytest.mark.parametrize("directory", BOTH)
def test_bad_directory_entry_of_the_only_table(directory: str, value: int, tmp_path: Path) -> None:
    disk = mono(tmp_path)
    poke(disk, get(disk, directory) * SECTOR, "<I", value)
    if not errors(disk):
        pytest.skip("that value names the table itself")
    done = repair(disk)
    assert done.ok, done
    assert errors(disk) == []
    agrees(disk, mono_bytes())


def test_bad_directory_entry(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    at = get(disk, "gdOffset") * SECTOR
    right = u32(disk, at)
    poke(disk, at, "<I", 0xFFFFFFFF)
    mended(disk, "grain-directory.entry")
    assert u32(disk, at) == right
    agrees(disk, mono_bytes())


def test_bad_redundant_directory_entry(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    at = get(disk, "rgdOffset") * SECTOR
    right = u32(disk, at)
    poke(disk, at, "<I", 0xFFFFFFFF)
    mended(disk, "redundant-directory.entry")
    assert u32(disk, at) == right
    agrees(disk, mono_bytes())


def test_both_directory_entries_bad_but_both_tables_there(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    for directory in BOTH:
        poke(disk, get(disk, directory) * SECTOR, "<I", 0xFFFFFFFF)
    mended(disk, "grain-directory.entry")
    agrees(disk, mono_bytes())


def test_both_directory_entries_bad_and_the_tables_differ(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    poke(disk, table_entry(disk, 2, "rgdOffset"), "<I", 0)
    for directory in BOTH:
        poke(disk, get(disk, directory) * SECTOR, "<I", 0xFFFFFFFF)
    before = digests(tmp_path)
    done = repair(disk)
    assert not done.ok
    assert digests(tmp_path) == before


def test_directory_entries_beside_good_ones(tmp_path: Path) -> None:
    disk = many(tmp_path)
    for directory in BOTH:
        poke(disk, get(disk, directory) * SECTOR + 4 * 5, "<I", 0xFFFFFFFF)
    mended(disk, "grain-directory.entry")
    same_many(disk)


def test_lost_entry_without_a_second_copy_follows_its_neighbours(tmp_path: Path) -> None:
    disk = many(tmp_path, redundant=False)
    at = get(disk, "gdOffset") * SECTOR + 4 * 5
    right = u32(disk, at)
    poke(disk, at, "<I", 7)
    mended(disk, "grain-directory.entry")
    assert u32(disk, at) == right
    same_many(disk)


def test_two_directory_entries_for_one_table(tmp_path: Path) -> None:
    disk = many(tmp_path)
    at = get(disk, "gdOffset") * SECTOR
    poke(disk, at + 4 * 5, "<I", u32(disk, at))
    mended(disk, "grain-directory.entry")
    same_many(disk)


def test_directories_that_share_a_table(tmp_path: Path) -> None:
    for one, other in (BOTH, BOTH[::-1]):
        folder = tmp_path / one
        folder.mkdir()
        disk = many(folder)
        wanted = u32(disk, get(disk, other) * SECTOR)
        poke(disk, get(disk, one) * SECTOR, "<I", wanted)
        code = "grain-directory" if one == "gdOffset" else "redundant-directory"
        mended(disk, f"{code}.entry")
        assert u32(disk, get(disk, one) * SECTOR) != wanted
        same_many(disk)


def test_table_that_only_the_copy_has(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    poke(disk, get(disk, "gdOffset") * SECTOR, "<I", 0)
    mended(disk, "grain-directory.entry")
    agrees(disk, mono_bytes())


def test_lazy_table_gets_a_place_at_the_end(tmp_path: Path) -> None:
    disk = many(tmp_path, lazy_tables=True)
    size = disk.stat().st_size
    poke(disk, get(disk, "gdOffset") * SECTOR + 4 * 20, "<I", 0xFFFFFF00)
    mended(disk, "grain-directory.entry")
    assert disk.stat().st_size > size
    same_many(disk)


@pytest.mark.parametrize("directory", BOTH)
@pytest.mark.parametrize("zeros", [False, True])
def test_directory_entry_that_leads_into_a_grain(
    directory: str, zeros: bool, tmp_path: Path
) -> None:
    grains = {**MANY_GRAINS, 3: bytes(GRAIN_BYTES) if zeros else b"\xff\xff\xff\x7f" * 16384}
    disk = tmp_path / "disk.vmdk"
    hosted_sparse(disk, MANY, grains)
    grain = u32(disk, table_entry(disk, 3))
    poke(disk, get(disk, directory) * SECTOR + 4 * 5, "<I", grain + 8)
    code = "grain-directory" if directory == "gdOffset" else "redundant-directory"
    done = repair(disk)
    assert done.ok, done
    assert [s.code for s in done.plan] == [f"{code}.entry"]
    assert errors(disk) == []
    with diskkit.open_disk(disk) as opened:
        for number, wanted in grains.items():
            assert opened.read(number * GRAIN_BYTES, GRAIN_BYTES) == wanted


# --- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0xFFFFFFFF, 1, 5])
def test_bad_entry_comes_from_the_copy(value: int, tmp_path: Path) -> None:
    disk = mono(tmp_path)
    poke(disk, table_entry(disk, 2), "<I", value)
    mended(disk, "grain-table.entry")
    agrees(disk, mono_bytes())


@pytest.mark.parametrize("value", [0xFFFFFFFF, 1, 5])
def test_bad_entry_of_the_copy_comes_from_the_primary(value: int, tmp_path: Path) -> None:
    disk = mono(tmp_path)
    poke(disk, table_entry(disk, 2, "rgdOffset"), "<I", value)
    mended(disk, "redundant-table.differs")
    agrees(disk, mono_bytes())


def test_each_copy_mends_the_other(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    poke(disk, table_entry(disk, 2, "rgdOffset"), "<I", 5)
    poke(disk, table_entry(disk, 9), "<I", 5)
    mended(disk, "grain-table.entry", "redundant-table.differs")
    agrees(disk, mono_bytes())


def test_primary_wins_where_both_can_be_right(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    poke(disk, table_entry(disk, 2, "rgdOffset"), "<I", 0)
    mended(disk, "redundant-table.differs")
    agrees(disk, mono_bytes())


def test_entry_bad_in_both_copies_is_left_and_the_rest_mended(tmp_path: Path) -> None:
    disk = mono(tmp_path, unclean=True)
    with disk.open("ab") as f:
        f.write(bytes(8 * GRAIN_BYTES))
    size = disk.stat().st_size
    for directory in BOTH:
        poke(disk, table_entry(disk, 2, directory), "<I", 5)
    poke(disk, table_entry(disk, 9), "<I", 5)
    done = repair(disk)
    assert not done.ok
    assert [s.code for s in done.plan] == ["grain-table.entry"]
    assert [p.code for p in done.remaining if p.severity == "error"] == ["grain-table.entry"]
    assert disk.stat().st_size == size
    assert get(disk, "uncleanShutdown") == 1
    with diskkit.open_disk(disk, policy=_QUIET) as opened:
        assert opened.read(9 * GRAIN_BYTES, GRAIN_BYTES) == sample_grain(3)


@pytest.mark.parametrize("shift", [0, 1, 64, -64])
def test_two_entries_for_one_grain(shift: int, tmp_path: Path) -> None:
    disk = tmp_path / "disk.vmdk"
    hosted_sparse(disk, CAPACITY, {0: sample_grain(1), 2: sample_grain(2), 9: sample_grain(3)})
    place = u32(disk, table_entry(disk, 2))
    for directory in BOTH:
        poke(disk, table_entry(disk, 5, directory), "<I", place + shift)
    wanted = content(disk)
    mended(disk, "grain-table.duplicate")
    agrees(disk, wanted)
    with diskkit.open_disk(disk, writable=True) as opened:
        opened.write(5 * GRAIN_BYTES, b"new")
    now = bytearray(wanted)
    now[5 * GRAIN_BYTES : 5 * GRAIN_BYTES + 3] = b"new"
    assert content(disk) == now


def test_entries_beyond_the_capacity(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    for directory in BOTH:
        poke(disk, table_entry(disk, 10, directory), "<I", u32(disk, table_entry(disk, 9)))
    mended(disk, "grain-table.beyond-capacity", damaged=False)
    assert check(disk).problems == []
    agrees(disk, mono_bytes())


def test_leaked_tail(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    size = disk.stat().st_size
    with disk.open("ab") as f:
        f.write(b"x" * (4 * GRAIN_BYTES))
    mended(disk, "leaked", damaged=False)
    assert disk.stat().st_size == size
    agrees(disk, mono_bytes())


@pytest.mark.parametrize("value", [1, 7])
def test_unclean(value: int, tmp_path: Path) -> None:
    disk = mono(tmp_path)
    put(disk, "uncleanShutdown", value)
    mended(disk, "unclean", damaged=value == 7)
    assert get(disk, "uncleanShutdown") == 0
    assert check(disk).problems == []


def test_parts_of_a_split_disk(tmp_path: Path) -> None:
    disk = split(tmp_path)
    part = tmp_path / "disk-s001.vmdk"
    put(part, "uncleanShutdown", 1)
    poke(part, table_entry(part, 2), "<I", 5)
    other = tmp_path / "disk-s003.vmdk"
    poke(other, get(other, "rgdOffset") * SECTOR, "<I", 0xFFFFFFFF)
    mended(disk, "grain-table.entry", "redundant-directory.entry", "unclean")
    agrees(disk, mono_bytes())


def test_disks_that_diskkit_made(tmp_path: Path) -> None:
    hosted_sparse(tmp_path / "base.vmdk", CAPACITY, {0: sample_grain(1), 9: sample_grain(3)})
    with diskkit.open_disk(tmp_path / "base.vmdk") as disk:
        wanted = disk.read(0, disk.size)
        diskkit.clone(disk, tmp_path / "mono.vmdk", "monolithicSparse")
        diskkit.clone(disk, tmp_path / "packed.vmdk", "streamOptimized")
    path = tmp_path / "mono.vmdk"
    poke(path, table_entry(path, 9), "<I", 5)
    mended(path, "grain-table.entry")
    agrees(path, wanted)
    path = tmp_path / "packed.vmdk"
    truncate(path, -3 * SECTOR)
    mended(path, "stream.tables")
    agrees(path, wanted)


def test_many_tables_whose_copies_differ(tmp_path: Path) -> None:
    disk = many(tmp_path)
    first = u32(disk, get(disk, "rgdOffset") * SECTOR) * SECTOR
    with disk.open("r+b") as f:
        f.seek(first)
        f.write(b"\xaa" * (40 * 2048))
    mended(disk, "redundant-table.differs")
    same_many(disk)


# --- descriptors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("junk", [b"\0", b"\xff"])
def test_lost_descriptor(junk: bytes, tmp_path: Path) -> None:
    disk = mono(tmp_path)
    with disk.open("r+b") as f:
        f.seek(SECTOR)
        f.write(junk * (20 * SECTOR))
    before = digests(tmp_path)
    refused = repair(disk)
    assert not refused.ok
    assert [s.done for s in refused.plan] == [False]
    assert any("--lossy" in p.message for p in refused.remaining)
    assert digests(tmp_path) == before
    mended(disk, "descriptor.lost", lossy=True)
    agrees(disk, mono_bytes())


def test_lost_descriptor_of_a_stream(tmp_path: Path) -> None:
    disk = packed(tmp_path, "B")
    with disk.open("r+b") as f:
        f.seek(SECTOR)
        f.write(bytes(20 * SECTOR))
    mended(disk, "descriptor.lost", lossy=True)
    agrees(disk, mono_bytes())


def test_a_part_is_not_made_a_disk(tmp_path: Path) -> None:
    split(tmp_path)
    part = tmp_path / "disk-s001.vmdk"
    hosted_sparse(part, 4 * 128, {}, descriptor="")
    other = tmp_path / "other.vmdk"
    part_text = (tmp_path / "disk.vmdk").read_text().replace("disk-s001", "odd")
    other.write_text(part_text)
    part.rename(tmp_path / "odd.vmdk")
    for path in (tmp_path / "odd.vmdk", tmp_path / "disk-s002.vmdk"):
        done = repair(path, lossy=True)
        assert not done.ok
        assert done.plan == []


def test_long_content_id(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    text_replace(disk, 'ddb.virtualHWVersion = "7"', f'ddb.longContentID = "{"ab" * 16}"')
    mended(disk, "descriptor.longContentID", damaged=False)
    with diskkit.open_disk(disk) as opened:
        assert opened.info.metadata["longContentID"] == "ab" * 12 + "12345678"
    disk = split(tmp_path)
    text_replace(disk, 'ddb.virtualHWVersion = "7"', f'ddb.longContentID = "{"ab" * 16}"')
    for file in tmp_path.glob("*.before-repair*"):
        file.unlink()
    mended(disk, "descriptor.longContentID", damaged=False)
    agrees(disk, mono_bytes())


def test_parent_id_only_when_asked(tmp_path: Path) -> None:
    disk = hosted_chain(tmp_path)
    wanted = content(disk)
    text_replace(tmp_path / "parent.vmdk", "CID=aaaaaaaa", "CID=bbbbbbbb")
    before = digests(tmp_path)
    done = repair(disk)
    assert not done.ok
    assert digests(tmp_path) == before
    assert any("--fix-ids" in p.message for p in repair(disk, dry_run=True).remaining)
    mended(disk, "descriptor.parentCID", fix_ids=True)
    assert content(disk) == wanted
    parent = {k: v for k, v in digests(tmp_path).items() if k == "parent.vmdk"}
    assert parent == {"parent.vmdk": before["parent.vmdk"]}


def test_parents_are_not_repaired(tmp_path: Path) -> None:
    disk = hosted_chain(tmp_path)
    parent = tmp_path / "parent.vmdk"
    poke(parent, table_entry(parent, 2), "<I", 5)
    poke(disk, table_entry(disk, 1), "<I", 5)
    before = digests(tmp_path)
    done = repair(disk)
    assert not done.ok
    assert [s.where for s in done.plan] == [str(disk)]
    assert any("repair that one itself" in p.message for p in done.remaining)
    assert digests(tmp_path)["parent.vmdk"] == before["parent.vmdk"]
    assert repair(parent).ok
    assert repair(disk).ok


def test_header_smaller_than_the_line(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    put(disk, "capacity", CAPACITY - 128)
    mended(disk, "sparse-header.capacity")
    agrees(disk, mono_bytes())


def test_line_larger_than_all_tables(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    text_replace(disk, f"RW {CAPACITY} SPARSE", "RW 999999999 SPARSE")
    assert not repair(disk).ok
    mended(disk, "sparse-header.capacity", lossy=True)
    agrees(disk, mono_bytes())


# --- redo logs and seSparse ----------------------------------------------------------------------


def _cowd(folder: Path) -> tuple[Path, Path, bytes]:
    disk = cowd_chain(folder)
    return disk, folder / "child-delta.vmdk", content(disk)


@pytest.mark.parametrize("off", [-20, 5, 1 << 20])
def test_free_sector(off: int, tmp_path: Path) -> None:
    disk, extent, wanted = _cowd(tmp_path)
    poke(extent, 28, "<I", u32(extent, 28) + off)
    poke(extent, 1648, "<I", 1)
    codes = {"unclean"} if off == 5 and not errors(disk) else {"cowd.freeSector", "unclean"}
    mended(disk, *codes, damaged="cowd.freeSector" in codes)
    assert u32(extent, 1648) == 0
    agrees(disk, wanted)
    with diskkit.open_disk(disk, writable=True) as opened:
        opened.write(0, b"x" * SECTOR)
    assert content(disk) == b"x" * SECTOR + wanted[SECTOR:]


def test_two_entries_of_a_redo_log_are_left(tmp_path: Path) -> None:
    disk, extent, _ = _cowd(tmp_path)
    table = u32(extent, 2048) * SECTOR
    poke(extent, table + 4 * 200, "<I", u32(extent, table + 4 * 100))
    poke(extent, 1648, "<I", 1)
    before = digests(tmp_path)
    done = repair(disk)
    assert not done.ok
    assert digests(tmp_path) == before


def test_sesparse_is_left(tmp_path: Path) -> None:
    disk = se_chain(tmp_path)
    table = sesparse_regions(ESX_CAPACITY)["tables"][0] * SECTOR
    poke(tmp_path / "child-sesparse.vmdk", table + 8 * 50, "<Q", sesparse_entry(1))
    before = digests(tmp_path)
    done = repair(disk, dry_run=True)
    assert not done.ok
    assert "not repaired" in done.remaining[0].message
    assert not repair(disk).ok
    assert digests(tmp_path) == before


# --- streams -------------------------------------------------------------------------------------

FRONT, BEHIND = ("B", "C", "D"), ("A", "E", "F", "G")


@pytest.mark.parametrize("variant", [*FRONT, "G"])
def test_stream_with_a_bad_directory(variant: str, tmp_path: Path) -> None:
    disk = packed(tmp_path, variant)  # type: ignore[arg-type]
    poke(disk, get(disk, "gdOffset") * SECTOR, "<I", 0xFFFFFFFF)
    if variant == "D":
        poke(disk, get(disk, "rgdOffset") * SECTOR, "<I", 0xFFFFFFFF)
    mended(disk, "stream.tables")
    agrees(disk, mono_bytes())


@pytest.mark.parametrize("variant", FRONT)
def test_stream_with_a_bad_table(variant: str, tmp_path: Path) -> None:
    disk = packed(tmp_path, variant)  # type: ignore[arg-type]
    for directory in BOTH if variant == "D" else BOTH[:1]:
        poke(disk, table_entry(disk, 2, directory), "<I", u32(disk, table_entry(disk, 9)))
    mended(disk, "stream.tables")
    agrees(disk, mono_bytes())


@pytest.mark.parametrize("variant", ["A", "E", "F"])
def test_stream_without_its_footer(variant: str, tmp_path: Path) -> None:
    disk = packed(tmp_path, variant)  # type: ignore[arg-type]
    truncate(disk, -3 * SECTOR)
    mended(disk, "stream.tables")
    agrees(disk, mono_bytes())


@pytest.mark.parametrize("variant", [*FRONT, *BEHIND])
def test_stream_whose_header_names_a_wrong_place(variant: str, tmp_path: Path) -> None:
    disk = packed(tmp_path, variant)  # type: ignore[arg-type]
    put(disk, "gdOffset", 1 << 40)
    mended(disk, "stream.tables")
    agrees(disk, mono_bytes())


def _cut(folder: Path) -> tuple[Path, bytes]:
    """A stream that ends inside its third grain."""
    disk = packed(folder, "A")
    with diskkit.open_disk(disk) as opened:
        table = opened.chain.links[0].extents[0].map.scan(0, opened.size)
        last = int(table.positions.max())
    truncate(disk, last + 100)
    return disk, mono_bytes({0: sample_grain(1), 2: sample_grain(2)})


def test_cut_stream_only_when_asked(tmp_path: Path) -> None:
    disk, wanted = _cut(tmp_path)
    before = digests(tmp_path)
    assert not repair(disk).ok
    assert digests(tmp_path) == before
    done = mended(disk, "stream.tables", lossy=True)
    assert done.plan[0].lossy
    agrees(disk, wanted)


def test_unfinished_stream(tmp_path: Path) -> None:
    disk = packed(tmp_path, "C", unfinished=True)
    truncate(disk, -SECTOR)
    assert not repair(disk).ok
    mended(disk, "stream.tables", lossy=True)
    agrees(disk, mono_bytes())


def test_grain_whose_marker_is_lost_is_given_up_only_when_asked(tmp_path: Path) -> None:
    disk = packed(tmp_path, "B")
    poke(disk, u32(disk, table_entry(disk, 2)) * SECTOR, "<Q", 0xFFFFFFFFFFFF)
    assert not repair(disk).ok
    mended(disk, "stream.tables", lossy=True)
    agrees(disk, mono_bytes({0: sample_grain(1), 9: sample_grain(3)}))


def test_repaired_stream_reads_from_a_pipe(tmp_path: Path) -> None:
    disk = packed(tmp_path, "B")
    poke(disk, get(disk, "gdOffset") * SECTOR, "<I", 0xFFFFFFFF)
    assert repair(disk).ok
    with disk.open("rb") as source:
        from diskkit.formats.vmdk.sequence import StreamSequence

        sequence = StreamSequence(source, "pipe", _QUIET)
        got = {g.offset: sequence.inflate(g) for g in sequence.grains()}
    wanted = mono_bytes()
    assert got == {
        n * GRAIN_BYTES: wanted[n * GRAIN_BYTES : (n + 1) * GRAIN_BYTES] for n in (0, 2, 9)
    }


def test_stream_of_many_tables(tmp_path: Path) -> None:
    disk = tmp_path / "disk.vmdk"
    stream(disk, MANY, MANY_GRAINS, variant="E")
    truncate(disk, -3 * SECTOR)
    mended(disk, "stream.tables")
    with diskkit.open_disk(disk) as opened:
        for number, grain in MANY_GRAINS.items():
            assert opened.read(number * GRAIN_BYTES, GRAIN_BYTES) == grain


def test_grain_that_is_there_twice_is_left(tmp_path: Path) -> None:
    disk = packed(tmp_path, "B")
    place = u32(disk, table_entry(disk, 9)) * SECTOR
    poke(disk, place, "<Q", 2 * 128)
    before = digests(tmp_path)
    assert not repair(disk, lossy=True).ok
    assert digests(tmp_path) == before


# --- what is never touched -----------------------------------------------------------------------


def test_encrypted_disks_are_refused(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    text_replace(disk, 'createType="', 'keyID="x"\ncreateType="')
    poke(disk, table_entry(disk, 2), "<I", 5)
    before = digests(tmp_path)
    with pytest.raises(UnsupportedFeature, match="encrypted"):
        repair(disk, lossy=True)
    assert digests(tmp_path) == before


@pytest.mark.parametrize(("field", "value"), [("flags", 0x13), ("version", 3)])
def test_unknown_features_are_left(field: str, value: int, tmp_path: Path) -> None:
    disk = mono(tmp_path)
    put(disk, field, value)
    poke(disk, table_entry(disk, 2), "<I", 5)
    before = digests(tmp_path)
    assert not repair(disk, lossy=True).ok
    assert digests(tmp_path) == before


def test_raw_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.img").write_bytes(bytes(4096))
    with pytest.raises(UsageError, match="raw"):
        repair(tmp_path / "x.img")


# --- undo and the command line -------------------------------------------------------------------


def test_undo_after_a_write_is_refused(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    poke(disk, table_entry(disk, 2), "<I", 5)
    backup = repair(disk).backup
    assert backup is not None
    with diskkit.open_disk(disk, writable=True) as opened:
        opened.write(GRAIN_BYTES, b"new")
    with pytest.raises(UsageError, match="changed after the repair"):
        undo_repair(disk, backup)
    undo_repair(disk, backup, policy=OpenPolicy(force=True))


def test_undo_takes_only_what_a_repair_kept(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    with pytest.raises(diskkit.FormatError):
        undo_repair(disk, disk)
    with pytest.raises(UsageError):
        undo_repair(disk, tmp_path / "none")
    poke(disk, table_entry(disk, 2), "<I", 5)
    backup = repair(disk).backup
    other = tmp_path / "other.vmdk"
    hosted_sparse(other, CAPACITY, {})
    with pytest.raises(UsageError, match="no part of the disk"):
        undo_repair(other, backup or "")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk = mono(tmp_path)
    assert main(["repair", str(disk)]) == 0
    poke(disk, table_entry(disk, 2), "<I", 5)
    before = digests(tmp_path)
    assert main(["repair", str(disk), "--dry-run"]) == 0
    assert "would mend" in capsys.readouterr().out
    assert main(["repair", str(disk), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [s["code"] for s in found["plan"]] == ["grain-table.entry"]
    assert digests(tmp_path) == before
    assert main(["repair", str(disk), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"]
    assert main(["repair", str(disk), "--undo", found["backup"]]) == 0
    assert digests(tmp_path)["disk.vmdk"] == before["disk.vmdk"]
    for directory in BOTH:
        poke(disk, table_entry(disk, 2, directory), "<I", 5)
    assert main(["repair", str(disk)]) == 4
    assert "remains: error" in capsys.readouterr().out
    assert main(["repair", str(disk), "--dry-run"]) == 4
