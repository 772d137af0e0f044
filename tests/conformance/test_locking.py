# SPDX-License-Identifier: Apache-2.0
"""Writers meet nobody; readers meet readers; the dead leave nothing; qemu's programs agree."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from diskkit.errors import LockedError
from diskkit.interfaces import OpenPolicy
from diskkit.storage.local import open_file


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(65536))
    return os.fspath(path)


def test_readers_go_together(file: str) -> None:
    one, two = open_file(file), open_file(file)
    assert one.read(0, 512) == two.read(0, 512)


@pytest.mark.parametrize(("first", "second"), [(True, True), (True, False), (False, True)])
def test_a_writer_goes_with_nobody(file: str, first: bool, second: bool) -> None:
    one = open_file(file, write=first)
    with pytest.raises(LockedError):
        open_file(file, write=second)
    one.close()
    open_file(file, write=second).close()


def test_a_reader_may_ask_to_ignore_locks(file: str) -> None:
    writer = open_file(file, write=True)
    reader = open_file(file, OpenPolicy(ignore_locks=True))
    assert reader.read(0, 512) == writer.read(0, 512)
    with pytest.raises(LockedError):
        open_file(file, OpenPolicy(ignore_locks=True), write=True)


def test_a_process_that_was_killed_leaves_no_lock(file: str) -> None:
    text = (
        "import sys; from diskkit.storage.local import open_file;"
        "f = open_file(sys.argv[1], write=True); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", text, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(LockedError):
            open_file(file)
        other.send_signal(signal.SIGKILL)
        other.wait()
    open_file(file, write=True).close()


def test_the_lock_folder_of_a_product_keeps_writers_out(file: str) -> None:
    folder = Path(file + ".lck")
    folder.mkdir()
    open_file(file, write=True).close()
    (folder / "M12345.lck").touch()
    open_file(file).close()
    with pytest.raises(LockedError, match="remove that folder"):
        open_file(file, write=True)


def _qemu_io(file: str, command: str, *flags: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("qemu-io") is None:
        pytest.skip("peer not installed: qemu-io")
    line = ["qemu-io", "-f", "raw", *flags, "-c", command, file]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_qemu_sees_our_locks(file: str) -> None:
    reader = open_file(file)
    assert _qemu_io(file, "read 0 512", "-r").returncode == 0
    assert "lock" in _qemu_io(file, "write 0 512").stderr
    reader.close()
    writer = open_file(file, write=True)
    assert "lock" in _qemu_io(file, "read 0 512", "-r").stderr
    writer.close()
    assert _qemu_io(file, "write 0 512").returncode == 0


def test_we_see_the_locks_of_qemu(file: str) -> None:
    if shutil.which("qemu-io") is None:
        pytest.skip("peer not installed: qemu-io")
    with subprocess.Popen(
        ["qemu-io", "-f", "raw", file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as qemu:
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        qemu.stdin.write("write 0 512\n")
        qemu.stdin.flush()
        while "wrote" not in qemu.stdout.readline():
            pass
        for write in (False, True):
            with pytest.raises(LockedError):
                open_file(file, write=write)
        qemu.stdin.write("quit\n")
