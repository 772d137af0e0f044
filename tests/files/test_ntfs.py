# SPDX-License-Identifier: Apache-2.0
"""What only NTFS has: compression, encryption, reparse points, names that differ by case."""

from __future__ import annotations

import json
import random
import struct
from typing import TYPE_CHECKING, Any

from diskkit.cli import main
from files.guests import MIB, make_ntfs, walk
from files.test_copies import reader_for

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    Out = pytest.CaptureFixture[str]

SYMLINK, JUNCTION = 0xA000000C, 0xA0000003
DEDUPLICATED, WIM, CLOUD, WSL_LINK = 0x80000013, 0x80000017, 0x9000001A, 0xA000001D
SYSTEM, ENCRYPTED = 0x4, 0x4000


def reparse(tag: int, content: bytes) -> bytes:
    """As [MS-FSCC] 2.1.2 has it."""
    return struct.pack("<IHH", tag, len(content), 0) + content


def leading_to(target: str, tag: int = SYMLINK) -> bytes:
    """A link; relative, if it is a symbolic one."""
    raw = target.encode("utf-16-le")
    flags = struct.pack("<I", 1) if tag == SYMLINK else b""
    head = struct.pack("<HHHH", 0, len(raw), len(raw), len(raw))
    return reparse(tag, head + flags + raw + raw)


def test_compressed_and_sparse_files_come_out_whole(tmp_path: Path, capfd: Out) -> None:
    reader_for("ntfs")
    source = tmp_path / "tree"
    packed = source / "old.compressed"
    packed.mkdir(parents=True)
    chance = random.Random(1)
    (packed / "text").write_bytes(
        b"".join(b"line %d, which packs well\n" % n for n in range(40000))
    )
    (packed / "mixed").write_bytes(
        b"A" * 300_000 + chance.randbytes(300_001) + bytes(200_000) + b"z"
    )
    (packed / "zeros").write_bytes(bytes(3_000_000))
    (packed / "resident").write_bytes(b"in its record")
    with (source / "sparse").open("wb") as f:
        f.write(b"begin")
        f.seek(500 * MIB + 5)
        f.write(b"middle")
        f.truncate(1 << 30)
    make_ntfs(tmp_path / "v.raw", source)
    raw = (tmp_path / "v.raw").read_bytes()
    assert b"line 20000, which packs well" not in raw, "nothing was compressed"
    assert main(["cp", "-r", f"{tmp_path}/v.raw:/", str(tmp_path / "out"), "-q"]) == 0
    capfd.readouterr()
    assert walk(tmp_path / "out") == walk(source)
    for name in ("sparse", "old.compressed/zeros"):
        assert (tmp_path / "out" / name).stat().st_blocks * 512 < MIB


def test_what_cannot_be_had_is_told_by_name(tmp_path: Path, capfd: Out) -> None:
    reader_for("ntfs")
    source = tmp_path / "tree"
    (source / "junction").mkdir(parents=True)
    (source / "kept by a cloud").mkdir()
    (source / "kept by a cloud" / "file").write_bytes(b"here all the same")
    points = {
        "junction": leading_to("\\??\\C:\\Users", JUNCTION),
        "link": leading_to("plain"),
        "away": leading_to("\\??\\C:\\Windows"),
        "kept by a cloud": reparse(CLOUD, bytes(32)),
        "deduplicated": reparse(DEDUPLICATED, bytes(64)),
        "packed by Windows": reparse(WIM, struct.pack("<IIII", 1, 2, 1, 0)),
        "of WSL": reparse(WSL_LINK, b"\2\0\0\0plain"),
        "of WSL 3": reparse(WSL_LINK, b"\2\0\0\0version"),
        "of WSL, cut": reparse(WSL_LINK, b"\2\0\0\0sh/ort"),
        "odd": leading_to("oddoddodd"),
    }
    for name, point in points.items():
        if not (source / name).exists():
            (source / name).write_bytes(b"")
        (source / f"{name}:$REPARSE_POINT").write_bytes(point)
    (source / "plain").write_bytes(b"plain")
    (source / "secret").write_bytes(b"enciphered by Windows" * 100)
    volume = tmp_path / "v.raw"
    make_ntfs(volume, source)
    raw = bytearray(volume.read_bytes())
    flag(raw, "secret", ENCRYPTED)
    # A link whose names would lie behind its end.
    at = raw.index(leading_to("oddoddodd"))
    raw[at + 8 : at + 16] = b"\xff" * 8
    for point, spoiled in ((b"\2\0\0\0version", b"\3"), (b"\2\0\0\0sh/ort", b"\2\0\0\0sh\0")):
        at = raw.index(point)
        raw[at : at + len(spoiled)] = spoiled
    volume.write_bytes(raw)

    status = main(["cp", "-r", f"{volume}:/", str(tmp_path / "out")])
    told = capfd.readouterr().err
    assert status == 3
    copied = walk(tmp_path / "out")
    assert copied.pop(b"link") == ("link", "plain")
    assert copied.pop(b"of WSL") == ("link", "plain")
    assert sorted(copied) == [b"kept by a cloud", b"kept by a cloud/file", b"plain"]
    for name, why in (
        ("junction", "a junction, or a folder kept elsewhere"),
        ("away", "a link that leads out: /??/C:/Windows"),
        ("deduplicated", "a reparse point: deduplicated"),
        ("packed by Windows", "compressed by Windows"),
        ("of WSL 3", "a reparse point"),
        ("of WSL, cut", "a reparse point"),
        ("odd", "a reparse point"),
        ("secret", "encrypted by Windows (EFS)"),
    ):
        lines = [
            line for line in told.splitlines() if line.startswith(f"diskkit: out/{name}: left")
        ]
        assert len(lines) == 1, told
        assert why in lines[0]
    assert main(["cat", f"{volume}:/secret"]) == 1
    assert "encrypted by Windows (EFS)" in capfd.readouterr().err
    assert main(["ls", f"{volume}:/", "--json"]) == 3
    rows: list[dict[str, Any]] = json.loads(capfd.readouterr().out)[0]["entries"]
    assert {row["name"] for row in rows} == {*points, "plain", "secret"}


def flag(raw: bytearray, name: str, value: int) -> None:
    """Set it in the file's record, in the standard information."""
    wide = name.encode("utf-16-le")
    found = 0
    for at in range(0, len(raw), 1024):
        if raw[at : at + 4] == b"FILE" and wide in raw[at : at + 1024]:
            (begin,) = struct.unpack_from("<H", raw, at + 20)
            kind, _, resident, _, _, _, _, _, content = struct.unpack_from(
                "<IIBBHHHIH", raw, at + begin
            )
            assert (kind, resident) == (0x10, 0)
            flags = at + begin + content + 32
            struct.pack_into("<I", raw, flags, struct.unpack_from("<I", raw, flags)[0] | value)
            found += 1
    assert found


def test_names_that_differ_by_case_are_two_files(tmp_path: Path, capfd: Out) -> None:
    reader_for("ntfs")
    source = tmp_path / "tree"
    source.mkdir()
    (source / "Case").write_bytes(b"1")
    (source / "case").write_bytes(b"2")
    make_ntfs(tmp_path / "v.raw", source)
    for name, content in (("Case", "1"), ("case", "2")):
        assert main(["cat", f"{tmp_path}/v.raw:/{name}"]) == 0
        assert capfd.readouterr().out == content
    assert main(["cat", f"{tmp_path}/v.raw:/CASE"]) == 0
    assert capfd.readouterr().out in ("1", "2")
    assert main(["cp", "-r", f"{tmp_path}/v.raw:/", str(tmp_path / "out"), "-q"]) == 0
    assert walk(tmp_path / "out") == walk(source)


def test_what_was_never_written_reads_as_zeros(tmp_path: Path, capfd: Out) -> None:
    """Windows makes such files, and shows nothing of what lay in their clusters before."""
    reader_for("ntfs")
    source = tmp_path / "tree"
    source.mkdir()
    content = random.Random(1).randbytes(MIB + 5)
    (source / "file").write_bytes(content)
    make_ntfs(tmp_path / "v.raw", source)
    raw = bytearray((tmp_path / "v.raw").read_bytes())
    sizes = struct.pack("<QQ", len(content), len(content))
    at = raw.index(sizes)  # of the attribute: what it has, and what of it is valid
    struct.pack_into("<Q", raw, at + 8, 300_001)
    (tmp_path / "v.raw").write_bytes(raw)
    assert main(["cp", f"{tmp_path}/v.raw:/file", str(tmp_path / "out"), "-q"]) == 0
    assert (tmp_path / "out").read_bytes() == content[:300_001] + bytes(len(content) - 300_001)
