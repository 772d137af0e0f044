# SPDX-License-Identifier: Apache-2.0
"""Both libraries started, ended after each test, and nothing left mounted."""

from __future__ import annotations

import os
import subprocess
import tempfile
from typing import TYPE_CHECKING

import pytest

from diskkit import vixdisklib as vix
from diskkit import vixmntapi as mnt
from diskkit.fuse import mounting
from fuse.conftest import mounts as mounts
from fuse.conftest import require_driver
from makers.peers import SKIP_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Started:
    """Init was called, and there is a local connection."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.warnings: list[str] = []
        vix.Init(6, 7, self.log.append, self.warnings.append)
        self.connection = vix.Connect(None)
        mnt.Init(1, 0)

    def open(self, *names: Path, flags: int = 0) -> tuple[int, list[int]]:
        """A disk set, and its volumes."""
        found = mnt.OpenDisks(self.connection, [str(name) for name in names], flags)
        return found, mnt.GetVolumeHandles(found)


def code(function: Callable[..., object], *arguments: object) -> int:
    """What a call that must fail fails with."""
    with pytest.raises(vix.VixError) as caught:
        function(*arguments)
    return caught.value.code


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.geteuid():
        pytest.skip(f"{SKIP_PREFIX} /dev/fuse, as root")
    folders = tmp_path / "mounts"
    folders.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folders))
    found = Started()
    try:
        yield found
    finally:
        # What hangs here would hang the whole run: first out of the file tree, then in order.
        for row in mounting.rows():
            if row.folder.startswith(str(tmp_path)):
                subprocess.run(["umount", "-l", row.folder], capture_output=True, check=False)
        mnt.Exit()
        vix.Exit()
    assert not list(folders.iterdir())


@pytest.fixture
def by_kernel(started: Started) -> Callable[[str], None]:
    """`require_driver`, once it is known that there is FUSE."""
    return require_driver
