# SPDX-License-Identifier: Apache-2.0
"""The C library, compiled once per run, and programs compiled against it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diskkit.capi.build import build

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).parent
CC = (*os.environ.get("CC", "cc").split(), "-Wall", "-Wextra", "-Werror", "-O1", "-g")


class Native:
    """A tree with `lib64` and `include`, and how to compile and run programs for it."""

    def __init__(self, folder: Path, bin: Path) -> None:
        self.folder = folder
        self.lib64 = folder / "lib64"
        self.include = folder / "include"
        self.library = self.lib64 / "libvixDiskLib.so"
        self._bin = bin

    def compile(
        self, source: Path, *, libraries: Sequence[str] = ("vixDiskLib",), flags: Sequence[str] = ()
    ) -> Path:
        """The program made of a C file, linked to the library. Made once, without any warning."""
        program = self._bin / "-".join([source.stem, *libraries, *flags]).replace("/", "_")
        if not program.exists():
            command = [*CC, f"-I{self.include}", f"-L{self.lib64}", f"-Wl,-rpath,{self.lib64}"]
            command += [*flags, str(source), "-o", str(program)]
            command += [f"-l{name}" for name in libraries] + ["-lpthread", "-ldl"]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        return program

    def run(
        self,
        *command: str | Path,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        timeout: int = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the plainest surroundings, with `env` added."""
        plain = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"} | (env or {})
        return subprocess.run(
            list(map(str, command)),
            env=plain,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
        )


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    """The library, built from this checkout for the Python that runs the tests."""
    if shutil.which(CC[0]) is None:
        pytest.skip(f"peer not installed: {CC[0]}")
    folder = tmp_path_factory.mktemp("native")
    build(folder, "0", executable=sys.executable)
    return Native(folder, tmp_path_factory.mktemp("bin"))
