# SPDX-License-Identifier: Apache-2.0
"""Volumes as disks: the suites over a partition, a striped volume of two disks, and LUKS."""

from __future__ import annotations

import random
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit import FormatError, UsageError
from diskkit.runs import State
from diskkit.tasks.clone import clone
from diskkit.testing import DiskCase, DiskSuite, WritableDiskSuite
from diskkit.volumes import find_volumes
from diskkit.volumes.asdisk import VolumeDisk, open_volume
from diskkit.volumes.volume import Segment, Stripe, Volume
from makers.peers import SKIP_PREFIX
from nbd.serving import serving, uri
from volumes.tables import PE_START, Part, lvm_text, put_mbr, put_pv
from volumes.test_luks import KEY, locked
from volumes.test_luks import content as secret

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from diskkit.disk import Disk

MIB = 1 << 20
BEGIN = MIB + 512
"""In the middle of a grain."""
SIZE = 3 * MIB + 512
EXTENT = 65536


def content() -> bytes:
    """Data, and whole grains of zeros."""
    chance = random.Random(1)
    parts = [chance.choice((bytes(70_000), chance.randbytes(50_000))) for _ in range(80)]
    return b"".join(parts)[:SIZE]


def raw_with_partition() -> bytes:
    disk = bytearray(random.Random(2).randbytes(BEGIN + SIZE + 100_352))
    put_mbr(disk, [(0x83, BEGIN // 512, SIZE // 512)])
    disk[BEGIN : BEGIN + SIZE] = content()
    return bytes(disk)


def write_disk(folder: Path, kind: str, raw: bytes, name: str = "disk") -> Path:
    path = folder / f"{name}.raw"
    path.write_bytes(raw)
    if kind == "raw":
        return path
    with diskkit.open_disk(path) as disk:
        clone(disk, folder / f"{name}.vmdk", kind, sync=False)
    return folder / f"{name}.vmdk"


def opened(paths: list[Path] | list[str], name: str, *, writable: bool = False) -> VolumeDisk:
    disks = [diskkit.open_disk(path, writable=writable) for path in paths]
    try:
        return open_volume(disks, name)
    except BaseException:
        for disk in disks:
            disk.close()
        raise


def striped(folder: Path) -> tuple[list[Path], bytes]:
    """A volume group over two VMDKs, and what its volume holds."""
    size = 4 * MIB
    parts = [Part(0, 1, [(0, 2)]), Part(1, 4, [(0, 4), (1, 1)], 16)]
    text = lvm_text({"data": parts}, pvs=(0, 1), pe_count=40)
    paths, extents = [], []
    for number in range(2):
        raw = bytearray(random.Random(number).randbytes(size))
        put_pv(raw, 0, size, number, text)
        paths.append(write_disk(folder, "monolithicSparse", bytes(raw), f"pv{number}"))
        extents.append(raw[PE_START * 512 :])
    wanted = bytes(extents[0][2 * EXTENT : 3 * EXTENT])
    for at in range(0, 2 * EXTENT, 8192):
        for pv, first in ((0, 4), (1, 1)):
            begin = first * EXTENT + at
            wanted += extents[pv][begin : begin + 8192]
    return paths, wanted


@pytest.fixture(params=["raw", "monolithicSparse", "streamOptimized", "twoGbMaxExtentFlat"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> DiskCase:
    path = write_disk(tmp_path, request.param, raw_with_partition())
    return DiskCase(partial(opened, [path], "1"), content())


class TestPartitions(DiskSuite):
    """A partition of disks of several kinds."""


class TestWrittenPartitions(WritableDiskSuite):
    """A partition that is written to."""

    @pytest.fixture(params=["raw", "monolithicSparse"])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> DiskCase:
        """Small, as the suite asks."""
        disk = bytearray(random.Random(2).randbytes(2 * MIB))
        put_mbr(disk, [(0x83, 129, 1024)])
        path = write_disk(tmp_path, request.param, bytes(disk))
        whole = bytes(disk[129 * 512 : (129 + 1024) * 512])
        return DiskCase(partial(opened, [path], "p1", writable=True), whole)


def beside_another(folder: Path) -> tuple[list[Path], str]:
    """A split disk, and one with a partition: that partition's name among both."""
    raw = bytearray(random.Random(3).randbytes(SIZE))
    put_mbr(raw, [(0x83, 100, 2000)])
    first = write_disk(folder, "twoGbMaxExtentSparse", bytes(raw), "first")
    return [first, write_disk(folder, "monolithicSparse", raw_with_partition())], "d2p1"


class TestPartitionsBesideOthers(DiskSuite):
    """A partition of the second of two disks."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> DiskCase:
        """Both are open."""
        paths, name = beside_another(tmp_path)
        return DiskCase(partial(opened, paths, name), content())


def test_partition_of_the_second_disk_is_where_it_is_in_its_file(tmp_path: Path) -> None:
    paths, name = beside_another(tmp_path)
    target = tmp_path / "copy.raw"
    wanted = content()
    with opened(paths, name) as disk, target.open("w+b") as out:
        for table in disk.tables():
            disk.pour(table, out.fileno())
        out.truncate(SIZE)
        assert target.read_bytes() == wanted
    with opened(paths, name, writable=True) as disk:
        for at in (0, SIZE // 2, SIZE - 1):
            found = disk.stretch(at)
            assert found is not None
            assert 0 <= found.begin <= at < found.end <= SIZE
            with paths[1].open("rb") as file:
                file.seek(found.position)
                assert file.read(found.end - found.begin) == wanted[found.begin : found.end]


class TestStripes(DiskSuite):
    """A logical volume over two disks."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> DiskCase:
        """Both disks are open as long as it."""
        paths, wanted = striped(tmp_path)
        return DiskCase(partial(opened, paths, "vg0/data"), wanted)


class TestStripesInPartitions(DiskSuite):
    """The same with each physical volume in a partition, on disks that have no files here."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> Iterator[DiskCase]:
        """Served by others."""
        paths, wanted = striped(tmp_path)
        for path in paths:
            with diskkit.open_disk(path) as disk:
                inside = disk.read(0, disk.size)
            raw = bytearray(MIB) + inside
            put_mbr(raw, [(0x8E, 2048, len(inside) // 512)])
            (tmp_path / "outer").mkdir(exist_ok=True)
            write_disk(tmp_path / "outer", "monolithicSparse", bytes(raw), path.stem)
        with ExitStack() as stack:
            found = [
                stack.enter_context(diskkit.open_disk(tmp_path / "outer" / path.name))
                for path in paths
            ]
            sockets = [stack.enter_context(serving({"": disk})) for disk in found]
            uris = [uri(socket) for socket in sockets]
            yield DiskCase(partial(opened, uris, "vg0/data"), wanted)

    def test_map_is_as_short_as_can_be(self, disk: Disk) -> None:
        """It is all data, and nobody here knows in which file."""
        assert [(run.length, run.state) for run in disk.runs()] == [(disk.size, State.DATA)]


class TestWrittenStripes(WritableDiskSuite):
    """A striped volume that is written to."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> DiskCase:
        """On both disks."""
        paths, wanted = striped(tmp_path)
        return DiskCase(partial(opened, paths, "vg0/data", writable=True), wanted)


def test_many_turns_are_few_parts(tmp_path: Path) -> None:
    """So that looking for data in a large empty volume does not take for ever, nor zeroing it."""
    size, unit = 400 << 30, 65536
    paths = [tmp_path / f"{n}.vmdk" for n in range(2)]
    for path in paths:
        diskkit.create_disk(path, size // 2 + MIB, "monolithicSparse", sync=False)
    with ExitStack() as stack:
        disks = [stack.enter_context(diskkit.open_disk(path, writable=True)) for path in paths]
        disks[1].write(MIB + (300 << 30) // 2 + 5, b"x")
        stripes = [Stripe(disk, MIB) for disk in disks]
        volume = Volume([Segment(0, size, stripes, unit)], number=1, name="vg0/x", type="lvm")
        assert [p.start for p in volume.parts(0, size)] == [0]
        # The first turn is not whole, nor is the last.
        parts = list(volume.parts(unit + 1, size - 2 * unit - 2))
        assert [p.start for p in parts] == [unit + 1, 2 * unit, size - 2 * unit]
        lanes = [lane for part in parts for lane in part.lanes]
        assert sum(lane.length for lane in lanes) == size - 2 * unit - 2
        with VolumeDisk(volume, disks, borrowed=True) as whole:
            # A byte of the second disk, whose turn is the second one.
            (held,) = [run for run in whole.runs() if run.state != State.HOLE]
            assert (held.offset, held.length) == ((300 << 30) + unit, unit)
            assert sum(len(table.starts) for table in whole.tables()) < 1000
            assert whole.read((300 << 30) + unit + 5, 1) == b"x"
            whole.discard(0, size)
            assert [run.length for run in whole.runs()] == [size]


class TestLuks(DiskSuite):
    """What is deciphered as it is read."""

    @pytest.fixture
    def case(self, tmp_path: Path) -> DiskCase:
        """The disk is given back with the volume."""
        pytest.importorskip("cryptography", reason=f"{SKIP_PREFIX} cryptography")
        path = write_disk(tmp_path, "monolithicSparse", bytes(locked("luks2 4096")[0]))

        def unlocked() -> VolumeDisk:
            return open_volume([diskkit.open_disk(path)], "whole.luks", KEY)

        return DiskCase(unlocked, secret())

    def test_map_names_no_file(self, case: DiskCase) -> None:
        """The bytes in the file are others."""
        with case.open() as disk:
            (run,) = disk.runs()
            assert (run.state, run.path, run.file_offset) == (State.DATA, None, None)
            with pytest.raises(UsageError, match="opened for reading only"):
                disk.write(0, b"x")


def test_map_says_where_the_bytes_are(tmp_path: Path) -> None:
    """In the file of a VMDK, whose holes stay holes."""
    path = write_disk(tmp_path, "monolithicSparse", raw_with_partition())
    with opened([path], "p1") as disk:
        wanted, met = content(), set()
        for run in disk.runs():
            met.add(run.state)
            if run.file_offset is not None:
                raw = path.read_bytes()[run.file_offset : run.file_offset + run.length]
                assert raw == wanted[run.offset : run.offset + run.length]
            else:
                assert not any(wanted[run.offset : run.offset + run.length])
        assert State.DATA in met
        assert len(met) > 1


def test_volume_with_a_problem_is_not_opened(tmp_path: Path) -> None:
    raw = bytearray(MIB)
    put_mbr(raw, [(0x83, 100, 1 << 20)])
    path = write_disk(tmp_path, "raw", bytes(raw))
    with diskkit.open_disk(path) as disk:
        with pytest.raises(FormatError, match="beyond the disk's"):
            open_volume([disk], 1)
        with pytest.raises(UsageError, match=r"disk\.raw: no volume 7: there are 1 \(p1\)"):
            open_volume([disk], 7)
        assert disk.read(510, 2) == b"\x55\xaa"


def test_borrowed_disks_stay_open(tmp_path: Path) -> None:
    path = write_disk(tmp_path, "raw", raw_with_partition())
    with diskkit.open_disk(path, writable=True) as disk:
        (volume,) = find_volumes(disk).volumes
        with VolumeDisk(volume, [disk], borrowed=True) as inside:
            assert inside.read(0, 100) == content()[:100]
        for use in (
            lambda: inside.read(0, 1),
            lambda: inside.write(0, b"x"),
            lambda: inside.discard(0, 512),
            lambda: list(inside.runs()),
            inside.flush,
        ):
            with pytest.raises(UsageError, match="closed"):
                use()
        assert disk.read(BEGIN, 100) == content()[:100]
