# SPDX-License-Identifier: Apache-2.0
"""`diskkit mount` against qemu-storage-daemon's FUSE export of the same VMDK: one run, one table.

    python bench/fuse.py [--quick] [--json FILE] [--runs N] [--keep DIR] [row ...]

Needs root, qemu-storage-daemon, dd and fio. Both show a monolithicSparse disk of incompressible
data, whose grains lie in random order, and run side by side; the client uses one and the other in
turn, after one round that does not count. Times are the client's, without start-up. Buffered reads
begin with empty caches of the mounts. Writes go to two copies, which are compared at the end. Rows:
read, write, files; the last one lists an ext4 of 100,000 files and reads a large one, against the
kernel's own ext4 on our file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from bench.nbd import KIB, MIB, full_disk  # noqa: E402 - found in the checkout
from bench.rounds import (  # noqa: E402 - the same
    DISKKIT,
    GIB,
    Result,
    Wanted,
    alternate,
    command,
    fio_seconds,
    measure,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.rounds import Row

PEER = "qemu-storage-daemon"
_KERNEL = "the kernel's ext4 on our file"
_TIMEOUT = 300


@contextmanager
def ours(disk: Path, *options: str) -> Iterator[Path]:
    """A mount of `disk`; gives its folder."""
    folder = disk.with_suffix(".mnt")
    folder.mkdir(exist_ok=True)
    command([*DISKKIT, "mount", "-q", str(disk), str(folder), *options])
    try:
        yield folder
    finally:
        command([*DISKKIT, "umount", str(folder)])


@contextmanager
def theirs(disk: Path, *, writable: bool) -> Iterator[Path]:
    """A FUSE export of `disk`; gives its file."""
    point, said = disk.with_suffix(".fuse"), disk.with_suffix(".pid")
    point.touch()
    said.unlink(missing_ok=True)
    read_only = "off" if writable else "on"
    words = [PEER, "--daemonize", "--pidfile", str(said)]
    words += ["--blockdev", f"file,node-name=f,filename={disk},read-only={read_only}"]
    words += ["--blockdev", f"vmdk,node-name=d,file=f,read-only={read_only}"]
    export = f"fuse,id=e,node-name=d,mountpoint={point},growable=off"
    words += ["--export", f"{export},writable={'on' if writable else 'off'}"]
    subprocess.run(words, check=True, timeout=_TIMEOUT)
    try:
        yield point
    finally:
        pid = int(said.read_text())
        os.kill(pid, 15)
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.01)


def dd(file: Path, count: int, flag: str) -> float:
    """Seconds in which dd reads `count` MiB. Buffered: the mount's cache is emptied before."""
    drop(file)
    words = ["dd", f"if={file}", "of=/dev/null", "bs=1M", f"count={count}", "status=none"]
    return command([*words, *([f"iflag={flag}"] if flag else [])])


def drop(file: Path) -> None:
    """Take what the kernel keeps of a file out of its cache."""
    fd = os.open(file, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def fio(pattern: str, block: int, jobs: int, total: int, size: int, file: Path) -> float:
    """Seconds in which `jobs` processes move `total` bytes, past the mount's cache."""
    words = ["fio", "--name=x", "--ioengine=psync", f"--filename={file}", f"--rw={pattern}"]
    words += [f"--bs={block}", f"--numjobs={jobs}", f"--size={size}", f"--io_size={total // jobs}"]
    words += ["--direct=1", "--randrepeat=1", "--norandommap", "--buffer_pattern=0x5a"]
    words += ["--group_reporting", "--output-format=json", "--allow_file_create=0"]
    return fio_seconds(words, total, "write" if "write" in pattern else "read")


def _row(
    name: str, what: str, runs: int, work: Callable[[Path], float], files: Sequence[Path]
) -> Result:
    result = Result(name, what, PEER)
    alternate(result, runs, partial(work, files[0]), partial(work, files[1]))
    return result


def reading(wanted: Wanted) -> Iterator[Result]:
    disk, size = full_disk(wanted)
    small, runs = size // 8, wanted.runs
    with ExitStack() as stack:
        files = [
            stack.enter_context(ours(disk)) / "flat",
            stack.enter_context(theirs(disk, writable=False)),
        ]
        yield _row("fuse-read", f"dd of {size >> 20} MiB, 1 MiB, O_DIRECT", runs,
                   lambda f: dd(f, size // MIB, "direct"), files)  # fmt: skip
        yield _row("fuse-read", "the same through the page cache, which is empty", runs,
                   lambda f: dd(f, size // MIB, ""), files)  # fmt: skip
        yield _row("fuse-rr", f"{small >> 12} random reads of 4 KiB, one job", runs,
                   partial(fio, "randread", 4 * KIB, 1, small, size), files)  # fmt: skip
        yield _row("fuse-rr", f"{small >> 12} random reads of 4 KiB, four jobs", runs,
                   partial(fio, "randread", 4 * KIB, 4, small, size), files)  # fmt: skip


def writing(wanted: Wanted) -> Iterator[Result]:
    source, size = full_disk(wanted)
    small, runs = size // 16, wanted.runs
    disks = [wanted.folder / "ours.vmdk", wanted.folder / "theirs.vmdk"]
    for disk in disks:
        shutil.copyfile(source, disk)
    with ExitStack() as stack:
        files = [
            stack.enter_context(ours(disks[0], "--writable")) / "flat",
            stack.enter_context(theirs(disks[1], writable=True)),
        ]
        yield _row("fuse-rw", f"{small >> 12} random writes of 4 KiB, one job", runs,
                   partial(fio, "randwrite", 4 * KIB, 1, small, size), files)  # fmt: skip
        yield _row("fuse-rw", f"{small >> 12} random writes of 4 KiB, four jobs", runs,
                   partial(fio, "randwrite", 4 * KIB, 4, small, size), files)  # fmt: skip
        yield _row("fuse-write", f"write all of {size >> 20} MiB, 1 MiB", runs,
                   partial(fio, "write", MIB, 1, size, size), files)  # fmt: skip
    command(["qemu-img", "compare", "-f", "vmdk", "-F", "vmdk", *disks])


def inside(wanted: Wanted) -> Iterator[Result]:
    """Listing 100,000 files and reading a large one, through the readers and by the kernel."""
    raw, disk, big = wanted.folder / "files.raw", wanted.folder / "files.vmdk", 512 * MIB
    raw.touch()
    os.truncate(raw, 2 * GIB)
    command(["mke2fs", "-q", "-t", "ext4", "-N", "120000", raw])
    command([*DISKKIT, "convert", "-q", raw, disk, "--type", "monolithicSparse"])
    raw.unlink()
    with ours(disk, "--volume", "1", "--writable") as where:
        for number in range(100):
            (where / f"folder{number:03d}").mkdir()
            for other in range(1000):
                (where / f"folder{number:03d}" / f"file{other:04d}").write_bytes(b"x" * 100)
        with (where / "big").open("wb") as file:
            for _ in range(big // MIB):
                file.write(os.urandom(MIB))
    rows = [
        Result("fuse-find", "find with the sizes of 100,000 files, mounted just now", _KERNEL),
        Result("fuse-find", "the same again", _KERNEL),
        Result("fuse-big", f"read a file of {big >> 20} MiB", _KERNEL),
    ]
    for turn in range(wanted.runs + 1):
        mine, kernels = (_one_look(disk, big, options) for options in ((), ("--kernel",)))
        for row, seconds, kernel in zip(rows if turn else (), mine, kernels, strict=False):
            row.ours.append(seconds)
            row.theirs.append(kernel)
    yield from rows


def _one_look(disk: Path, big: int, options: Sequence[str]) -> list[float]:
    with ours(disk, "--volume", "1", *options) as where:
        find = ["find", str(where), "-type", "f", "-size", "+0", "-printf", "x"]
        began = time.perf_counter()
        found = subprocess.run(find, capture_output=True, check=True, timeout=_TIMEOUT)
        first = time.perf_counter() - began
        if len(found.stdout) != 100_001:
            raise SystemExit(f"{len(found.stdout)} files")
        return [first, command(find), dd(where / "big", big // MIB, "")]


def main() -> None:
    rows: dict[str, Row] = {"read": reading, "write": writing, "files": inside}
    measure("diskkit mount against qemu-storage-daemon", rows, needs=[PEER, "fio", "dd"])


if __name__ == "__main__":
    main()
