# SPDX-License-Identifier: Apache-2.0
"""`diskkit serve` against qemu-nbd on the same VMDK: one run, one table.

    python bench/nbd.py [--quick] [--json FILE] [--runs N] [--keep DIR] [row ...]

Needs qemu-nbd, nbdcopy and fio with its nbd engine. Both servers have a monolithicSparse disk of
incompressible data, whose grains lie in random order, and run side by side; the client asks one and
the other in turn, after one round that does not count. Times are the client's, without start-up.
Writes go to two copies, which are compared at the end. Rows: read, write, fresh.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from bench.peers import GRAIN, SECTOR, _noise  # noqa: E402 - found in the checkout
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

from makers import hosted_sparse  # noqa: E402 - found in the checkout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.rounds import Row

MIB, KIB = 1 << 20, 1 << 10
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
    return fio_seconds(words, total, "write" if "write" in pattern else "read")


def make(path: Path, size: int) -> None:
    """A full disk, its grains in random order."""
    pieces = _noise(256)
    count = size // GRAIN
    order = random.Random(1).sample(range(count), count)
    hosted_sparse(path, size // SECTOR, {i: pieces[i * 7 % 256] for i in range(count)}, order=order)


def full_disk(wanted: Wanted) -> tuple[Path, int]:
    """The disk that is read, and its size; made once."""
    path, size = wanted.folder / "disk.vmdk", GIB // 4 if wanted.quick else 2 * GIB
    if not path.exists():
        make(path, size)
    return path, size


def _row(name: str, what: str, runs: int, work: Callable[[str], float], uris: list[str]) -> Result:
    result = Result(name, what, _SERVERS[1])
    alternate(result, runs, partial(work, uris[0]), partial(work, uris[1]))
    return result


@contextmanager
def _both(disks: list[Path], *, writable: bool) -> Iterator[list[str]]:
    with (
        serving(_SERVERS[0], disks[0], writable=writable) as one,
        serving(_SERVERS[1], disks[1], writable=writable) as two,
    ):
        yield [one, two]


def reading(wanted: Wanted) -> Iterator[Result]:
    disk, size = full_disk(wanted)
    small, runs = size // 4, wanted.runs
    with _both([disk, disk], writable=False) as uris:
        yield _row("nbd-read", f"read all of {size >> 20} MiB, 1 MiB, 4 under way", runs,
                   lambda u: fio(u, "read", MIB, 4, size, size), uris)  # fmt: skip
        yield _row("nbd-read", "the same, 256 KiB, 16 under way", runs,
                   lambda u: fio(u, "read", 256 * KIB, 16, size, size), uris)  # fmt: skip
        yield _row("nbd-copy", "nbdcopy all of it to nowhere, the whole process", runs,
                   lambda u: command(["nbdcopy", u, "null:"]), uris)  # fmt: skip
        yield _row("nbd-rr", f"{small >> 12} random reads of 4 KiB, 16 under way", runs,
                   lambda u: fio(u, "randread", 4 * KIB, 16, small, size), uris)  # fmt: skip
        yield _row("nbd-rr", f"{small >> 14} random reads of 4 KiB, one at a time", runs,
                   lambda u: fio(u, "randread", 4 * KIB, 1, small // 4, size), uris)  # fmt: skip


def writing(wanted: Wanted) -> Iterator[Result]:
    source, size = full_disk(wanted)
    small, runs = size // 4, wanted.runs
    disks = [wanted.folder / "ours.vmdk", wanted.folder / "theirs.vmdk"]
    for disk in disks:
        shutil.copyfile(source, disk)
    with _both(disks, writable=True) as uris:
        yield _row("nbd-rw", f"{small >> 12} random writes of 4 KiB, 16 under way", runs,
                   lambda u: fio(u, "randwrite", 4 * KIB, 16, small, size), uris)  # fmt: skip
        yield _row("nbd-write", f"write all of {size >> 20} MiB, 1 MiB, 4 under way", runs,
                   lambda u: fio(u, "write", MIB, 4, size, size), uris)  # fmt: skip
    command(["qemu-img", "compare", "-f", "vmdk", "-F", "vmdk", *disks])
    for disk in disks:
        disk.unlink()


def filling(wanted: Wanted) -> Iterator[Result]:
    """Fresh once only: one round, and none before it."""
    size = GIB // 4 if wanted.quick else 2 * GIB
    disks = [wanted.folder / "ours.vmdk", wanted.folder / "theirs.vmdk"]
    for disk in disks:
        command([*DISKKIT, "create", "-q", "--size", str(size), disk])
    with _both(disks, writable=True) as (one, two):
        result = Result("nbd-fresh", f"write {size >> 20} MiB into a fresh disk", _SERVERS[1])
        result.ours.append(fio(one, "write", MIB, 4, size, size))
        result.theirs.append(fio(two, "write", MIB, 4, size, size))
        yield result
    command(["qemu-img", "compare", "-f", "vmdk", "-F", "vmdk", *disks])
    for disk in disks:
        disk.unlink()


def main() -> None:
    rows: dict[str, Row] = {"read": reading, "write": writing, "fresh": filling}
    measure("diskkit serve against qemu-nbd", rows, needs=["qemu-nbd", "nbdcopy", "fio"])


if __name__ == "__main__":
    main()
