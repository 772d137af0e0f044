# SPDX-License-Identifier: Apache-2.0
"""What an installation brings: the C library where there is a compiler, Python alone elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from makers.peers import SKIP_PREFIX, requires

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what a wheel is made of: the builder looks at nothing else."""
    pytest.importorskip("hatchling", reason=f"{SKIP_PREFIX} hatchling")
    folder = tmp_path / "checkout"
    left_out = shutil.ignore_patterns("__pycache__", "lib64")
    for name in ("src", "scripts", "docs/man"):
        shutil.copytree(ROOT / name, folder / name, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, folder / name)
    return folder


def build(checkout: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(checkout / "dist")],
        cwd=checkout,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def made(checkout: Path) -> tuple[str, set[str]]:
    """The wheel's name, and the files of the C library in it."""
    (wheel,) = (checkout / "dist").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        inside = [name for name in archive.namelist() if "/lib64/" in name]
    return wheel.name, {Path(name).name for name in inside}


def test_a_compiler_makes_a_wheel_with_the_library(checkout: Path) -> None:
    requires("cc")
    done = build(checkout)
    assert done.returncode == 0, done.stderr
    name, inside = made(checkout)
    assert "-py3-none-linux_" in name
    endings = ("", ".6", ".7", ".8", ".9", ".8.0.3", ".8.0.2", ".7.0.3", ".6.7.3")
    libraries = {f"libvixDiskLib.so{e}" for e in endings}
    assert inside == libraries | {"libvixMntapi.so", "vixDiskLib.pc"}


@pytest.mark.parametrize("env", [{"DISKKIT_LIBRARY": "no"}, {"CC": "/none/cc"}])
def test_without_one_the_wheel_is_python_alone(checkout: Path, env: dict[str, str]) -> None:
    done = build(checkout, **env)
    assert done.returncode == 0, done.stderr
    name, inside = made(checkout)
    assert name.endswith("-py3-none-any.whl")
    assert inside == set()
    assert ("made without the C library" in done.stderr + done.stdout) == ("CC" in env)


def test_a_release_must_have_it(checkout: Path) -> None:
    done = build(checkout, CC="/none/cc", DISKKIT_LIBRARY="yes")
    assert done.returncode != 0
    assert "no C compiler: /none/cc is not installed" in done.stderr
