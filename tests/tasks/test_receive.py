# SPDX-License-Identifier: Apache-2.0
"""Streams read in one pass: every maker's variant, whole, cut anywhere, and out of order."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, get_args

import pytest

import diskkit
from diskkit.errors import DiskkitError, FormatError, StorageError, UnsupportedFeature
from diskkit.formats.vmdk.writers import Grains, SparseWriter
from diskkit.interfaces import OpenPolicy
from diskkit.tasks import clone as cloning
from diskkit.tasks.clone import KINDS
from diskkit.tasks.receive import clone_stream, convert_stream
from makers import Variant, poke, sample_grain, stream
from tasks.images import CAPACITY, packed, sparse

if TYPE_CHECKING:
    from pathlib import Path

VARIANTS: tuple[Variant, ...] = get_args(Variant)


class Trickle(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data, self._at, self._step = data, 0, step

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        part = self._data[self._at : self._at + min(size, self._step)]
        self._at += len(part)
        return part


def receive(data: bytes, target: Path, *, verify: bool = False) -> None:
    convert_stream(io.BytesIO(data), target, policy=OpenPolicy(), verify=verify)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_arrives_whole(tmp_path: Path, variant: Variant) -> None:
    made = packed(tmp_path, variant)
    receive(made.path.read_bytes(), tmp_path / "out.raw", verify=True)
    assert (tmp_path / "out.raw").read_bytes() == made.content


@pytest.mark.parametrize("step", [1, 511, 513, 70000])
def test_short_reads_of_a_pipe_do_not_matter(tmp_path: Path, step: int) -> None:
    grains = {0: sample_grain(1), 2: sample_grain(2)}
    stream(tmp_path / "s.vmdk", 128 * 3, grains, variant="A")
    source = Trickle((tmp_path / "s.vmdk").read_bytes(), step)
    convert_stream(source, tmp_path / "out.raw", policy=OpenPolicy())
    assert (tmp_path / "out.raw").read_bytes() == grains[0] + bytes(65536) + grains[2]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stream_cut_anywhere_is_refused_and_leaves_nothing(
    tmp_path: Path, variant: Variant
) -> None:
    made = packed(tmp_path, variant)
    data = made.path.read_bytes()
    end = len(data.rstrip(b"\0"))
    for cut in {0, 100, 512, 5000, end // 3, end // 2, end - 700, end - 1}:
        with pytest.raises(DiskkitError):
            receive(data[:cut], tmp_path / "out.raw")
        assert [p.name for p in tmp_path.iterdir()] == ["stream.vmdk"], cut


def test_grains_out_of_order_are_refused_with_the_way_out(tmp_path: Path) -> None:
    grains = {i: sample_grain(i) for i in range(4)}
    stream(tmp_path / "s.vmdk", 128 * 4, grains, variant="B", order=[0, 2, 1, 3])
    with pytest.raises(FormatError, match=r"address .*save the stream to a file first"):
        receive((tmp_path / "s.vmdk").read_bytes(), tmp_path / "out.raw")


@pytest.mark.parametrize(
    ("at", "fmt", "value", "message"),
    [
        (0, "<Q", CAPACITY + 128, "address at byte 65536 is 5272: lies beyond the capacity"),
        (0, "<Q", 64, "address at byte 65536 is 64: is no multiple of the grain's 128 sectors"),
        (8, "<I", 1 << 30, "size at byte 65544 is 1073741824: a compressed grain has 1 to 131072"),
        (16, "<Q", 0, "data at byte 65548: not a whole zlib stream"),
    ],
)
def test_markers_that_lie_are_refused(
    tmp_path: Path, at: int, fmt: str, value: int, message: str
) -> None:
    made = packed(tmp_path, "B")
    first = 65536  # variant B rounds its overhead up to a grain
    poke(made.path, first + at, fmt, value)
    with pytest.raises(FormatError, match=message):
        receive(made.path.read_bytes(), tmp_path / "out.raw")


def test_data_after_the_end_is_refused_and_padding_is_not(tmp_path: Path) -> None:
    made = packed(tmp_path, "A")
    data = made.path.read_bytes()
    receive(data + bytes(9000), tmp_path / "out.raw")
    with pytest.raises(FormatError, match="data follows the end of the stream"):
        receive(data + bytes(1024) + b"x", tmp_path / "other.raw")


def test_other_kinds_cannot_come_through_a_pipe(tmp_path: Path) -> None:
    made = sparse(tmp_path)
    with pytest.raises(UnsupportedFeature, match="only a streamOptimized disk"):
        receive(made.path.read_bytes(), tmp_path / "out.raw")
    with pytest.raises(FormatError, match="magic"):
        receive(b"hello" * 1000, tmp_path / "out.raw")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ["A", "B"])
def test_a_stream_becomes_a_disk_of_any_kind(tmp_path: Path, kind: str, variant: Variant) -> None:
    made = packed(tmp_path, variant)
    reported: list[tuple[int, int]] = []
    clone_stream(
        io.BytesIO(made.path.read_bytes()),
        tmp_path / "new.vmdk",
        kind,
        policy=OpenPolicy(),
        verify=True,
        progress=lambda done, total: reported.append((done, total)),
    )
    with diskkit.open_disk(tmp_path / "new.vmdk") as disk:
        assert disk.read(0, disk.size) == made.content
        assert disk.info.create_type == ("vmfs" if kind.startswith("vmfs") else kind)
    assert diskkit.check(tmp_path / "new.vmdk", data=True).problems == []
    assert reported[-1] == (len(made.content), len(made.content))


@pytest.mark.parametrize("grain_sectors", [16, 128, 1024])
@pytest.mark.parametrize("kind", ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_grains_of_any_size_are_cut_at_the_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, grain_sectors: int
) -> None:
    part = 5 * 65536
    monkeypatch.setitem(cloning.KINDS, kind, cloning.KINDS[kind]._replace(part=part))
    count = 4096 // grain_sectors
    grains = {i: sample_grain(i, grain_sectors) for i in range(0, count, 1 + count // 16)}
    stream(tmp_path / "s.vmdk", 4096 + 8, grains, variant="A", grain_sectors=grain_sectors)
    source = io.BytesIO((tmp_path / "s.vmdk").read_bytes())
    clone_stream(source, tmp_path / "new.vmdk", kind, policy=OpenPolicy(), verify=True)
    with (
        diskkit.open_disk(tmp_path / "s.vmdk") as old,
        diskkit.open_disk(tmp_path / "new.vmdk") as new,
    ):
        assert len(new.info.links[0].extents) == 7
        assert new.read(0, new.size) == old.read(0, old.size)


@pytest.mark.parametrize("kind", ["monolithicSparse", "twoGbMaxExtentFlat", "streamOptimized"])
def test_a_cut_stream_leaves_no_disk(tmp_path: Path, kind: str) -> None:
    data = packed(tmp_path, "A").path.read_bytes()
    for end in (len(data) // 2, len(data) - 1024):
        with pytest.raises(FormatError):
            clone_stream(io.BytesIO(data[:end]), tmp_path / "new.vmdk", kind, policy=OpenPolicy())
        assert [p.name for p in tmp_path.iterdir()] == ["stream.vmdk"]


def test_a_wrong_copy_of_a_stream_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = packed(tmp_path, "A").path.read_bytes()
    real = SparseWriter.write

    def forget(self: SparseWriter, grains: Grains) -> int:
        filled = grains.filled.copy()
        filled[filled.argmax()] = False
        return real(self, grains._replace(filled=filled))

    monkeypatch.setattr(SparseWriter, "write", forget)
    with pytest.raises(StorageError, match="differs from the stream"):
        clone_stream(
            io.BytesIO(data),
            tmp_path / "new.vmdk",
            "monolithicSparse",
            policy=OpenPolicy(),
            verify=True,
        )
    assert [p.name for p in tmp_path.iterdir()] == ["stream.vmdk"]
