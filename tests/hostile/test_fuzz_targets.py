# SPDX-License-Identifier: Apache-2.0
"""The fuzz targets run, and their good inputs are good. The search itself is not part of a run."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

FOLDER = Path(__file__).parents[2] / "fuzz"
TARGETS = ("descriptor", "sparse_header", "grain", "cowd_header", "sesparse_header", "image", "nbd")

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the folder fuzz is not here")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    # A target that needed more than diskkit to be called would fail here.
    monkeypatch.setitem(sys.modules, "atheris", None)


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.parametrize("name", TARGETS)
def test_target_takes_good_bad_and_random_inputs(name: str, tmp_path: Path) -> None:
    target = module(f"fuzz_{name}")
    good = module("seeds").seeds(tmp_path)[name]
    assert good
    rng = random.Random(name)
    for data in (*good, b"", b"\0", bytes(5000), b"\xff" * 5000):
        target.one_input(data)
    for _ in range(60):
        changed = bytearray(rng.choice(good))
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(min(len(changed), 700))] = rng.randrange(256)
        target.one_input(bytes(changed[: rng.choice((len(changed), rng.randrange(len(changed))))]))


def test_every_target_is_listed_and_states_its_invariant() -> None:
    names = sorted(path.stem.removeprefix("fuzz_") for path in FOLDER.glob("fuzz_*.py"))
    assert names == sorted(TARGETS)
    assert sorted(module("seeds").TARGETS) == names
    for name in names:
        lines = (FOLDER / f"fuzz_{name}.py").read_text().splitlines()
        assert lines[1].startswith("# Invariant: ")
        assert f"fuzz_{name}.py" in (FOLDER / "README.md").read_text()


def test_targets_notice_a_broken_invariant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A target that can never fail is no test."""
    from diskkit.formats.vmdk import layout, stream

    inputs = module("seeds").seeds(tmp_path)
    monkeypatch.setattr(stream, "inflate", lambda *_: b"wrong" * 1000)
    with pytest.raises(AssertionError):
        module("fuzz_grain").one_input(inputs["grain"][0])
    monkeypatch.setattr(layout, "check_sparse_layout", lambda *_, **__: [])
    with pytest.raises(AssertionError):
        module("fuzz_sparse_header").one_input(bytes(8) + inputs["sparse_header"][-1][8:])
