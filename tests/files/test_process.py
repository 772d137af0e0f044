# SPDX-License-Identifier: Apache-2.0
"""The reader's process: whatever it does, one error here, and nothing left behind."""

from __future__ import annotations

import os
import random
import socket
import struct
import sys
from itertools import islice
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diskkit import DiskkitError, FormatError, StorageError, UnsupportedFeature
from diskkit.files import open_filesystem, process, readers, wire, worker
from diskkit.files.filesystem import Details, Extent, Node
from diskkit.files.process import ProcessFileSystem
from diskkit.files.walk import list_below, resolve
from diskkit.volumes import find_volumes
from files.guests import make, make_ext, tree
from files.test_copies import reader_for
from volumes.tables import Memory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NODE = Node(7, 0o100644, 5, 1, 0, 0, 1, 2, 3, 4, 0, 0)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    reader_for("ext4")
    folder = tmp_path_factory.mktemp("small")
    make_ext(folder / "v.raw", tree(folder / "tree"), "ext4")
    return (folder / "v.raw").read_bytes()


def stand_in(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Another program in place of the reader; it has the socket as `peer`."""
    start = (
        "import json, os, sys, time, socket; sys.path[:] = json.loads(sys.argv.pop());"
        "from diskkit.files import wire; peer = socket.socket(fileno=0)\n"
        "def good():\n"
        "    wire.receive(peer)\n"
        "    wire.send(peer, wire.ANSWER, wire.pack_json([2, []]))\n"
        "    return wire.receive(peer)\n" + body
    )
    monkeypatch.setattr(process, "_START", start)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("os.abort()", "crashed (SIGABRT)"),
        ("good(); os.kill(os.getpid(), 11)", "crashed (SIGSEGV)"),
        ("good(); sys.exit(3)", "ended by itself, status 3"),
        ("good(); time.sleep(600)", "did not answer for 1 s"),
        ("good(); peer.sendall(b'A\\xff\\xff\\xff\\xff')", "broke the protocol"),
        ("good(); peer.sendall(b'A\\x05\\0\\0\\0ab'); peer.close()", "ended by itself"),
        ("good(); wire.send(peer, b'Q', b'')", "sent a message of kind b'Q'"),
        ("good(); wire.send(peer, b'R', b'xx')", "asked for bytes in a wrong way"),
        ("good(); wire.send(peer, b'R', wire.RANGE.pack(1 << 60, 1))", "asked for bytes"),
        ("good(); wire.send(peer, b'R', wire.RANGE.pack(0, 1 << 30))", "asked for bytes"),
        ("good(); wire.send(peer, b'A', b'[1]')", "made no sense"),
        ("good(); wire.send(peer, b'B', b'')", "made no sense"),
        ("good(); wire.send(peer, b'E', b'[1, 2]')", "sent an error that makes no sense"),
        ("wire.send(peer, b'A', b'{}')", "made no sense at the start"),
    ],
)
def test_reader_that_misbehaves_is_one_error(
    monkeypatch: pytest.MonkeyPatch, body: str, says: str
) -> None:
    stand_in(monkeypatch, body)
    patience = 1.0 if "sleep" in body else 40.0
    started: list[ProcessFileSystem] = []

    def use() -> None:
        started.append(ProcessFileSystem("ext4", Memory(bytes(4096)), patience=patience))
        started[0].stat(2)

    with pytest.raises(FormatError) as caught:
        use()
    assert says in str(caught.value)
    assert "the reader of this ext4 filesystem" in str(caught.value)
    for fs in started:
        with pytest.raises(FormatError):
            fs.readlink(2)
        fs.close()
        assert fs._process.returncode is not None


@pytest.mark.parametrize("raw", [b"x", b"\0" * 80, struct.pack("<QIqIIIqqqqIIHH", *[1] * 12, 9, 9)])
def test_entries_that_break_off_are_refused(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    body = f"good(); wire.send(peer, b'B', {raw!r})"
    stand_in(monkeypatch, body)
    with ProcessFileSystem("ext4", Memory(bytes(4096))) as fs, pytest.raises(FormatError):
        fs.stat(2)


@pytest.mark.parametrize("raw", [b"", b"+", b"?", b"+x"])
def test_listings_that_make_no_sense_or_no_end_are_refused(
    monkeypatch: pytest.MonkeyPatch, raw: bytes
) -> None:
    stand_in(monkeypatch, f"good()\nwhile 1: wire.send(peer, b'B', {raw!r}); wire.receive(peer)")
    with ProcessFileSystem("ext4", Memory(bytes(4096))) as fs, pytest.raises(FormatError):
        list(fs.scandir(2))


@pytest.mark.parametrize(
    "extents",
    [[Extent(10, 4090)], [Extent(-1, 0)], [Extent(1, -2)], [Extent(0, 0)], [Extent(4000, 0)] * 2],
)
def test_extents_outside_of_the_volume_are_refused(
    monkeypatch: pytest.MonkeyPatch, extents: list[Extent]
) -> None:
    stand_in(monkeypatch, f"good(); wire.send(peer, b'B', {wire.pack_extents(extents)!r})")
    with ProcessFileSystem("ext4", Memory(bytes(4096))) as fs, pytest.raises(FormatError):
        fs.extents(2)


@pytest.mark.parametrize(
    "answer",
    [
        "[]",
        "[1, 2]",
        "[true]",
        "[1.5]",
        '["x", "y"]',
        "[[]]",
        "[[1]]",
        '[["\u0100"]]',
        "{}",
        "[{}]",
    ],
)
def test_values_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    stand_in(monkeypatch, f"good(); wire.send(peer, b'A', {answer.encode()!r})")
    with ProcessFileSystem("ntfs", Memory(bytes(4096))) as fs:
        with pytest.raises(FormatError, match="made no sense"):
            fs.registry(2, [("Select", "Current")])
        with pytest.raises(FormatError):
            fs.stat(2)


@pytest.mark.parametrize("name", [b"", b"..", b".", b"a/b", b"/etc/passwd", b"a\0b"])
def test_names_that_no_file_can_have_are_marked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: bytes
) -> None:
    from diskkit.files.copying import Copier
    from diskkit.files.walk import Found

    # As if a hostile image had taken the reader over, which then answers every call the same.
    packed = wire.LAST + wire.pack_nodes([(name, NODE)])
    body = (
        f"good(); wire.send(peer, b'B', {wire.pack_details(Details())!r}); wire.receive(peer);"
        f"wire.send(peer, b'B', {packed!r})"
    )
    stand_in(monkeypatch, body)
    told: list[str] = []
    volume = Memory(bytes(4096))
    with ProcessFileSystem("ext4", volume) as fs:
        folder = Found(b"/", NODE._replace(mode=0o040755))
        copied = Copier(fs, volume, told.append).copy(folder, str(tmp_path / "out"), recursive=True)
    assert copied.files == 0
    assert "no file can have this name" in told[0]
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]


def test_reader_has_no_files_and_bounded_memory(small: bytes) -> None:
    (volume,) = find_volumes(Memory(small)).volumes
    with open_filesystem(volume) as fs:
        assert isinstance(fs, ProcessFileSystem)
        from pathlib import Path

        own = Path(f"/proc/{fs._process.pid}")
        if not own.exists():
            pytest.skip("peer not installed: /proc")
        limits = (own / "limits").read_text()
        assert str(2 << 30) in next(x for x in limits.splitlines() if "address space" in x)
        links = [p.readlink() for p in (own / "fd").iterdir()]
        assert all(str(link).startswith(("socket:", "/dev/null")) for link in links), links


def test_disk_that_cannot_be_read_is_the_disks_error(small: bytes) -> None:
    class Failing(Memory):
        broken = False

        def read_into(self, offset: int, buffer: memoryview) -> None:
            if self.broken:
                raise StorageError("disk.vmdk", "the medium is gone")
            super().read_into(offset, buffer)

    disk = Failing(small)
    (volume,) = find_volumes(disk).volumes
    with open_filesystem(volume) as fs:
        disk.broken = True
        with pytest.raises(DiskkitError, match="the medium is gone"):
            list(fs.scandir(fs.root))
        disk.broken = False
        assert len(list(fs.scandir(fs.root))) > 3


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, small: bytes) -> None:
    monkeypatch.setattr(readers, "find_spec", lambda name: None)
    (volume,) = find_volumes(Memory(small)).volumes
    with pytest.raises(
        UnsupportedFeature, match=r"libfsext-python.*pip install 'diskkit\[files\]'"
    ):
        open_filesystem(volume)


@pytest.mark.parametrize(
    ("mark", "at", "says"),
    [
        (b"_BHRfS_M", 65600, "btrfs is read by the kernel only"),
        (b"-FVE-FS-", 3, "BitLocker"),
        (b"ReFS\0\0\0\0", 3, "ReFS cannot be read"),
        (b"LUKS\xba\xbe\0\x01", 0, r"encrypted \(LUKS\): give its key, and name whole\.luks"),
        (b"", 0, "no filesystem was recognised"),
    ],
)
def test_what_cannot_be_read_is_said(mark: bytes, at: int, says: str) -> None:
    disk = bytearray(1 << 20)
    disk[at : at + len(mark)] = mark
    with pytest.raises(UnsupportedFeature, match=says):
        open_filesystem(find_volumes(Memory(disk)).volume(1))


@given(st.integers(0, 2**32))
@settings(max_examples=12)
def test_damaged_filesystems_give_files_or_errors(small: bytes, seed: int) -> None:
    """Metadata is changed at random; every file is listed, and read where that is said to work."""
    chance = random.Random(seed)
    disk = bytearray(small)
    for _ in range(chance.choice((1, 10, 200))):
        # The first megabytes of this volume are tables, inodes and directories.
        at = chance.choice((1024 + chance.randrange(256), chance.randrange(2 << 20)))
        value = chance.choice((b"\0\0", b"\xff\xff\xff\xff", chance.randbytes(4)))
        disk[at : at + len(value)] = value
    disk[1024 + 56 : 1024 + 58] = b"\x53\xef"
    volume = Memory(disk)
    try:
        with ProcessFileSystem("ext4", volume, patience=10) as fs:
            top = resolve(fs, b"/")
            for listing in list_below(fs, top, recursive=True):
                for _, node in listing.rows[:50]:
                    if node.is_file and not node.problem:
                        fs.extents(node.id)
                        fs.read_at(node.id, 0, 1000)
                        fs.xattrs(node.id)
    except DiskkitError:
        pass


def test_long_listings_side_by_side(tmp_path: Path) -> None:
    """More of them than the reader keeps, with other calls between, while it reads ahead."""
    reader_for("ext4")
    names = [b"%05d" % number for number in range(3 * wire.ROWS)]
    for name in names:
        (tmp_path / "tree" / os.fsdecode(name)).parent.mkdir(exist_ok=True)
        (tmp_path / "tree" / os.fsdecode(name)).write_bytes(name)
    make_ext(tmp_path / "v.raw", tmp_path / "tree", "ext4")
    (volume,) = find_volumes(Memory((tmp_path / "v.raw").read_bytes())).volumes
    with open_filesystem(volume) as fs:
        found: list[list[bytes]] = [[] for _ in range(worker._SCANS + 3)]
        rows = [(own, fs.scandir(fs.root)) for own in found]
        while rows:
            for own, scan in list(rows):
                part = list(islice(scan, 200))
                own += [name for name, _ in part]
                if not part:
                    rows.remove((own, scan))
                for _, node in part[:1]:
                    assert fs.stat(node.id) == node
        assert all(sorted(own) == sorted([*names, b"lost+found"]) for own in found)


def test_a_listing_that_breaks_off_is_an_error_in_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    class Half:
        warnings = ()

        def scandir(self, id: int) -> Iterator[tuple[bytes, Node]]:
            for number in range(wire.ROWS + 5):
                yield b"%d" % number, NODE
            raise FormatError("the rest is damaged")

    server = worker.Server(None, None, Half(), None)  # type: ignore[arg-type]
    for count in (wire.ROWS, 5):
        raw = bytearray(server.do_scan(1, 2, 0))
        assert raw[:1] == wire.MORE
        assert len(list(wire.unpack_nodes(raw[1:]))) == count
        assert server._after is not None
        server._after.go_on()
    with pytest.raises(FormatError, match="the rest is damaged"):
        server.do_scan(1, 2, wire.ROWS)
    assert not server._scans


def test_messages_survive_the_wire() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        rows = [(b"bad\xff", NODE), (b"x", NODE._replace(problem="why é", size=-5))]
        wire.send(ours, wire.BYTES, wire.pack_nodes(rows))
        kind, raw = wire.receive(theirs)
        assert kind == wire.BYTES
        assert list(wire.unpack_nodes(raw)) == rows
        ours.close()
        with pytest.raises(EOFError):
            wire.receive(theirs)


def test_listing_loads_no_reader_here(tmp_path: Path) -> None:
    reader_for("ext4")
    import subprocess

    volume, _ = make("ext2", tmp_path)
    script = (
        "import sys; from diskkit.cli import main; main(['ls', sys.argv[1]]);"
        "print({'pyfsext', 'rich'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, f"{volume}:/"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == "set()\n"
    assert "hello.txt\n" in done.stdout
