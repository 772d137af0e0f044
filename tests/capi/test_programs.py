# SPDX-License-Identifier: Apache-2.0
"""The C programs in programs/: each checks itself. Run plainly, and with what finds bad memory."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from makers.peers import SKIP_PREFIX, requires

if TYPE_CHECKING:
    import subprocess

    from .conftest import Native

PROGRAMS = Path(__file__).parent / "programs"
NAMES = ("uses", "wrong", "structs", "later", "inside", "life", "pipe", "mounting")


def built(native: Native, name: str) -> Path:
    libraries = ("vixDiskLib", "vixMntapi") if name == "mounting" else ("vixDiskLib",)
    return native.compile(PROGRAMS / f"{name}.c", libraries=libraries)


def check(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.stdout, done.returncode) == ("all good\n", 0), done.stderr


@pytest.mark.parametrize("name", [*NAMES, "model"])
def test_program(native: Native, tmp_path: Path, name: str) -> None:
    check(native.run(built(native, name), cwd=tmp_path))


def test_a_program_tells_what_is_wrong(native: Native, tmp_path: Path) -> None:
    """Without this, `all good` would prove nothing."""
    source = tmp_path / "liar.c"
    source.write_text(
        f'#include "{PROGRAMS}/check.h"\n'
        "int main(void) {\n"
        "   OK(VixDiskLib_Disconnect(NULL));\n"
        "   SO(1 == 2);\n"
        "   return finish();\n"
        "}\n"
    )
    done = native.run(native.compile(source), cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(r"line 3: VixDiskLib_Disconnect\(.*\) is 16001, not 0:", done.stdout)
    assert "line 4: not so: 1 == 2" in done.stdout


MALLOC_CHECKS = {
    "LD_PRELOAD": "libc_malloc_debug.so.0",
    "GLIBC_TUNABLES": "glibc.malloc.check=1:glibc.malloc.perturb=77",
}


@pytest.mark.parametrize("name", NAMES)
def test_program_with_the_allocators_checks(native: Native, tmp_path: Path, name: str) -> None:
    """What the library hands out comes from the C program's own malloc (nbdkit tests like this)."""
    seen = native.run("/bin/true", env=MALLOC_CHECKS)
    if "cannot be preloaded" in seen.stderr:
        pytest.skip(f"{SKIP_PREFIX} libc_malloc_debug.so.0")
    done = native.run(built(native, name), cwd=tmp_path, env=MALLOC_CHECKS)
    check(done)
    assert "free(): invalid" not in done.stderr


def ours(report: str) -> list[str]:
    """The complaints of valgrind whose place is in our libraries."""
    found = re.split(r"^==\d+== $", report, flags=re.MULTILINE)
    stacks = (re.sub(r"^==\d+== ?", "", part, flags=re.MULTILINE) for part in found)
    # The first place that is not valgrind's own replacement of a function of libc.
    first = re.compile(r"^ +at 0x[^\n]*(?:vgpreload[^\n]*\n[^\n]*)?libvix", re.MULTILINE)
    return [stack for stack in stacks if first.search(stack)]


def test_program_under_valgrind(native: Native, tmp_path: Path) -> None:
    valgrind = requires("valgrind")
    report = tmp_path / "report"
    done = native.run(
        valgrind,
        f"--log-file={report}",
        "--leak-check=full",
        "--show-leak-kinds=definite",
        built(native, "structs"),
        cwd=tmp_path,
        env={"PYTHONMALLOC": "malloc", "HOME": os.environ.get("HOME", "/")},
        timeout=100,
    )
    check(done)
    text = report.read_text()
    assert "ERROR SUMMARY" in text
    assert ours(text) == []
