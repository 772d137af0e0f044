# SPDX-License-Identifier: Apache-2.0
"""Other programs that read these formats, asked for a second opinion."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SKIP_PREFIX = "peer not installed:"
"""First words of every skip for a missing peer; a CI run that must have all peers looks for it."""


def requires(name: str) -> str:
    """Full path of a peer program; skips the running test when there is none."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{SKIP_PREFIX} {name}")
    return program


def qemu_img(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run qemu-img and return what happened, without judging it."""
    return subprocess.run(
        [requires("qemu-img"), *map(str, arguments)],
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def qemu_raw(path: Path, fmt: str = "vmdk") -> bytes:
    """Guest bytes of ``path`` as qemu-img converts them; fails the test when it refuses."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "disk.raw"
        done = qemu_img("convert", "-f", fmt, "-O", "raw", path, raw)
        if done.returncode:
            pytest.fail(f"qemu-img refuses {path.name}: {done.stderr.strip()}")
        return raw.read_bytes()


def qemu_refusal(path: Path, fmt: str = "vmdk") -> str:
    """Message with which qemu-img refuses to convert ``path``; fails the test when it does not."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "disk.raw"
        done = qemu_img("convert", "-f", fmt, "-O", "raw", path, raw)
    if not done.returncode:
        pytest.fail(f"qemu-img converts {path.name} without complaint")
    return done.stderr.strip()


_DISSECT = """
import pathlib, sys
from dissect.hypervisor.disk.vmdk import VMDK
disk = VMDK(pathlib.Path(sys.argv[1]))
sys.stdout.buffer.write(disk.read_sectors(0, disk.sector_count))
"""


def dissect_raw(path: Path) -> bytes:
    """Guest bytes of ``path`` as dissect.hypervisor reads them; skips when it is missing.

    It runs on its own because it closes no file, which a strict test run would count as an error.
    It is asked for sectors, not bytes: its byte reader works in 8 KiB steps and fails (IndexError)
    at the end of a disk that is no multiple of that.
    """
    pytest.importorskip("dissect.hypervisor", reason=f"{SKIP_PREFIX} dissect.hypervisor")
    done = subprocess.run(
        [sys.executable, "-c", _DISSECT, path], capture_output=True, timeout=120, check=False
    )
    if done.returncode:
        pytest.fail(f"dissect refuses {path.name}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
