# SPDX-License-Identifier: Apache-2.0
"""`diskkit mount` against qemu-storage-daemon's FUSE export of the same VMDK: one run, one table.

    python bench/fuse.py [--quick] [--json FILE] [--runs N] [--keep DIR] [--files]

Needs root, qemu-storage-daemon, dd and fio. Both show a monolithicSparse disk of incompressible
data, whose grains lie in random order, and run side by side; the client uses one and the other in
turn, after one round that does not count. Times are the client's, without start-up. Buffered reads
begin with empty caches of the mounts. Writes go to two copies, which are compared at the end.
`--files` also measures the files inside of an ext4 of 100,000 files. See bench/peers.py for how
rows are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from bench.nbd import make  # noqa: E402 - found in the checkout
from bench.peers import DISKKIT, Result, alternate, command, report  # noqa: E402 - the same

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

GIB, MIB, KIB = 1 << 30, 1 << 20, 1 << 10
PEER = "qemu-storage-daemon"
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
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr.strip()}{done.stdout[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    side = found["jobs"][0]["write" if "write" in pattern else "read"]
    if side["io_bytes"] < total:
        raise SystemExit(f"fio moved {side['io_bytes']} of {total} bytes")
    return float(side["runtime"]) / 1000


def _row(
    name: str, what: str, runs: int, work: Callable[[Path], float], files: Sequence[Path]
) -> Result:
    result = Result(name, what, PEER)
    alternate(result, runs, partial(work, files[0]), partial(work, files[1]))
    print(result.line(), flush=True)
    return result


def reading(folder: Path, size: int, runs: int) -> list[Result]:
    disk = folder / "disk.vmdk"
    make(disk, size)
    small = size // 8
    with ExitStack() as stack:
        files = [
            stack.enter_context(ours(disk)) / "flat",
            stack.enter_context(theirs(disk, writable=False)),
        ]
        return [
            _row("fuse-read", f"dd of {size >> 20} MiB, 1 MiB, O_DIRECT", runs,
                 lambda f: dd(f, size // MIB, "direct"), files),
            _row("fuse-read", "the same through the page cache, which is empty", runs,
                 lambda f: dd(f, size // MIB, ""), files),
            _row("fuse-rr", f"{small >> 12} random reads of 4 KiB, one job", runs,
                 partial(fio, "randread", 4 * KIB, 1, small, size), files),
            _row("fuse-rr", f"{small >> 12} random reads of 4 KiB, four jobs", runs,
                 partial(fio, "randread", 4 * KIB, 4, small, size), files),
        ]  # fmt: skip


def writing(folder: Path, size: int, runs: int) -> list[Result]:
    disks = [folder / "ours.vmdk", folder / "theirs.vmdk"]
    for disk in disks:
        shutil.copyfile(folder / "disk.vmdk", disk)
    small = size // 16
    with ExitStack() as stack:
        files = [
            stack.enter_context(ours(disks[0], "--writable")) / "flat",
            stack.enter_context(theirs(disks[1], writable=True)),
        ]
        results = [
            _row("fuse-rw", f"{small >> 12} random writes of 4 KiB, one job", runs,
                 partial(fio, "randwrite", 4 * KIB, 1, small, size), files),
            _row("fuse-rw", f"{small >> 12} random writes of 4 KiB, four jobs", runs,
                 partial(fio, "randwrite", 4 * KIB, 4, small, size), files),
            _row("fuse-write", f"write all of {size >> 20} MiB, 1 MiB", runs,
                 partial(fio, "write", MIB, 1, size, size), files),
        ]  # fmt: skip
    command(["qemu-img", "compare", "-f", "vmdk", "-F", "vmdk", *disks])
    return results


def inside(folder: Path) -> None:
    """Listing 100,000 files and reading a large one, through the readers and by the kernel."""
    raw, disk, big = folder / "files.raw", folder / "files.vmdk", 512 * MIB
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
    for what, options in (("readers", []), ("kernel, read only", ["--kernel"])):
        with ours(disk, "--volume", "1", *options) as where:
            find = ["find", str(where), "-type", "f", "-size", "+0", "-printf", "x"]
            began = time.perf_counter()
            found = subprocess.run(find, capture_output=True, check=True, timeout=_TIMEOUT)
            first = time.perf_counter() - began
            if len(found.stdout) != 100_001:
                raise SystemExit(f"{len(found.stdout)} files")
            again = command(find)
            rate = big / MIB / dd(where / "big", big // MIB, "")
        print(f"files, {what}: find {first:.2f} s, again {again:.2f} s; big file {rate:.0f} MiB/s")


def main() -> None:
    parser = argparse.ArgumentParser(description="diskkit mount against qemu-storage-daemon")
    parser.add_argument("--quick", action="store_true", help="a small image")
    parser.add_argument("--runs", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run to FILE")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in DIR, leave it")
    parser.add_argument("--files", action="store_true", help="also measure files inside of a disk")
    args = parser.parse_args()
    if missing := [p for p in (PEER, "fio", "dd") if shutil.which(p) is None]:
        parser.error(f"not installed: {', '.join(missing)}")
    folder = args.keep or Path(tempfile.mkdtemp(prefix="diskkit-fuse-"))
    folder.mkdir(parents=True, exist_ok=True)
    size = GIB // 4 if args.quick else 2 * GIB
    print(f"# {platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"# medians of {args.runs} alternating runs (min..max)")
    try:
        results = [*reading(folder, size, args.runs), *writing(folder, size, args.runs)]
        if args.files:
            inside(folder)
    finally:
        if not args.keep:
            shutil.rmtree(folder)
    if args.json:
        args.json.write_text(json.dumps(report(results), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
