# SPDX-License-Identifier: Apache-2.0
"""Verbs that need the files of a disk, asked about one that has none here."""

from __future__ import annotations

import pytest

from diskkit.cli import main

URL = "nbd://localhost/web01"


@pytest.mark.parametrize(
    "words",
    [
        ["check", URL],
        ["chain", URL],
        ["repair", URL],
        ["grow", URL, "1G"],
        ["shrink", URL],
        ["defrag", URL],
        ["commit", URL],
        ["rm", URL],
        ["rename", URL, "new.vmdk"],
        ["meta", URL, "a=b"],
        ["create", "new.vmdk", "--parent", URL],
    ],
)
def test_it_is_said(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"{URL}: is not made of files that can be opened here" in said
    assert len(said.splitlines()) == 1
