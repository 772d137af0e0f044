# SPDX-License-Identifier: Apache-2.0
"""A mount that is served by threads of the very process that has files in it open."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import diskkit
from makers.peers import SKIP_PREFIX

if TYPE_CHECKING:
    from pathlib import Path

HOST = """
import os, subprocess, sys
import diskkit
from diskkit.fuse import mounting
from diskkit.fuse.session import Session
from diskkit.fuse.tree import DiskTree

disk = diskkit.open_disk(sys.argv[1])
tree = DiskTree([disk], [], uid=0, gid=0)
session = Session(mounting.mount(disk.path, sys.argv[2], read_only=True, allow_other=False), tree)
session.start()
with open(sys.argv[2] + "/flat", "rb", buffering=0) as held:
    os.set_inheritable(held.fileno(), sys.argv[3] == "inherited")
    # The child closes what it has not to inherit while this process holds Python's lock.
    for _ in range(20):
        subprocess.run(["/bin/true"], check=True, close_fds=True)
    assert len(held.read(512)) == 512
mounting.unmount(sys.argv[2])
session.join()
session.close()
disk.close()
print("well")
"""


@pytest.mark.parametrize("how", ["inherited", "not inherited"])
def test_starting_programs_while_files_are_open(tmp_path: Path, how: str) -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.geteuid():
        pytest.skip(f"{SKIP_PREFIX} /dev/fuse, as root")
    folder = tmp_path / "mount"
    folder.mkdir()
    diskkit.create_disk(tmp_path / "disk.vmdk", 1 << 20, "monolithicSparse")
    words = [sys.executable, "-c", HOST, str(tmp_path / "disk.vmdk"), str(folder), how]
    host = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        out, _ = host.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        # Out of the file tree first: who waits for an answer cannot be killed.
        subprocess.run(["umount", "-f", str(folder)], capture_output=True, check=False)
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
        host.kill()
        host.communicate()
        pytest.fail("it hangs")
    assert (out, host.returncode) == ("well\n", 0)
