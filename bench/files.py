# SPDX-License-Identifier: Apache-2.0
"""Files inside of disks: `cp` against reading the disk, listing against the reader library alone.

    python bench/files.py [--quick] [--runs N] [row ...]

Rows: cp, tree, ext4, xfs, ntfs. Makes its disks in a folder of its own below TMPDIR (6 GB): 100
folders of 1000 files in each filesystem, and one file of 1 GiB, by mke2fs, mkfs.xfs and libntfs-3g;
all on monolithicSparse disks. A listing asks for name, size, mode and time of every file; it counts
reads of the disk. The library alone reads a raw copy through a Python file, without worker and
cache. Row tree copies all files of the
ext4 out, against debugfs from the raw copy, and compares both with what was put in. A ratio above 1
means that diskkit is faster.
"""

from __future__ import annotations

import argparse
import importlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]

import diskkit  # noqa: E402
from diskkit.files import open_filesystem  # noqa: E402
from diskkit.files.process import ProcessFileSystem  # noqa: E402
from diskkit.files.walk import list_below, resolve  # noqa: E402
from diskkit.tasks.clone import clone  # noqa: E402
from diskkit.volumes import find_volumes  # noqa: E402
from files.guests import blank, run  # noqa: E402
from makers.peers import requires  # noqa: E402

GIB = 1 << 30
_BESIDE = Path(sys.executable).with_name("diskkit")
DISKKIT = [str(_BESIDE)] if _BESIDE.exists() else [sys.executable, "-m", "diskkit"]
LIBRARIES = {"ext4": "pyfsext", "xfs": "pyfsxfs", "ntfs": "pyfsntfs"}


@dataclass
class Result:
    """One line of the table: seconds of each run."""

    row: str
    what: str
    peer: str
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    note: str = ""

    def line(self) -> str:
        ours, theirs = statistics.median(self.ours), statistics.median(self.theirs)
        return (
            f"{self.row:<6} {theirs / ours:6.2f} x  {ours:.3f} s ({min(self.ours):.3f}.."
            f"{max(self.ours):.3f})  {theirs:.3f} s ({min(self.theirs):.3f}.."
            f"{max(self.theirs):.3f})  {self.what}, against: {self.peer}; {self.note}"
        )


def make_tree(folder: Path, files: int) -> Path:
    """100 folders; files of a few bytes."""
    source = folder / "tree"
    if not source.exists():
        for number in range(100):
            below = source / f"folder {number:03d}".replace(" ", "_")
            below.mkdir(parents=True)
            for name in range(files // 100):
                (below / f"file_{name:05d}.txt").write_bytes(b"%d\n" % name)
    return source


def make_volume(kind: str, path: Path, source: Path) -> None:
    blank(path, 2 * GIB)
    if kind == "ext4":
        run("mke2fs", "-q", "-t", "ext4", "-N", "150000", "-d", source, path)
    elif kind == "xfs":
        from files.guests import make_xfs

        make_xfs(path, source, 2 * GIB)
    else:
        run("mkntfs", "-q", "-F", "-f", "-p", "0", "-H", "255", "-S", "63", "-s", "512", path)
        fill = ROOT / "tests" / "files" / "ntfs_fill.py"
        subprocess.run([sys.executable, str(fill), str(path), str(source)], check=True)


def to_vmdk(raw: Path) -> Path:
    path = raw.with_suffix(".vmdk")
    with diskkit.open_disk(raw) as disk:
        clone(disk, path, "monolithicSparse")
    return path


class Counting:
    """A disk that counts the reads."""

    def __init__(self, disk: diskkit.Disk) -> None:
        self.disk = disk
        self.size = disk.size
        self.reads = 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.reads += 1
        self.disk.read_into(offset, buffer)


def list_ours(vmdk: Path) -> tuple[float, int, int]:
    """Seconds, files, reads: from opening the disk to the last name, the process included."""
    began = time.perf_counter()
    with diskkit.open_disk(vmdk) as disk:
        counted = Counting(disk)
        count = 0
        with open_filesystem(find_volumes(counted).volumes[0]) as fs:
            assert isinstance(fs, ProcessFileSystem)
            for listing in list_below(fs, resolve(fs, b"/"), recursive=True):
                assert listing.problem is None
                count += len(listing.rows)
    return time.perf_counter() - began, count, counted.reads


def list_library(kind: str, raw: Path) -> tuple[float, int]:
    """The library over a Python file."""
    library: Any = importlib.import_module(LIBRARIES[kind])
    began = time.perf_counter()
    count = 0
    with raw.open("rb", buffering=0) as f:
        volume = library.volume()
        volume.open_file_object(f)
        waiting = [volume.get_root_directory()]
        while waiting:
            folder = waiting.pop()
            for number in range(folder.get_number_of_sub_file_entries()):
                entry = folder.get_sub_file_entry(number)
                entry.get_name()
                entry.get_modification_time_as_integer()
                entry.get_size()
                count += 1
                if kind == "ntfs":
                    below = entry.has_directory_entries_index()
                    below = below and entry.get_file_reference() & ((1 << 48) - 1) > 23
                else:
                    below = entry.get_file_mode() & 0xF000 == 0x4000
                if below:
                    waiting.append(entry)
        volume.close()
    return time.perf_counter() - began, count


def listing(kind: str, folder: Path, files: int, runs: int) -> Result:
    source = make_tree(folder, files)
    raw = folder / f"{kind}.raw"
    make_volume(kind, raw, source)
    vmdk = to_vmdk(raw)
    result = Result(kind, f"list {files} files", f"{LIBRARIES[kind]} alone")
    reads = 0
    for turn in range(runs + 1):
        seconds, count, reads = list_ours(vmdk)
        theirs, their_count = list_library(kind, raw)
        assert count >= files <= their_count
        if turn:
            result.ours.append(seconds)
            result.theirs.append(theirs)
    result.note = f"{reads} reads of the disk"
    return result


def copying(folder: Path, size: int, runs: int) -> list[Result]:
    source = folder / "one"
    source.mkdir()
    chance = random.Random(1)
    block = chance.randbytes(1 << 22)
    with (source / "file").open("wb") as f:
        for number in range(size >> 22):
            f.write(number.to_bytes(8, "little") + block[8:])
    raw = folder / "one.raw"
    blank(raw, size + (256 << 20))
    run("mke2fs", "-q", "-t", "ext4", "-d", source, raw)
    vmdk = to_vmdk(raw)
    raw.unlink()
    results = [
        Result("cp", f"copy a file of {size >> 20} MiB out", "read as much of the disk"),
        Result("cat", f"write a file of {size >> 20} MiB to nowhere", "the same"),
    ]
    target = folder / "copy"
    for turn in range(runs + 1):
        began = time.perf_counter()
        subprocess.run([*DISKKIT, "cp", "-q", f"{vmdk}:/file", str(target)], check=True)
        copied = time.perf_counter() - began
        shown = _timed(lambda: _cat(f"{vmdk}:/file"))
        theirs = _timed(lambda: _read_whole(vmdk, size))
        assert target.stat().st_size == size
        if not turn:
            subprocess.run(["cmp", str(target), str(source / "file")], check=True)
        else:
            for result, ours in zip(results, (copied, shown), strict=True):
                result.ours.append(ours)
                result.theirs.append(theirs)
        target.unlink()
    return results


def copying_tree(folder: Path, files: int, runs: int) -> Result:
    source = make_tree(folder, files)
    raw = folder / "tree.raw"
    make_volume("ext4", raw, source)
    vmdk = to_vmdk(raw)
    result = Result("tree", f"copy {files} files out", "debugfs rdump of a raw copy")
    for turn in range(runs + 1):
        ours, theirs = folder / "ours", folder / "theirs"
        theirs.mkdir()
        dump = [requires("debugfs"), "-R", f"rdump / {theirs}", str(raw)]
        copy = [*DISKKIT, "cp", "-r", "-q", f"{vmdk}:/", str(ours)]
        times = []
        for words in (copy, dump):
            began = time.perf_counter()
            subprocess.run(words, check=True, capture_output=True)
            times.append(time.perf_counter() - began)
        if turn:
            result.ours.append(times[0])
            result.theirs.append(times[1])
        else:
            for copied in (ours, theirs):
                leave_out = ["--exclude", "lost+found"]
                subprocess.run(["diff", "-r", *leave_out, str(source), str(copied)], check=True)
        shutil.rmtree(ours)
        shutil.rmtree(theirs)
    return result


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _cat(name: str) -> None:
    subprocess.run([*DISKKIT, "cat", "-q", name], check=True, stdout=subprocess.DEVNULL)


def _read_whole(vmdk: Path, size: int) -> None:
    """As a process of its own, as cp is."""
    script = (
        "import sys, diskkit\n"
        "b = memoryview(bytearray(4 << 20))\n"
        "with diskkit.open_disk(sys.argv[1]) as d:\n"
        "    for at in range(0, int(sys.argv[2]), len(b)): d.read_into(at, b)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(vmdk), str(size)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="row", help="cp, tree, ext4, xfs, ntfs")
    parser.add_argument("--quick", action="store_true", help="a tenth of the files and bytes")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="diskkit-bench-") as name:
        folder = Path(name)
        for row in args.rows or ["cp", "tree", *LIBRARIES]:
            if row == "cp":
                size = GIB // 10 >> 22 << 22 if args.quick else GIB
                results = copying(folder, size, args.runs)
            else:
                count = 10_000 if args.quick else 100_000
                if row == "tree":
                    results = [copying_tree(folder, count, args.runs)]
                else:
                    results = [listing(row, folder, count, args.runs)]
            for result in results:
                print(result.line(), flush=True)


if __name__ == "__main__":
    main()
