# SPDX-License-Identifier: Apache-2.0
"""What the process that parses may still ask of the kernel: a seccomp filter, and putting it on.

Three answers. What it takes to read from a socket, to have memory and to end is allowed. What only
somebody else's code would try ends the process, so that it is noticed. All other calls fail with
EPERM: Python and the C library look for files now and then, such as a module for an error's text,
and newer ones may ask for what is not known here; they go on without.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
"""SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO and SECCOMP_RET_KILL_PROCESS."""

ALLOWED = {
    "recvfrom": (45, 207),
    "sendto": (44, 206),
    "read": (0, 63),
    "write": (1, 64),  # last words, to /dev/null
    "writev": (20, 66),
    "close": (3, 57),
    "brk": (12, 214),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "sysinfo": (99, 179),  # sorting in the C library asks how much memory there is
    "futex": (202, 98),
    "sched_yield": (24, 124),
    "clock_gettime": (228, 113),
    "getrandom": (318, 278),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
"""Numbers of calls on x86_64 and on aarch64, the most frequent first."""
MEMORY = {"mmap": (9, 222), "mprotect": (10, 226)}
"""Allowed, but for memory that can be executed."""
ABORT = {"tgkill": (234, 131)}
"""Allowed as abort(3) calls it."""
DEADLY = {
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    "clone": (56, 220),
    "clone3": (435, 435),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kill": (62, 129),
    "tkill": (200, 130),
}
"""What ends the process; aarch64 has no fork but clone."""
SECCOMP = (317, 277)

_LOAD, _EQUAL, _AT_LEAST, _BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_CALL, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Where `struct seccomp_data` has them. Of an argument's 8 bytes the lower half comes first."""
_X32 = 0x40000000
_PROT_EXEC = 4
_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _ALL_THREADS = 1, 1


class Machine(NamedTuple):
    """A processor that the filter is known for."""

    column: int
    """Of the tables above."""
    architecture: int
    """AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64."""


MACHINES = {"x86_64": Machine(0, 0xC000003E), "aarch64": Machine(1, 0xC00000B7)}

Step = tuple[int, int, int, int]
"""Code, steps to pass over if it holds, steps if not, operand."""


def steps(machine: Machine, process: int) -> list[Step]:
    """The filter for a process of that id."""
    # A call by the numbers of another architecture, or of x32, would pass for one of ours.
    found = [(_LOAD, 0, 0, _ARCHITECTURE), *_unless_equal(machine.architecture, KILL)]
    found += [(_LOAD, 0, 0, _CALL), (_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, KILL)]
    for number in _numbers(ALLOWED, machine):
        found += _if_equal(number, [(_RETURN, 0, 0, ALLOW)])
    for number in _numbers(MEMORY, machine):
        found += _if_equal(
            number,
            [
                (_LOAD, 0, 0, _ARGUMENTS + 8 * 2),
                (_BITS, 0, 1, _PROT_EXEC),
                (_RETURN, 0, 0, KILL),
                (_RETURN, 0, 0, ALLOW),
            ],
        )
    for number in _numbers(ABORT, machine):
        found += _if_equal(
            number,
            [
                (_LOAD, 0, 0, _ARGUMENTS),
                *_unless_equal(process, KILL),
                (_LOAD, 0, 0, _ARGUMENTS + 8 * 2),
                *_unless_equal(signal.SIGABRT, KILL),
                (_RETURN, 0, 0, ALLOW),
            ],
        )
    for number in _numbers(DEADLY, machine):
        found += _if_equal(number, [(_RETURN, 0, 0, KILL)])
    return [*found, (_RETURN, 0, 0, REFUSE)]


def _numbers(table: Mapping[str, tuple[int, int | None]], machine: Machine) -> Iterator[int]:
    for row in table.values():
        number = row[machine.column]
        if number is not None:
            yield number


def _if_equal(value: int, then: list[Step]) -> list[Step]:
    return [(_EQUAL, 0, len(then), value), *then]


def _unless_equal(value: int, end: int) -> list[Step]:
    return [(_EQUAL, 1, 0, value), (_RETURN, 0, 0, end)]


def pack(program: list[Step]) -> bytes:
    """As `struct sock_filter` has it."""
    return b"".join(struct.pack("=HBBI", *step) for step in program)


def confine() -> str:
    """Confine this process for good, with all of its threads; or the reason why that cannot be."""
    machine = MACHINES.get(os.uname().machine)
    if sys.platform != "linux" or machine is None or sys.maxsize < 1 << 32:
        return f"not known how on {sys.platform}, {os.uname().machine}"
    raw = pack(steps(machine, os.getpid()))
    program = _Program(len(raw) // 8, raw)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    libc.syscall.argtypes = [ctypes.c_long, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_void_p]
    libc.syscall.restype = ctypes.c_long
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(
        SECCOMP[machine.column], _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(program)
    ):
        return os.strerror(ctypes.get_errno())
    return ""


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = [("count", ctypes.c_ushort), ("steps", ctypes.c_char_p)]
