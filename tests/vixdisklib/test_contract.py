# SPDX-License-Identifier: Apache-2.0
"""Versions, parameters, handles, codes, the configuration file: the rules between the calls."""

from __future__ import annotations

import errno
import logging
import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit import vixdisklib as vix
from diskkit.vixdisklib import config
from diskkit.vixdisklib.codes import NAMES, NUMBERS, TEXTS

from .conftest import SECTORS
from .test_disks import code

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Started

READ_ONLY = 4


@pytest.mark.parametrize(
    "version", [(1, 0), (1, 2), (5, 5), (6, 5), (6, 7), (7, 0), (8, 0), (9, 1)]
)
def test_versions_that_programs_ask_for(version: tuple[int, int]) -> None:
    vix.Init(*version, None, None, None, "/nowhere")
    vix.Exit()


@pytest.mark.parametrize("version", [(9, 2), (10, 0)])
def test_newer_versions_are_refused(version: tuple[int, int]) -> None:
    assert code(vix.Init, *version) == vix.VIX_E_NOT_SUPPORTED
    assert code(vix.Connect, None) == vix.VIX_E_DISK_NOINIT
    assert code(vix.Init, 0, 0) == vix.VIX_E_INVALID_ARG


def test_before_init_and_after_exit() -> None:
    for _ in range(2):
        vix.Exit()
        for call, words in (
            (vix.Connect, (None,)),
            (vix.Open, (1, "x", 0)),
            (vix.Close, (1,)),
            (vix.Close, (0,)),
            (vix.Read, (1, 0, 1, bytearray(512))),
            (vix.Rename, ("a", "b")),
            (vix.EndAccess, (None, "me")),
            (vix.Cleanup, (None,)),
            (vix.GetInfo, (1,)),
        ):
            assert code(call, *words) == vix.VIX_E_DISK_NOINIT
        params = vix.AllocateConnectParams()
        vix.FreeConnectParams(params)
        assert vix.GetErrorText(3)
        assert vix.ListTransportModes() == "file"
        vix.Init(6, 7)


def test_exit_closes_what_is_open(started: Started) -> None:
    path = started.create()
    handle = started.open()
    vix.Write(handle, 3, 1, b"e" * 512)
    vix.Exit()
    with diskkit.open_disk(path) as disk:
        assert disk.read(3 * 512, 512) == b"e" * 512
        assert disk.info.cid
    vix.Init(6, 7)
    assert code(vix.GetInfo, handle) == vix.VIX_E_DISK_INVAL


def test_disconnect_closes_what_is_open_on_it(started: Started) -> None:
    started.create()
    other = vix.Connect(None)
    handle = started.open()
    kept = vix.Open(other, started.create("e.vmdk"), 0)
    vix.Disconnect(started.connection)
    assert code(vix.GetInfo, handle) == vix.VIX_E_DISK_INVAL
    assert vix.GetInfo(kept).capacity == SECTORS
    assert code(vix.Disconnect, started.connection) == vix.VIX_E_DISK_INVALID_CONNECTION
    assert "still open" in started.warnings[0]


def test_wrong_handles(started: Started) -> None:
    path = started.create()
    handle = started.open()
    for bad in (0, None, 99, handle):
        assert code(vix.Open, bad, path, 0) == vix.VIX_E_DISK_INVALID_CONNECTION
        assert code(vix.Disconnect, bad) == vix.VIX_E_DISK_INVALID_CONNECTION
    for call, words in (
        (vix.Close, ()),
        (vix.GetInfo, ()),
        (vix.Read, (0, 1, bytearray(512))),
        (vix.Write, (0, 1, bytes(512))),
        (vix.Flush, ()),
        (vix.Wait, ()),
        (vix.GetTransportMode, ()),
        (vix.ReadMetadata, ("uuid",)),
        (vix.WriteMetadata, ("a", "b")),
        (vix.GetMetadataKeys, ()),
        (vix.QueryAllocatedBlocks, (0, 128, 128)),
        (vix.Shrink, ()),
        (vix.Defragment, ()),
        (vix.SpaceNeededForClone, (1,)),
        (vix.Attach, (handle,)),
        (vix.IsAttachPossible, (handle,)),
        (vix.CreateChild, (started.path("c.vmdk"), 1)),
        (vix.ReadAsync, (0, 1, bytearray(512), print)),
    ):
        assert code(call, 0, *words) == vix.VIX_E_INVALID_ARG
        assert code(call, None, *words) == vix.VIX_E_INVALID_ARG
        assert code(call, 4711, *words) == vix.VIX_E_DISK_INVAL
        assert code(call, started.connection, *words) == vix.VIX_E_DISK_INVAL
    vix.Close(handle)
    assert code(vix.Close, handle) == vix.VIX_E_DISK_INVAL


def test_null_arguments(started: Started) -> None:
    started.create()
    handle, of, wrong = started.open(), started.connection, vix.VIX_E_INVALID_ARG
    for call, words in (
        (vix.Open, (of, None, 0)),
        (vix.Open, (of, "", 0)),
        (vix.Create, (of, None, vix.CreateParams(capacity=8))),
        (vix.Create, (of, started.path("n.vmdk"), None)),
        (vix.CreateChild, (handle, None, 1)),
        (vix.Read, (handle, 0, 1, None)),
        (vix.Write, (handle, 0, 1, None)),
        (vix.ReadAsync, (handle, 0, 1, bytearray(512), None)),
        (vix.ReadMetadata, (handle, None)),
        (vix.WriteMetadata, (handle, None, "x")),
        (vix.Unlink, (of, None)),
        (vix.Rename, (None, "x")),
        (vix.Rename, (started.path("d.vmdk"), None)),
        (vix.Grow, (of, None, 8, False)),
        (vix.Clone, (of, None, of, "x")),
        (vix.Clone, (of, "x", of, None)),
        (vix.CheckRepair, (of, None, False)),
        (vix.PrepareForAccess, (None, None)),
        (vix.EndAccess, (None, "x" * 51)),
    ):
        assert code(call, *words) == wrong, call
    vix.FreeConnectParams(None)
    vix.FreeInfo(None)
    vix.FreeBlockList(None)
    vix.FreeErrorText(None)


def test_read_only_connection(started: Started) -> None:
    started.create()
    of = vix.ConnectEx(None, True, "", None)
    handle = vix.Open(of, started.path("d.vmdk"), 0)
    assert code(vix.Write, handle, 0, 1, bytes(512)) == vix.VIX_E_FILE_READ_ONLY


def test_transports(started: Started) -> None:
    for modes in (None, "", "file", "file:san:hotadd:nbdssl:nbd", "nbd"):
        vix.Disconnect(vix.ConnectEx(None, False, None, modes))
    assert code(vix.ConnectEx, None, False, None, "file:ftp") == vix.VIX_E_INVALID_ARG
    assert started.connection


def test_remote_is_said_to_be_missing(started: Started) -> None:
    for change in ({"serverName": "esx"}, {"specType": 1}, {"specType": 2}):
        params = vix.AllocateConnectParams()
        for name, value in change.items():
            setattr(params, name, value)
        for call in (vix.Connect, vix.ConnectEx, vix.Cleanup):
            with pytest.raises(vix.VixError, match="not supported yet") as caught:
                call(params)
            assert caught.value.code == vix.VIX_E_NOT_SUPPORTED
        for prepare in (vix.PrepareForAccess, vix.EndAccess):
            assert code(prepare, params, "me") == vix.VIX_E_NOT_SUPPORTED
    assert started.connection


def test_local_access_needs_no_preparation(started: Started) -> None:
    for params in (None, vix.AllocateConnectParams()):
        vix.PrepareForAccess(params, "me")
        vix.EndAccess(params, "me")
        assert vix.Cleanup(params) == (0, 0)
    assert not started.warnings


def query(connection: int, path: str) -> list[vix.Block]:
    handle = vix.Open(connection, path, READ_ONLY)
    try:
        return vix.QueryAllocatedBlocks(handle, 0, 128, 128)
    finally:
        vix.Close(handle)


def test_allocated_parameters_have_all_features(started: Started) -> None:
    path = started.create()
    params = vix.AllocateConnectParams()
    params.vmxSpec = "moref=x"
    of = vix.Connect(params)
    params.vmxSpec = None
    found = vix.GetConnectParams(of)
    assert found.vmxSpec == "moref=x"
    assert query(of, path) == []
    assert query(vix.Connect(found), path) == []
    assert query(started.connection, path) == []
    vix.FreeConnectParams(params)
    assert code(vix.Connect, params) == vix.VIX_E_INVALID_ARG
    assert not started.warnings
    assert vix.GetConnectParams(started.connection).serverName is None


def test_own_parameters_work_as_before_with_one_warning(started: Started) -> None:
    path = started.create()
    params = vix.ConnectParams()
    with pytest.warns(DeprecationWarning, match="AllocateConnectParams") as seen:
        of, _ = (vix.Connect(params) for _ in range(2))
    assert len(seen) == 1
    assert Path(seen[0].filename).name == "test_contract.py"
    assert len(started.warnings) == 1
    assert "AllocateConnectParams" in started.warnings[0]
    with pytest.raises(vix.VixError, match="AllocateConnectParams") as caught:
        query(of, path)
    assert caught.value.code == vix.VIX_E_NOT_SUPPORTED
    handle = vix.Open(of, path, 0)
    vix.Write(handle, 0, 1, b"o" * 512)
    vix.Close(handle)
    first_class = vix.ConnectParams(specType=1)
    with (
        pytest.warns(DeprecationWarning, match="first-class"),
        pytest.raises(vix.VixError, match=r"first-class disk was asked for.*AllocateConnect"),
    ):
        vix.Connect(first_class)
    vix.FreeConnectParams(params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vix.Connect(params)


def test_configuration_lifts_that(started: Started) -> None:
    path = started.create()
    vix.Exit()
    file = started.folder / "conf"
    file.write_text("DISKKIT.connectparams.allowOld = 1\n")
    said: list[str] = []
    vix.InitEx(6, 7, said.append, said.append, None, None, str(file))
    assert query(vix.Connect(vix.ConnectParams()), path) == []
    assert not any("deprecated" in text for text in said)


def test_configuration_file(started: Started) -> None:
    vix.Exit()
    file, log = started.folder / "conf", started.folder / "log"
    file.write_text(
        "# comment\n\n"
        f'log.fileName="{log}" # where\n'
        "vixdisklib.NFC.LogLevel = 4\n"
        "tmpDirectory=/tmp/x\n"
        "unknown.key = 3\n"
        "no equals sign\n"
        "vixDiskLib.transport.LogLevel = 9\n"
        "diskkit.connectParams.allowOld=2\n"
        "diskkit.open.allow=relative:/\n"
    )
    vix.InitEx(6, 7, configFile=str(file))
    lines = log.read_text().splitlines()
    told = [n for n in range(1, 11) if any(f"line {n}: " in line for line in lines)]
    assert told == [4, 5, 7, 8, 9, 10]
    assert any("line 4: vixdisklib.NFC.LogLevel has no effect" in line for line in lines)
    assert lines[-1].startswith("INFO diskkit speaks VixDiskLib 6.7")


def test_log_level_and_folders(started: Started) -> None:
    started.create()
    (started.folder / "away").mkdir()
    handle = started.open(flags=READ_ONLY)
    vix.CreateChild(handle, started.path("away/c.vmdk"), 1)
    vix.Close(handle)
    path = started.path("away/c.vmdk")
    assert code(vix.Open, started.connection, path, READ_ONLY) == vix.VIX_E_DISK_OPENPARENT
    vix.Exit()
    file = started.folder / "conf"
    file.write_text(f"diskkit.open.allow={started.folder}\nvixDiskLib.transport.LogLevel=3\n")
    said: list[str] = []
    vix.InitEx(6, 7, said.append, said.append, None, None, str(file))
    of = vix.Connect(None)
    vix.Close(vix.Open(of, path, READ_ONLY))
    assert said == []


def test_configuration_that_cannot_be_read(tmp_path: Path) -> None:
    vix.Exit()

    def start(path: Path) -> None:
        vix.InitEx(6, 7, configFile=str(path))

    assert code(start, tmp_path / "none") == vix.VIX_E_FILE_NOT_FOUND
    (tmp_path / "bytes").write_bytes(b"a=\xff\n")
    assert code(start, tmp_path / "bytes") == vix.VIX_E_INVALID_UTF8_STRING
    (tmp_path / "large").write_bytes(b"#" * (1 << 20) + b"\n")
    assert code(start, tmp_path / "large") == vix.VIX_E_ARGUMENT_TOO_BIG
    assert code(vix.Connect, None) == vix.VIX_E_DISK_NOINIT


def test_without_callbacks_lines_go_to_the_logger(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "diskkit.vixdisklib")
    vix.Init(6, 7)
    vix.Init(6, 7)
    vix.Exit()
    assert "Init was called again" in caplog.text
    assert not list(tmp_path.iterdir())


def test_every_code_has_its_text() -> None:
    assert len(TEXTS) == len(NAMES) == len(NUMBERS) == 267
    assert len(set(TEXTS.values())) == 267
    for number, text in TEXTS.items():
        assert vix.GetErrorText(number) == vix.GetErrorText(number | 7 << 16, "en") == text
        assert re.fullmatch(r"[A-Z].*\.", text)
        assert getattr(vix, NAMES[number]) == number
    assert vix.GetErrorText(28) == vix.GetErrorText(65535) != ""
    with pytest.raises(AttributeError):
        _ = vix.VIX_E_NOTHING


def test_codes_of_files(started: Started) -> None:
    of = started.connection

    def opened(name: str) -> int:
        return code(vix.Open, of, started.path(name), READ_ONLY)

    assert opened("none.vmdk") == vix.VIX_E_FILE_NOT_FOUND
    (started.folder / "x.vmdk").write_bytes(b"nothing of ours" * 100)
    assert opened("x.vmdk") == vix.VIX_E_DISK_INVALIDDISK
    (started.folder / "y.raw").write_bytes(bytes(4096))
    assert opened("y.raw") == vix.VIX_E_DISK_INVALIDDISK
    started.create("flat.vmdk", 2)
    assert opened("flat-flat.vmdk") == vix.VIX_E_DISK_INVALIDDISK
    text = (started.folder / "flat.vmdk").read_text()
    (started.folder / "bad.vmdk").write_text(text.replace("version=1", "version=77"))
    assert opened("bad.vmdk") == vix.VIX_E_DISK_UNSUPPORTEDDISKVERSION
    (started.folder / "bad.vmdk").write_text(re.sub("CID=.*", "CID=xyz", text, count=1))
    assert opened("bad.vmdk") == vix.VIX_E_INVALID_XML
    (started.folder / "flat-flat.vmdk").unlink()
    assert opened("flat.vmdk") == vix.VIX_E_FILE_NOT_FOUND
    started.create("locked.vmdk")
    with diskkit.open_disk(started.path("locked.vmdk"), writable=True):
        assert opened("locked.vmdk") == vix.VIX_E_FILE_ALREADY_LOCKED


def test_codes_of_chains(started: Started) -> None:
    started.filled()
    base = started.open(flags=READ_ONLY)
    vix.CreateChild(base, started.path("c.vmdk"), 1)
    vix.Close(base)
    with diskkit.open_disk(started.path("d.vmdk"), writable=True, force=True) as disk:
        disk.write(0, b"changed")
    of, child = started.connection, started.path("c.vmdk")
    assert code(vix.Open, of, child, READ_ONLY) == vix.VIX_E_DISK_CID_MISMATCH
    Path(started.path("d.vmdk")).unlink()
    assert code(vix.Open, of, child, READ_ONLY) == vix.VIX_E_DISK_OPENPARENT


def test_cut_file(started: Started) -> None:
    started.create(kind=2)
    handle = started.open(flags=READ_ONLY)
    os.truncate(started.path("d-flat.vmdk"), 4096)
    read = code(vix.Read, handle, SECTORS - 1, 1, bytearray(512))
    assert read == vix.VIX_E_HOST_FILE_ERROR_EOF
    opened = code(vix.Open, started.connection, started.path("d.vmdk"), READ_ONLY)
    assert opened == vix.VIX_E_HOST_FILE_ERROR_EOF


def poked(started: Started, at: int, value: bytes) -> str:
    path = started.folder / "d.vmdk"
    raw = bytearray(path.read_bytes())
    raw[at : at + len(value)] = value
    path.write_bytes(raw)
    return str(path)


def test_codes_of_damage(started: Started) -> None:
    started.filled()
    path = started.path("d.vmdk")
    raw = Path(path).read_bytes()
    tables = [int.from_bytes(raw[at : at + 8], "little") * 512 for at in (48, 56)]
    for at in tables:
        poked(started, at, b"\xff\xff\xff\x7f")
    handle = started.open(flags=READ_ONLY)
    assert code(vix.Read, handle, 0, 1, bytearray(512)) == vix.VIX_E_DISK_NEEDSREPAIR
    vix.Close(handle)
    poked(started, 20, b"\x07")
    opened = code(vix.Open, started.connection, path, READ_ONLY)
    assert opened == vix.VIX_E_INCORRECT_FILE_TYPE


@pytest.mark.parametrize(
    ("header", "extent", "name"),
    [
        ('encryptionKeys="vmware:key/list/(pair)"', "FLAT", "DISK_NEEDKEY"),
        ("", "VMFSRDM", "DISK_NOTSUPPORTED"),
    ],
)
def test_codes_of_what_cannot_be_had(started: Started, header: str, extent: str, name: str) -> None:
    """What such a disk is can still be asked; its data is never zeros, and never OK."""
    (started.folder / "x-flat.vmdk").write_bytes(bytes(65536))
    (started.folder / "d.vmdk").write_text(
        f"# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n{header}\n"
        f'createType="{"monolithicFlat" if extent == "FLAT" else "vmfsRawDeviceMap"}"\n'
        f'RW 128 {extent} "x-flat.vmdk"{" 0" if extent == "FLAT" else ""}\n'
    )
    handle = started.open(flags=READ_ONLY)
    assert vix.GetInfo(handle).capacity == 128
    assert code(vix.Read, handle, 0, 1, bytearray(512)) == NUMBERS[f"VIX_E_{name}"]
    vix.Close(handle)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (errno.ENOENT, "FILE_NOT_FOUND"),
        (errno.EACCES, "FILE_ACCESS_ERROR"),
        (errno.EROFS, "FILE_READ_ONLY"),
        (errno.ENOSPC, "DISK_FULL"),
        (errno.EFBIG, "FILE_TOO_BIG"),
        (errno.EMFILE, "DISK_TOOMANYOPENFILES"),
        (errno.EBUSY, "FILE_ALREADY_LOCKED"),
        (errno.EIO, "FILE_ERROR"),
    ],
)
def test_codes_of_the_system(
    started: Started, monkeypatch: pytest.MonkeyPatch, number: int, name: str
) -> None:
    started.create(kind=2)
    handle = started.open()

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        assert code(vix.Write, handle, 0, 1, b"x" * 512) == NUMBERS[f"VIX_E_{name}"]


def test_page_names_every_function_and_key() -> None:
    page = (Path(__file__).parents[2] / "docs" / "vixdisklib.md").read_text(encoding="utf-8")
    table = page.partition("## Every function")[2].partition("## ")[0]
    first = " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    assert sorted(re.findall(r"`(\w+)`", first)) == sorted(f.__name__ for f in vix.FUNCTIONS)
    for key in (config.LOG_FILE, config.LOG_LEVEL, config.OLD_PARAMS, config.ALLOW):
        assert f"| `{key}` |" in page


def test_progress_callbacks_do_not_wait_for_themselves(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    started.filled()
    handle = started.open()
    found: list[int] = []

    def ask(percent: int) -> None:
        if percent == 50:
            found.extend(code(call, handle) for call in (vix.GetInfo, vix.Defragment, vix.Flush))

    def half(*_: object, progress: Callable[[int, int], None], **__: object) -> None:
        progress(1, 2)

    with monkeypatch.context() as patch:
        patch.setattr("diskkit.vixdisklib.upkeep.shrink", half)
        vix.Shrink(handle, ask)
    assert found == [vix.VIX_E_OBJECT_IS_BUSY] * 3
    assert vix.GetInfo(handle).capacity == SECTORS
