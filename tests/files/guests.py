# SPDX-License-Identifier: Apache-2.0
"""Volumes for the tests: a tree of files, put into filesystems by their own tools.

No root and no mount. What each tool cannot put in is left out of what is expected of it.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from makers.peers import SKIP_PREFIX, requires

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
HERE = Path(__file__).parent
SPARSE = 1 << 30
LONG = "n" * 255


def tree(folder: Path) -> Path:
    """Files of all kinds of names and sizes; small, but for one that is mostly hole."""
    chance = random.Random(1)
    folder.mkdir()
    (folder / "hello.txt").write_bytes(b"hello\n")
    (folder / "big.bin").write_bytes(chance.randbytes(3 * MIB + 77))
    (folder / "empty").write_bytes(b"")
    (folder / "é ü 漢字 🙂").write_bytes(b"unicode")
    (folder / "deep").mkdir()
    (folder / "deep" / "er").mkdir()
    for number in range(150):
        path = folder / "deep" / "er" / f"file with a longer name {number:04d}.dat"
        path.write_bytes(b"%d " % number * number)
    (folder / "deep" / "er" / "exactly").write_bytes(chance.randbytes(65536))
    (folder / LONG).write_bytes(b"long")
    for path in (folder / "hello.txt", folder / "deep"):
        os.utime(path, ns=(1_600_000_000_123_456_789, 1_500_000_000_987_654_321))
    return folder


def unix_tree(folder: Path) -> Path:
    """The same, with what only Unix has."""
    tree(folder)
    (folder / "link").symlink_to("deep/er/exactly")
    (folder / "deep" / "up").symlink_to("../hello.txt")
    (folder / "absolute").symlink_to("/etc/passwd")
    (folder / "climbing").symlink_to("../../outside")
    (folder / "twisted").symlink_to("deep/../..")
    (folder / "long link").symlink_to("x/" * 100)
    os.link(folder / "hello.txt", folder / "deep" / "second name")
    (folder / "steer \x1b[31m\nterminal").write_bytes(b"red")
    (Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff\xfename"))).write_bytes(b"bad")
    os.mkfifo(folder / "pipe")
    (folder / "setuid").write_bytes(b"#!")
    (folder / "setuid").chmod(0o6755)
    (folder / "secret").write_bytes(b"no")
    (folder / "secret").chmod(0o600)
    with (folder / "sparse").open("wb") as f:
        f.write(b"begin")
        f.seek(500 * MIB + 5)
        f.write(b"middle")
        f.truncate(SPARSE)
    return folder


def run(*words: str | Path, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        [requires(str(words[0])), *words[1:]],
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")


def blank(path: Path, size: int) -> None:
    with path.open("wb") as f:
        f.truncate(size)


def make_ext(path: Path, source: Path, kind: str, *words: str) -> None:
    blank(path, 48 * MIB)
    run("mke2fs", "-q", "-t", kind, *words, "-d", source, path)


def make_xfs(path: Path, source: Path, size: int = 300 * MIB) -> None:
    """By a prototype file, which has no quotes: names with blanks cannot be written in it."""
    blank(path, size)
    lines = ["/nothing", "0 0", "d--755 0 0"]

    def below(folder: Path) -> None:
        for child in sorted(folder.iterdir()):
            name = child.name
            if child.is_symlink():
                lines.append(f"{name} l--777 0 0 {child.readlink()}")
            elif child.is_dir():
                lines.append(f"{name} d--755 0 0")
                below(child)
            else:
                lines.append(f"{name} ---644 1000 70000 {child}")
        lines.append("$")

    below(source)
    prototype = path.with_suffix(".proto")
    prototype.write_bytes(os.fsencode("\n".join(lines) + "\n"))
    run("mkfs.xfs", "-q", "-p", prototype, path)


def make_ntfs(path: Path, source: Path) -> None:
    from ctypes.util import find_library

    if find_library("ntfs-3g") is None:
        pytest.skip(f"{SKIP_PREFIX} libntfs-3g")
    blank(path, 48 * MIB)
    run("mkntfs", "-q", "-F", "-f", "-p", "0", "-H", "255", "-S", "63", "-s", "512", path)
    fill = [sys.executable, str(HERE / "ntfs_fill.py"), str(path), str(source)]
    done = subprocess.run(fill, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()


def make_fat(path: Path, source: Path, bits: str) -> None:
    blank(path, 48 * MIB)
    run("mkfs.vfat", "-F", bits, path)
    children = sorted(source.iterdir())
    run("mcopy", "-s", "-m", "-i", path, *children, "::/", env={"TZ": "UTC"})


def plain_names(folder: Path) -> Path:
    """`tree`, for tools that cannot write all of its names."""
    tree(folder)
    for path in sorted(folder.rglob("*"), reverse=True):
        if not path.name.isascii() or " " in path.name:
            path.rename(
                path.with_name("".join(c if c.isalnum() or c in "." else "_" for c in path.name))
            )
    return folder


def without_emoji(folder: Path) -> Path:
    """`tree`, for mcopy, which keeps 16 bits of each letter."""
    tree(folder)
    for path in folder.glob("*🙂"):
        path.rename(path.with_name(path.name.replace("🙂", "ß")))
    return folder


MAKERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path, Path], None]]] = {
    "ext2": (unix_tree, lambda path, source: make_ext(path, source, "ext2")),
    "ext3": (unix_tree, lambda path, source: make_ext(path, source, "ext3")),
    "ext4": (unix_tree, lambda path, source: make_ext(path, source, "ext4")),
    "ext4 inline, 4 KiB": (
        unix_tree,
        lambda p, s: make_ext(p, s, "ext4", "-O", "inline_data", "-b", "4096", "-I", "512"),
    ),
    "ext4 bigalloc": (
        unix_tree,
        lambda p, s: make_ext(p, s, "ext4", "-O", "bigalloc", "-C", "16384"),
    ),
    "xfs": (plain_names, make_xfs),
    "ntfs": (tree, make_ntfs),
    "fat16": (plain_names, lambda path, source: make_fat(path, source, "16")),
    "fat32": (without_emoji, lambda path, source: make_fat(path, source, "32")),
}


def make(kind: str, folder: Path) -> tuple[Path, Path]:
    """The volume, and the tree that is in it."""
    plant, fill = MAKERS[kind]
    source = plant(folder / "tree")
    path = folder / "volume.raw"
    fill(path, source)
    return path, source


def digest(path: Path) -> str:
    """Of the places and bytes of all blocks that are not zeros: holes cost nothing."""
    found = hashlib.sha256()
    zeros = bytes(65536)
    with path.open("rb") as f:
        size = f.seek(0, os.SEEK_END)
        found.update(b"%d" % size)
        at = 0
        while at < size:
            try:
                at = os.lseek(f.fileno(), at, os.SEEK_DATA) & ~0xFFFF
            except OSError:
                break
            f.seek(at)
            block = f.read(65536)
            if block != zeros[: len(block)]:
                found.update(b"%d:" % at + block)
            at += len(block)
    return found.hexdigest()


def walk(folder: Path) -> dict[bytes, tuple[str, str]]:
    """All below a folder: kind, and digest or target."""
    found: dict[bytes, tuple[str, str]] = {}
    root = os.fsencode(folder)
    for where, folders, files in os.walk(root):
        for name in folders + files:
            whole = where + b"/" + name
            path = Path(os.fsdecode(whole))
            key = whole.removeprefix(root + b"/")
            if path.is_symlink():
                found[key] = "link", str(path.readlink())
            elif path.is_dir():
                found[key] = "folder", ""
            elif path.is_file():
                found[key] = "file", digest(path)
            else:
                found[key] = "other", ""
    return found
