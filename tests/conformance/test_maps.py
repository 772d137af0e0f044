# SPDX-License-Identifier: Apache-2.0
"""`BlockMapSuite` over the first and last extent of every kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from conformance.cases import SINGLES, Built, Case
from diskkit.testing import BlockMapSuite, MapCase

if TYPE_CHECKING:
    from collections.abc import Iterator


_MANY_EXTENTS = [c for c in SINGLES if c.name.startswith(("split", "flat-split", "custom", "part"))]


@pytest.fixture(
    scope="module",
    params=[*((c, 0) for c in SINGLES), *((c, -1) for c in _MANY_EXTENTS)],
    ids=lambda p: f"{p[0]}-{'last' if p[1] else 'first'}",
)
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Built, int]:
    case: Case = request.param[0]
    return case.build(tmp_path_factory.mktemp("disk")), request.param[1]


@pytest.fixture
def case(built: tuple[Built, int]) -> Iterator[MapCase]:
    with built[0].open() as disk:
        extent = disk.chain.links[0].extents[built[1]]
        part = built[0].model.content[extent.start : extent.start + extent.line.length]
        yield MapCase(extent.map, extent.storage, bytes(part))


class TestMaps(BlockMapSuite):
    pass
