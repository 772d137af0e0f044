# SPDX-License-Identifier: Apache-2.0
"""Bounded memory and time, whatever an image claims: rows 33 and 34.

Each case runs in a process of its own whose address space is limited, and reports what it took.
"""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

import diskkit
from hostile.images import SECTOR, get, mono, packed, policy, put, se_chain, table_entry
from makers import big_sparse, descriptor, hosted_header, poke, text_replace

GIB = 1 << 30
MIB = 1 << 20

# The peak of the resident size is read from /proc: ru_maxrss begins with the parent's.
_PROLOGUE = """
import json, resource, sys, time
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
from diskkit import DiskkitError, OpenPolicy, open_disk
path, told = sys.argv[1], {}
policy = OpenPolicy(warn=lambda text: None)
began = time.perf_counter()
"""
_EPILOGUE = """
told["seconds"] = time.perf_counter() - began
status = open("/proc/self/status").read()
told["peak"] = int(status.split("VmHWM:")[1].split()[0]) << 10
print(json.dumps(told))
"""


def confined(code: str, path: Path, *, space: int = GIB, timeout: float = 60) -> dict[str, Any]:
    """What `code` put into `told`, run in a process of `space` bytes at most."""
    source = Path(diskkit.__file__).parents[1]
    found = subprocess.run(
        [sys.executable, "-c", _PROLOGUE + code + _EPILOGUE, str(path), str(space)],
        # A thread for every core would take its stack's address space for nothing.
        env={**os.environ, "PYTHONPATH": str(source), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    told: dict[str, Any] = json.loads(found.stdout)
    return told


_REFUSED = """
try:
    with open_disk(path, policy=policy) as disk:
        told["size"] = disk.size
        for run in disk.runs():
            pass
        disk.read(disk.size - 512, 512)
except DiskkitError as error:
    told["error"] = str(error)
"""


@pytest.mark.parametrize(
    "fields",
    [
        {"capacity": 2233785398448881665, "numGTEsPerGT": 506, "overHead": 0},
        {"capacity": 2233785398448881665},
        {"capacity": 2233785398448881665, "grainSize": 1 << 21},
        {"capacity": (1 << 54) - 1, "grainSize": 1 << 21, "numGTEsPerGT": 512},
        {"capacity": (1 << 64) - 1, "grainSize": 1, "numGTEsPerGT": 1},
        {"capacity": 32 << 20, "grainSize": 1, "numGTEsPerGT": 1},
        {"descriptorSize": 20480},
    ],
)
def test_claims_of_a_small_file_cost_nothing(tmp_path: Path, fields: dict[str, int]) -> None:
    disk = mono(tmp_path)
    for field, value in fields.items():
        put(disk, field, value)
    told = confined(_REFUSED, disk, space=512 * MIB)
    assert "sparse header" in told["error"]
    assert told["seconds"] < 2
    assert told["peak"] < 150 * MIB


@pytest.mark.parametrize("at", [16, 136, 152, 200])
@pytest.mark.parametrize("value", [1 << 40, (1 << 64) - 1])
def test_claims_of_a_small_sesparse_extent(tmp_path: Path, at: int, value: int) -> None:
    disk = se_chain(tmp_path)
    poke(tmp_path / "child-sesparse.vmdk", at, "<Q", value)
    told = confined(_REFUSED, disk, space=512 * MIB)
    # The grain area alone may be longer than the file.
    assert ("error" in told) != (at == 200 and value == 1 << 40)
    assert told["seconds"] < 2
    assert told["peak"] < 150 * MIB


def test_sesparse_capacity_that_a_huge_file_of_holes_would_allow(tmp_path: Path) -> None:
    """A terabyte of directory costs nothing to claim, and hours to look through."""
    disk = se_chain(tmp_path)
    extent = tmp_path / "child-sesparse.vmdk"
    os.truncate(extent, 1 << 42)
    sectors = 1 << 52
    poke(extent, 16, "<Q", sectors)
    for at, value in ((136, 1 << 31), (144, 1 << 32), (160, (1 << 32) + 2048)):
        poke(extent, at, "<Q", value)
    told = confined(_REFUSED, disk, space=512 * MIB)
    assert f"capacity at byte 16 is {sectors}" in told["error"]
    assert told["seconds"] < 2


def test_bomb_in_a_compressed_grain(tmp_path: Path) -> None:
    """A hundred megabytes of zeros deflate to one; no more than a grain of them is ever made."""
    disk = packed(tmp_path, "B")
    engine = zlib.compressobj(9)
    bomb = b"".join(engine.compress(bytes(MIB)) for _ in range(100)) + engine.flush()
    poke(disk, table_entry(disk, 0), "<I", disk.stat().st_size // SECTOR)
    with disk.open("ab") as f:
        f.write(struct.pack("<QI", 0, len(bomb)) + bomb)
    told = confined(_REFUSED.replace("disk.size - 512", "0"), disk, space=512 * MIB)
    assert "inflates to more than the 65536 bytes" in told["error"]
    assert told["peak"] < 100 * MIB


def test_descriptor_of_long_lines_takes_linear_time(tmp_path: Path) -> None:
    disk = tmp_path / "disk.vmdk"
    most = (1 << 20) - 100
    for line in (
        "a" * most,
        "a" + " " * most,
        "a=" + '"' * most,
        "RW " + "8" * most,
        "RW 8 FLAT" + " " * most + '"',
        "RW 8 " + "x" * most + '"',
        'RW 8 FLAT "' + 'a"' * (most // 2),
        " \t" * (most // 2) + "x",
        "encoding" + " " * most,
        "=" * most,
        "\n" * most,
        "\r" * most,
        "#\n" * (most // 2),
        "é" * (most // 2),
    ):
        disk.write_text(f"version=1\nCID=1\nparentCID=ffffffff\n{line}\n", encoding="utf-8")
        began = time.perf_counter()
        with pytest.raises(diskkit.FormatError) as caught:
            diskkit.open_disk(disk)
        assert time.perf_counter() - began < 2, line[:20]
        assert len(str(caught.value)) < 1000


def test_empty_disk_of_62_tib(tmp_path: Path) -> None:
    disk = tmp_path / "big.vmdk"
    big_sparse(disk, 62 << 31, "empty")
    code = """
with open_disk(path, policy=policy) as disk:
    told["size"] = disk.size
    told["runs"] = [(r.offset, r.length, int(r.state)) for r in disk.runs()]
    told["sum"] = sum(sum(disk.read(at, 4096)) for at in range(0, disk.size, disk.size // 512))
    told["last"] = len(disk.read(disk.size - 4096, 4096))
"""
    told = confined(code, disk)
    assert told["size"] == 62 << 40
    assert told["runs"] == [[0, 62 << 40, 0]]
    assert told["sum"] == 0
    assert told["last"] == 4096
    assert told["peak"] < 300 * MIB
    assert told["seconds"] < 15


_COUNTED = """
with open_disk(path, policy=policy) as disk:
    rows = end = 0
    for table in disk.tables():
        assert table.offset == end
        rows, end = rows + len(table.starts), table.end
    told["rows"], told["end"] = rows, end
"""


def test_every_other_grain_of_2_tib(tmp_path: Path) -> None:
    disk = tmp_path / "big.vmdk"
    capacity = (1 << 32) - 128
    big_sparse(disk, capacity, redundant=False)
    told = confined(_COUNTED, disk)
    assert told["end"] == capacity * SECTOR
    grains = capacity // 128
    assert grains <= told["rows"] < grains + 1000
    assert told["peak"] < 300 * MIB
    assert told["seconds"] < 20


def test_2_tib_whose_primary_directory_is_lost(tmp_path: Path) -> None:
    """The redundant copy is read in pieces too."""
    disk = tmp_path / "big.vmdk"
    capacity = (1 << 32) - (1 << 20)
    big_sparse(disk, capacity)
    poke(disk, get(disk, "gdOffset") * SECTOR, "<260000s", b"\xff" * 260000)
    told = confined(_COUNTED, disk)
    assert told["end"] == capacity * SECTOR
    assert capacity // 128 <= told["rows"] < capacity // 128 + 1000
    assert told["peak"] < 300 * MIB


def test_directory_of_the_most_tables_there_can_be(tmp_path: Path) -> None:
    """128 MiB of directory in a file of holes: looked through once, piece by piece."""
    disk = mono(tmp_path, redundant=False)
    os.truncate(disk, 256 * MIB)
    for field, value in (
        ("capacity", 32 << 20),
        ("grainSize", 1),
        ("numGTEsPerGT", 1),
        ("gdOffset", 1000),
        ("overHead", (256 * MIB) // SECTOR),
    ):
        put(disk, field, value)
    text_replace(disk, "RW 1280 ", f"RW {32 << 20} ")
    told = confined(_REFUSED, disk)
    assert "error" not in told
    assert told["size"] == 16 << 30
    assert told["peak"] < 300 * MIB
    assert told["seconds"] < 15


def test_millions_of_tables_in_front_of_a_stream_from_a_pipe() -> None:
    from diskkit.formats.vmdk.sequence import StreamSequence

    tables = 2 << 20
    text = descriptor("streamOptimized", [f'RW {tables} SPARSE "x"']).encode()
    overhead = 16 + tables * 4 // SECTOR
    head = hosted_header(
        version=3,
        flags=0x30001,
        capacity=tables,
        grain_sectors=1,
        descriptor_offset=1,
        descriptor_sectors=8,
        gtes=1,
        rgd=0,
        gd=16,
        overhead=overhead,
        compression=1,
    )
    front = (head + text).ljust(16 * SECTOR, b"\0") + struct.pack("<I", 10) * tables
    began = time.perf_counter()
    sequence = StreamSequence(io.BytesIO(front), "pipe", policy())
    assert list(sequence.grains()) == []
    assert time.perf_counter() - began < 1.5
