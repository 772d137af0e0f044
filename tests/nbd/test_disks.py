# SPDX-License-Identifier: Apache-2.0
"""An export is a disk like any other: the suites, over the network and back."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

import diskkit
from conformance.cases import CHAINS, SINGLES, Built, Case
from diskkit.testing import DiskCase, DiskSuite, WritableDiskSuite
from model.links import KINDS, joined, model_of, some_grains, write_chain
from nbd.serving import serving, uri

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CASES = [*SINGLES[:4], *CHAINS[-4:]]
SECTORS = 1500


@pytest.fixture(scope="module", params=CASES, ids=str)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    case: Case = request.param
    return case.build(tmp_path_factory.mktemp("disk"))


@pytest.fixture(scope="module")
def server(built: Built) -> Iterator[str]:
    with built.open() as disk, serving({"a disk": disk}) as path:
        yield uri(path, "a disk")


class TestExports(DiskSuite):
    @pytest.fixture
    def case(self, built: Built, server: str) -> DiskCase:
        return DiskCase(partial(diskkit.open_disk, server), built.disk_case().content)

    def test_map_is_that_of_the_disk_served(self, built: Built, server: str) -> None:
        """Holes, zeros and data; which link they are of, and where, stays with the server."""
        with built.open() as disk, diskkit.open_disk(server) as export:
            assert list(export.runs()) == anonymous(disk)
            assert list(export.allocated()) == list(disk.allocated())


class TestWritableExports(WritableDiskSuite):
    @pytest.fixture(params=[("sparse-128",), ("flat",), ("stream-A-16", "sparse-16-lazy")])
    def case(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DiskCase]:
        links = [
            (KINDS[name], some_grains(SECTORS, KINDS[name], n, dense=not n))
            for n, name in enumerate(request.param)
        ]
        path = write_chain(tmp_path, SECTORS, links)
        content = bytes(model_of(SECTORS, links).content)
        with diskkit.open_disk(path, writable=True) as disk, serving({"": disk}) as socket:
            opened = partial(diskkit.open_disk, uri(socket), writable=True)
            yield DiskCase(opened, content)

    def test_nobody_else_has_it(self, case: DiskCase) -> None:
        """Here they may: all clients share one disk, and see what the others write."""
        with case.open() as one, case.open() as two:
            one.write(100, b"seen at once")
            assert two.read(100, 12) == b"seen at once"


def test_zeros_that_hide_something_are_told_from_holes(tmp_path: Path) -> None:
    """By the depths, which our server tells with what every server tells."""
    links = [
        (KINDS["sparse-16-lazy"], some_grains(SECTORS, KINDS["sparse-16-lazy"], n, dense=not n))
        for n in range(2)
    ]
    path = write_chain(tmp_path, SECTORS, links)
    with diskkit.open_disk(path) as disk, serving({"": disk}) as socket:
        with diskkit.open_disk(uri(socket)) as export:
            assert list(export.runs()) == anonymous(disk)
        assert {run.state for run in disk.runs()} == set(map(diskkit.State, range(3)))


def anonymous(disk: diskkit.Disk) -> list[diskkit.Run]:
    """The map of a disk as somebody sees it who knows nothing of links and files."""
    runs = (run._replace(link=0) for run in disk.runs())
    return [diskkit.Run(b, n, diskkit.State(s), 0, None, None) for b, n, s, _ in joined(runs)]
