# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: rounds in turn, a table of ratios, and their command line.

A ratio above 1 means that diskkit is faster. Figures are medians of alternating rounds (ours, peer,
ours, peer ...) after one round that does not count, with the least and the most behind them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    Row = Callable[["Wanted"], Iterable["Result"]]

GIB = 1 << 30
_TIMEOUT = 300
NOTHING = Path(os.devnull)
_BESIDE = Path(sys.executable).with_name("diskkit")
DISKKIT = [str(_BESIDE)] if _BESIDE.exists() else [sys.executable, "-m", "diskkit"]


@dataclass
class Result:
    """One line of the table."""

    row: str
    what: str
    peer: str
    ours: list[float] = field(default_factory=list)
    """Seconds, or for memory MiB, of each run."""
    theirs: list[float] = field(default_factory=list)
    unit: str = "s"
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times faster diskkit is."""
        if not self.ours or not self.theirs:
            return None
        return statistics.median(self.theirs) / statistics.median(self.ours)

    def line(self) -> str:
        ratio = f"{self.ratio:7.2f} x" if self.ratio is not None else " " * 9
        ours, theirs = _spread(self.ours, self.unit), _spread(self.theirs, self.unit)
        return f"{self.row:<14} {ratio}  {ours:<30} {theirs:<30} {self.what} {self.note}"


def _spread(values: list[float], unit: str) -> str:
    if not values:
        return "-"
    digits = 1 if unit == "MiB" else 3
    text = f"{statistics.median(values):.{digits}f} {unit}"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f}..{max(values):.{digits}f})"
    return text


def alternate(
    result: Result, runs: int, ours: Callable[[], float], peer: Callable[[], float]
) -> None:
    """Fill a result: one round to warm up, then `runs` rounds."""
    ours()
    peer()
    for _ in range(runs):
        result.ours.append(ours())
        result.theirs.append(peer())


def command(words: Sequence[str | Path], output: Path = NOTHING) -> float:
    """Seconds that a whole process takes; it must succeed."""
    line = [str(word) for word in words]
    with output.open("wb") as out:
        begin = time.perf_counter()
        done = subprocess.run(line, stdout=out, stderr=subprocess.PIPE, check=False)
        seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(f"{' '.join(line)}: {done.stderr.decode(errors='replace').strip()}")
    return seconds


def fio_seconds(words: Sequence[str], total: int, side: str) -> float:
    """Seconds that fio says it took to move `total` bytes; `side` is "read" or "write"."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr.strip()}{done.stdout[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    moved = found["jobs"][0][side]
    if moved["io_bytes"] < total:
        raise SystemExit(f"fio moved {moved['io_bytes']} of {total} bytes")
    return float(moved["runtime"]) / 1000


class Wanted(NamedTuple):
    """What whoever runs a benchmark asks for."""

    folder: Path
    """Where its files go."""
    quick: bool
    runs: int
    """Rounds that count."""


def measure(
    what: str, rows: Mapping[str, Row], *, needs: Sequence[str], about: Callable[[], str] = str
) -> None:
    """The whole program: choose rows, measure, print, and remove what was made."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("rows", nargs="*", metavar="row", help=", ".join(rows))
    parser.add_argument("--quick", action="store_true", help="small images")
    parser.add_argument("--runs", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run to FILE")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in DIR, leave it")
    args = parser.parse_args()
    if unknown := set(args.rows) - set(rows):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    if missing := [program for program in needs if shutil.which(program) is None]:
        parser.error(f"not installed: {', '.join(missing)}")
    folder = args.keep or Path(tempfile.mkdtemp(prefix="diskkit-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"# {platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"# {about()}medians of {args.runs} alternating runs (min..max)")
    print(f"{'row':<14} {'ratio':>9}  {'diskkit':<30} {'peer':<30} what")
    results = []
    try:
        for name in args.rows or rows:
            for result in rows[name](Wanted(folder, args.quick, args.runs)):
                print(result.line(), f"[{result.peer}]" if result.peer else "", flush=True)
                results.append(result)
    finally:
        if not args.keep:
            shutil.rmtree(folder)
    if args.json:
        args.json.write_text(json.dumps(report(results), indent=1) + "\n", encoding="utf-8")


def report(results: list[Result]) -> dict[str, object]:
    rows = [{**asdict(r), "ratio": r.ratio} for r in results]
    return {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "rows": rows,
    }
