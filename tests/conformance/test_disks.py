# SPDX-License-Identifier: Apache-2.0
"""`DiskSuite` over every kind and chain, and what only a model can say of their maps."""

from __future__ import annotations

import pytest

from conformance.cases import CASES, Built, Case
from diskkit.testing import DiskCase, DiskSuite
from model.links import joined


@pytest.fixture(scope="module", params=CASES, ids=str)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    case: Case = request.param
    return case.build(tmp_path_factory.mktemp("disk"))


@pytest.fixture
def case(built: Built) -> DiskCase:
    return built.disk_case()


class TestDisks(DiskSuite):
    def test_map_is_that_of_the_model(self, built: Built) -> None:
        with built.open() as disk:
            assert joined(disk.runs()) == built.model.runs()

    def test_allocated_is_that_of_the_model(self, built: Built) -> None:
        with built.open() as disk:
            for chunk in (512, 4096, 65536, 1 << 26):
                assert list(disk.allocated(chunk=chunk)) == built.model.allocated(chunk)
