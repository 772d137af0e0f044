# SPDX-License-Identifier: Apache-2.0
"""Other users, other machines: who gets in, what is kept, what is said."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import diskkit as dk
from diskkit.errors import StorageError
from diskkit.fuse import mounting
from fuse.conftest import TIMEOUT, diskkit
from fuse.test_mount import partitioned
from nbd.serving import serving, uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fuse.conftest import Mounts

NOBODY = 65534


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody can reach."""
    path = Path(tempfile.mkdtemp(prefix="diskkit-test-"))
    path.chmod(0o755)
    yield path
    subprocess.run(["umount", "-l", path], capture_output=True, check=False)
    path.rmdir()


def as_nobody(*words: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        words, capture_output=True, timeout=TIMEOUT, check=False, user=NOBODY, group=NOBODY
    )


def test_others_come_in_only_if_allowed_and_only_where_modes_let_them(
    mounts: Mounts, public: Path, tmp_path: Path
) -> None:
    path, source = partitioned(tmp_path)
    assert diskkit("mount", path, public).returncode == 0
    assert as_nobody("ls", public).returncode != 0
    assert diskkit("umount", public).returncode == 0
    assert diskkit("mount", path, public, "--allow-other").returncode == 0
    try:
        inside = public / "files" / "p2"
        with dk.open_disk(path) as disk:
            assert as_nobody("head", "-c", "4096", public / "flat").stdout == disk.read(0, 4096)
        assert as_nobody("cat", inside / "hello.txt").stdout == (source / "hello.txt").read_bytes()
        refused = as_nobody("cat", inside / "secret")
        assert b"Permission denied" in refused.stderr
        assert (inside / "secret").read_bytes() == (source / "secret").read_bytes()
        row = next(row for row in mounting.rows() if row.folder == str(public))
        assert {"nosuid", "nodev"} <= set(row.options.split(","))
    finally:
        assert diskkit("umount", public).returncode == 0


def test_a_device_that_only_root_may_use_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "open", refuse)
    if not Path("/dev/fuse").exists():
        pytest.skip("no /dev/fuse here")
    with pytest.raises(StorageError, match=r"^/dev/fuse: no permission: its mode is 0\d\d\d, "):
        mounting.mount("disk", str(tmp_path), read_only=True, allow_other=False)


def test_an_export_of_another_machine(mounts: Mounts, tmp_path: Path) -> None:
    path, source = partitioned(tmp_path)
    with dk.open_disk(path) as disk, serving({"": disk}) as socket:
        folder, process = mounts.mount(uri(socket), "--overlay", tmp_path / "over")
        try:
            with (folder / "flat").open("r+b") as file:
                # Kept in a block that is then changed.
                assert os.pread(file.fileno(), 10, 5000) == disk.read(5000, 10)
                os.pwrite(file.fileno(), b"change", 5001)
            copy = tmp_path / "copy"
            shutil.copyfile(folder / "flat", copy)
            changed = bytearray(disk.read(0, disk.size))
            changed[5001:5007] = b"change"
            assert copy.read_bytes() == changed
            hello = folder / "files" / "p2" / "hello.txt"
            assert hello.read_bytes() == (source / "hello.txt").read_bytes()
        finally:
            assert mounts.end(process) == (0, "")
