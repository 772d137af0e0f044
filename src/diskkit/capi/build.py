# SPDX-License-Identifier: Apache-2.0
"""Making the C library. Only the standard library is used: installing diskkit runs this too.

python build.py FOLDER        makes FOLDER/lib64 and FOLDER/include
"""

from __future__ import annotations

import os
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ("", ".6", ".7", ".8", ".9", ".8.0.3", ".8.0.2", ".7.0.3", ".6.7.3")
"""Endings under which programs look for the library (c-abi, 2.1; vddk-api, 8.2)."""
SONAME = "libvixDiskLib.so.8"
_MNT = "mntapi.c"
_FLAGS = (
    "-std=gnu11 -O2 -fPIC -shared -Wall -Wextra -s"
    " -Wl,-z,nodelete -Wl,-z,defs -Wl,-z,relro -Wl,-z,now -Wl,--as-needed"
)


class NoCompiler(Exception):
    """There is no C compiler here."""


def compiler() -> list[str]:
    """The command of the C compiler: what CC says, or cc. Raises `NoCompiler`."""
    command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(command[0]) is None:
        raise NoCompiler(f"no C compiler: {command[0]} is not installed")
    return command


def build(folder: Path, version: str, *, executable: str = "") -> None:
    """Make `lib64` and `include` in `folder`, in place of what is there.

    With `executable`, a file beside the library says which Python to use: for a folder that is
    not inside the Python environment. Raises `NoCompiler`, or `CalledProcessError` with what the
    compiler said in `stderr`.
    """
    command = compiler()
    with tempfile.TemporaryDirectory(dir=_made(folder), prefix=".lib64-") as name:
        work = Path(name)
        (work / "texts.h").write_text(_texts())
        lib64 = work / "lib64"
        lib64.mkdir()
        vix, mnt = lib64 / "libvixDiskLib.so", lib64 / "libvixMntapi.so"
        sources = sorted(path.name for path in (HERE / "csrc").glob("*.c") if path.name != _MNT)
        _compile(command, work, vix, sources, "vixdisklib.map", SONAME)
        for ending in NAMES[1:]:
            (lib64 / (vix.name + ending)).symlink_to(vix.name)
        # After the links: it asks for the library by its soname.
        beside = (f"-L{lib64}", "-lvixDiskLib", "-Wl,-rpath,$ORIGIN")
        _compile(command, work, mnt, [_MNT], "mntapi.map", mnt.name, *beside)
        (lib64 / "pkgconfig").mkdir()
        (lib64 / "pkgconfig" / "vixDiskLib.pc").write_text(_pkg_config(version))
        if executable:
            (lib64 / "diskkit.conf").write_text(configuration(executable))
        shutil.rmtree(folder / "lib64", ignore_errors=True)
        lib64.rename(folder / "lib64")
    if not (folder / "include").exists():
        shutil.copytree(HERE / "include", folder / "include")


def configuration(executable: str) -> str:
    """The text of diskkit.conf: where the Python `executable`, its library and diskkit are."""
    # A process of its own, because it need not be the Python that runs this.
    code = "import sysconfig as s; print(s.get_config_var('INSTSONAME')); "
    code += "print(s.get_config_var('LIBDIR'))"
    asked = subprocess.run([executable, "-c", code], check=True, capture_output=True, text=True)
    name, where = asked.stdout.splitlines()
    lines = [f"executable = {executable}", f"packages = {HERE.parents[1]}"]
    if name.startswith("libpython"):
        path = Path(where, name)
        lines.append(f"libpython = {path if path.exists() else name}")
    return "\n".join([*lines, ""])


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _compile(
    command: list[str],
    work: Path,
    out: Path,
    sources: list[str],
    exports: str,
    soname: str,
    *libraries: str,
) -> None:
    code = HERE / "csrc"
    flags = _FLAGS.split() + shlex.split(os.environ.get("CFLAGS", ""))
    arguments = [*command, *flags, f"-I{work}", f"-Wl,-soname,{soname}"]
    arguments += [f"-Wl,--version-script={code / exports}", "-o", str(out)]
    arguments += [str(code / name) for name in sources]
    # glibc before 2.34 has these outside of its main library; --as-needed drops them elsewhere.
    arguments += [*libraries, "-ldl", "-lpthread"]
    subprocess.run(arguments, check=True, capture_output=True, text=True)


def _texts() -> str:
    """The texts of codes.py as C: they must be had where no Python is."""
    codes = runpy.run_path(str(HERE.parent / "vixdisklib" / "codes.py"))
    rows = [f"   {{{code}, {_quoted(text)}}}," for code, text in codes["TEXTS"].items()]
    head = "static const struct { unsigned code; const char *text; } texts[] = {"
    return "\n".join([f"#define UNKNOWN_TEXT {_quoted(codes['UNKNOWN'])}", head, *rows, "};", ""])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _pkg_config(version: str) -> str:
    return f"""prefix=${{pcfiledir}}/../..
libdir=${{prefix}}/lib64
includedir=${{prefix}}/include

Name: vixDiskLib
Description: Virtual disks through the VixDiskLib interface, by diskkit
Version: {version}
Libs: -L${{libdir}} -lvixDiskLib
Cflags: -I${{includedir}}
"""


def platform_tag() -> str:
    """What a wheel that holds the library is called."""
    return "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")


if __name__ == "__main__":
    build(Path(sys.argv[1]), "0", executable=sys.executable)
