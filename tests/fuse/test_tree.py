# SPDX-License-Identifier: Apache-2.0
"""What a mount shows, asked without a kernel: volumes of every sort as files."""

from __future__ import annotations

import errno
import os
import random
import shutil
from contextlib import ExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

import diskkit as dk
from diskkit.errors import UsageError
from diskkit.fuse.tree import DiskTree, OpenFile, Whole, names_of
from diskkit.fuse.wire import ROOT
from diskkit.volumes import Volume, find_volumes
from diskkit.volumes.asdisk import open_volume
from diskkit.volumes.volume import Segment, Stripe
from makers.peers import SKIP_PREFIX
from volumes.groups import NAME, group, layouts
from volumes.test_asdisk import striped, write_disk
from volumes.test_luks import KEY, locked
from volumes.test_luks import content as secret

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def opened(tree: DiskTree, name: bytes, *, writing: bool = False) -> OpenFile:
    found = tree.lookup(ROOT, name)
    assert found is not None
    return tree.open(found.node, writing=writing)


def everything(file: OpenFile) -> bytes:
    buffer = bytearray(file.size)
    assert file.read_into(0, memoryview(buffer)) == file.size
    return bytes(buffer)


def data(file: OpenFile) -> list[tuple[int, int]]:
    """Where a file says that it has data."""
    found, at = [], 0
    while at < file.size:
        try:
            begin = file.seek(at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        at = file.seek(begin, os.SEEK_HOLE)
        found.append((begin, at))
    return found


def test_a_volume_over_two_disks_is_a_file(stack: ExitStack, tmp_path: Path) -> None:
    paths, wanted = striped(tmp_path)
    disks = [stack.enter_context(dk.open_disk(path, writable=True)) for path in paths]
    tree = DiskTree(disks, find_volumes(*disks).volumes, uid=0, gid=0)
    file = opened(tree, b"vg0-data", writing=True)
    assert everything(file) == wanted
    # From one stripe into the next, which lies on the other disk.
    assert file.write(65536 + 8190, memoryview(b"four")) == 4
    file.erase(65536 + 20_000, 10_000, give_back=True)
    model = bytearray(wanted)
    model[65536 + 8190 : 65536 + 8194] = b"four"
    model[65536 + 20_000 : 65536 + 30_000] = bytes(10_000)
    assert everything(file) == model
    file.flush()
    stack.close()
    again = [stack.enter_context(dk.open_disk(path)) for path in paths]
    tree = DiskTree(again, find_volumes(*again).volumes, uid=0, gid=0)
    assert everything(opened(tree, b"vg0-data")) == model


def test_all_disks_of_a_volume_are_flushed(stack: ExitStack, tmp_path: Path) -> None:
    size = 4 * MIB
    raws = group(bytes(size), layouts(bytes(size))["two disks"])
    paths = [write_disk(tmp_path, "monolithicSparse", r, f"pv{n}") for n, r in enumerate(raws)]
    disks = [stack.enter_context(dk.open_disk(path, writable=True)) for path in paths]
    tree = DiskTree(disks, find_volumes(*disks).volumes, uid=0, gid=0)
    file = opened(tree, b"vg0-root", writing=True)
    for offset in (0, size - 4):
        file.write(offset, memoryview(b"kept"))
    file.flush()
    # As they would be after a crash now.
    copies = [shutil.copy(path, path.with_suffix(".crashed.vmdk")) for path in paths]
    with open_volume([dk.open_disk(path) for path in copies], NAME) as volume:
        assert volume.read(0, size) == b"kept".ljust(size - 4, b"\0") + b"kept"


def test_holes_of_a_disk_are_holes_of_its_volumes(stack: ExitStack, tmp_path: Path) -> None:
    """Also far apart, and where two disks have them; a volume may begin inside of one."""
    paths = [tmp_path / f"{n}.vmdk" for n in range(2)]
    places = ((115 * MIB, 4096), (301 * MIB, 70_000))
    for path, place in zip(paths, places, strict=True):
        dk.create_disk(path, 600 * MIB, "monolithicSparse")
        with dk.open_disk(path, writable=True) as disk:
            disk.write(place[0], random.Random(1).randbytes(place[1]))
    disks = [stack.enter_context(dk.open_disk(path)) for path in paths]
    segments = [
        Segment(0, 500 * MIB, [Stripe(disks[0], 99 * MIB)], 500 * MIB),
        Segment(500 * MIB, 300 * MIB, [Stripe(disks[1], 300 * MIB)], 300 * MIB),
    ]
    volume = Volume(segments, number=1, name="vg0/x", type="lvm")
    tree = DiskTree(disks, [volume], uid=0, gid=0)
    file = opened(tree, b"vg0-x")
    # Room is given in grains of 64 KiB, and told as the file of the disk has it, or larger.
    ((begin, end), (later, last)) = data(file)
    assert begin == 16 * MIB
    assert 16 * MIB + 4096 <= end <= 16 * MIB + 65536
    assert later <= 501 * MIB < 501 * MIB + 70_000 <= last <= 501 * MIB + 131_072
    assert data(opened(tree, b"flat")) == [(begin + 99 * MIB, end + 99 * MIB)]
    with pytest.raises(OSError, match="No such device or address"):
        file.seek(last, os.SEEK_DATA)
    with pytest.raises(OSError, match="No such device or address"):
        file.seek(file.size, os.SEEK_HOLE)


def test_nothing_is_changed_that_is_deciphered(stack: ExitStack, tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason=f"{SKIP_PREFIX} cryptography")
    path = write_disk(tmp_path, "monolithicSparse", bytes(locked("luks1")[0]))
    before = path.read_bytes()
    disk = stack.enter_context(dk.open_disk(path, writable=True))
    tree = DiskTree([disk], find_volumes(disk, key=KEY).volumes, uid=0, gid=0)
    file = opened(tree, b"whole.luks")
    assert everything(file) == secret()
    # No file holds these bytes, so nobody knows of holes.
    assert data(file) == [(0, file.size)]
    with pytest.raises(OSError, match="Read-only"):
        opened(tree, b"whole.luks", writing=True)
    for give_back in (True, False):
        with pytest.raises(OSError, match="Read-only"):
            file.erase(0, 4096, give_back=give_back)
    with pytest.raises(UsageError, match="for reading only"):
        file.write(0, memoryview(b"x"))
    file.flush()
    found = tree.lookup(ROOT, b"whole.luks")
    assert found is not None
    assert found.mode & 0o777 == 0o400
    stack.close()
    assert path.read_bytes() == before


def test_a_file_ends_where_the_disk_does(stack: ExitStack, tmp_path: Path) -> None:
    path = write_disk(tmp_path, "raw", b"0123456789" * 100)
    file = Whole(stack.enter_context(dk.open_disk(path, writable=True)), alone=False)
    buffer = memoryview(bytearray(20))
    assert file.read_into(995, buffer) == 5
    assert bytes(buffer[:5]) == b"56789"
    assert file.read_into(2000, buffer) == 0
    assert file.write(995, buffer) == 5
    with pytest.raises(OSError, match="No space left"):
        file.write(1000, buffer)
    file.erase(990, 4096, give_back=True)
    assert everything(file)[-20:] == b"0123456789" + bytes(10)


def test_no_two_volumes_have_one_name() -> None:
    names = ["vg0-a/3", "vg0/a", "vg0/a", "p1"]
    volumes = [SimpleNamespace(name=name, number=n) for n, name in enumerate(names, 1)]
    found = names_of(volumes)  # type: ignore[arg-type]
    assert found == [b"vg0-a-3", b"vg0-a", b"vg0-a-3-3", b"p1"]
