# SPDX-License-Identifier: Apache-2.0
"""Which code a C program gets for which trouble, with real files (vddk-api, 1.10)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from diskkit import vixdisklib as vix
from makers.hosted import hosted_sparse
from makers.peers import requires
from makers.text import descriptor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .conftest import Native

PROGRAM = Path(__file__).parent / "programs" / "drive.c"
READ_ONLY, SINGLE = 4, 2


class Answer(NamedTuple):
    code: int
    text: str


class Drive:
    """Runs lists of calls in one C program."""

    def __init__(self, native: Native, folder: Path) -> None:
        self.program = native.compile(PROGRAM)
        self.folder = folder

    def run(self, *lines: str, prefix: Sequence[str] = ()) -> list[Answer]:
        done = subprocess.run(
            [*prefix, str(self.program)],
            input="".join(line + "\n" for line in lines),
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, (done.stdout, done.stderr)
        answers = [line.split(" ", 1) for line in done.stdout.splitlines()]
        assert len(answers) == len(lines), done.stdout
        return [Answer(int(code), text) for code, text in answers]

    def codes(self, *lines: str, prefix: Sequence[str] = ()) -> list[int]:
        return [answer.code for answer in self.run(*lines, prefix=prefix)]


@pytest.fixture
def drive(native: Native, tmp_path: Path) -> Drive:
    return Drive(native, tmp_path)


def without_override() -> list[str]:
    """A prefix with which root is stopped by the modes of files, too."""
    if os.geteuid() != 0:
        return []
    return [requires("setpriv"), "--bounding-set=-dac_override,-dac_read_search"]


def on_tmpfs(folder: Path, options: str, after: str = ":") -> list[str]:
    """A prefix that runs a command in `folder`, which is a small filesystem of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a filesystem for this")
    prefix = [requires("unshare"), "--mount", "sh", "-ec"]
    script = f'mount -t tmpfs -o {options} none "$0"; cd "$0"; {after}; exec "$@"'
    if subprocess.run([*prefix, script, folder, "true"], capture_output=True).returncode:
        pytest.skip("no filesystem can be mounted here")
    return [*prefix, script, str(folder)]


def test_missing_files(drive: Drive) -> None:
    missing = [vix.VIX_E_FILE_NOT_FOUND]
    calls: tuple[str, ...] = (
        "open x.vmdk",
        "unlink x.vmdk",
        "rename x.vmdk y.vmdk",
        "check x.vmdk 0",
    )
    calls += ("grow x.vmdk 4096", "clone x.vmdk y.vmdk 1", "create no/x.vmdk 1 128")
    answers = drive.run(*calls, "create d.vmdk 2 128", "open d.vmdk/x.vmdk")
    assert [a.code for a in answers] == missing * 7 + [0] + missing
    assert "x.vmdk" in answers[0].text


def test_extent_that_is_missing(drive: Drive) -> None:
    drive.run("create d.vmdk 2 128")
    (drive.folder / "d-flat.vmdk").unlink()
    (answer,) = drive.run("open d.vmdk")
    assert answer.code == vix.VIX_E_FILE_NOT_FOUND
    assert "d-flat.vmdk" in answer.text


def test_no_rights(drive: Drive) -> None:
    drive.run("create d.vmdk 1 128", "create e.vmdk 1 128")
    (drive.folder / "d.vmdk").chmod(0)
    (drive.folder / "e.vmdk").chmod(0o444)
    locked = drive.folder / "locked"
    locked.mkdir(mode=0o555)
    calls: tuple[str, ...] = (
        "open d.vmdk 4",
        "open d.vmdk",
        "open e.vmdk",
        "check d.vmdk 0",
        "open e.vmdk 4",
    )
    calls += ("create locked/x.vmdk 1 128", "clone e.vmdk locked/x.vmdk 1")
    calls += ("rename e.vmdk locked/e.vmdk",)
    access = vix.VIX_E_FILE_ACCESS_ERROR
    found = drive.codes(*calls, prefix=without_override())
    assert found == [access] * 4 + [0] + [access] * 3
    assert (drive.folder / "e.vmdk").exists()
    locked.chmod(0o755)


def test_read_only_filesystem(drive: Drive) -> None:
    drive.run("create keep.vmdk 1 128")
    mounted = drive.folder / "m"
    mounted.mkdir()
    prefix = on_tmpfs(mounted, "size=1m", 'cp ../keep.vmdk d.vmdk; mount -o remount,ro "$0"')
    found = drive.codes(
        "open d.vmdk 4",
        "close",
        "create x.vmdk 1 128",
        "unlink d.vmdk",
        "rename d.vmdk e.vmdk",
        "clone d.vmdk e.vmdk 1",
        "open d.vmdk",
        prefix=prefix,
    )
    assert found == [0, 0] + [vix.VIX_E_FILE_READ_ONLY] * 5


def test_full_filesystem(drive: Drive) -> None:
    mounted = drive.folder / "m"
    mounted.mkdir()
    found = drive.codes(
        "create big.vmdk 1 8192",
        "open big.vmdk",
        "write 0 1024",
        "write 1024 2048",  # 512 KiB are there, 1 MiB more do not fit
        "read 0 1024",
        "close",
        "clone big.vmdk copy.vmdk 1",
        "open big.vmdk 4",
        "read 1023 1",
        prefix=on_tmpfs(mounted, "size=900k"),
    )
    full = vix.VIX_E_DISK_FULL
    assert found == [0, 0, 0, full, 0, 0, full, 0, 0]


def test_names_that_exist(drive: Drive) -> None:
    found = drive.codes(
        "create d.vmdk 1 128",
        "create e.vmdk 1 128",
        "create d.vmdk 1 128",
        "create d.vmdk 2 128",
        "rename d.vmdk e.vmdk",
        "clone d.vmdk e.vmdk 1",
        "open d.vmdk 4",
        "child e.vmdk",
    )
    exists = vix.VIX_E_FILE_ALREADY_EXISTS
    assert found == [0, 0, *[exists] * 4, 0, exists]


def test_file_that_grows_too_large(drive: Drive) -> None:
    found = drive.codes(
        "create d.vmdk 1 65536",
        "open d.vmdk",
        "write 0 128",
        "size 1048576",
        "write 1024 2048",
        "read 0 128",
    )
    assert found == [0, 0, 0, 0, vix.VIX_E_FILE_TOO_BIG, 0]


def test_too_many_open_files(drive: Drive) -> None:
    opens = ["open d.vmdk 4"] * 40
    answers = drive.run("create d.vmdk 3 128", "files 32", *opens)
    codes = [a.code for a in answers[2:]]
    many = vix.VIX_E_DISK_TOOMANYOPENFILES
    assert codes == sorted(codes)
    assert set(codes) == {0, many}
    assert "too many open files" in answers[-1].text.lower()


@pytest.mark.parametrize("kind", [1, 2])
def test_disk_in_use(drive: Drive, kind: int) -> None:
    busy = vix.VIX_E_FILE_ALREADY_LOCKED
    found = drive.codes(
        f"create d.vmdk {kind} 4096",
        "open d.vmdk",
        "open d.vmdk",
        "open d.vmdk 4",
        "unlink d.vmdk",
        "rename d.vmdk e.vmdk",
        "grow d.vmdk 8192",
    )
    assert found == [0, 0] + [busy] * 5


def test_disk_in_use_by_another_program(drive: Drive) -> None:
    drive.run("create d.vmdk 1 4096")
    path = drive.folder / "d.vmdk"
    with subprocess.Popen(
        [requires("qemu-io"), "-f", "vmdk", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        try:
            other.stdin.write(b"write 0 512\n")
            other.stdin.flush()
            other.stdout.readline()
            (answer,) = drive.run("open d.vmdk")
        finally:
            other.stdin.write(b"quit\n")
            other.stdin.close()
            other.wait(timeout=30)
    assert answer.code == vix.VIX_E_FILE_ALREADY_LOCKED


def test_what_is_no_vmdk(drive: Drive) -> None:
    (drive.folder / "text").write_text("not a disk\n" * 1000)
    (drive.folder / "empty").write_bytes(b"")
    (drive.folder / "noise").write_bytes(bytes(range(256)) * 64)
    (drive.folder / "folder").mkdir()
    found = drive.codes("open text", "open empty", "open noise", "check text 0", "open folder")
    assert found == [vix.VIX_E_DISK_INVALIDDISK] * 4 + [vix.VIX_E_NOT_A_FILE]


def poked(drive: Drive, name: str, at: int, value: bytes) -> None:
    path = drive.folder / name
    raw = bytearray(path.read_bytes())
    raw[at : at + len(value)] = value
    path.write_bytes(raw)


def test_damaged_disks(drive: Drive) -> None:
    drive.run(*(f"create {name}.vmdk 1 4096" for name in ("version", "grain", "text", "zeros")))
    poked(drive, "version.vmdk", 4, b"\x63\0\0\0")
    poked(drive, "grain.vmdk", 20, b"\x07" + bytes(7))
    poked(drive, "text.vmdk", 512, b"# Disk DescriptorFile\nversion=1\nCID=oops\n\0")
    answers = drive.run("open version.vmdk", "open grain.vmdk", "open text.vmdk")
    assert [a.code for a in answers] == [
        vix.VIX_E_DISK_UNSUPPORTEDDISKVERSION,
        vix.VIX_E_INCORRECT_FILE_TYPE,
        vix.VIX_E_INVALID_XML,
    ]
    assert "grainSize" in answers[1].text
    assert "CID" in answers[2].text


def test_encrypted_and_unsupported_disks(drive: Drive) -> None:
    lines = ['RW 128 FLAT "x-flat.vmdk" 0']
    (drive.folder / "x-flat.vmdk").write_bytes(bytes(65536))
    (drive.folder / "locked.vmdk").write_text(
        descriptor("monolithicFlat", lines, header=['encryptionKeys="vmware:key/list/(pair)"'])
    )
    (drive.folder / "raw.vmdk").write_text(
        descriptor("vmfsRawDeviceMap", ['RW 128 VMFSRDM "x-flat.vmdk"'])
    )
    found = drive.codes("open locked.vmdk 4", "read 0 1", "open raw.vmdk 4", "read 0 1")
    assert found == [0, vix.VIX_E_DISK_NEEDKEY, 0, vix.VIX_E_DISK_NOTSUPPORTED]


def test_damaged_tables(drive: Drive) -> None:
    hosted_sparse(drive.folder / "d.vmdk", 4096, {0: b"a" * 65536})
    raw = (drive.folder / "d.vmdk").read_bytes()
    for at in (48, 56):  # both copies of the directory point far away
        directory = int.from_bytes(raw[at : at + 8], "little") * 512
        poked(drive, "d.vmdk", directory, b"\xff\xff\xff\x7f")
    answers = drive.run("open d.vmdk 4", "read 0 1", "check d.vmdk 0")
    assert [a.code for a in answers][1:] == [vix.VIX_E_DISK_NEEDSREPAIR] * 2
    assert answers[0].code == 0  # what is not damaged can be read


def test_ranges_and_cut_files(drive: Drive) -> None:
    drive.run("create d.vmdk 2 4096", "create e.vmdk 2 4096")
    os.truncate(drive.folder / "e-flat.vmdk", 1024 * 512)
    answers = drive.run("open d.vmdk 4", "read 4096 1", "read 4095 2", "write 0 1", "open e.vmdk 4")
    outside, cut = vix.VIX_E_DISK_OUTOFRANGE, vix.VIX_E_HOST_FILE_ERROR_EOF
    assert [a.code for a in answers] == [0, outside, outside, vix.VIX_E_FILE_READ_ONLY, cut]
    assert "e-flat.vmdk" in answers[4].text


def test_broken_chains(drive: Drive) -> None:
    drive.run("create d.vmdk 1 128", "open d.vmdk 4", "child c.vmdk")
    (drive.folder / "d.vmdk").rename(drive.folder / "gone.vmdk")
    answers = drive.run("open c.vmdk 4", "open c.vmdk 6")
    assert [a.code for a in answers] == [vix.VIX_E_DISK_OPENPARENT, 0]
    assert "d.vmdk" in answers[0].text
    (drive.folder / "gone.vmdk").rename(drive.folder / "d.vmdk")
    poked_cid = (drive.folder / "d.vmdk").read_bytes().index(b"\nCID=") + 5
    poked(drive, "d.vmdk", poked_cid, b"0badbeef")
    assert drive.codes("open c.vmdk 4") == [vix.VIX_E_DISK_CID_MISMATCH]
