# SPDX-License-Identifier: Apache-2.0
"""`diskkit serve` against qemu-nbd on the same VMDK: one run, one table.

    python bench/nbd.py [--quick] [--json FILE] [--runs N] [--keep DIR]

Needs qemu-nbd, nbdcopy and fio with its nbd engine. Both servers have a monolithicSparse disk of
incompressible data, whose grains lie in random order, and run side by side; the client asks one and
the other in turn, after one round that does not count. Times are the client's, without start-up.
Writes go to two copies, which are compared at the end. See bench/peers.py for how rows are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import select
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from bench.peers import (  # noqa: E402 - found in the checkout
    DISKKIT,
    GRAIN,
    SECTOR,
    Result,
    _noise,
    alternate,
    command,
    report,
)

from makers import hosted_sparse  # noqa: E402 - found in the checkout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GIB = 1 << 30
_SERVERS = ("diskkit", "qemu-nbd")


@contextmanager
def serving(program: str, disk: Path, *, writable: bool) -> Iterator[str]:
    """A server of one disk on a Unix socket; gives the URI."""
    path = disk.with_name(f"{program}.sock")
    if program == "diskkit":
        words = [*DISKKIT, "serve", "--json", str(disk), "--socket", str(path)]
        words += ["--writable"] * writable
    else:
        words = ["qemu-nbd", "-f", "vmdk", "-t", "-e", "16", "-k", str(path), "--fork"]
        words += [f"--pid-file={path}.pid", *["-r"] * (not writable), str(disk)]
    run = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert run.stdout is not None
    if program == "diskkit":
        run.stdout.readline()
        pid = run.pid
    else:
        run.wait()
        pid = int(Path(f"{path}.pid").read_text())
    try:
        yield f"nbd+unix:///?socket={path}"
    finally:
        os.kill(pid, 15)
        if program == "diskkit":
            run.wait()
        else:
            _gone(pid)
        run.stdout.close()


def _gone(pid: int) -> None:
    """Wait for a process that is not our child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    select.select([descriptor], [], [])
    os.close(descriptor)


def fio(uri: str, pattern: str, block: int, depth: int, total: int, size: int) -> float:
    """Seconds in which fio moves `total` bytes; the same places each time."""
    words = ["fio", "--name=x", "--ioengine=nbd", f"--uri={uri}", f"--rw={pattern}"]
    words += [f"--bs={block}", f"--iodepth={depth}", f"--size={size}", f"--io_size={total}"]
    words += ["--randrepeat=1", "--norandommap", "--buffer_pattern=0x5a", "--output-format=json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr.strip()}{done.stdout[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    side = found["jobs"][0]["write" if "write" in pattern else "read"]
    if side["io_bytes"] < total:
        raise SystemExit(f"fio moved {side['io_bytes']} of {total} bytes")
    return float(side["runtime"]) / 1000


def make(path: Path, size: int) -> None:
    """A full disk, its grains in random order."""
    pieces = _noise(256)
    count = size // GRAIN
    order = random.Random(1).sample(range(count), count)
    hosted_sparse(path, size // SECTOR, {i: pieces[i * 7 % 256] for i in range(count)}, order=order)


def _row(name: str, what: str, runs: int, work: Callable[[str], float], uris: list[str]) -> Result:
    result = Result(name, what, _SERVERS[1])
    alternate(result, runs, partial(work, uris[0]), partial(work, uris[1]))
    print(result.line(), flush=True)
    return result


def reading(folder: Path, size: int, runs: int) -> list[Result]:
    disk = folder / "disk.vmdk"
    make(disk, size)
    mib, kib = 1 << 20, 1 << 10
    small = size // 4
    with (
        serving(_SERVERS[0], disk, writable=False) as one,
        serving(_SERVERS[1], disk, writable=False) as two,
    ):
        uris = [one, two]
        return [
            _row("nbd-read", f"read all of {size >> 20} MiB, 1 MiB, 4 under way", runs,
                 lambda u: fio(u, "read", mib, 4, size, size), uris),
            _row("nbd-read", "the same, 256 KiB, 16 under way", runs,
                 lambda u: fio(u, "read", 256 * kib, 16, size, size), uris),
            _row("nbd-copy", "nbdcopy all of it to nowhere, the whole process", runs,
                 lambda u: command(["nbdcopy", u, "null:"]), uris),
            _row("nbd-rr", f"{small >> 12} random reads of 4 KiB, 16 under way", runs,
                 lambda u: fio(u, "randread", 4 * kib, 16, small, size), uris),
            _row("nbd-rr", f"{small >> 14} random reads of 4 KiB, one at a time", runs,
                 lambda u: fio(u, "randread", 4 * kib, 1, small // 4, size), uris),
        ]  # fmt: skip


def writing(folder: Path, size: int, runs: int) -> list[Result]:
    disks = [folder / "ours.vmdk", folder / "theirs.vmdk"]
    mib, kib = 1 << 20, 1 << 10
    small = size // 4
    shutil.copyfile(folder / "disk.vmdk", disks[0])
    shutil.copyfile(folder / "disk.vmdk", disks[1])
    with (
        serving(_SERVERS[0], disks[0], writable=True) as one,
        serving(_SERVERS[1], disks[1], writable=True) as two,
    ):
        uris = [one, two]
        results = [
            _row("nbd-rw", f"{small >> 12} random writes of 4 KiB, 16 under way", runs,
                 lambda u: fio(u, "randwrite", 4 * kib, 16, small, size), uris),
            _row("nbd-write", f"write all of {size >> 20} MiB, 1 MiB, 4 under way", runs,
                 lambda u: fio(u, "write", mib, 4, size, size), uris),
        ]  # fmt: skip
    command(["qemu-img", "compare", "-f", "vmdk", "-F", "vmdk", *disks])
    for disk in disks:
        disk.unlink()
        command([*DISKKIT, "create", "-q", "--size", str(size), disk])
    with (
        serving(_SERVERS[0], disks[0], writable=True) as one,
        serving(_SERVERS[1], disks[1], writable=True) as two,
    ):
        # Fresh once only: one round, and none before it.
        result = Result("nbd-fresh", f"write {size >> 20} MiB into a fresh disk", _SERVERS[1])
        result.ours.append(fio(one, "write", mib, 4, size, size))
        result.theirs.append(fio(two, "write", mib, 4, size, size))
        print(result.line(), flush=True)
        results.append(result)
    command(["qemu-img", "compare", "-f", "vmdk", "-F", "vmdk", *disks])
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="diskkit serve against qemu-nbd")
    parser.add_argument("--quick", action="store_true", help="a small image")
    parser.add_argument("--runs", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run to FILE")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in DIR, leave it")
    args = parser.parse_args()
    if missing := [p for p in ("qemu-nbd", "nbdcopy", "fio") if shutil.which(p) is None]:
        parser.error(f"not installed: {', '.join(missing)}")
    folder = args.keep or Path(tempfile.mkdtemp(prefix="diskkit-nbd-"))
    folder.mkdir(parents=True, exist_ok=True)
    size = GIB // 4 if args.quick else 2 * GIB
    print(f"# {platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"# medians of {args.runs} alternating runs (min..max)")
    try:
        results = [*reading(folder, size, args.runs), *writing(folder, size, args.runs)]
    finally:
        if not args.keep:
            shutil.rmtree(folder)
    if args.json:
        args.json.write_text(json.dumps(report(results), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
