# SPDX-License-Identifier: Apache-2.0
"""Disks that the tests of the server ask for things, one by one and several at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import diskkit
from nbd.memory import CONTENT, SIZE
from nbd.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from diskkit.disk import Disk


@pytest.fixture(scope="module")
def served_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("disk")
    (folder / "disk.raw").write_bytes(CONTENT)
    with diskkit.open_disk(folder / "disk.raw") as disk:
        diskkit.clone(disk, folder / "disk.vmdk", "monolithicSparse")
    return folder / "disk.vmdk"


@pytest.fixture(scope="module", params=[1, 4], ids=["one-by-one", "pooled"])
def path(request: pytest.FixtureRequest, served_image: Path) -> Iterator[str]:
    with diskkit.open_disk(served_image) as disk:
        disk.parallel = request.param
        with serving({"": disk}) as found:
            yield found


@pytest.fixture(params=[1, 4], ids=["one-by-one", "pooled"])
def changing(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Disk, str, bytearray]]:
    """A disk of grains, open for writing and served, and what it holds."""
    diskkit.create_disk(tmp_path / "new.vmdk", SIZE, "monolithicSparse")
    with (
        diskkit.open_disk(tmp_path / "new.vmdk", writable=True) as disk,
    ):
        disk.parallel = request.param
        with serving({"": disk}) as found:
            yield disk, found, bytearray(SIZE)
