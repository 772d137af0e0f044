# SPDX-License-Identifier: Apache-2.0
"""All that copying files takes, told of many at once: what fails fails alone, lies are found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskkit import DiskkitError, FormatError, StorageError, UnsupportedFeature
from diskkit.files import copying, open_filesystem, wire, worker
from diskkit.files.copying import Copier
from diskkit.files.filesystem import Details, Extent, Node, as_ours
from diskkit.files.process import ProcessFileSystem
from diskkit.files.walk import Found, list_below, resolve
from diskkit.volumes import find_volumes
from files.guests import MAKERS, make
from files.test_copies import reader_for
from files.test_process import NODE, stand_in
from volumes.tables import Memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ROWS = [
    Details(),
    Details(extents=[]),
    Details(extents=[Extent(5, 4090), Extent(1 << 40, -1)], xattrs={b"user.a": b"", b"b": b"x"}),
    Details(content=b""),
    Details(content=b"short\0", xattrs={b"\xff" * 255: b"y" * 65536}),
    Details(target=b"../where"),
    Details(error=UnsupportedFeature("encrypted")),
    Details(xattrs_error=FormatError("lies outside", structure="ext attribute")),
]


def same(one: Details, other: Details) -> bool:
    errors = [(type(d.error), str(d.error), str(d.xattrs_error)) for d in (one, other)]
    plain = [d._replace(error=None, xattrs_error=None) for d in (one, other)]
    return errors[0] == errors[1] and plain[0] == plain[1]


def test_details_survive_the_wire() -> None:
    raw = bytearray(b"".join(map(wire.pack_details, ROWS)))
    found = list(wire.unpack_details(raw, "ext4"))
    assert len(found) == len(ROWS)
    assert all(map(same, found, ROWS))
    ends = {0}
    for row in ROWS:
        ends.add(max(ends) + len(wire.pack_details(row)))
    for cut in set(range(300)) - ends:
        with pytest.raises(FormatError):
            list(wire.unpack_details(raw[:cut], "ext4"))


@given(st.binary(max_size=300))
def test_any_bytes_are_details_or_an_error(raw: bytes) -> None:
    try:
        found = list(wire.unpack_details(bytearray(raw), "ext4"))
    except FormatError:
        return
    assert sum(10 + len(d.content or d.target or b"") for d in found) <= len(raw)


@pytest.mark.parametrize("kind", ["ext4 inline, 4 KiB", "xfs", "ntfs", "fat32"])
def test_they_are_what_single_calls_say(tmp_path: Path, kind: str) -> None:
    assert kind in MAKERS
    reader_for(kind.split()[0])
    path, _ = make(kind, tmp_path)
    (volume,) = find_volumes(Memory(path.read_bytes())).volumes
    with open_filesystem(volume) as fs:
        nodes = [
            node
            for listing in list_below(fs, resolve(fs, b"/"), recursive=True)
            for _, node in listing.rows
            if not node.problem
        ]
        found = list(fs.details(nodes))
        assert len(found) == len(nodes) > 150
        short = 0
        for node, details in zip(nodes, found, strict=True):
            assert details.error is details.xattrs_error is None
            if node.is_link:
                assert details.target == fs.readlink(node.id)
                continue
            assert details.xattrs == fs.xattrs(node.id)
            if node.is_file:
                assert details.extents == fs.extents(node.id)
            if details.content is not None:
                short += 1
                assert details.content == fs.read_at(node.id, 0, 1 << 20)
        # Content has no place of its own inside of inodes and file records only.
        assert bool(short) == kind.startswith(("ext4 inline", "ntfs"))


LIES = [
    (b"", "made no sense"),
    (wire.pack_details(Details()) * 2, "more than was asked for"),
    (wire.pack_details(Details(content=b"123456")), "more than was asked for"),
    (b"\x07" * 10, "details break off"),
]


@pytest.mark.parametrize(("raw", "says"), LIES)
def test_lies_are_found(monkeypatch: pytest.MonkeyPatch, raw: bytes, says: str) -> None:
    stand_in(monkeypatch, f"good(); wire.send(peer, b'B', {raw!r}); wire.receive(peer)")
    with (
        ProcessFileSystem("ext4", Memory(bytes(4096))) as fs,
        pytest.raises(FormatError, match=says),
    ):
        list(fs.details([NODE]))


def test_places_outside_of_the_volume_are_that_files_error(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Details(extents=[Extent(5, 4095)]), Details(extents=[Extent(5, 4091)])]
    raw = b"".join(map(wire.pack_details, rows))
    stand_in(monkeypatch, f"good(); wire.send(peer, b'B', {raw!r}); wire.receive(peer)")
    with ProcessFileSystem("ext4", Memory(bytes(4096))) as fs:
        bad, good = fs.details([NODE, NODE._replace(id=8)])
    assert bad.extents is None
    assert "outside of the volume" in str(bad.error)
    assert good == rows[1]


class Made(ProcessFileSystem):
    """A filesystem of made-up files, without a process."""

    def __init__(self) -> None:
        self.kind = "made"

    def extents(self, id: int, stream: str = "") -> list[Extent] | None:
        if id == 3:
            raise ZeroDivisionError("a library at its end")
        return None if id % 2 else [Extent(5, id)] * 40_000

    def read_at(self, id: int, offset: int, length: int, stream: str = "") -> bytes:
        return b"%d" % id

    def xattrs(self, id: int) -> dict[bytes, bytes]:
        if id == 5:
            raise MemoryError
        return {b"user.id": b"%d" % id}

    def details(self, nodes: Sequence[Node]) -> Iterator[Details]:
        return (self._details(node) for node in nodes)

    def close(self) -> None:
        pass


def test_what_fails_fails_alone() -> None:
    one, bad, half = Made().details([NODE._replace(id=n, size=1) for n in (1, 3, 5)])
    assert (one.content, one.xattrs) == (b"1", {b"user.id": b"1"})
    assert "ZeroDivisionError: a library at its end" in str(bad.error)
    assert half.content == b"5"
    assert "more memory" in str(half.xattrs_error)
    assert isinstance(as_ours(StorageError("x", "y")), StorageError)


def test_long_answers_come_in_parts() -> None:
    server = worker.Server(None, None, Made(), None)  # type: ignore[arg-type]
    rows = [[n * 2, 0o100644, 200_000] for n in range(10)]
    raw = server.do_details(rows)
    found = list(wire.unpack_details(bytearray(raw), "made"))
    assert 1 < len(found) < 10
    assert len(raw) < worker.ENOUGH + (1 << 20)


def test_a_reader_that_dies_is_told_for_each_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What was asked for and not answered is left out, with the reason, and nothing else is."""
    names = [b"a", b"b", b"c", b"d"]
    nodes = wire.LAST + wire.pack_nodes(
        [(n, NODE._replace(id=k, size=1)) for k, n in enumerate(names, 9)]
    )
    known = wire.pack_details(Details()), wire.pack_details(Details(content=b"x")) * 2
    body = "good()\n" + "".join(
        f"wire.send(peer, b'B', {raw!r}); wire.receive(peer)\n"
        for raw in (known[0], nodes, known[1])
    )
    stand_in(monkeypatch, body + "os.abort()")
    told: list[str] = []
    volume = Memory(bytes(4096))
    with ProcessFileSystem("ext4", volume) as fs:
        folder = Found(b"/", NODE._replace(mode=0o040755))
        done = Copier(fs, volume, told.append).copy(folder, str(tmp_path / "out"), recursive=True)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a", "b"]
    assert done.files == 2
    assert [text.split(":")[0] for text in told[:2]] == ["out/c", "out/d"]
    assert all("crashed (SIGABRT)" in text for text in told)
    assert done.left_out == len(told) >= 2


def test_what_comes_before_a_damaged_entry_is_copied(tmp_path: Path) -> None:
    class Half(Made):
        def scandir(self, id: int) -> Iterator[tuple[bytes, Node]]:
            for number in range(7, 307, 2):
                yield b"%d" % number, NODE._replace(id=number, size=len(b"%d" % number))
            raise FormatError("the rest is damaged")

    told: list[str] = []
    fs = Half()
    folder = Found(b"/", NODE._replace(mode=0o040755, id=2))
    copied = Copier(fs, Memory(bytes(4096)), told.append)
    done = copied.copy(folder, str(tmp_path / "out"), recursive=True)
    assert (done.files, done.left_out) == (150, 1)
    assert "the rest is damaged" in told[0]
    assert (tmp_path / "out" / "305").read_bytes() == b"305"


def test_files_in_very_many_pieces_are_not_held_side_by_side() -> None:
    class Many(Made):
        def scandir(self, id: int) -> Iterator[tuple[bytes, Node]]:
            for number in range(2, 42, 2):
                yield b"%d" % number, NODE._replace(id=number)

    copier = Copier(Many(), Memory(bytes(4096)), print)
    sizes = [sum(len(d.extents or ()) for _, _, d in part) for part in copier._batches(NODE)]
    assert sum(sizes) == 20 * 40_000
    assert max(sizes) <= copying.MOST_EXTENTS + 40_000


def test_errors_keep_their_kind() -> None:
    errors: list[DiskkitError] = [
        UnsupportedFeature("x"),
        StorageError("disk", "gone"),
        FormatError("y", structure="s", field="f", value=3),
    ]
    for error in errors:
        again = wire.unpack_error(wire.pack_error(error), "ext4")
        assert type(again) is type(error)
        assert str(error) in str(again)
    with pytest.raises(FormatError, match="makes no sense"):
        wire.unpack_error(b"[1, 2]", "ext4")
