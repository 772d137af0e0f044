# SPDX-License-Identifier: Apache-2.0
"""The verb `libdir`: where the drop-in C library is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

import diskkit
from diskkit.cli.failures import say
from diskkit.errors import DiskkitError


def libdir(
    install: Annotated[
        str | None,
        typer.Option("--install", metavar="DIR", help="Make the library in DIR instead."),
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make it anew.")] = False,
) -> None:
    """Print where the drop-in C library is: DIR, with DIR/lib64 and DIR/include.

    Programs for VDDK run on it: nbdkit vddk libdir=$(diskkit libdir) disk.vmdk. Where the
    installation brought no library, it is made now, which takes a C compiler.
    """
    from diskkit.capi import build

    own = Path(build.__file__).parent
    folder = Path(install).absolute() if install is not None else own
    if rebuild or install is not None or not (folder / "lib64" / "libvixDiskLib.so").exists():
        # Inside a Python's own folders the library finds that Python by where it lies.
        inside = install is None and own.is_relative_to(sys.prefix)
        executable = "" if inside else sys.executable
        try:
            build.build(folder, diskkit.__version__, executable=executable)
        except build.NoCompiler as error:
            raise DiskkitError(f"the C library is not there and cannot be made: {error}") from error
        except subprocess.CalledProcessError as error:
            raise DiskkitError(f"the C compiler failed: {error.stderr or error}") from error
        say(f"{folder}: made the C library")
    print(folder)
