# SPDX-License-Identifier: Apache-2.0
"""What is not written to, or not made: a clear error each, and nothing left behind."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

import diskkit
from makers import (
    descriptor,
    flat,
    hosted_sparse,
    poke,
    sample_grain,
    split_sparse,
    stream,
    write_descriptor,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TIB = 1 << 40
QUIET = diskkit.OpenPolicy(writable=True, warn=lambda _: None)


def _hashes(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@contextmanager
def refused(
    folder: Path, kind: type[diskkit.DiskkitError], words: str
) -> Iterator[pytest.ExceptionInfo[diskkit.DiskkitError]]:
    """The error comes, in one line, and every file is as it was."""
    before = _hashes(folder)
    with pytest.raises(kind, match=words) as found:
        yield found
    assert "\n" not in str(found.value)
    assert _hashes(folder) == before


def _entry(path: Path, at: int) -> int:
    with path.open("rb") as file:
        file.seek(at)
        return int.from_bytes(file.read(4), "little")


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to write everywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("monolithicSparse", 2 * TIB),
        ("twoGbMaxExtentSparse", 17 * TIB),
        ("twoGbMaxExtentFlat", 17 * TIB),
        ("monolithicSparse", 513),
        ("monolithicSparse", 0),
        ("vmfsSparse", TIB),
        ("nonsense", TIB),
    ],
)
def test_a_disk_that_cannot_be(kind: str, size: int, tmp_path: Path) -> None:
    with refused(tmp_path, diskkit.UsageError, "disk has|is not one of"):
        diskkit.create_disk(tmp_path / "disk.vmdk", size, kind)


@pytest.mark.parametrize("name", ['a"b.vmdk', "a\nb.vmdk", "a\x1bb.vmdk", " .vmdk "])
@pytest.mark.parametrize("kind", ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse"])
def test_a_name_that_no_descriptor_can_hold(name: str, kind: str, tmp_path: Path) -> None:
    with refused(tmp_path, diskkit.UsageError, "cannot be written into a descriptor"):
        diskkit.create_disk(tmp_path / name, 65536, kind)


def test_names_of_parents_and_new_names(tmp_path: Path) -> None:
    parent = tmp_path / 'p"q.vmdk'
    hosted_sparse(tmp_path / "p.vmdk", 128, {})
    (tmp_path / "p.vmdk").rename(parent)
    with refused(tmp_path, diskkit.UsageError, "cannot be written into a descriptor"):
        diskkit.create_child(parent, tmp_path / "child.vmdk")
    hosted_sparse(tmp_path / "disk.vmdk", 128, {})
    with refused(tmp_path, diskkit.UsageError, "cannot be written into a descriptor"):
        diskkit.rename_disk(tmp_path / "disk.vmdk", tmp_path / "a\nb.vmdk")
    with refused(tmp_path, diskkit.UsageError, "quote|newline|control"):
        diskkit.write_metadata(tmp_path / "disk.vmdk", {"comment": 'a"b'})


def test_a_child_of_a_raw_image(tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(bytes(65536))
    with refused(tmp_path, diskkit.UsageError, "raw"):
        diskkit.create_child(tmp_path / "disk.raw", tmp_path / "child.vmdk")


def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    hosted_sparse(folder / "disk.vmdk", 128, {0: sample_grain(1)})
    folder.chmod(0o555)
    for parent in (tmp_path, *tmp_path.parents[:-2]):
        parent.chmod(parent.stat().st_mode | 0o055)
    for job in (
        lambda: diskkit.create_disk(folder / "new.vmdk", 65536),
        lambda: diskkit.create_child(folder / "disk.vmdk", folder / "child.vmdk"),
        lambda: diskkit.open_disk(folder / "disk.vmdk", writable=True),
        lambda: diskkit.grow(folder / "disk.vmdk", 1 << 20),
        lambda: diskkit.remove_disk(folder / "disk.vmdk"),
    ):
        with refused(folder, diskkit.StorageError, "denied"), as_nobody():
            job()


def test_an_extent_behind_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    flat(tmp_path / "elsewhere" / "data", bytes([7]) * 128 * 512)
    (tmp_path / "disk-flat.vmdk").symlink_to(tmp_path / "elsewhere" / "data")
    write_descriptor(tmp_path / "disk.vmdk", "monolithicFlat", ['RW 128 FLAT "disk-flat.vmdk" 0'])
    with diskkit.open_disk(tmp_path / "disk.vmdk", allow=("/",)) as disk:
        assert disk.read(0, 512) == bytes([7]) * 512
    with refused(tmp_path, diskkit.FormatError, "never written through"):
        diskkit.open_disk(tmp_path / "disk.vmdk", policy=QUIET._replace(allow=("/",)))


def test_streams_are_written_once(tmp_path: Path) -> None:
    stream(tmp_path / "disk.vmdk", 256, {0: sample_grain(1)})
    with refused(tmp_path, diskkit.UnsupportedFeature, "written once"):
        diskkit.open_disk(tmp_path / "disk.vmdk", policy=QUIET)


def test_what_is_encrypted_or_unknown(tmp_path: Path) -> None:
    hosted_sparse(tmp_path / "version.vmdk", 128, {})
    poke(tmp_path / "version.vmdk", 4, "<I", 3)
    with refused(tmp_path, diskkit.UnsupportedFeature, "versions 1 and 2"):
        diskkit.open_disk(tmp_path / "version.vmdk", policy=QUIET)
    hosted_sparse(tmp_path / "flag.vmdk", 128, {})
    poke(tmp_path / "flag.vmdk", 8, "<I", 0x83)
    with refused(tmp_path, diskkit.UnsupportedFeature, "flags 0x80 are not known"):
        diskkit.open_disk(tmp_path / "flag.vmdk", policy=QUIET)
    flat(tmp_path / "disk-flat.vmdk", bytes([7]) * 128 * 512)
    text = descriptor("monolithicFlat", ['RW 128 FLAT "disk-flat.vmdk" 0'])
    secret = text.replace("createType", 'encryptionKeys="vmware:key/list/x"\ncreateType', 1)
    (tmp_path / "disk.vmdk").write_text(secret)
    with refused(tmp_path, diskkit.UnsupportedFeature, "encrypted"):
        diskkit.open_disk(tmp_path / "disk.vmdk", policy=QUIET)


def test_what_may_be_overlooked_for_reading_only(tmp_path: Path) -> None:
    hosted_sparse(tmp_path / "base.vmdk", 128, {}, cid="1")
    hosted_sparse(
        tmp_path / "child.vmdk", 128, {}, cid="2", parent_cid="1", parent_hint="base.vmdk"
    )
    for change in ({"single_link": True}, {"allow_truncated": True}, {"allow_mismatch": True}):
        with refused(tmp_path, diskkit.UsageError, "never written|reading only"):
            diskkit.open_disk(tmp_path / "child.vmdk", policy=QUIET._replace(**change))  # type: ignore[arg-type]


def test_a_disk_opened_for_reading(tmp_path: Path) -> None:
    hosted_sparse(tmp_path / "disk.vmdk", 128, {})
    with diskkit.open_disk(tmp_path / "disk.vmdk") as disk:
        with refused(tmp_path, diskkit.UsageError, "for reading only"):
            disk.write(0, b"x")
        with refused(tmp_path, diskkit.UsageError, "for reading only"):
            disk.zero(0, 512)
        with refused(tmp_path, diskkit.UsageError, "for reading only"):
            disk.flush()


def test_parts_that_are_not_the_guests(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        flat(tmp_path / name, bytes([7]) * 64 * 512)
    lines = ['RW 64 FLAT "a" 0', "RW 64 ZERO", 'RDONLY 64 FLAT "b" 0', 'NOACCESS 64 FLAT "c" 0']
    write_descriptor(tmp_path / "disk.vmdk", "custom", lines)
    part = 64 * 512
    with diskkit.open_disk(tmp_path / "disk.vmdk", policy=QUIET) as disk:
        disk.write(part - 3, b"abc" + bytes(100))
        disk.discard(part, part)
        for offset in (part, 2 * part, 3 * part):
            with pytest.raises(diskkit.UsageError, match="cannot be written to"):
                disk.write(offset + 7, b"x")
        with pytest.raises(diskkit.UsageError, match="RDONLY"):
            disk.zero(2 * part, 512)
        assert disk.read(part - 3, 6) == b"abc\0\0\0"
    assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


@pytest.mark.parametrize(("at", "value"), [(26 * 512, 0xFFFFFF), (21 * 512, 7)])
def test_tables_that_cannot_be_right(at: int, value: int, tmp_path: Path) -> None:
    """Neither a directory entry nor its redundant twin may be wrong where we write."""
    path = tmp_path / "disk.vmdk"
    hosted_sparse(path, 20480, {0: sample_grain(1)})
    poke(path, at, "<I", value)
    with diskkit.open_disk(path, policy=QUIET) as disk, pytest.raises(diskkit.FormatError):
        disk.write(0, b"x")


def test_copies_of_a_table_that_differ(tmp_path: Path) -> None:
    path = tmp_path / "disk.vmdk"
    hosted_sparse(path, 20480, {0: sample_grain(1)})
    table = _entry(path, 21 * 512) * 512
    poke(path, table, "<I", 0)
    with (
        diskkit.open_disk(path, policy=QUIET) as disk,
        pytest.raises(diskkit.FormatError, match=r"differs from its redundant copy.*repair"),
    ):
        disk.write(0, b"x")


def test_an_unclean_disk_with_an_error_is_not_written_to(tmp_path: Path) -> None:
    split_sparse(tmp_path / "disk.vmdk", 512, {0: sample_grain(1), 1: sample_grain(2)}, 256)
    part = tmp_path / "disk-s001.vmdk"
    poke(part, 72, "<B", 1)
    diskkit.open_disk(tmp_path / "disk.vmdk", policy=QUIET).close()
    header = part.read_bytes()[:512]
    table = int.from_bytes(header[56:64], "little")
    place = _entry(part, table * 512) * 512
    poke(part, place + 4, "<I", _entry(part, place))
    with refused(tmp_path, diskkit.FormatError, "not closed cleanly.*repair"):
        diskkit.open_disk(tmp_path / "disk.vmdk", policy=QUIET)


def test_sesparse_is_written_on_request_only(tmp_path: Path) -> None:
    diskkit.create_disk(tmp_path / "disk.vmdk", 1 << 20, "vmfs")
    diskkit.create_child(
        tmp_path / "disk.vmdk", tmp_path / "child.vmdk", "seSparse", experimental=True
    )
    with refused(tmp_path, diskkit.UsageError, "experimental"):
        diskkit.open_disk(tmp_path / "child.vmdk", policy=QUIET)
