# SPDX-License-Identifier: Apache-2.0
"""What the C library costs: against a bare pread, and through nbdkit against its ceiling.

    python bench/capi.py [--quick] [--runs N] [--json FILE] [--plugin FILE]

The ceiling is `native/twin.c`: the same functions over the same plain file, in C and nothing else.
Both libraries are served by the same nbdkit and its own vddk plugin (scripts/vddk-plugin), in turn.
Prints medians and ratios, above 1 where we are faster. Needs cc, libnbd-dev, nbdkit and nbdcopy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import diskkit
from diskkit.capi.build import build

HERE = Path(__file__).parent
CALLS = ("pread", "read", "empty")
"""Rows of native/calls.c."""
_PLUGIN = Path(sys.prefix, "peers", "nbdkit-vddk-plugin.so")


class Trees:
    """Our library, and the twin, each as nbdkit wants it; and the programs that load them."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.ours, self.twin = folder / "ours", folder / "twin"
        build(self.ours, "0", executable=sys.executable)
        (self.twin / "lib64").mkdir(parents=True)
        library = self.twin / "lib64" / "libvixDiskLib.so.8"
        self._compile("twin.c", library, "-shared", "-fPIC")
        flags = (f"-L{self.ours / 'lib64'}", f"-Wl,-rpath,{self.ours / 'lib64'}", "-lvixDiskLib")
        self.calls = self._compile("calls.c", folder / "calls", *flags, "-lpthread")
        self.load = self._compile("load.c", folder / "load", "-lnbd")
        self.flat = folder / "disk-flat.vmdk"
        diskkit.create_disk(folder / "disk.vmdk", size, "monolithicFlat")
        block = os.urandom(1 << 20)
        with self.flat.open("r+b") as file:
            for _ in range(size >> 20):
                file.write(block)
        self.sparse = folder / "sparse.vmdk"
        with diskkit.open_disk(folder / "disk.vmdk") as disk:
            diskkit.clone(disk, self.sparse, "monolithicSparse")

    def _compile(self, source: str, out: Path, *flags: str) -> Path:
        command = ["cc", "-O2", f"-I{self.ours / 'include'}", str(HERE / "native" / source)]
        subprocess.run([*command, "-o", str(out), *flags], check=True)
        return out


def calls(trees: Trees, disk: Path) -> dict[str, float]:
    """Median nanoseconds of each row of native/calls.c."""
    words = [str(trees.calls), str(disk), str(trees.flat)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    rows: dict[str, list[float]] = {}
    for line in done.stdout.splitlines():
        name, value = line.split()
        rows.setdefault(name, []).append(float(value))
    return {name: statistics.median(values) for name, values in rows.items()}


def served(trees: Trees, plugin: Path, ours: bool, disk: Path, script: str, *flags: str) -> float:
    """Seconds that `script` prints while nbdkit serves, or the end and the begin of them."""
    folder = trees.ours if ours else trees.twin
    command = ["nbdkit", "-f", *flags, "-U", "-", str(plugin), f"libdir={folder}"]
    command += [f"file={disk}", "--run", f"timeout 300 {script}"]
    os.sync()  # what the one left to be written is not for the other to wait for
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=400)
    end, *begin = map(float, done.stdout.split())
    return end - sum(begin)


def through_nbdkit(trees: Trees, plugin: Path, runs: int, count: int) -> list[dict[str, object]]:
    """Rows of seconds, ours and the twin's, in turn."""
    load = f"{trees.load} $uri"
    copy = 'nbdinfo --size "$1" >/dev/null; '  # the first connection waits for the library's start
    copy += 'b=$(date +%s.%N); nbdcopy "$1" null:; e=$(date +%s.%N); echo "$e $b"'
    timed = f"sh -ec '{copy}' sh $uri"
    rows = [
        ("random reads 4 KiB, 16 under way", f"{load} read 16 4096 {count}", ("-r",)),
        ("random reads 4 KiB, one by one", f"{load} read 1 4096 {count // 4}", ("-r",)),
        ("random reads 64 KiB, 16 under way", f"{load} read 16 65536 {count // 4}", ("-r",)),
        ("whole disk, nbdcopy", timed, ("-r",)),
        ("random writes 4 KiB, 16 under way", f"{load} write 16 4096 {count}", ()),
    ]
    results: list[dict[str, object]] = []
    for name, script, flags in rows:
        ours: list[float] = []
        twin: list[float] = []
        for turn in range(runs + 1):
            mine = served(trees, plugin, True, trees.folder / "disk.vmdk", script, *flags)
            other = served(trees, plugin, False, trees.flat, script, *flags)
            if turn:
                ours.append(mine)
                twin.append(other)
        ratio = statistics.median(twin) / statistics.median(ours)
        results.append({"row": name, "ours": ours, "twin": twin, "ratio": ratio})
        spread = f"{min(ours):.3f}-{max(ours):.3f} s, ceiling {min(twin):.3f}-{max(twin):.3f} s"
        print(f"nbdkit  {ratio:6.2f} of the ceiling   {name}  ({spread})")
    return results


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plugin", type=Path, default=_PLUGIN)
    options = parser.parse_args()
    size, count = (128 << 20, 20_000) if options.quick else (1 << 30, 200_000)
    report: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="diskkit-bench-") as name:
        trees = Trees(Path(name), size)
        for kind, disk in (("flat", trees.folder / "disk.vmdk"), ("sparse", trees.sparse)):
            found = calls(trees, disk)
            report[kind] = found
            for where in ("", "-thread"):
                bare, read, empty = (found[row + where] for row in CALLS)
                print(
                    f"calls   {read / bare:6.2f} times a pread     4 KiB of a {kind} disk{where}: "
                    f"read {read:.0f} ns, pread {bare:.0f} ns, empty call {empty:.0f} ns"
                )
        if options.plugin.is_file():
            report["nbdkit"] = through_nbdkit(trees, options.plugin, options.runs, count)
        else:
            print(f"no plugin {options.plugin}: scripts/vddk-plugin gets it", file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
