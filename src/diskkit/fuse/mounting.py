# SPDX-License-Identifier: Apache-2.0
"""Into the file tree and out of it: by mount(2) where that is allowed, else by fusermount3."""

from __future__ import annotations

import array
import ctypes
import errno
import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path
from typing import NamedTuple

from diskkit.errors import StorageError

TYPE = "fuse.diskkit"
_NOSUID, _NODEV, _RDONLY = 2, 4, 1
_DETACH = 2
_READ_AHEAD_KIB = 1024
_OTHERS = ["allow_other", "default_permissions"]
"""Other users may come in, and the kernel holds them to the modes of files: we are not asked."""


class Mounted(NamedTuple):
    """A mount of ours."""

    disk: str
    folder: str
    options: str


def mount(disk: str, folder: str, *, read_only: bool, allow_other: bool) -> int:
    """Mount something empty over `folder`; returns the device to answer its requests on.

    Raises `StorageError` with the reason where neither way is allowed.
    """
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise StorageError("/dev/fuse", "this kernel has no FUSE, or it is not loaded") from None
    except PermissionError:
        mode = stat.S_IMODE(os.stat("/dev/fuse").st_mode)  # noqa: PTH116 - no user's path
        text = f"no permission: its mode is {mode:04o}, and 0666 is usual"
        raise StorageError("/dev/fuse", text) from None
    try:
        _mount(disk, folder, device, read_only=read_only, allow_other=allow_other)
    except PermissionError:
        os.close(device)
        return _fusermount(disk, folder, read_only=read_only, allow_other=allow_other)
    except OSError as error:
        os.close(device)
        text = error.strerror or "cannot be mounted over"
        raise StorageError(folder, text, errno=error.errno) from None
    return device


def _mount(disk: str, folder: str, device: int, *, read_only: bool, allow_other: bool) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    options = [f"fd={device}", "rootmode=40000", f"user_id={os.getuid()}"]
    options += [f"group_id={os.getgid()}", "max_read=1048576"]
    options += _OTHERS if allow_other else []
    flags = _NOSUID | _NODEV | (_RDONLY if read_only else 0)
    source = os.fsencode(disk)
    done = libc.mount(source, os.fsencode(folder), TYPE.encode(), flags, ",".join(options).encode())
    if done:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _fusermount(disk: str, folder: str, *, read_only: bool, allow_other: bool) -> int:
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        text = "not root, and fusermount3 is not installed (Debian: fuse3)"
        raise StorageError(folder, text)
    # A comma would end the name in fusermount's list of options.
    name = disk.replace("\\", "\\\\").replace(",", "\\,")
    options = [f"fsname={name}", "subtype=diskkit", "max_read=1048576", "nosuid", "nodev"]
    options += ["ro"] if read_only else []
    options += _OTHERS if allow_other else []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            [program, "-o", ",".join(options), "--", folder],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StorageError(folder, done.stderr.strip() or f"{program} failed")
        size = array.array("i").itemsize
        _, parts, _, _ = ours.recvmsg(1, socket.CMSG_LEN(size))
        if not parts:
            raise StorageError(folder, f"{program} gave no device")
        device = int.from_bytes(parts[0][2][:size], "little")
    os.set_inheritable(device, False)
    return device


def read_ahead(folder: str) -> None:
    """Let the kernel read 1 MiB ahead; only root may, and without it all works, more slowly."""
    device = os.stat(folder).st_dev  # noqa: PTH116 - the folder is used as it was given
    path = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    try:
        path.write_text(f"{_READ_AHEAD_KIB}\n")
    except OSError:
        return


def unmount(folder: str, *, lazy: bool = False) -> None:
    """Take a mount out of the file tree. Raises `StorageError` if it is in use, or is none."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(folder), _DETACH if lazy else 0) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EPERM:
        program = shutil.which("fusermount3") or shutil.which("fusermount")
        if program is not None:
            words = [program, "-u", *(["-z"] if lazy else []), "--", folder]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
            raise StorageError(folder, done.stderr.strip() or "cannot be unmounted")
    text = {errno.EINVAL: "nothing is mounted there", errno.EBUSY: "is in use"}
    raise StorageError(folder, text.get(number, os.strerror(number)), errno=number)


def sync(folder: str) -> None:
    """Return when what was written to the filesystem there is durable. Raises `StorageError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.syncfs(file):
            number = ctypes.get_errno()
            raise StorageError(folder, os.strerror(number), errno=number)
    finally:
        os.close(file)


def leave(folder: str) -> None:
    """Unmount; whoever is inside keeps what they have open until they leave."""
    try:
        unmount(folder)
    except StorageError as error:
        if error.errno != errno.EINVAL:  # unless others have just unmounted it
            unmount(folder, lazy=True)


class Row(NamedTuple):
    """A line of mountinfo (proc_pid_mountinfo(5))."""

    source: str
    folder: str
    type: str
    options: str


def rows() -> list[Row]:
    """What is mounted, as this process sees the file tree; newest last."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().split(b"\n")[:-1]:
        head, _, tail = os.fsdecode(line).partition(" - ")
        kind, source, *_ = tail.split(" ")
        fields = head.split(" ")
        found.append(Row(_plain(source), _plain(fields[4]), kind, fields[5]))
    return found


def mounted() -> list[Mounted]:
    """What is mounted by diskkit over FUSE, as this process sees the file tree; newest last."""
    return [Mounted(row.source, row.folder, row.options) for row in rows() if row.type == TYPE]


def _plain(text: str) -> str:
    """Undo the kernel's octal for blanks, tabs, newlines and backslashes."""
    for code, sign in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, sign)
    return text
