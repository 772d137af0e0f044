# SPDX-License-Identifier: Apache-2.0
"""Metadata: read with the parents', written all at once, the content left alone."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.cli import main
from diskkit.errors import LockedError, UsageError
from makers import stream

from .images import child, sparse

if TYPE_CHECKING:
    from pathlib import Path


def test_child_repeats_what_its_parent_says(tmp_path: Path) -> None:
    made = child(tmp_path, sparse(tmp_path))
    diskkit.write_metadata(tmp_path / "base.vmdk", {"toolsVersion": "1", "adapterType": "ide"})
    diskkit.write_metadata(made.path, {"ADAPTERTYPE": "buslogic", "uuid": ""})
    found = diskkit.read_metadata(made.path)
    assert (found["toolsVersion"], found["adapterType"], found["uuid"]) == ("1", "buslogic", "")
    assert diskkit.read_metadata(tmp_path / "base.vmdk")["adapterType"] == "ide"


def test_writing_keeps_content_id_and_content(tmp_path: Path) -> None:
    made = child(tmp_path, sparse(tmp_path))
    for name in ("base.vmdk", "child.vmdk"):
        diskkit.write_metadata(tmp_path / name, {"comment": "x" * 800, "other": "y"})
    with diskkit.open_disk(made.path) as disk:
        assert disk.read(0, disk.size) == made.content
        assert disk.info.cid == "00000002"
    assert diskkit.check(made.path).ok


@pytest.mark.parametrize("values", [{"a": "1", "b": 'x"'}, {"a": "1", "b c": ""}, {"a": "\n"}])
def test_all_keys_or_none(tmp_path: Path, values: dict[str, str]) -> None:
    made = sparse(tmp_path)
    before = made.path.read_bytes()
    with pytest.raises(UsageError):
        diskkit.write_metadata(made.path, values)
    assert made.path.read_bytes() == before


def test_disks_without_writable_metadata(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(512))
    with pytest.raises(UsageError, match="no metadata"):
        diskkit.read_metadata(tmp_path / "a.raw")
    with pytest.raises(UsageError, match="no metadata"):
        diskkit.write_metadata(tmp_path / "a.raw", {"a": "b"})
    stream(tmp_path / "s.vmdk", 128, {})
    assert diskkit.read_metadata(tmp_path / "s.vmdk")["adapterType"] == "lsilogic"
    with pytest.raises(UsageError, match="written once"):
        diskkit.write_metadata(tmp_path / "s.vmdk", {"a": "b"})


def test_disk_in_use_is_locked(tmp_path: Path) -> None:
    made = sparse(tmp_path)
    with diskkit.open_disk(made.path), pytest.raises(LockedError):
        diskkit.write_metadata(made.path, {"a": "b"})


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(["meta", *words])
    out, err = capsys.readouterr()
    return status, out, err


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk = os.fspath(sparse(tmp_path).path)
    status, out, _ = run(capsys, disk, "--json")
    assert status == 0
    before = json.loads(out)
    assert before["adapterType"] == "lsilogic"
    assert run(capsys, disk, "ddb.adaptertype=ide", "note=a=b", "e=")[0] == 0
    after = json.loads(run(capsys, disk, "--json")[1])
    assert after == before | {"adapterType": "ide", "note": "a=b", "e": ""}
    assert run(capsys, disk, "NOTE")[1] == "a=b\n"
    assert run(capsys, disk, "note", "adapterType")[1] == "note = a=b\nadapterType = ide\n"
    assert "virtualHWVersion = 7\n" in run(capsys, disk)[1]
    assert json.loads(run(capsys, disk, "note", "--json")[1]) == {"note": "a=b"}
    status, _, err = run(capsys, disk, "missing")
    assert (status, "no key missing" in err) == (1, True)
    assert run(capsys, disk, "note", "x=y")[0] == 2
    assert run(capsys, disk, "x=y", "X=z")[0] == 2
    summary = json.loads(run(capsys, disk, "x=y", "--json")[1])
    assert summary == {"message_type": "summary", "verb": "meta", "keys": ["x"]}


def test_ignored_locks_let_a_disk_be_read_that_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = sparse(tmp_path)
    with diskkit.open_disk(made.path, writable=True):
        assert run(capsys, os.fspath(made.path))[0] == 11
        assert run(capsys, os.fspath(made.path), "--ignore-locks")[0] == 0
        assert run(capsys, os.fspath(made.path), "--ignore-locks", "a=b")[0] == 11
