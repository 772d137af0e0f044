# SPDX-License-Identifier: Apache-2.0
"""An estimate is never less than what the copy takes, and as close as the map allows."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.cli import main
from diskkit.errors import UsageError
from diskkit.tasks.clone import KINDS, PART
from tasks.images import child, sparse

if TYPE_CHECKING:
    from pathlib import Path


def _taken(folder: Path, kind: str) -> int:
    """Apparent bytes of sparse files and streams, whose tables may be holes; room of flat ones."""
    by_size = kind == "streamOptimized" or "Sparse" in kind
    found = [p.stat() for p in folder.iterdir()]
    return sum(s.st_size if by_size else s.st_blocks * 512 for s in found)


def _copy(disk: diskkit.Disk, folder: Path, kind: str) -> int:
    folder.mkdir()
    if kind == "raw":
        diskkit.convert(disk, folder / "new.raw", sync=True)
    else:
        diskkit.clone(disk, folder / "new.vmdk", kind, sync=True)
    return _taken(folder, kind)


@pytest.mark.parametrize("kind", ["raw", *KINDS])
def test_an_estimate_bounds_the_copy(tmp_path: Path, kind: str) -> None:
    (tmp_path / "source").mkdir()
    top = child(tmp_path / "source", sparse(tmp_path / "source"))
    with diskkit.open_disk(top.path) as disk:
        needed = diskkit.space_needed(disk, kind)
        taken = _copy(disk, tmp_path / "copy", kind)
    # A filesystem may take a block to remember where those of a file are.
    own = 0 if kind == "streamOptimized" or "Sparse" in kind else 4096
    assert taken <= needed.bytes + own
    assert needed.exact == (kind in ("vmfs", "vmfsEagerZeroedThick"))
    if kind == "monolithicSparse":
        assert taken == needed.bytes
    elif kind != "streamOptimized":
        assert needed.bytes - taken <= 4096


@pytest.mark.parametrize("kind", ["streamOptimized", "twoGbMaxExtentSparse"])
def test_noise_in_many_places_takes_what_was_said(tmp_path: Path, kind: str) -> None:
    rng = random.Random(1)
    size = PART + (70 << 20) if kind != "streamOptimized" else 70 << 20
    with (tmp_path / "a.raw").open("wb") as out:
        out.truncate(size)
        for at in (0, 33 << 20, size - 65536 * 3):
            out.seek(at // 65536 * 65536)
            out.write(rng.randbytes(2 * 65536))
    with diskkit.open_disk(tmp_path / "a.raw") as disk:
        needed = diskkit.space_needed(disk, kind).bytes
        taken = _copy(disk, tmp_path / "copy", kind)
    assert 0 <= needed - taken <= 4096


def test_the_command_line_estimates_and_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = sparse(tmp_path)
    words = ["convert", str(made.path), str(tmp_path / "b.vmdk"), "-t", "vmfs", "--estimate"]
    assert main([*words, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    room = -(-len(made.content) // 4096) * 4096 + 4096
    assert (summary["bytes_needed"], summary["exact"]) == (room, True)
    assert main(words) == 0
    assert f"({room} bytes)" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["base.vmdk"]
    with diskkit.open_disk(made.path) as disk, pytest.raises(UsageError, match="not one of"):
        diskkit.space_needed(disk, "qcow2")
