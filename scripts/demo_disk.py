# SPDX-License-Identifier: Apache-2.0
"""The parts of scripts/demo that are awkward in a shell.

build   makes a guest disk from files of this system, without root and without mounting: a raw image
        with a GPT and one ext4 partition. It also writes what the guest is going to change.
file    prints the SHA-256 of one file inside the partition of a raw image.
write   writes files of this system, and zeros, into a disk through diskkit, and the same into a raw
        file beside it, which is what the disk must read as.
race    prints a table of how long diskkit and qemu-img take for the same conversions.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import stat
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
DISK_SIZE = 1024 * MIB
PARTITION_OFFSET = MIB
PARTITION_SIZE = DISK_SIZE - 2 * MIB  # the last MiB holds the second copy of the partition table

# Text and programs, mixed as on a real system. A share of each, so that no folder fills the disk.
SOURCES = [
    "/usr/lib/python3*",
    "/usr/share/doc",
    "/usr/share/perl",
    "/usr/bin",
    "/usr/lib/*-linux-gnu",
    "/usr/share",
]
SHARE_FILES = 600
SHARE_BYTES = 64 * MIB
COPY_BYTES = 240 * MIB

GUEST_FILE_SIZE = 8 * MIB


def main() -> int:
    """Runs the part that is named on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    build = parts.add_parser("build")
    build.add_argument("directory", type=Path)
    write = parts.add_parser("write")
    write.add_argument("disk")
    write.add_argument("raw", type=Path)
    file = parts.add_parser("file")
    file.add_argument("image", type=Path)
    file.add_argument("inside")
    race = parts.add_parser("race")
    race.add_argument("disks", nargs="+")
    arguments = parser.parse_args()
    if arguments.part == "build":
        build_disk(arguments.directory)
    elif arguments.part == "file":
        print(hashlib.sha256(read_inside(arguments.image, arguments.inside)).hexdigest())
    elif arguments.part == "write":
        write_into(arguments.disk, arguments.raw)
    else:
        print_race(arguments.disks)
    return 0


# --- build ----------------------------------------------------------------------------------------


def build_disk(directory: Path) -> None:
    """Makes disk.raw in the directory, with sample and guest-writes beside it.

    sample holds the path of one real file. guest-writes holds qemu-io commands, one per line.
    """
    tree = directory / "tree"
    copied = copy_real_files(tree)
    for name in ("overwritten", "zeroed"):
        (tree / name).write_bytes(os.urandom(GUEST_FILE_SIZE))

    image = directory / "disk.raw"
    with image.open("wb") as file:
        file.truncate(DISK_SIZE)
    where = f"offset={PARTITION_OFFSET}"
    size = f"{PARTITION_SIZE // 1024}k"
    run(["mke2fs", "-q", "-t", "ext4", "-L", "demo", "-d", tree, "-E", where, image, size])
    table = f"label: gpt\nstart={PARTITION_OFFSET // 512}, size={PARTITION_SIZE // 512}, type=L\n"
    run(["sfdisk", "--quiet", image], text=table)
    shutil.rmtree(tree)

    sample = max(copied, key=lambda path: path.stat().st_size)
    (directory / "sample").write_text(f"{sample}\n")
    (directory / "guest-writes").write_text("".join(guest_writes(image)))
    copied_size = sum(path.stat().st_size for path in copied) // MIB
    print(f"{len(copied)} files, {copied_size} MiB, in ext4 on a disk of {DISK_SIZE // MIB} MiB")


def copy_real_files(tree: Path) -> list[Path]:
    """Copies ordinary files of this system below the tree, under their own paths."""
    copied: dict[Path, int] = {}
    for pattern in SOURCES:
        for top in sorted(Path("/").glob(pattern.lstrip("/"))):
            share = min(SHARE_BYTES, COPY_BYTES - sum(copied.values()))
            fitting = fitting_files(top, share)
            for path, size in itertools.islice(fitting, SHARE_FILES):
                target = tree / path.relative_to("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
                copied[path] = size
    return list(copied)


def fitting_files(top: Path, budget: int) -> Iterator[tuple[Path, int]]:
    """Ordinary readable files below the folder with their sizes, together no more than the budget.

    In a stable order, without symbolic links.
    """
    for folder, folders, names in os.walk(top):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            status = path.lstat()
            if (
                stat.S_ISREG(status.st_mode)
                and status.st_size <= budget
                and os.access(path, os.R_OK)
            ):
                budget -= status.st_size
                yield path, status.st_size


def guest_writes(image: Path) -> Iterator[str]:
    """What a guest would do: overwrite one file, zero another, and write into free space."""
    for offset, length in file_blocks(image, "/overwritten"):
        yield f"write -q -P 0x5a {offset} {length}\n"
    for offset, length in file_blocks(image, "/zeroed"):
        yield f"write -q -z {offset} {length}\n"
    # Near the end of the partition, far behind every file: unaligned, small and large.
    free = PARTITION_OFFSET + PARTITION_SIZE - 60 * MIB
    for number, length in enumerate([512, 4096, 65536, 200 * 1024, 3 * MIB]):
        yield f"write -q -P {0x11 * (number + 1)} {free + number * 5 * MIB + 3 * 512} {length}\n"
    yield f"write -q -z {free + 30 * MIB} {2 * MIB}\n"


def file_blocks(image: Path, inside: str) -> Iterator[tuple[int, int]]:
    """Where the file lies on the disk: (offset, length) of each contiguous piece, in bytes."""
    block_size = int(find(r"Block size:\s+(\d+)", debugfs(image, "show_super_stats -h").decode()))
    blocks = [int(block) for block in debugfs(image, f"blocks {inside}").split()]
    for _, group in itertools.groupby(enumerate(blocks), lambda item: item[1] - item[0]):
        piece = [block for _, block in group]
        yield PARTITION_OFFSET + piece[0] * block_size, len(piece) * block_size


def write_into(disk: str, raw: Path) -> None:
    """Sixty real files at random places, some of them zeroed again, one flush."""
    import diskkit

    dice = random.Random(disk)
    written = zeroed = 0
    raw.touch()
    with diskkit.open_disk(disk, writable=True) as target, raw.open("r+b") as twin:
        twin.truncate(target.size)
        out = twin.fileno()
        for path, size in itertools.islice(fitting_files(Path("/usr/bin"), 96 * MIB), 60):
            offset = dice.randrange(target.size - size) // 4096 * 4096
            data = path.read_bytes()
            target.write(offset, data)
            os.pwrite(out, data, offset)
            written += len(data)
            if dice.random() < 0.25:
                begin, length = offset + len(data) // 4, len(data) // 2
                target.zero(begin, length)
                os.pwrite(out, bytes(length), begin)
                zeroed += length
        target.flush()
    print(f"{written / MIB:.1f} MiB written, {zeroed / MIB:.1f} MiB of it zeroed again, flushed")


def find(pattern: str, text: str) -> str:
    """The first group of the pattern's first match, which must exist."""
    match = re.search(pattern, text)
    if match is None:
        sys.exit(f"demo: no {pattern!r} in the output of debugfs")
    return match[1]


# --- file -----------------------------------------------------------------------------------------


def read_inside(image: Path, inside: str) -> bytes:
    """The content of one file of the partition, read by debugfs, which knows nothing of diskkit."""
    content = debugfs(image, f'cat "{inside}"')
    if not content:
        sys.exit(f"demo: {image} holds no {inside}")
    return content


def debugfs(image: Path, command: str) -> bytes:
    """The output of one debugfs command on the partition of a raw image."""
    return run(["debugfs", "-R", command, f"{image}?offset={PARTITION_OFFSET}"])


def run(command: list[str | Path], text: str = "") -> bytes:
    """The standard output of a command that must succeed."""
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"demo: {command[0]} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


# --- race -----------------------------------------------------------------------------------------


def print_race(disks: list[str]) -> None:
    """Converts each disk to raw three times with both programs; prints the median times."""
    print(f"{'median of 3':28} {'guest data':>10} {'diskkit':>10} {'qemu-img':>10}   diskkit is")
    for disk in disks:
        # In turns, so that a slow moment of the machine meets both.
        ours, theirs = [], []
        for _ in range(3):
            ours.append(seconds(["diskkit", "convert", disk, "race-diskkit.raw"]))
            theirs.append(
                seconds(
                    ["qemu-img", "convert", "-W", "-m", "16", "-O", "raw", disk, "race-qemu.raw"]
                )
            )
        mine, other = statistics.median(ours), statistics.median(theirs)
        verdict = f"{other / mine:.2f} x as fast"
        print(
            f"{disk + ' -> raw':28} {data_bytes(disk) / MIB:6.0f} MiB {mine:8.2f} s {other:8.2f} s"
            f"   {verdict}"
        )


def seconds(command: list[str]) -> float:
    """How long the command takes, start-up included; its output file is made anew and removed."""
    target = Path(command[-1])
    start = time.perf_counter()
    run([*command])
    elapsed = time.perf_counter() - start
    target.unlink()
    return elapsed


def data_bytes(disk: str) -> int:
    """How much of the disk is neither a hole nor zeros, by qemu-img's account."""
    extents = json.loads(run(["qemu-img", "map", "--output=json", disk]))
    return sum(extent["length"] for extent in extents if extent["data"])


if __name__ == "__main__":
    sys.exit(main())
