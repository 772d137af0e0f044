# SPDX-License-Identifier: Apache-2.0
"""The makers against files of other programs: taken apart and made anew, byte for byte.

Only grains, their order in the file and the descriptor text are taken from the sample; header,
tables, markers and padding have to come out the same by themselves.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from makers import Variant, expected, hosted_sparse, sample_grain, stream
from makers.peers import qemu_img

SECTOR = 512
GRAIN_BYTES = 128 * SECTOR


def sample(name: str) -> bytes:
    corpus = Path(__file__).parents[3] / "shared" / "corpus"
    if not corpus.is_dir():
        pytest.skip("corpus not present at ../shared/corpus")
    return (corpus / name).read_bytes()


def header_numbers(data: bytes) -> tuple[int, ...]:
    """Capacity, grain, descriptor offset and size, table entries, both directories, first grain."""
    return struct.unpack_from("<QQQQIQQQ", data, 12)


def embedded_text(data: bytes) -> str | None:
    offset, size = header_numbers(data)[2:4]
    area = data[offset * SECTOR :][: size * SECTOR]
    return area.partition(b"\0")[0].decode() if size else None


def require_same_zlib(grain: bytes, level: int, packed: bytes) -> None:
    """Deflate leaves the packer free to choose; without the same choices there is no equality."""
    if zlib.compress(grain, level) != packed:
        pytest.skip("this zlib packs differently from the one that made the sample")


@pytest.mark.parametrize(
    "name",
    ["vmdk-rs/monolithicSparse.vmdk", "vmdk-rs/twoGbMaxExtentSparse-s001.vmdk"],
)
def test_hosted_sparse_equals_the_vmware_file(tmp_path: Path, name: str) -> None:
    original = sample(name)
    capacity, gd = header_numbers(original)[0], header_numbers(original)[6]
    (table,) = struct.unpack_from("<I", original, gd * SECTOR)
    entries = struct.unpack_from("<512I", original, table * SECTOR)
    grains = {i: original[at * SECTOR :][:GRAIN_BYTES] for i, at in enumerate(entries) if at}
    hosted_sparse(
        tmp_path / "disk.vmdk",
        capacity,
        grains,
        order=sorted(grains, key=entries.__getitem__),
        descriptor=embedded_text(original),
    )
    assert (tmp_path / "disk.vmdk").read_bytes() == original


@pytest.mark.parametrize(
    ("variant", "name", "level"),
    [
        ("A", "qemu/iotest-version3.vmdk", 1),
        ("B", "vmdk-rs/streamOptimized.vmdk", 1),
        ("G", "vmdk-rs/streamOptimizedWithMarkers.vmdk", 6),
    ],
)
def test_stream_equals_the_sample(tmp_path: Path, variant: Variant, name: str, level: int) -> None:
    original = sample(name)
    after_marker = {0: 0, 1: 4, 2: -(-header_numbers(original)[0] // (65536 * 128)), 3: 1}
    grains: dict[int, bytes] = {}
    at = header_numbers(original)[7] * SECTOR
    while at < len(original):
        address, size, kind = struct.unpack_from("<QII", original, at)
        if size:
            packed = original[at + 12 :][:size]
            grains[address // 128] = zlib.decompress(packed)
            require_same_zlib(grains[address // 128], level, packed)
            at += -(-(12 + size) // SECTOR) * SECTOR
        else:
            at += (1 + after_marker[kind]) * SECTOR
    text = embedded_text(original)
    assert text is not None
    stream(
        tmp_path / "disk.vmdk",
        header_numbers(original)[0],
        grains,
        variant=variant,
        level=level,
        order=list(grains),
        descriptor=text,
    )
    assert (tmp_path / "disk.vmdk").read_bytes() == original


@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized"])
def test_makers_equal_what_qemu_writes(tmp_path: Path, subformat: str) -> None:
    grains = {i: sample_grain(i, noise=i == 160) for i in (0, 1, 4, 160, 512)}
    capacity = 128 * 600
    raw, original, made = (tmp_path / name for name in ("disk.raw", "qemu.vmdk", "made.vmdk"))
    raw.write_bytes(expected(capacity, grains, 128))
    done = qemu_img(
        "convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={subformat}", raw, original
    )
    assert done.returncode == 0, done.stderr
    data = original.read_bytes()
    text = embedded_text(data)
    assert text is not None
    if subformat == "streamOptimized":
        at = header_numbers(data)[7] * SECTOR
        (size,) = struct.unpack_from("<I", data, at + 8)
        require_same_zlib(grains[0], 6, data[at + 12 :][:size])
        stream(made, capacity, grains, variant="D", descriptor=text)
    else:
        hosted_sparse(made, capacity, grains, descriptor=text)
    assert made.read_bytes() == data
