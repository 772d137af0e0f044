# SPDX-License-Identifier: Apache-2.0
"""Mounts for the tests, each in a process of its own, each taken away whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from diskkit.fuse import kernel
from diskkit.fuse.mounting import mounted
from makers.peers import SKIP_PREFIX
from volumes.test_luks import KEY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TIMEOUT = 60


def diskkit(*words: str | Path, timeout: int = TIMEOUT) -> subprocess.CompletedProcess[str]:
    """The program, with whatever exit status."""
    command = [sys.executable, "-m", "diskkit", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


class Mounts:
    """Mounts in the foreground of a process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[tuple[subprocess.Popen[str], Path]] = []
        self._folders: list[Path] = []

    def folder(self) -> Path:
        """A new empty folder."""
        path = self._folder / f"mnt{len(self._folders)}"
        path.mkdir()
        self._folders.append(path)
        return path

    def mount(self, disk: str | Path, *options: str | Path) -> tuple[Path, subprocess.Popen[str]]:
        """Mount it, and return when it can be used."""
        folder = self.folder()
        command = [sys.executable, "-m", "diskkit", "mount", str(disk), str(folder)]
        process = subprocess.Popen(
            [*command, "--foreground", *map(str, options)], stderr=subprocess.PIPE, text=True
        )
        self._running.append((process, folder))
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("mounted "):
                return folder, process
        pytest.fail("".join(lines))

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Interrupt it; its exit status and what it said."""
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=TIMEOUT)
        return process.returncode, said

    def clear(self) -> None:
        for folder in self._folders:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
        for process, _ in self._running:
            if process.poll() is None:
                process.kill()
                process.communicate(timeout=TIMEOUT)
            elif process.stderr is not None:
                process.stderr.close()


def require_driver(kind: str) -> None:
    """Skip where the kernel cannot mount that filesystem."""
    if not os.access("/dev/loop-control", os.R_OK | os.W_OK):
        pytest.skip(f"{SKIP_PREFIX} /dev/loop-control, as root")
    if kind not in kernel.known_to_kernel():
        pytest.skip(f"{SKIP_PREFIX} {kind} in this kernel")


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[Mounts]:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.geteuid():
        pytest.skip(f"{SKIP_PREFIX} /dev/fuse, as root")
    found = Mounts(tmp_path)
    yield found
    found.clear()
    left = [one for one in mounted() if one.folder.startswith(str(tmp_path))]
    assert not left


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """The key file of the encrypted disks."""
    pytest.importorskip("cryptography", reason=f"{SKIP_PREFIX} cryptography")
    path = tmp_path / "key"
    path.write_bytes(KEY)
    return path
