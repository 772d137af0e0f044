# SPDX-License-Identifier: Apache-2.0
"""A C program that is not made for Python, with a library that is Python inside (c-abi, 4)."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import pytest
import typer

from makers.peers import requires

from .conftest import CC

if TYPE_CHECKING:
    from .conftest import Native

PROGRAMS = Path(__file__).parent / "programs"
PACKAGE = Path(__file__).parents[2] / "src" / "diskkit"
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="session")
def host(native: Native) -> Path:
    """A program that is not linked to the library."""
    return native.compile(PROGRAMS / "host.c", libraries=("dl",))


@pytest.mark.parametrize(
    "what",
    [
        "plain",
        "cycles",
        "signals",
        "stale-buffers",
        "short-threads",
        "first-thread-ends",
        "busy-exit",
        "exit-while-busy",
        "fork-before",
        "fork-after",
    ],
)
def test_host(native: Native, host: Path, tmp_path: Path, what: str) -> None:
    done = native.run(host, native.library, what, cwd=tmp_path)
    assert (done.stdout.splitlines()[-1:], done.returncode) == (["all good"], 0), (
        done.stdout + done.stderr
    )


@pytest.mark.parametrize("name", ["C", "C.UTF-8", "de_DE.UTF-8"])
def test_locale_stays(native: Native, host: Path, tmp_path: Path, name: str) -> None:
    env = {"WANTED_LOCALE": name, "LANG": "C"}
    done = native.run(host, native.library, "locale", cwd=tmp_path, env=env)
    assert (done.stdout, done.returncode) == ("all good\n", 0), done.stdout + done.stderr


def test_interrupt_ends_a_program_that_left_it_alone(native: Native, tmp_path: Path) -> None:
    source = tmp_path / "alone.c"
    source.write_text(
        f'#include "{PROGRAMS}/check.h"\n'
        "#include <signal.h>\n"
        "int main(void) { OK(init()); raise(SIGINT); return 0; }\n"
    )
    done = native.run(native.compile(source), cwd=tmp_path)
    assert done.returncode == -signal.SIGINT, done.stderr


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONHOME": "/nonexistent", "PYTHONPATH": "/nope"},
        {"PYTHONSTARTUP": "/nope", "PYTHONINSPECT": "1", "PYTHONVERBOSE": "1"},
        {"PYTHONWARNINGS": "error", "PYTHONHASHSEED": "bad"},
        {"LC_ALL": "nonsense", "LANG": ""},
        {"PATH": "/nonexistent", "HOME": "/nonexistent"},
    ],
)
def test_surroundings(native: Native, host: Path, tmp_path: Path, env: dict[str, str]) -> None:
    done = native.run(host, native.library, "plain", cwd=tmp_path, env=env)
    assert (done.stdout, done.stderr, done.returncode) == ("all good\n", "", 0)


def test_no_stray_module_is_loaded(native: Native, host: Path, tmp_path: Path) -> None:
    """The folder that a program runs in is not where Python looks."""
    for name in ("diskkit", "numpy", "site", "encodings", "struct"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)\n")
    done = native.run(host, native.library, "plain", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("all good\n", 0), done.stderr


# --- Finding Python ---------------------------------------------------------------------------


def copied(native: Native, folder: Path, **changes: str) -> Path:
    """The library alone in a folder, with changed lines of diskkit.conf; "" removes a line."""
    folder.mkdir()
    shutil.copy(native.library, folder / "libvixDiskLib.so.8")
    conf = (native.lib64 / "diskkit.conf").read_text()
    lines = dict(line.split(" = ", 1) for line in conf.splitlines()) | changes
    text = "".join(f"{name} = {value}\n" for name, value in lines.items() if value)
    (folder / "diskkit.conf").write_text(text)
    return folder / "libvixDiskLib.so.8"


def missing(native: Native, host: Path, library: Path, cwd: Path, **env: str) -> str:
    """What the library says, in the warning and in the text of 16053 alike."""
    done = native.run(host, library, "missing", cwd=cwd, env=env)
    lines = done.stdout.splitlines()
    assert (lines[2:], done.returncode) == (["all good"], 0), done.stdout + done.stderr
    assert lines[0].startswith("diskkit: ")
    why = lines[0].removeprefix("diskkit: ")
    assert why
    assert lines[1].endswith(f"({why})")
    assert done.stderr == ""
    return why


def test_configured_python(native: Native, host: Path, tmp_path: Path) -> None:
    library = copied(native, tmp_path / "x")
    done = native.run(host, library, "plain", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("all good\n", 0), done.stderr


def test_libpython_that_is_not_there(native: Native, host: Path, tmp_path: Path) -> None:
    library = copied(native, tmp_path / "x", libpython="/nonexistent/libpython3.11.so.1.0")
    why = missing(native, host, library, tmp_path)
    assert why.startswith(f"no shared libpython for {sys.executable}")
    assert "install it" in why


def test_static_python(native: Native, host: Path, tmp_path: Path) -> None:
    """A Python that has no shared libpython anywhere."""
    home = tmp_path / "static" / "bin"
    home.mkdir(parents=True)
    shutil.copy("/bin/true", home / "python3.99")
    library = copied(native, tmp_path / "x", executable=f"{home}/python3.99", libpython="")
    why = missing(native, host, library, tmp_path)
    assert why.startswith(f"no shared libpython for {home}/python3.99 (libpython3.99.so.1.0: ")


def test_python_that_is_not_there(native: Native, host: Path, tmp_path: Path) -> None:
    library = copied(native, tmp_path / "x", executable="/nonexistent/python", libpython="")
    assert missing(native, host, library, tmp_path) == "there is no Python /nonexistent/python"
    library = copied(native, tmp_path / "y")
    why = missing(native, host, library, tmp_path, DISKKIT_PYTHON="/nonexistent/python")
    assert why == "there is no Python /nonexistent/python"


def test_no_python_belongs_to_the_library(native: Native, host: Path, tmp_path: Path) -> None:
    library = copied(native, tmp_path / "x")
    (library.parent / "diskkit.conf").unlink()
    why = missing(native, host, library, tmp_path)
    assert (
        why == f"no Python belongs to {library}; set executable= in {library.parent}/diskkit.conf"
    )


def test_what_is_no_libpython(native: Native, host: Path, tmp_path: Path) -> None:
    library = copied(native, tmp_path / "x", libpython="libm.so.6")
    assert "is no Python" in missing(native, host, library, tmp_path)
    (tmp_path / "text.so").write_text("not a library")
    library = copied(native, tmp_path / "y", libpython=f"{tmp_path}/text.so")
    assert "text.so" in missing(native, host, library, tmp_path)


def fake_python(folder: Path, version: str, without: str = "") -> Path:
    """A libpython that has every function the library looks for, and is of some version."""
    header = (PACKAGE / "capi" / "csrc" / "python.h").read_text()
    names = re.findall(r"^   X\([^()]*?, (\w+), \(", header, re.MULTILINE)
    assert len(names) > 20
    lines = [f'const char *Py_GetVersion(void) {{ return "{version}"; }}', "int _Py_NoneStruct;"]
    lines += [f"void {n}(void) {{}}" for n in names if n not in ("Py_GetVersion", without)]
    (folder / "fake.c").write_text("\n".join(lines))
    library = folder / "libfake.so"
    plain = [word for word in CC if word not in ("-Wextra", "-Werror")]
    subprocess.run(
        [*plain, "-w", "-shared", "-fPIC", str(folder / "fake.c"), "-o", str(library)], check=True
    )
    return library


@pytest.mark.parametrize("version", ["3.10.13 (old)", "2.7.18", "4.0.0"])
def test_python_of_another_age(native: Native, host: Path, tmp_path: Path, version: str) -> None:
    library = copied(native, tmp_path / "x", libpython=str(fake_python(tmp_path, version)))
    why = missing(native, host, library, tmp_path)
    assert why == f"Python 3.11 or newer is needed, this is {version}"


def test_python_that_lacks_a_function(native: Native, host: Path, tmp_path: Path) -> None:
    fake = fake_python(tmp_path, "3.12.0", "PyObject_Vectorcall")
    library = copied(native, tmp_path / "x", libpython=str(fake))
    why = missing(native, host, library, tmp_path)
    assert why == "this Python has no function PyObject_Vectorcall"


def test_package_that_is_not_there(native: Native, host: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    library = copied(native, tmp_path / "x", executable=f"{bare}/bin/python", packages="/nope")
    why = missing(native, host, library, tmp_path)
    assert why == "the Python package diskkit cannot be loaded: No module named 'diskkit'"


def test_package_of_another_age(native: Native, host: Path, tmp_path: Path) -> None:
    capi = tmp_path / "p" / "diskkit" / "capi"
    capi.mkdir(parents=True)
    (capi.parent / "__init__.py").touch()
    (capi / "__init__.py").touch()
    (capi / "calls.py").write_text("def start(*_): raise RuntimeError('of another age')\n")
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    library = copied(
        native, tmp_path / "x", executable=f"{bare}/bin/python", packages=f"{tmp_path}/p"
    )
    why = missing(native, host, library, tmp_path)
    assert why.startswith("the Python package diskkit does not fit this library: ")
    header = (PACKAGE / "capi" / "csrc" / "python.h").read_text()
    table = header.partition("#define CALLS(X)")[2].partition("typedef")[0]
    stubs = "".join(f"{n} = None\n" for n in re.findall(r"X\((\w+)\)", table) if n != "start")
    with (capi / "calls.py").open("a") as file:
        file.write(stubs)
    why = missing(native, host, library, tmp_path)
    assert why == "the Python package diskkit cannot be used: of another age"


def environment(folder: Path) -> Path:
    """A virtual environment with a copy of diskkit; all else is found where it is now."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = folder / "lib" / VERSION / "site-packages"
    ignored = shutil.ignore_patterns("lib64", "__pycache__")
    shutil.copytree(PACKAGE, packages / "diskkit", ignore=ignored)
    others = {str(Path(str(module.__file__)).parents[1]) for module in (numpy, typer)}
    (packages / "others.pth").write_text("".join(f"{path}\n" for path in others))
    return folder


def test_library_inside_an_environment(native: Native, host: Path, tmp_path: Path) -> None:
    """No configuration: the library knows its Python by where it lies."""
    venv = environment(tmp_path / "venv")
    done = native.run(venv / "bin" / "python", "-m", "diskkit", "libdir", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder == venv / "lib" / VERSION / "site-packages" / "diskkit" / "capi"
    assert not (folder / "lib64" / "diskkit.conf").exists()
    done = native.run(
        host,
        folder / "lib64" / "libvixDiskLib.so.8",
        "plain",
        cwd=tmp_path,
        env={"PYTHONHOME": "/nonexistent"},
    )
    assert (done.stdout, done.returncode) == ("all good\n", 0), done.stdout + done.stderr
    # Reached through a link, as programs' own folders have them.
    link = tmp_path / "lib64"
    link.symlink_to(folder / "lib64")
    done = native.run(host, link / "libvixDiskLib.so", "plain", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("all good\n", 0), done.stdout + done.stderr


# --- Hosts that are Python themselves ---------------------------------------------------------


def guest(native: Native, python: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return native.run(python, PROGRAMS / "guest.py", native.library, cwd=cwd)


def test_host_is_the_same_python(native: Native, tmp_path: Path) -> None:
    done = guest(native, sys.executable, tmp_path)
    assert (done.stdout, done.returncode) == ("all good\n", 0), done.stderr


def working(native: Native, name: str) -> str | None:
    """A Python of that name: one of PATH, or one that is installed beside the one that runs."""
    beside = Path(sys.base_prefix).parent.glob(f"*/bin/{name}")
    for python in (shutil.which(name), *map(str, beside)):
        if python is not None and native.run(python, "-c", "").returncode == 0:
            return python
    return None


@pytest.mark.parametrize(
    "name", ["python3.10", "python3.12", "python3.13", "python3.14", "/usr/bin/python3"]
)
def test_host_is_another_python(native: Native, tmp_path: Path, name: str) -> None:
    """It works there, or says what that Python lacks; it does not hang or crash."""
    python = working(native, name)
    if python is None:
        pytest.skip(f"there is no {name} here")
    done = guest(native, python, tmp_path)
    able = "import numpy, sys; assert sys.version_info >= (3, 11)"
    if native.run(python, "-c", able).returncode:
        assert done.returncode == 3, done.stderr
        assert re.match(r"16053 .*(No module named 'numpy'|Python 3.11 or newer)", done.stdout)
    else:
        assert (done.stdout, done.returncode) == ("all good\n", 0), done.stderr


# --- What the library needs and offers --------------------------------------------------------


def test_needs_libc_only(native: Native) -> None:
    readelf = requires("readelf")
    for name in ("libvixDiskLib.so", "libvixMntapi.so"):
        done = native.run(readelf, "-dW", native.lib64 / name)
        needed = re.findall(r"\(NEEDED\).*\[(.*)\]", done.stdout)
        # The second calls Python through the first.
        ours = {"libvixDiskLib.so.8"} if name == "libvixMntapi.so" else set()
        assert {n for n in needed if not n.startswith("ld-linux")} - {"libc.so.6"} == ours
        assert re.search("FLAGS_1.*NODELETE", done.stdout)


def test_offers_the_functions_and_nothing_else(native: Native) -> None:
    nm = requires("nm")
    for name, count, prefix in (
        ("libvixDiskLib.so", 43, "VixDiskLib_"),
        ("libvixMntapi.so", 14, "VixMntapi_"),
    ):
        done = native.run(nm, "-D", "--defined-only", native.lib64 / name)
        names = [line.split()[-1].partition("@")[0] for line in done.stdout.splitlines()]
        # What only the second library calls has a name that is nobody's.
        names = [n for n in names if not n.startswith("diskkit_")]
        assert len(names) == count
        assert all(n.startswith(prefix) for n in names)


def test_names_that_clients_look_for(native: Native) -> None:
    names = {p.name for p in native.lib64.glob("libvixDiskLib.so*")}
    endings = ("", ".6", ".7", ".8", ".9", ".8.0.3", ".8.0.2", ".7.0.3", ".6.7.3")
    assert names == {f"libvixDiskLib.so{ending}" for ending in endings}
    # nbdkit's way to load puts this folder in front of all others.
    others = {p.name for p in native.lib64.iterdir()} - names
    assert others == {"libvixMntapi.so", "pkgconfig", "diskkit.conf"}


def test_nothing_happens_when_it_is_loaded(native: Native, tmp_path: Path) -> None:
    """nbdkit loads it twice in a row and forks in between."""
    source = tmp_path / "load.c"
    source.write_text(
        "#include <dlfcn.h>\n#include <stdio.h>\n"
        "int main(int c, char **v) {\n"
        "   void *l = dlopen(v[c - 1], RTLD_NOW);\n"
        '   printf("%d %d\\n", l != NULL, dlsym(RTLD_DEFAULT, "Py_IsInitialized") != NULL);\n'
        "   return 0;\n}\n"
    )
    done = native.run(native.compile(source, libraries=("dl",)), native.library)
    assert done.stdout == "1 0\n"
