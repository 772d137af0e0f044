# SPDX-License-Identifier: Apache-2.0
"""diskkit against its peers on this machine: one run, one table.

    python bench/peers.py [--quick] [--json FILE] [--runs N] [--keep DIR] [row ...]

Makes its images in a temporary folder below TMPDIR (up to 10 GB; --quick needs 2), runs diskkit and
the peer in turn, and prints a table (bench/rounds.py). Command rows time whole processes from start
to exit; outputs are deleted between runs, outside of what is timed. Every row that makes an output
holds it against the peer's once.
"""

from __future__ import annotations

import filecmp
import json
import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from bench.rounds import (  # noqa: E402 - found in the checkout
    DISKKIT,
    GIB,
    Result,
    Wanted,
    alternate,
    command,
    measure,
)

from makers import big_sparse, hosted_sparse, stream  # noqa: E402 - found beside this folder

GRAIN = 65536
SECTOR = 512


# --- images ---------------------------------------------------------------------------------------


class Images:
    """The images, each made once, when a row first needs it."""

    def __init__(self, folder: Path, quick: bool) -> None:
        self.folder = folder
        self.quick = quick

    def path(self, name: str, make: Callable[[Path], None]) -> Path:
        path = self.folder / name
        if not path.exists():
            begin = time.monotonic()
            print(f"  making {name} ...", file=sys.stderr, end="", flush=True)
            make(path)
            os.sync()
            print(f" {time.monotonic() - begin:.0f} s", file=sys.stderr)
        return path

    def sparse(self, seed: int = 1) -> Path:
        """Half of a monolithicSparse disk, 2 GiB, incompressible; grains lie in random order."""
        data = (GIB // 4) if self.quick else 2 * GIB

        def make(path: Path) -> None:
            pieces = _noise(256)
            count = 2 * data // GRAIN
            chosen = sorted(random.Random(1).sample(range(count), count // 2))
            grains = {index: pieces[index * 7 % 256] for index in chosen}
            # The order differs from seed to seed, the content does not.
            order = random.Random(seed).sample(chosen, len(chosen))
            hosted_sparse(path, count * GRAIN // SECTOR, grains, order=order)

        return self.path(f"sparse{seed}.vmdk", make)

    def streamed(self) -> Path:
        """A full streamOptimized disk of 1 GiB that deflates to about half."""
        size = GIB // 8 if self.quick else GIB

        def make(path: Path) -> None:
            pieces = [_mixed(seed) for seed in range(512)]
            grains = {index: pieces[index * 11 % 512] for index in range(size // GRAIN)}
            stream(path, size // SECTOR, grains, variant="B", level=1)

        return self.path("stream.vmdk", make)

    def every_other(self, gib: int) -> Path:
        """Tables only: every other grain is allocated, and a hole of the file."""
        return self.path(
            f"every-other-{gib}.vmdk", lambda path: big_sparse(path, gib * GIB // SECTOR)
        )

    def empty(self, tib: int) -> Path:
        """As large as a VMware disk can be, and nothing in it."""
        size = tib << 40

        def make(path: Path) -> None:
            command = ["qemu-img", "create", "-q", "-f", "vmdk", str(path), str(size)]
            subprocess.run(command, check=True)

        return self.path(f"empty-{tib}.vmdk", make)

    def chain(self, links: int) -> Path:
        """A chain whose every link has a 64th of a 4 GiB disk's grains."""
        count = (GIB // 4 if self.quick else 4 * GIB) // GRAIN

        def make(leaf: Path) -> None:
            pieces = _noise(64)
            for number in range(links):
                last = number == links - 1
                chosen = random.Random(number).sample(range(count), count // 64)
                hosted_sparse(
                    leaf if last else leaf.with_name(f"link{number}.vmdk"),
                    count * GRAIN // SECTOR,
                    {index: pieces[(index + number) % 64] for index in chosen},
                    cid=f"{number + 1:08x}",
                    parent_cid=f"{number:08x}" if number else "ffffffff",
                    parent_hint=f"link{number - 1}.vmdk" if number else None,
                )

        return self.path("leaf.vmdk", make)


def _noise(count: int) -> list[bytes]:
    return [random.Random(seed).randbytes(GRAIN) for seed in range(count)]


def _mixed(seed: int) -> bytes:
    """A grain as disks have them: text, numbers, repeats, and what is compressed already."""
    dice = random.Random(seed)
    words = [dice.randbytes(dice.randrange(2, 9)).hex().encode() for _ in range(300)]
    blocks = []
    for _ in range(GRAIN // 4096):
        kind = dice.randrange(10)
        if kind < 4:
            block = dice.randbytes(4096)
        elif kind < 8:
            block = b" ".join(dice.choices(words, k=900))
        elif kind < 9:
            start = dice.randrange(1 << 24)
            block = b"".join((start + 3 * i).to_bytes(4, "little") for i in range(1024))
        else:
            block = dice.randbytes(16) * 256
        blocks.append(block[:4096].ljust(4096, b"\0"))
    return b"".join(blocks)


# --- measuring ------------------------------------------------------------------------------------


# The wrapper is small: a process counts what it was forked from to its own peak.
_WRAPPER = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[
    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def peak(words: Sequence[str | Path]) -> tuple[float, float]:
    """Peak of resident memory in MiB, and seconds, of one process."""
    line = [str(word) for word in words]
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _WRAPPER, *line],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(line)}: {done.stderr.strip()}")
    return int(done.stdout) / 1024, time.perf_counter() - begin


def converting(words: Sequence[str | Path], out: Path) -> float:
    """Seconds to make `out`; it is gone afterwards, and nothing is left to write."""
    try:
        return command([*words, out])
    finally:
        out.unlink(missing_ok=True)
        os.sync()


def same_output(image: Path, folder: Path) -> None:
    """Both programs make the same raw image."""
    one, two = folder / "ours.raw", folder / "peer.raw"
    try:
        command([*DISKKIT, "convert", "-q", image, one])
        command(["qemu-img", "convert", "-f", "vmdk", "-O", "raw", image, two])
        if not filecmp.cmp(one, two, shallow=False):
            raise SystemExit(f"{image.name}: the outputs differ")
    finally:
        one.unlink(missing_ok=True)
        two.unlink(missing_ok=True)
        os.sync()


# --- rows -----------------------------------------------------------------------------------------


def _to_raw(row: str, what: str, image: Path, images: Images, runs: int) -> list[Result]:
    same_output(image, images.folder)
    ours: list[str | Path] = [*DISKKIT, "convert", "-q", image]
    qemu: list[str | Path] = [
        "qemu-img",
        "convert",
        "-W",
        "-m",
        "16",
        "-f",
        "vmdk",
        "-O",
        "raw",
        image,
    ]
    result = Result(row, what, "qemu-img convert -W -m 16")
    out = images.folder / "out.raw"
    alternate(
        result,
        runs,
        partial(converting, ours, out),
        partial(converting, qemu, out),
    )
    return [result]


def sparse_raw(images: Images, runs: int) -> list[Result]:
    return _to_raw("sparse-raw", "convert monolithicSparse to raw", images.sparse(), images, runs)


def stream_raw(images: Images, runs: int) -> list[Result]:
    return _to_raw("stream-raw", "convert streamOptimized to raw", images.streamed(), images, runs)


def _from_raw(
    row: str, what: str, image: Path, subformat: str, options: list[str], images: Images, runs: int
) -> list[Result]:
    raw, out = images.folder / "source.raw", images.folder / "out.vmdk"
    command([*DISKKIT, "convert", "-q", "--force", image, raw])
    ours: list[str | Path] = [*DISKKIT, "convert", "-q", "--type", subformat, *options, raw]
    qemu: list[str | Path] = ["qemu-img", "convert", "-W", "-m", "16", "-O", "vmdk", "-o"]
    qemu += [f"subformat={subformat}", raw]
    sizes = []
    for words in (ours, qemu):
        command([*words, out])
        command(["qemu-img", "compare", "-f", "vmdk", "-F", "raw", out, raw])
        sizes.append(out.stat().st_size)
        out.unlink()
    result = Result(row, f"{what}, {sizes[0] / sizes[1]:.2f} times the size", "qemu-img -W -m 16")
    alternate(result, runs, partial(converting, ours, out), partial(converting, qemu, out))
    raw.unlink()
    return [result]


def raw_sparse(images: Images, runs: int) -> list[Result]:
    what = "convert raw to monolithicSparse"
    return _from_raw("raw-sparse", what, images.sparse(), "monolithicSparse", [], images, runs)


def raw_stream(images: Images, runs: int) -> list[Result]:
    what, image = "convert raw to streamOptimized", images.streamed()
    return [
        *_from_raw("raw-stream", what, image, "streamOptimized", [], images, runs),
        *_from_raw(
            "raw-stream",
            f"{what}, --level best",
            image,
            "streamOptimized",
            ["--level", "best"],
            images,
            runs,
        ),
    ]


def map_json(images: Images, runs: int) -> list[Result]:
    gib = 16 if images.quick else 256
    image = images.every_other(gib)
    result = Result("map", f"map --json, {gib} GiB, every other grain", "qemu-img map")
    alternate(
        result,
        runs,
        partial(command, [*DISKKIT, "map", "--json", image]),
        partial(command, ["qemu-img", "map", "--output=json", "-f", "vmdk", image]),
    )
    return [result]


_READS = """
import random, sys, time
from pathlib import Path
engine, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
if engine == "diskkit":
    import diskkit
    disk = diskkit.open_disk(path)
    size, read = disk.size, disk.read
elif engine == "pyvmdk":
    import pyvmdk
    disk = pyvmdk.handle()
    disk.open(path)
    disk.open_extent_data_files()
    size = disk.get_media_size()
    def read(offset, length):
        return disk.read_buffer_at_offset(length, offset)
else:
    from dissect.hypervisor.disk.vmdk import VMDK
    disk = VMDK(Path(path))
    size = disk.size
    def read(offset, length):
        disk.seek(offset)
        return disk.read(length)
dice = random.Random(7)
places = [dice.randrange(size // 4096) * 4096 for _ in range(count)]
total = 0
begin = time.perf_counter()
for place in places:
    total += read(place, 4096)[17]
print(time.perf_counter() - begin, total)
"""


def _reads(engine: str, image: Path, count: int) -> tuple[float, int]:
    done = subprocess.run(
        [sys.executable, "-c", _READS, engine, str(image), str(count)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{engine}: {done.stderr.strip()}")
    seconds, total = done.stdout.split()
    return float(seconds), int(total)


def random_reads(images: Images, runs: int) -> list[Result]:
    image = images.sparse()
    count = 2000 if images.quick else 20000
    results = []
    for peer in ("pyvmdk", "dissect"):
        what = f"{count} random 4 KiB reads, Python to Python"
        result = Result("random-reads", what, peer)
        ours, theirs = _reads("diskkit", image, count), _reads(peer, image, count)
        if ours[1] != theirs[1]:
            raise SystemExit(f"{peer} reads other bytes")
        alternate(
            result,
            runs,
            lambda: _reads("diskkit", image, count)[0],
            lambda peer=peer: _reads(peer, image, count)[0],  # type: ignore[misc]
        )
        results.append(result)
    return results


def compare(images: Images, runs: int) -> list[Result]:
    one, two = images.sparse(1), images.sparse(2)
    result = Result("compare", "compare two equal disks, laid out differently", "qemu-img compare")
    alternate(
        result,
        runs,
        partial(command, [*DISKKIT, "compare", "-q", one, two]),
        partial(command, ["qemu-img", "compare", "-f", "vmdk", "-F", "vmdk", one, two]),
    )
    return [result]


def info(images: Images, runs: int) -> list[Result]:
    image = images.sparse()
    result = Result("info", "info, against an interpreter that does nothing", "python -c pass")
    alternate(
        result,
        4 * runs,
        partial(command, [*DISKKIT, "info", image]),
        partial(command, [sys.executable, "-c", "pass"]),
    )
    return [result]


def memory(images: Images, runs: int) -> list[Result]:
    del runs
    results = []
    tib = 1 if images.quick else 62
    gib = 64 if images.quick else 2048
    for name, image in (
        ("chain of 30 links", images.chain(30)),
        (f"{gib} GiB, every other grain", images.every_other(gib)),
        (f"{tib} TiB, empty", images.empty(tib)),
    ):
        out = images.folder / "out.raw"
        verbs: dict[str, list[str | Path]] = {
            "info": ["info", image],
            "map": ["map", "--json", image],
            "convert": ["convert", "-q", image, out],
        }
        if not _holds(images.folder, image):
            del verbs["convert"]
        for verb, words in verbs.items():
            mib, seconds = peak([*DISKKIT, *words])
            out.unlink(missing_ok=True)
            result = Result(
                "memory", f"{verb}: {name}", "", [mib], [], "MiB", f"in {seconds:.1f} s"
            )
            results.append(result)
    return results


def _holds(folder: Path, image: Path) -> bool:
    """Whether the filesystem has files as large as the disk."""
    done = subprocess.run([*DISKKIT, "info", "--json", str(image)], capture_output=True, check=True)
    probe = folder / "probe"
    try:
        with probe.open("wb") as f:
            f.truncate(json.loads(done.stdout)["capacity"])
        return True
    except OSError:
        return False
    finally:
        with suppress(OSError):
            probe.unlink()


_WRITER = """
import sys
import diskkit
with diskkit.open_disk(sys.argv[1], writable=True) as disk:
    data = bytes([90]) * 4096
    for line in open(sys.argv[2]):
        disk.write(int(line), data)
    disk.flush()
"""


def random_writes(images: Images, runs: int) -> list[Result]:
    """Whole processes: open, write, flush, close."""
    count = 4000 if images.quick else 20000
    gib = 1 if images.quick else 4
    dice = random.Random(6)
    places = [dice.randrange(gib * GIB // 4096) * 4096 for _ in range(count)]
    ours_in, qemu_in = images.folder / "places", images.folder / "commands"
    ours_in.write_text("".join(f"{place}\n" for place in places))
    commands = [f"write -q -P 90 {place} 4096" for place in places]
    qemu_in.write_text("\n".join([*commands, "flush", "quit"]) + "\n")
    disks = [images.folder / name for name in ("ours.vmdk", "theirs.vmdk")]

    def fresh() -> None:
        for disk in disks:
            disk.unlink(missing_ok=True)
            command([*DISKKIT, "create", "-q", "--size", f"{gib}G", disk])

    def ours(*, new: bool) -> float:
        if new:
            fresh()
        return command([sys.executable, "-c", _WRITER, disks[0], ours_in])

    def qemu(*, new: bool) -> float:
        if new:
            fresh()
        began = time.perf_counter()
        with qemu_in.open() as stdin:
            words = ["qemu-io", "-f", "vmdk", str(disks[1])]
            subprocess.run(words, stdin=stdin, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - began

    results = []
    fresh()
    for new, what in ((True, "a fresh monolithicSparse"), (False, "grains that are there")):
        result = Result("random-writes", f"{count} writes of 4 KiB into {what}", "qemu-io")
        alternate(result, runs, partial(ours, new=new), partial(qemu, new=new))
        if not new:
            command(["qemu-img", "compare", *disks])
        results.append(result)
    for file in (*disks, ours_in, qemu_in):
        file.unlink()
    return results


_MERGED = """
import random, sys
import diskkit
dice = random.Random(8)
base, child, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
diskkit.create_disk(base, size)
for path, part in ((base, 32), (child, 16)):
    if path == child:
        diskkit.create_child(base, child)
    with diskkit.open_disk(path, writable=True) as disk:
        for _ in range(size // 65536 // part):
            disk.write(dice.randrange(size >> 16) << 16, dice.randbytes(65536))
"""


def commit(images: Images, runs: int) -> list[Result]:
    """A chain of two, copied anew for each run outside of what is timed."""
    gib = 1 if images.quick else 8
    source, work = images.folder / "merge", images.folder / "merging"
    source.mkdir()
    chain = [source / "base.vmdk", source / "child.vmdk"]
    command([sys.executable, "-c", _MERGED, *chain, str(gib * GIB)])
    raw = images.folder / "merged.raw"
    command([*DISKKIT, "convert", "-q", source / "child.vmdk", raw])

    def timed(words: Sequence[str | Path]) -> float:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(source, work)
        os.sync()
        return command([*words, work / "child.vmdk"])

    ours = partial(timed, [*DISKKIT, "commit", "-q"])
    qemu = partial(timed, ["qemu-img", "commit", "-q", "-d", "-f", "vmdk"])
    for job in (ours, qemu):
        job()
        command(["qemu-img", "compare", "-f", "vmdk", "-F", "raw", work / "base.vmdk", raw])
    what = f"commit {gib * 64} MiB of random grains into a parent"
    result = Result("commit", what, "qemu-img commit -d")
    alternate(result, runs, ours, qemu)
    for folder in (source, work):
        shutil.rmtree(folder)
    raw.unlink()
    return [result]


ROWS = {
    "sparse-raw": sparse_raw,
    "stream-raw": stream_raw,
    "raw-sparse": raw_sparse,
    "raw-stream": raw_stream,
    "map": map_json,
    "random-reads": random_reads,
    "random-writes": random_writes,
    "commit": commit,
    "compare": compare,
    "info": info,
    "memory": memory,
}


def _version() -> str:
    done = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, check=True)
    return f"{done.stdout.splitlines()[0]}; "


def main() -> None:
    made: dict[Path, Images] = {}

    def row(name: str, wanted: Wanted) -> list[Result]:
        images = made.setdefault(wanted.folder, Images(wanted.folder, wanted.quick))
        return ROWS[name](images, wanted.runs)

    rows = {name: partial(row, name) for name in ROWS}
    measure("diskkit against its peers on this machine", rows, needs=["qemu-img"], about=_version)


if __name__ == "__main__":
    main()
