# SPDX-License-Identifier: Apache-2.0
"""Files inside of disks: `cp` against reading the disk, listing against the reader library alone.

    python bench/files.py [--quick] [--json FILE] [--runs N] [--keep DIR] [row ...]

Rows: cp, tree, ext4, xfs, ntfs. Makes its disks in a folder of its own below TMPDIR (6 GB): 100
folders of 1000 files in each filesystem, and one file of 1 GiB, by mke2fs, mkfs.xfs and libntfs-3g;
all on monolithicSparse disks. A listing asks for name, size, mode and time of every file; it counts
reads of the disk. The library alone reads a raw copy through a Python file, without worker and
cache. Row tree copies all files of the
ext4 out, against debugfs from the raw copy, and compares both with what was put in.
"""

from __future__ import annotations

import importlib
import random
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.rounds import Row

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from bench.rounds import DISKKIT, GIB, Result, Wanted, command, measure  # noqa: E402 - in the checkout

import diskkit  # noqa: E402
from diskkit.files import open_filesystem  # noqa: E402
from diskkit.files.process import ProcessFileSystem  # noqa: E402
from diskkit.files.walk import list_below, resolve  # noqa: E402
from diskkit.tasks.clone import clone  # noqa: E402
from diskkit.volumes import find_volumes  # noqa: E402
from files.guests import blank, run  # noqa: E402
from makers.peers import requires  # noqa: E402

LIBRARIES = {"ext4": "pyfsext", "xfs": "pyfsxfs", "ntfs": "pyfsntfs"}


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


def listing(kind: str, wanted: Wanted) -> Iterator[Result]:
    files = 10_000 if wanted.quick else 100_000
    source = make_tree(wanted.folder, files)
    raw = wanted.folder / f"{kind}.raw"
    make_volume(kind, raw, source)
    vmdk = to_vmdk(raw)
    result = Result(kind, f"list {files} files", f"{LIBRARIES[kind]} alone")
    reads = 0
    for turn in range(wanted.runs + 1):
        seconds, count, reads = list_ours(vmdk)
        theirs, their_count = list_library(kind, raw)
        assert count >= files <= their_count
        if turn:
            result.ours.append(seconds)
            result.theirs.append(theirs)
    result.note = f"({reads} reads of the disk)"
    yield result


def copying(wanted: Wanted) -> Iterator[Result]:
    size = GIB // 10 >> 22 << 22 if wanted.quick else GIB
    source = wanted.folder / "one"
    source.mkdir()
    block = random.Random(1).randbytes(1 << 22)
    with (source / "file").open("wb") as f:
        for number in range(size >> 22):
            f.write(number.to_bytes(8, "little") + block[8:])
    raw = wanted.folder / "one.raw"
    blank(raw, size + (256 << 20))
    run("mke2fs", "-q", "-t", "ext4", "-d", source, raw)
    vmdk = to_vmdk(raw)
    raw.unlink()
    copied = Result("cp", f"copy a file of {size >> 20} MiB out", "read as much of the disk")
    shown = Result("cat", f"write a file of {size >> 20} MiB to nowhere", "the same")
    target = wanted.folder / "copy"
    for turn in range(wanted.runs + 1):
        times = command([*DISKKIT, "cp", "-q", f"{vmdk}:/file", target])
        cat = command([*DISKKIT, "cat", "-q", f"{vmdk}:/file"])
        read = _read_whole(vmdk, size)
        assert target.stat().st_size == size
        if not turn:
            subprocess.run(["cmp", str(target), str(source / "file")], check=True)
        else:
            for result, ours in ((copied, times), (shown, cat)):
                result.ours.append(ours)
                result.theirs.append(read)
        target.unlink()
    yield from (copied, shown)


def copying_tree(wanted: Wanted) -> Iterator[Result]:
    files = 10_000 if wanted.quick else 100_000
    source = make_tree(wanted.folder, files)
    raw = wanted.folder / "tree.raw"
    make_volume("ext4", raw, source)
    vmdk = to_vmdk(raw)
    result = Result("tree", f"copy {files} files out", "debugfs rdump of a raw copy")
    for turn in range(wanted.runs + 1):
        ours, theirs = wanted.folder / "ours", wanted.folder / "theirs"
        theirs.mkdir()
        copy = command([*DISKKIT, "cp", "-r", "-q", f"{vmdk}:/", ours])
        dump = command([requires("debugfs"), "-R", f"rdump / {theirs}", raw])
        if turn:
            result.ours.append(copy)
            result.theirs.append(dump)
        else:
            for copied in (ours, theirs):
                leave_out = ["--exclude", "lost+found"]
                subprocess.run(["diff", "-r", *leave_out, str(source), str(copied)], check=True)
        shutil.rmtree(ours)
        shutil.rmtree(theirs)
    yield result


def _read_whole(vmdk: Path, size: int) -> float:
    """Seconds, as a process of its own, as cp is."""
    script = (
        "import sys, diskkit\n"
        "b = memoryview(bytearray(4 << 20))\n"
        "with diskkit.open_disk(sys.argv[1]) as d:\n"
        "    for at in range(0, int(sys.argv[2]), len(b)): d.read_into(at, b)\n"
    )
    return command([sys.executable, "-c", script, vmdk, str(size)])


def main() -> None:
    rows: dict[str, Row] = {"cp": copying, "tree": copying_tree}
    rows |= {kind: partial(listing, kind) for kind in LIBRARIES}
    measure("files inside of disks", rows, needs=["mke2fs", "debugfs", "mkfs.xfs", "mkntfs"])


if __name__ == "__main__":
    main()
