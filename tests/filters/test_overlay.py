# SPDX-License-Identifier: Apache-2.0
"""A disk over a disk: the suites, what stays untouched, and what is refused."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.errors import ChainError
from diskkit.filters import overlay
from diskkit.filters.overlay import open_overlay
from diskkit.formats.vmdk.writers import MOST_SPARSE
from diskkit.testing import DiskCase, DiskSuite, WritableDiskSuite
from hostile.test_bounds import confined
from makers import write_descriptor
from model.links import KINDS, model_of, some_grains, write_chain
from nbd.serving import serving, uri

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from diskkit.disk import Disk

SECTORS = 1500
MOST = [pytest.param(MOST_SPARSE, id="one file"), pytest.param(0, id="two files")]
"""Bytes that an overlay of one file holds: what is larger gets two."""
CHAINS = [("sparse-128",), ("stream-A-16", "sparse-16-lazy"), ("flat",), ("cowd-8",)]


def made(folder: Path, names: tuple[str, ...]) -> tuple[Path, bytes]:
    links = [
        (KINDS[name], some_grains(SECTORS, KINDS[name], n, dense=not n))
        for n, name in enumerate(names)
    ]
    return write_chain(folder, SECTORS, links), bytes(model_of(SECTORS, links).content)


def over(path: Path, scratch: Path) -> Disk:
    below = diskkit.open_disk(path)
    try:
        return open_overlay(below, str(scratch))
    except BaseException:
        below.close()
        raise


@pytest.fixture(params=["raw", "network", *CHAINS], ids=str)
def below(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path | str, bytes]]:
    """Disks of every sort: what to open, and what it holds."""
    if isinstance(request.param, tuple):
        yield made(tmp_path, request.param)
        return
    # No whole sectors.
    content = random.Random(1).randbytes(300_001) + bytes(200_000)
    (tmp_path / "disk.raw").write_bytes(content)
    if request.param == "raw":
        yield tmp_path / "disk.raw", content
        return
    with diskkit.open_disk(tmp_path / "disk.raw") as disk, serving({"": disk}) as socket:
        yield uri(socket), content


@pytest.fixture
def case(below: tuple[Path | str, bytes], tmp_path: Path) -> DiskCase:
    return DiskCase(partial(over, below[0], tmp_path / "scratch.vmdk"), below[1])  # type: ignore[arg-type]


class TestWrittenOverlays(WritableDiskSuite):
    @pytest.fixture(autouse=True)
    def _nothing_below_changes(self, tmp_path: Path, case: DiskCase) -> Iterator[None]:
        before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
        yield
        assert {p: p.read_bytes() for p in before} == before


class TestOverlays(DiskSuite):
    @pytest.fixture
    def case(self, below: tuple[Path | str, bytes], tmp_path: Path) -> DiskCase:
        """One that was written to here and there."""
        opened = partial(over, below[0], tmp_path / "scratch.vmdk")  # type: ignore[arg-type]
        content = bytearray(below[1])
        dice = random.Random(4)
        with opened() as disk:
            for length in (10, 5000, 65536, 100_000):
                offset = dice.randrange(disk.size - length)
                data = dice.randbytes(length)
                disk.write(offset, data)
                content[offset : offset + length] = data
                disk.discard(offset // 2, length)
                content[offset // 2 :][:length] = b""
                content[offset // 2 : offset // 2 + length] = bytes(length)
        return DiskCase(opened, bytes(content[: len(below[1])]))

    def test_eight_threads_agree(self, case: DiskCase, disk: Disk) -> None:
        super().test_eight_threads_agree(case, disk)

    def test_links_of_the_disk_below_come_after_its_own(self, case: DiskCase, disk: Disk) -> None:
        links = disk.info.links
        assert len(links) == disk.link_count
        assert links[0].path.endswith("scratch.vmdk")
        seen = {run.link for run in disk.runs()}
        assert 0 in seen
        assert seen <= set(range(len(links)))
        only = [t for t in disk.tables(links=1)]  # noqa: C416
        assert {int(s) for t in only for s in t.sources[t.states != diskkit.State.HOLE]} == {0}


def test_an_overlay_of_a_vmdk_is_a_child_of_it(tmp_path: Path) -> None:
    """Any program that reads chains reads it, and it can be committed."""
    path, content = made(tmp_path, ("sparse-16-lazy",))
    with over(path, tmp_path / "scratch.vmdk") as disk:
        disk.write(1000, b"changed")
    expected = bytearray(content)
    expected[1000:1007] = b"changed"
    with diskkit.open_disk(tmp_path / "scratch.vmdk") as disk:
        assert disk.read(0, disk.size) == expected
        assert len(disk.info.links) == 2


def test_an_overlay_of_a_raw_image_is_no_disk_without_it(tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(bytes(100_000))
    over(tmp_path / "disk.raw", tmp_path / "scratch.vmdk").close()
    with pytest.raises(diskkit.FormatError):
        diskkit.open_disk(tmp_path / "scratch.vmdk")


@pytest.mark.parametrize("most", MOST)
def test_overlays_that_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(overlay, "MOST_SPARSE", most)
    path, _ = made(tmp_path, ("sparse-16-lazy",))
    scratch = tmp_path / "scratch.vmdk"
    over(path, scratch).close()
    # The disk is written to.
    shutil.copy(path, tmp_path / "copy.vmdk")
    with diskkit.open_disk(path, writable=True, force=True) as disk:
        disk.write(0, b"x")
    with pytest.raises(ChainError, match="before it changed"):
        over(path, scratch)
    # Under another name it still is the disk it was.
    over(tmp_path / "copy.vmdk", scratch).close()
    # Another disk, a file that is no overlay, and one that is no VMDK.
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "disk.raw").write_bytes(bytes(SECTORS * 512))
    with pytest.raises(ChainError, match="another disk"):
        over(tmp_path / "raw" / "disk.raw", scratch)
    diskkit.create_disk(tmp_path / "other.vmdk", SECTORS * 512, "monolithicSparse")
    with pytest.raises(ChainError, match="no overlay"):
        over(path, tmp_path / "other.vmdk")
    (tmp_path / "text").write_text("a letter to a friend, which nobody wants overwritten")
    with pytest.raises(diskkit.FormatError):
        over(path, tmp_path / "text")
    assert (tmp_path / "text").read_text().startswith("a letter")


def test_a_raw_image_that_changed(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(100_000))
    over(path, tmp_path / "scratch.vmdk").close()
    os.utime(path, ns=(1, 1))
    with pytest.raises(ChainError, match="before it changed"):
        over(path, tmp_path / "scratch.vmdk")


_KILLED = """
import os, signal, sys
import diskkit
from diskkit.filters import overlay
overlay.MOST_SPARSE = int(sys.argv[3])
disk = overlay.open_overlay(diskkit.open_disk(sys.argv[1]), sys.argv[2])
for n in range(20):
    disk.write(n * 30_000, bytes([n + 1]) * 20_000)
disk.flush()
for n in range(20):
    disk.write(n * 30_000 + 20_000, bytes([n + 100]) * 10_000)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("most", MOST)
def test_what_was_flushed_survives_being_killed(tmp_path: Path, most: int) -> None:
    path, content = made(tmp_path, ("sparse-16-lazy",))
    before = path.read_bytes()
    scratch = tmp_path / "scratch.vmdk"
    command = [sys.executable, "-c", _KILLED, str(path), str(scratch), str(most)]
    assert subprocess.run(command, timeout=60, check=False).returncode == -9
    assert path.read_bytes() == before
    with over(path, scratch) as disk:
        for n in range(20):
            assert disk.read(n * 30_000, 20_000) == bytes([n + 1]) * 20_000
            begin = n * 30_000 + 20_000
            found = disk.read(begin, 10_000)
            # Not flushed: each byte is as it was, or as it was written, by whole sectors.
            assert all(a in (b, n + 100) for a, b in zip(found, content[begin:], strict=False))
        disk.write(0, b"on we go")
        assert disk.read(0, 8) == b"on we go"


@pytest.fixture
def as_if_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every overlay is of the kind that large disks get."""
    monkeypatch.setattr(overlay, "MOST_SPARSE", 0)


@pytest.mark.usefixtures("as_if_large")
class TestWrittenOverlaysOfTwoFiles(TestWrittenOverlays):
    """The same promises; small, as the suite asks."""


@pytest.mark.usefixtures("as_if_large")
class TestOverlaysOfTwoFiles(TestOverlays):
    """The same promises; small, as the suite asks."""


@pytest.mark.usefixtures("as_if_large")
def test_the_second_file_is_called_as_it_is_everywhere(tmp_path: Path) -> None:
    path, _ = made(tmp_path, ("sparse-128",))
    over(path, tmp_path / "scratch.vmdk").close()
    (tmp_path / "other").mkdir()
    over(path, tmp_path / "other" / "plain").close()
    names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert names - {path.name} == {
        *("scratch.vmdk", "scratch-sesparse.vmdk"),
        *("other/plain", "other/plain-sesparse.vmdk"),
    }
    assert b'createType="seSparse"' in (tmp_path / "scratch.vmdk").read_bytes()


@pytest.mark.usefixtures("as_if_large")
def test_both_files_appear_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = made(tmp_path, ("sparse-128",))
    before = set(tmp_path.iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("write_empty_sesparse", "append_all"):
        with monkeypatch.context() as patch:
            patch.setattr(overlay, name, full)
            with pytest.raises(diskkit.StorageError, match="No space left"):
                over(path, tmp_path / "scratch.vmdk")
        assert set(tmp_path.iterdir()) == before
    # What somebody else has under the second name is neither used nor replaced.
    theirs = tmp_path / "scratch-sesparse.vmdk"
    theirs.write_text("theirs")
    with pytest.raises(
        diskkit.UsageError, match=r"exists already, without .*scratch\.vmdk .*remove"
    ):
        over(path, tmp_path / "scratch.vmdk")
    assert theirs.read_text() == "theirs"
    assert set(tmp_path.iterdir()) == {*before, theirs}
    theirs.unlink()
    over(path, tmp_path / "scratch.vmdk").close()
    # One without the other is no overlay.
    theirs.unlink()
    with pytest.raises(diskkit.FormatError, match=r"scratch-sesparse\.vmdk: .*No such file"):
        over(path, tmp_path / "scratch.vmdk")


TIB = 1 << 40


def large(folder: Path, size: int) -> tuple[Path, dict[int, bytes]]:
    """A disk with a MiB of data at its begin, its end and between; where they are."""
    length = 1 << 20
    middle = (size // 2) // 512 * 512
    data = {at: random.Random(at).randbytes(length) for at in (0, middle, size - length)}
    lines = []
    for number, (at, content) in enumerate(data.items()):
        (folder / f"{number}.bin").write_bytes(content)
        lines.append(f'RW {length // 512} FLAT "{number}.bin" 0')
        if at == 0:
            lines.append(f"RW {(middle - length) // 512} ZERO")
        elif at == middle:
            lines.append(f"RW {(size - middle - 2 * length) // 512} ZERO")
    write_descriptor(folder / "large.vmdk", "custom", lines)
    return folder / "large.vmdk", data


# Not whole grains of the overlay at the end.
@pytest.mark.parametrize("size", [2 * TIB + 512, 20 * TIB + 1536, 64 * TIB])
def test_overlays_of_large_disks(tmp_path: Path, size: int) -> None:
    path, data = large(tmp_path, size)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    scratch = tmp_path / "scratch.vmdk"
    dice = random.Random(size)
    written: dict[int, bytes] = {}
    with over(path, scratch) as disk:
        assert disk.size == size
        for at, content in data.items():
            assert disk.read(at, len(content)) == content
        assert [str(run.state) for run in disk.runs()] == ["data", "zero", "data", "zero", "data"]
    for _ in range(2):
        with over(path, scratch) as disk:
            assert all(disk.read(at, len(content)) == content for at, content in written.items())
            for at in (1000, size // 3, size // 2 + 5000, size - (1 << 20) - 300, size - 700):
                for place in (at, dice.randrange(size - 700)):
                    written[place] = dice.randbytes(700)
                    disk.write(place, written[place])
            disk.discard(size // 2 + 8192, 8192)
            assert not any(disk.read(size // 2 + 8192, 8192))
            disk.flush()
            held = [run for run in disk.runs() if run.link == 0 and run.path]
            assert {run.path for run in held} == {str(tmp_path / "scratch-sesparse.vmdk")}
    with over(path, scratch) as disk:
        assert all(disk.read(at, 700) == content for at, content in written.items())
        assert disk.read(900, 100) == data[0][900:1000]
        assert disk.read(1700, 100) == data[0][1700:1800]
    assert {p: p.read_bytes() for p in before} == before
    with diskkit.open_disk(scratch) as disk:
        assert all(disk.read(at, 700) == content for at, content in written.items())
    # What it holds on the medium is what was written, and its tables.
    taken = sum(p.stat().st_blocks * 512 for p in tmp_path.glob("scratch*"))
    assert taken < 8 << 20


_KILLED_FAR_AWAY = """
import os, signal, sys
import diskkit
from diskkit.filters.overlay import open_overlay
disk = open_overlay(diskkit.open_disk(sys.argv[1]), sys.argv[2])
for n in range(200):
    disk.write(disk.size // 200 * n, b"flushed %d" % n)
disk.flush()
for n in range(200):
    disk.write(disk.size // 200 * n + (2 << 20), b"not flushed")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_large_overlay_survives_being_killed(tmp_path: Path) -> None:
    path, _ = large(tmp_path, 20 * TIB)
    scratch = tmp_path / "scratch.vmdk"
    for _ in range(2):
        command = [sys.executable, "-c", _KILLED_FAR_AWAY, str(path), str(scratch)]
        assert subprocess.run(command, timeout=60, check=False).returncode == -9
        with over(path, scratch) as disk:
            for n in range(200):
                wanted = b"flushed %d" % n
                assert disk.read(disk.size // 200 * n, len(wanted)) == wanted
                found = disk.read(disk.size // 200 * n + (2 << 20), 11)
                assert found in (bytes(11), b"not flushed")


def test_memory_stays_flat_over_large_disks(tmp_path: Path) -> None:
    path, _ = large(tmp_path, 20 * TIB)
    code = """
import random
from diskkit.filters.overlay import open_overlay
with open_overlay(open_disk(path, policy=policy), path + ".scratch") as disk:
    dice = random.Random(1)
    for n in range(4000):
        disk.write(dice.randrange(disk.size - 5000), dice.randbytes(5000))
    told["runs"] = sum(1 for run in disk.runs())
    disk.discard(disk.size // 2, 200 << 30)
"""
    told = confined(code, path)
    assert told["runs"] > 8000
    assert told["peak"] < 300 << 20


def test_a_disk_too_large_for_an_overlay(tmp_path: Path) -> None:
    path, _ = large(tmp_path, 64 * TIB + 512)
    with pytest.raises(diskkit.UsageError, match=f"holds at most {64 * TIB} bytes"):
        over(path, tmp_path / "scratch.vmdk")
    assert not list(tmp_path.glob("scratch*"))


def test_a_large_overlay_is_committed_and_removed(tmp_path: Path) -> None:
    path, scratch = tmp_path / "disk.vmdk", tmp_path / "scratch.vmdk"
    diskkit.create_disk(path, 3 * TIB, "monolithicFlat")
    for _ in range(2):
        with over(path, scratch) as disk:
            disk.write(3 * TIB - 100_000, b"changed" * 10_000)
        assert diskkit.check(scratch).ok
        diskkit.commit(scratch)
        assert not list(tmp_path.glob("scratch*"))
        with diskkit.open_disk(path) as disk:
            assert disk.read(3 * TIB - 100_000, 70_000) == b"changed" * 10_000
    over(path, scratch).close()
    assert len(diskkit.remove_disk(scratch)) == 2
