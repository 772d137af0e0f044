# SPDX-License-Identifier: Apache-2.0
"""Filesystems that the kernel itself fills and shows: needs root, loop devices and its drivers."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from files.guests import MIB, blank, run
from makers.peers import SKIP_PREFIX, requires

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = {"ext4": 64 * MIB, "xfs": 320 * MIB, "btrfs": 128 * MIB}
MAKE = {
    "ext4": ("mke2fs", "-q", "-t", "ext4"),
    "xfs": ("mkfs.xfs", "-q"),
    "btrfs": ("mkfs.btrfs", "-q"),
}
_UNTOUCHED = {"ext4": "noload", "xfs": "norecovery", "btrfs": "noatime"}
"""What keeps a driver from replaying its journal."""


def needs_driver(kind: str) -> None:
    """Skip the test unless the kernel can mount this kind here."""
    if os.geteuid():
        pytest.skip(f"{SKIP_PREFIX} root")
    if f"\t{kind}\n" not in Path("/proc/filesystems").read_text():
        pytest.skip(f"{SKIP_PREFIX} the kernel's driver for {kind}")
    if not Path("/dev/loop-control").exists():
        pytest.skip(f"{SKIP_PREFIX} loop devices")


@contextmanager
def mounted(image: Path, kind: str, point: Path, *, writable: bool = False) -> Iterator[Path]:
    """The kernel's view of an image, at `point`."""
    needs_driver(kind)
    point.mkdir(exist_ok=True)
    options = "loop,rw" if writable else f"loop,ro,{_UNTOUCHED[kind]}"
    run("mount", "-t", kind, "-o", options, image, point)
    try:
        yield point
    finally:
        subprocess.run(
            [requires("umount"), "-d", point], capture_output=True, timeout=60, check=True
        )


def make_by_kernel(kind: str, image: Path, source: Path, point: Path) -> None:
    """A filesystem into which the kernel copied `source`, with all that it keeps of files."""
    needs_driver(kind)
    blank(image, SIZES[kind])
    run(*MAKE[kind], image)
    with mounted(image, kind, point, writable=True):
        run("cp", "-a", "--sparse=always", f"{source}/.", point)
