# SPDX-License-Identifier: Apache-2.0
"""Real images of other programs: what EXPECTED.tsv says, and what must fail fails well."""

from __future__ import annotations

import csv
import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

import diskkit
from diskkit.formats.vmdk.descriptor import parse
from diskkit.testing import check_runs

PLACE = "../shared/corpus"
CORPUS = Path(__file__).parents[2] / PLACE

FILES = (
    "dfvfs/ext2.vmdk",
    "dfvfs/history/ext2-old.vmdk",
    "plaso/image.vmdk",
    "qemu/afl9.vmdk",
    "qemu/iotest-version3.vmdk",
    "vmdk-rs/monolithicFlat.vmdk",
    "vmdk-rs/monolithicSparse.vmdk",
    "vmdk-rs/streamOptimized.vmdk",
    "vmdk-rs/streamOptimizedWithMarkers.vmdk",
    "vmdk-rs/twoGbMaxExtentFlat.vmdk",
    "vmdk-rs/twoGbMaxExtentSparse.vmdk",
    "vmdk-rs/vmfs_thick.vmdk",
)
"""The rows of EXPECTED.tsv, so that each is a test, skipped or not."""


def sample(name: str) -> Path:
    if not CORPUS.is_dir():
        pytest.skip(f"corpus not present at {PLACE}")
    return CORPUS / name


def rows() -> dict[str, dict[str, str]]:
    lines = sample("EXPECTED.tsv").read_text(encoding="utf-8").splitlines()
    table = csv.DictReader((line for line in lines if not line.startswith("#")), delimiter="\t")
    return {row["file"]: row for row in table}


def test_every_row_is_tested() -> None:
    assert set(rows()) == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_row(name: str) -> None:
    row = rows()[name]
    if row["sha256"] == "MUST FAIL":
        with pytest.raises(diskkit.DiskkitError) as caught:
            diskkit.open_disk(sample(name))
        assert name.rpartition("/")[2] in str(caught.value)
        return
    with diskkit.open_disk(sample(name)) as disk:
        assert disk.size == int(row["size"])
        check_runs(list(disk.runs()), 0, disk.size)
        if row["sha256"] == "pattern":
            check_pattern(disk)
            return
        digest = hashlib.sha256()
        with disk.as_file() as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        assert digest.hexdigest() == row["sha256"]


def check_pattern(disk: diskkit.Disk) -> None:
    """The one that is too large to hash: a sector every so often."""
    for number in range(100):
        at = number * (655360 + 512)
        assert disk.read(at, 512) == bytes([0x30 + number % 10]) * 512
    filled = sum(run.length for run in disk.runs() if run.state == diskkit.State.DATA)
    assert 0 < filled <= 200 * 65536


@pytest.mark.parametrize(
    "name", ["hist-1", "hist-2", "hist-3", "hist-4", "hist-vmfs_thick", "../vmfs_thick-000001"]
)
def test_older_descriptors_parse(name: str) -> None:
    path = sample(f"vmdk-rs/history/{name}.vmdk")
    found = parse(path.read_bytes(), path=str(path))
    assert found.extents
    assert found.capacity > 0
    assert found.ddb


def test_no_history_file_is_left_out() -> None:
    names = {path.name for path in sample("vmdk-rs/history").iterdir()}
    assert {n for n in names if n.endswith(".vmdk")} == {
        *(f"hist-{n}.vmdk" for n in range(1, 5)),
        "hist-vmfs_thick.vmdk",
    }


def test_a_missing_delta_is_named() -> None:
    path = sample("vmdk-rs/vmfs_thick-000001.vmdk")
    with pytest.raises(diskkit.FormatError, match=r"vmfs_thick-000001-delta\.vmdk"):
        diskkit.open_disk(path)


# The peak of the process image itself: getrusage also counts what it was forked from.
_FAIL = """
import re, resource, sys, diskkit
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
try:
    diskkit.open_disk(sys.argv[1])
except diskkit.FormatError as error:
    print(error)
    print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
"""


def test_a_capacity_bomb_fails_fast_and_in_little_memory() -> None:
    path = sample("qemu/afl9.vmdk")
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _FAIL, path], capture_output=True, text=True, timeout=60, check=False
    )
    assert time.monotonic() - begin < 2
    assert done.returncode == 0, done.stderr
    message, kib = done.stdout.splitlines()
    assert "afl9.vmdk: sparse header: " in message
    assert int(kib) < 60 << 10
