# SPDX-License-Identifier: Apache-2.0
"""`WritableDiskSuite` over every kind that can be written to, alone and as a child."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit.testing import DiskCase, WritableDiskSuite
from model.links import KINDS, model_of, some_grains, write_chain

if TYPE_CHECKING:
    from pathlib import Path

SECTORS = 1500
CHAINS = [
    *((name,) for name in KINDS if not name.startswith("stream")),
    *(("stream-A-16", name) for name in KINDS if KINDS[name].child and not KINDS[name].esx),
    *(("vmfs", name) for name in KINDS if KINDS[name].esx),
    ("flat", "sparse-128", "split-16-lazy", "sparse-8"),
]
QUIET = diskkit.OpenPolicy(writable=True, experimental=True, warn=lambda _: None)


@pytest.fixture(params=CHAINS, ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> DiskCase:
    links = [
        (KINDS[name], some_grains(SECTORS, KINDS[name], n, dense=not n))
        for n, name in enumerate(request.param)
    ]
    path = write_chain(tmp_path, SECTORS, links)
    content = bytes(model_of(SECTORS, links).content)
    return DiskCase(partial(diskkit.open_disk, path, policy=QUIET), content)


class TestWritableDisks(WritableDiskSuite):
    pass
