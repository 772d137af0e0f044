# SPDX-License-Identifier: Apache-2.0
"""The reader's process can read, and end; nothing else, whatever takes it over."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import diskkit
from diskkit import FormatError
from diskkit.cli import main
from diskkit.files import confine, process
from diskkit.files.confine import ABORT, ALLOW, ALLOWED, DEADLY, KILL, MACHINES, MEMORY, REFUSE
from diskkit.files.process import ProcessFileSystem
from files.guests import MAKERS, make, make_ntfs
from files.hive import hive
from files.test_copies import reader_for
from makers.peers import requires
from volumes.tables import Memory

if TYPE_CHECKING:
    from diskkit.files.confine import Machine, Step
    from diskkit.files.filesystem import FileSystem

    Out = pytest.CaptureFixture[str]

OURS = 4711
PROT_EXEC = 4


@pytest.fixture(autouse=True)
def _can_be_confined() -> None:
    if os.uname().machine not in MACHINES:
        pytest.skip("no filter is known for this processor")


# --- The filter -----------------------------------------------------------------------------------


def verdict(program: list[Step], architecture: int, call: int, *arguments: int) -> int:
    """What the kernel would do, by the rules of classic BPF."""
    words = [call, architecture, 0, 0]
    for value in (*arguments, *[0] * (6 - len(arguments))):
        words += [value & 0xFFFFFFFF, value >> 32]
    loaded = at = 0
    while True:
        code, yes, no, operand = program[at]
        at += 1
        if code == 0x20:
            loaded = words[operand // 4]
        elif code == 0x06:
            return operand
        else:
            holds = {0x15: loaded == operand, 0x35: loaded >= operand, 0x45: loaded & operand}
            at += yes if holds[code] else no


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> Machine:
    return MACHINES[request.param]


def test_every_call_has_one_answer(machine: Machine) -> None:
    program = confine.steps(machine, OURS)
    known: dict[int | None, int]
    known = {row[machine.column]: ALLOW for row in ALLOWED.values()}
    known |= {row[machine.column]: ALLOW for row in MEMORY.values()}
    known |= {row[machine.column]: KILL for row in (*DEADLY.values(), *ABORT.values())}
    for call in range(1000):
        assert verdict(program, machine.architecture, call) == known.get(call, REFUSE), call


def test_memory_may_not_be_run(machine: Machine) -> None:
    program = confine.steps(machine, OURS)
    for row in MEMORY.values():
        call = row[machine.column]
        for flags, answer in ((0, ALLOW), (3, ALLOW), (PROT_EXEC, KILL), (7, KILL)):
            assert verdict(program, machine.architecture, call, 0, 4096, flags) == answer


def test_only_abort_may_signal_and_only_itself(machine: Machine) -> None:
    program = confine.steps(machine, OURS)
    call = ABORT["tgkill"][machine.column]
    for whom, what, answer in (
        (OURS, signal.SIGABRT, ALLOW),
        (OURS, signal.SIGSTOP, KILL),
        (1, signal.SIGABRT, KILL),
    ):
        assert verdict(program, machine.architecture, call, whom, 9, what) == answer


def test_numbers_of_other_architectures_are_no_way_around(machine: Machine) -> None:
    program = confine.steps(machine, OURS)
    i386, *others = 0x40000003, *(m.architecture for m in MACHINES.values())
    for architecture in {i386, *others} - {machine.architecture}:
        assert {verdict(program, architecture, call) for call in range(1000)} == {KILL}
    for call in (0, 1, 9, 600):
        assert verdict(program, machine.architecture, 0x40000000 + call) == KILL


@pytest.mark.parametrize(("name", "header"), [("x86_64", "unistd_64"), ("aarch64", "unistd")])
def test_numbers_are_the_kernels(name: str, header: str) -> None:
    folder = "asm" if name == os.uname().machine else "asm-generic"
    if name != os.uname().machine and name != "aarch64":
        pytest.skip("this machine has no headers of that one")
    tables = {**ALLOWED, **MEMORY, **ABORT, **DEADLY, "seccomp": confine.SECCOMP}
    source = f"#define __ARCH_WANT_SYS_CLONE3\n#include <{folder}/{header}.h>\n"
    source += "".join(f"@ {call} __NR_{call}\n" for call in tables)
    done = subprocess.run(
        [requires("cc"), "-E", "-P", "-"], input=source, capture_output=True, text=True, check=True
    )
    theirs = dict(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("@ "))
    for call, row in tables.items():
        number = row[MACHINES[name].column]
        assert theirs[call] == (f"__NR_{call}" if number is None else str(number))


# --- A reader that was taken over -----------------------------------------------------------------

TAKEN_OVER = """
import json, sys; sys.path[:] = json.loads(sys.argv.pop())
import ctypes, mmap, os, signal, socket, _thread
from diskkit.files import confine, readers, worker
libc = ctypes.CDLL(None, use_errno=True)
def attempt(kind, volume):
    BODY
    raise RuntimeError("nothing kept it from that")
readers.open_reader = attempt
FIRST
worker.main()
"""
UNCONFINED = "confine.confine = lambda: ''"
REFUSED = "Operation not permitted"
STOPPED = (
    "the reader of this ext4 filesystem was stopped: it tried something that a reader does not do"
)
ATTEMPTS = {
    "read a file": ("open('/etc/passwd')", REFUSED),
    "make a file": ("os.open(TARGET, os.O_CREAT | os.O_WRONLY)", REFUSED),
    "list a folder": ("os.listdir('/')", REFUSED),
    "remove a file": ("os.unlink(TARGET)", REFUSED),
    "change a mode": ("os.chmod(TARGET, 0o777)", REFUSED),
    "go elsewhere": ("os.chdir('/proc')", REFUSED),
    "make a pipe": ("os.pipe()", REFUSED),
    "make a socket": ("socket.socket(socket.AF_INET)", STOPPED),
    "make a pair of sockets": ("socket.socketpair()", STOPPED),
    "fork": ("os.fork()", STOPPED),
    "begin a thread": ("_thread.start_new_thread(int, ())", STOPPED),
    "run a program": ("os.execv('/bin/true', ['true'])", STOPPED),
    "run a command": ("os.system('true')", STOPPED),
    "signal another process": ("os.kill(os.getppid(), 0)", STOPPED),
    "signal a thread": ("signal.raise_signal(signal.SIGURG)", STOPPED),
    "trace": ("libc.ptrace(0, 0, 0, 0)", STOPPED),
    "read another process": ("libc.process_vm_readv(os.getppid(), 0, 0, 0, 0, 0)", STOPPED),
    "run what it wrote": ("mmap.mmap(-1, 4096, prot=7)", STOPPED),
}


def taken_over(monkeypatch: pytest.MonkeyPatch, body: str, first: str, target: Path) -> str:
    """What is said when the reader does that with the volume's first byte in its hands."""
    start = TAKEN_OVER.replace("FIRST", first).replace("BODY", body)
    monkeypatch.setattr(process, "_START", start.replace("TARGET", repr(str(target))))
    with pytest.raises(FormatError) as caught:
        ProcessFileSystem("ext4", Memory(bytes(4096)))
    return str(caught.value)


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_what_a_reader_has_no_use_for_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, attempt: str
) -> None:
    body, says = ATTEMPTS[attempt]
    target = tmp_path / "target"
    target.touch(0o600)
    assert says in taken_over(monkeypatch, body, "", target)
    assert target.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_it_is_the_filter_that_refuses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, attempt: str
) -> None:
    """Without it nothing does; or the tests above would prove nothing."""
    target = tmp_path / "target"
    target.touch()
    said = taken_over(monkeypatch, ATTEMPTS[attempt][0], UNCONFINED, target)
    ended = "ended by itself, status 0" if attempt == "run a program" else "nothing kept it"
    assert ended in said


def test_crash_is_still_told_as_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for body, says in (
        ("os.abort()", "crashed (SIGABRT)"),
        ("ctypes.string_at(0)", "crashed (SIGSEGV)"),
        ("bytearray(3 << 30)", "needs more memory than a reader may have"),
        ("import email", "No module named 'email'"),
    ):
        assert says in taken_over(monkeypatch, body, "", tmp_path)


def test_kernel_knows_that_it_is_confined(tmp_path: Path) -> None:
    reader_for("ext4")
    volume, _ = make("ext2", tmp_path)
    with diskkit.open_disk(volume) as disk, ProcessFileSystem("ext2", disk) as fs:
        status = Path(f"/proc/{fs._process.pid}/status").read_text().splitlines()
    assert {"Seccomp:\t2", "NoNewPrivs:\t1"} <= set(status)


# --- A reader that does its work ------------------------------------------------------------------

WATCHED = """
import json, sys; sys.path[:] = json.loads(sys.argv.pop())
import os
from diskkit.files import confine, worker
confined, done = confine.confine, []
def watch(event, arguments):
    if done and event in ("import", "open", "os.listdir"):
        os.abort()
def confine_and_watch():
    why_not = confined()
    done.append(why_not)
    return why_not
confine.confine = confine_and_watch
sys.addaudithook(watch)
worker.main()
"""
"""Ends with a crash when something is loaded or looked for once it is confined."""


def use_all(fs: FileSystem, id: int) -> int:
    """Everything that can be asked of all that is below a folder; how many entries there were."""
    count = 0
    fs.streams(id)
    for name, node in list(fs.scandir(id)):
        if node.problem:
            continue
        count += 1
        fs.stat(node.id)
        fs.lookup(id, name)
        fs.xattrs(node.id)
        assert len(list(fs.details([node]))) == 1
        if node.is_link:
            fs.readlink(node.id)
        elif node.is_dir:
            count += use_all(fs, node.id)
        elif node.is_file:
            fs.extents(node.id)
            fs.read_at(node.id, 0, 70_000)
            for stream, _ in fs.streams(node.id):
                fs.extents(node.id, stream)
                fs.read_at(node.id, 0, 5000, stream)
            with pytest.raises(FormatError):
                fs.registry(node.id, [("Select", "Current")])
    with pytest.raises(FormatError):
        fs.stat(1 << 40)
    return count


@pytest.mark.parametrize("kind", MAKERS)
def test_reading_needs_nothing_that_was_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    reader_for(kind)
    monkeypatch.setattr(process, "_START", WATCHED)
    volume, _ = make(kind, tmp_path)
    with diskkit.open_disk(volume) as disk, ProcessFileSystem(kind.split()[0], disk) as fs:
        assert fs.warnings == []
        assert use_all(fs, fs.root) > 150


def test_reading_what_only_ntfs_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reader_for("ntfs")
    monkeypatch.setattr(process, "_START", WATCHED)
    source = tmp_path / "tree"
    (source / "old.compressed").mkdir(parents=True)
    (source / "old.compressed" / "file").write_bytes(b"packs well" * 20000)
    (source / "HIVE").write_bytes(hive({"Select": {"Current": 3, "Name": "é"}}))
    (source / "old.compressed" / "file:stream").write_bytes(b"beside it" * 1000)
    make_ntfs(tmp_path / "v.raw", source)
    with diskkit.open_disk(tmp_path / "v.raw") as disk, ProcessFileSystem("ntfs", disk) as fs:
        node = fs.lookup(fs.root, b"HIVE")
        assert node is not None
        wanted = [("Select", "Current"), ("Select", "Name"), ("none", "none")]
        assert fs.registry(node.id, wanted) == [3, "é", None]
        folder = fs.lookup(fs.root, b"old.compressed")
        assert folder is not None
        assert use_all(fs, folder.id) == 1


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("confine.MACHINES.clear()", "not known how on linux"),
        ("confine.SECCOMP = (1 << 20, 1 << 20)", "Function not implemented"),
    ],
)
def test_reader_that_cannot_be_confined_reads_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Out, broken: str, why: str
) -> None:
    reader_for("ext4")
    volume, _ = make("ext2", tmp_path)
    before = "from diskkit.files.worker"
    start = process._START.replace(before, f"from diskkit.files import confine; {broken}; {before}")
    assert broken in start
    monkeypatch.setattr(process, "_START", start)
    assert main(["ls", f"{volume}:/"]) == 0
    out, err = capfd.readouterr()
    assert "hello.txt\n" in out
    (line,) = err.splitlines()
    assert line.startswith("diskkit: warning: this kernel cannot confine the reader of this ext2: ")
    assert why in line
