# SPDX-License-Identifier: Apache-2.0
"""Puts the C library into the wheel, where there is a C compiler.

DISKKIT_LIBRARY=no makes a wheel without it; DISKKIT_LIBRARY=yes fails where it cannot be made.
Without either, a wheel without it is made there: `diskkit libdir` makes the library later.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class LibraryHook(BuildHookInterface[Any]):
    """Called by the wheel builder."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        wanted = os.environ.get("DISKKIT_LIBRARY", "")
        if version == "editable" or wanted == "no":
            return
        capi = Path(self.root, "src", "diskkit", "capi")
        code = runpy.run_path(str(capi / "build.py"))
        self._made = tempfile.TemporaryDirectory()
        try:
            code["build"](Path(self._made.name), self.metadata.version)
        except (code["NoCompiler"], subprocess.CalledProcessError) as error:
            if wanted == "yes":
                raise
            why = getattr(error, "stderr", None) or error
            self.app.display_warning(f"made without the C library: {why}")
            return
        made = Path(self._made.name, "lib64")
        for path in sorted(p for p in made.rglob("*") if p.is_file()):
            inside = Path("diskkit/capi/lib64", path.relative_to(made))
            build_data["force_include"][str(path)] = str(inside)
        build_data["pure_python"] = False
        build_data["tag"] = code["platform_tag"]()

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "_made"):
            self._made.cleanup()


def get_build_hook() -> type[LibraryHook]:
    return LibraryHook
