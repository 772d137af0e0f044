# SPDX-License-Identifier: Apache-2.0
"""A started library, ended after each test, and disks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from diskkit import vixdisklib as vix

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECTORS = 128 * 40 + 24


class Started:
    """Init was called, and there is a local connection."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log: list[str] = []
        self.warnings: list[str] = []
        vix.Init(6, 7, self.log.append, self.warnings.append)
        self.connection = vix.Connect(None)

    def path(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def create(self, name: str = "d.vmdk", kind: int = 1, sectors: int = SECTORS) -> str:
        params = vix.CreateParams(kind, 3, 7, sectors)
        vix.Create(self.connection, self.path(name), params)
        return self.path(name)

    def open(self, name: str = "d.vmdk", flags: int = 0) -> int:
        return vix.Open(self.connection, self.path(name), flags)

    def filled(self, name: str = "d.vmdk", kind: int = 1) -> bytes:
        """A disk with data in chunks 1, 2 and the last; returns its content."""
        self.create(name, kind)
        content = bytearray(SECTORS * 512)
        handle = self.open(name)
        for start, count in ((128, 256), (SECTORS - 24, 24)):
            data = bytes(1 + i % 251 for i in range(count * 512))
            content[start * 512 : (start + count) * 512] = data
            vix.Write(handle, start, count, data)
        vix.Close(handle)
        return bytes(content)

    def content(self, handle: int) -> bytes:
        buffer = bytearray(SECTORS * 512)
        vix.Read(handle, 0, SECTORS, buffer)
        return bytes(buffer)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    vix.Exit()
    yield Started(tmp_path)
    vix.Exit()
