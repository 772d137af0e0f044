# SPDX-License-Identifier: Apache-2.0
"""Compressed streams that lie: rows 14 to 17."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import pytest

from diskkit import FormatError, open_disk
from hostile.images import (
    CAPACITY,
    GRAIN,
    GRAIN_BYTES,
    GRAINS,
    SECTOR,
    VARIANTS,
    content,
    get,
    mono_bytes,
    packed,
    policy,
    put,
    refusal,
    says,
    table_entry,
    text_of,
    truncate,
    u32,
)
from makers import expected, poke, sample_grain, stream

if TYPE_CHECKING:
    from pathlib import Path

    from makers import Variant

BOUND = 2 * GRAIN_BYTES


def footer_at(path: Path) -> int:
    """Where the footer's copy of the header lies: before the end-of-stream sector."""
    return path.stat().st_size - 2 * SECTOR


def damaged(
    folder: Path, body: bytes, *, size: int | None = None, at: int = 2 * GRAIN
) -> tuple[Path, int]:
    """A stream whose grain 2 is written anew, at its end; and where its marker lies."""
    path = packed(folder, "B")
    marker = path.stat().st_size
    raw = struct.pack("<QI", at, len(body) if size is None else size) + body
    with path.open("ab") as f:
        f.write(raw.ljust(-(-len(raw) // SECTOR) * SECTOR, b"\0"))
    poke(path, table_entry(path, 2), "<I", marker // SECTOR)
    return path, marker


def grain_error(path: Path, index: int = 2) -> str:
    """What reading one grain ends in, while the others still read right."""
    with open_disk(path, policy=policy()) as disk:
        for other, wanted in GRAINS.items():
            if other != index:
                assert disk.read(other * GRAIN_BYTES, GRAIN_BYTES) == wanted
        with pytest.raises(FormatError) as caught:
            disk.read(index * GRAIN_BYTES, SECTOR)
        return text_of(caught.value)


@pytest.mark.parametrize("variant", VARIANTS)
def test_good_streams_read_right(tmp_path: Path, variant: Variant) -> None:
    assert content(packed(tmp_path, variant)) == mono_bytes()
    assert content(packed(tmp_path, variant, trailing=4096)) == mono_bytes()


# --- row 14: the footer --------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["A", "E", "F"])
@pytest.mark.parametrize("cut", [1, SECTOR + 1, 2 * SECTOR, 3 * SECTOR])
def test_footer_cut_off(tmp_path: Path, variant: Variant, cut: int) -> None:
    disk = packed(tmp_path, variant)
    if cut <= SECTOR:
        truncate(disk, -cut)
        assert content(disk) == mono_bytes()  # only the end-of-stream sector is hurt
        return
    truncate(disk, -cut)
    says(refusal(disk), disk, "footer: marker", "there is no footer", "cut short")


@pytest.mark.parametrize("variant", ["A", "E", "F"])
def test_first_part_of_a_long_stream(tmp_path: Path, variant: Variant) -> None:
    disk = tmp_path / "disk.vmdk"
    grains = {i: sample_grain(i, noise=True) for i in range(10)}
    stream(disk, CAPACITY, grains, variant=variant)
    truncate(disk, 300_000)
    says(refusal(disk), "footer: marker", "there is no footer")


def test_footer_that_does_not_know_the_place_either(tmp_path: Path) -> None:
    disk = packed(tmp_path)
    at = footer_at(disk)
    put(disk, "gdOffset", (1 << 64) - 1, at)
    says(refusal(disk), f"footer: gdOffset at byte {at + 56}", "does not know it either")


@pytest.mark.parametrize(
    ("field", "value", "offset"),
    [
        ("version", 1, 4),
        ("flags", 0x30005, 8),
        ("capacity", CAPACITY + 128, 12),
        ("grainSize", 64, 20),
        ("descriptorOffset", 2, 28),
        ("descriptorSize", 2, 36),
        ("numGTEsPerGT", 256, 44),
    ],
)
def test_footer_that_disagrees_with_the_header(
    tmp_path: Path, field: str, value: int, offset: int
) -> None:
    disk = packed(tmp_path)
    at = footer_at(disk)
    mine = get(disk, field)
    put(disk, field, value, at)
    place = f"footer: {field} at byte {at + offset} is {value}"
    says(refusal(disk), place, f"disagrees with the header's {mine}")


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("magic", b"KDMX", "is not b'KDMV'"),
        ("version", 9, "1, 2 and 3"),
        ("grainSize", 3, "power of two"),
        ("gdOffset", 0, "overlaps the header"),
        ("gdOffset", 1 << 50, "ends beyond the file's"),
        ("overHead", 1 << 50, "beyond the file's"),
    ],
)
def test_footer_out_of_bounds(tmp_path: Path, field: str, value: int | bytes, why: str) -> None:
    disk = packed(tmp_path)
    at = footer_at(disk)
    put(disk, field, value, at)
    says(refusal(disk), disk, f"footer: {field} at byte", f" is {value!r}", why)


def test_footer_behind_padding_is_found_and_behind_too_much_is_not(tmp_path: Path) -> None:
    assert content(packed(tmp_path, trailing=5000)) == mono_bytes()
    says(refusal(packed(tmp_path, trailing=1 << 20)), "there is no footer")


# --- rows 15 and 17: markers ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4, 5, 0xFFFFFFFF])
def test_entry_that_points_at_a_metadata_marker(tmp_path: Path, kind: int) -> None:
    disk, marker = damaged(tmp_path, struct.pack("<I", kind), size=0)
    says(grain_error(disk), f"grain marker: size at byte {marker + 8} is 0", "it is no grain")


@pytest.mark.parametrize("address", [0, GRAIN, 2 * GRAIN + 1, CAPACITY, 1 << 55, (1 << 64) - 1])
def test_marker_with_another_address(tmp_path: Path, address: int) -> None:
    body = zlib.compress(sample_grain(2))
    disk, marker = damaged(tmp_path, body, at=address)
    place = f"grain marker: address at byte {marker} is {address}"
    says(grain_error(disk), place, f"puts this grain at sector {2 * GRAIN}")


def test_two_entries_for_one_grain(tmp_path: Path) -> None:
    disk = packed(tmp_path, "B")
    first = u32(disk, table_entry(disk, 0))
    poke(disk, table_entry(disk, 2), "<I", first)
    says(grain_error(disk), f"address at byte {first * SECTOR} is 0", "sector 256")


def test_grain_that_ends_beyond_the_file(tmp_path: Path) -> None:
    disk, marker = damaged(tmp_path, b"x" * 100, size=5000)
    place = f"grain marker: size at byte {marker + 8} is 5000"
    says(grain_error(disk), place, "ends beyond the end of the file")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (1, "1 means zeros, but flag bit 2 does not allow it"),
        (3, "before the first grain"),
        (0xFFFFFFFF, "beyond the end of the file"),
    ],
)
def test_table_entry_of_a_stream_that_cannot_be_right(tmp_path: Path, value: int, why: str) -> None:
    disk = packed(tmp_path, "B")
    at = table_entry(disk, 2)
    poke(disk, at, "<I", value)
    says(grain_error(disk), f"grain table: entry 2 at byte {at} is {value}", why)


def test_marker_in_the_last_bytes_of_the_file(tmp_path: Path) -> None:
    disk, marker = damaged(tmp_path, b"")
    truncate(disk, marker + 15)
    says(grain_error(disk), "grain table: entry 2", "beyond the end of the file")


def test_marker_with_one_byte_of_data(tmp_path: Path) -> None:
    disk, marker = damaged(tmp_path, b"\x78")
    truncate(disk, marker + 16)
    says(grain_error(disk), f"grain marker: data at byte {marker + 12}", "ends too early")


# --- row 16: compressed data ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [BOUND + 1, 1 << 31, 0xFFFFFFFF])
def test_size_above_the_bound(tmp_path: Path, size: int) -> None:
    disk, marker = damaged(tmp_path, bytes(BOUND + SECTOR), size=size)
    place = f"grain marker: size at byte {marker + 8} is {size}"
    says(grain_error(disk), place, f"1 to {BOUND} bytes")


def _wrong_adler() -> bytes:
    body = bytearray(zlib.compress(sample_grain(2)))
    body[-1] ^= 1
    return bytes(body)


def _raw_deflate() -> bytes:
    engine = zlib.compressobj(wbits=-15)
    return engine.compress(sample_grain(2)) + engine.flush()


def _gzip() -> bytes:
    engine = zlib.compressobj(wbits=31)
    return engine.compress(sample_grain(2)) + engine.flush()


def _with_dictionary() -> bytes:
    engine = zlib.compressobj(zdict=b"grain 2 sector ")
    return engine.compress(sample_grain(2)) + engine.flush()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        pytest.param(zlib.compress(sample_grain(2) * 2), "more than the 65536", id="twice"),
        pytest.param(zlib.compress(bytes(64 << 20), 9), "more than the 65536", id="bomb"),
        pytest.param(zlib.compress(sample_grain(2) + b"!"), "more than the 65536", id="one-more"),
        pytest.param(zlib.compress(sample_grain(2)[:-1]), "inflates to 65535", id="too-short"),
        pytest.param(zlib.compress(b""), "inflates to 0 bytes", id="empty"),
        pytest.param(_wrong_adler(), "not a whole zlib stream", id="adler"),
        pytest.param(zlib.compress(sample_grain(2))[:-1], "ends too early", id="cut"),
        pytest.param(zlib.compress(sample_grain(2))[:-4], "ends too early", id="no-adler"),
        pytest.param(zlib.compress(sample_grain(2))[:50], "ends too early", id="half"),
        pytest.param(zlib.compress(sample_grain(2)) + b"trailing", "8 bytes follow", id="trailing"),
        pytest.param(zlib.compress(sample_grain(2)) + b"\0", "1 bytes follow", id="one-nul"),
        pytest.param(_raw_deflate(), "not a whole zlib stream", id="raw-deflate"),
        pytest.param(_gzip(), "not a whole zlib stream", id="gzip"),
        pytest.param(_with_dictionary(), "zlib stream", id="dictionary"),
        pytest.param(sample_grain(2), "not a whole zlib stream", id="stored-as-is"),
        pytest.param(
            b"\xf8\x9b" + zlib.compress(sample_grain(2))[2:], "invalid window size", id="window"
        ),
        pytest.param(b"\x78\x9c" + b"\xff" * 300, "not a whole zlib stream", id="garbage"),
    ],
)
def test_compressed_data_that_is_not_one_grain(tmp_path: Path, body: bytes, why: str) -> None:
    disk, marker = damaged(tmp_path, body)
    says(grain_error(disk), disk, f"grain marker: data at byte {marker + 12}", why)


def test_grain_that_grew_by_compression_is_allowed(tmp_path: Path) -> None:
    disk = tmp_path / "disk.vmdk"
    grains = {i: sample_grain(i, noise=True) for i in range(3)}
    stream(disk, CAPACITY, grains, variant="A", level=1)
    assert content(disk) == expected(CAPACITY, grains, GRAIN)


def test_last_grain_may_hold_only_what_the_disk_needs(tmp_path: Path) -> None:
    disk = tmp_path / "disk.vmdk"
    grains = {9: sample_grain(9)}
    stream(disk, CAPACITY - 28, grains, variant="B", short_tail=True)
    assert content(disk) == expected(CAPACITY - 28, grains, GRAIN)


def test_grains_without_addresses_are_read(tmp_path: Path) -> None:
    """Flag bit 17 clear: four bytes of size, then the data."""
    disk, marker = damaged(tmp_path, b"")
    put(disk, "flags", 0x10001)
    body = zlib.compress(sample_grain(2))
    truncate(disk, marker)
    with disk.open("ab") as f:
        f.write(struct.pack("<I", len(body)) + body)
    with open_disk(disk, policy=policy()) as opened:
        assert opened.read(2 * GRAIN_BYTES, GRAIN_BYTES) == sample_grain(2)
    for size, why in ((0, "1 to 131072"), (0xFFFFFFFF, "1 to 131072"), (9999, "beyond the end")):
        poke(disk, marker, "<I", size)
        with open_disk(disk, policy=policy()) as opened, pytest.raises(FormatError) as caught:
            opened.read(2 * GRAIN_BYTES, SECTOR)
        says(text_of(caught.value), f"grain marker: size at byte {marker} is {size}", why)


# --- row 15: markers of a stream read in one pass ------------------------------------------------


def in_one_pass(path: Path) -> bytes:
    """The guest bytes of a stream that comes from a pipe."""
    from diskkit.formats.vmdk.sequence import StreamSequence

    with path.open("rb") as f:
        sequence = StreamSequence(f, "pipe", policy())
        disk = bytearray(sequence.capacity)
        for grain in sequence.grains():
            data = sequence.inflate(grain)
            disk[grain.offset : grain.offset + len(data)] = data
    return bytes(disk)


def pipe_error(path: Path) -> str:
    with pytest.raises(FormatError) as caught:
        in_one_pass(path)
    return text_of(caught.value)


def markers(path: Path) -> list[int]:
    """Where the grain markers lie, in the order of the addresses."""
    found = []
    data = path.read_bytes()
    for at in range(get(path, "overHead") * SECTOR, len(data), SECTOR):
        address, size = struct.unpack_from("<QI", data, at)
        if 0 < size < BOUND and address % GRAIN == 0 and data[at + 12 : at + 13] == b"\x78":
            found.append(at)
    assert len(found) == len(GRAINS)
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_good_streams_read_in_one_pass(tmp_path: Path, variant: Variant) -> None:
    assert in_one_pass(packed(tmp_path, variant)) == mono_bytes()


@pytest.mark.parametrize(
    ("address", "why"),
    [
        (1, "is no multiple of the grain's 128 sectors"),
        (0, "comes after sector 256"),
        (256, "comes after sector 256"),
        (CAPACITY, "lies beyond the capacity of 1280 sectors"),
        ((1 << 64) - 128, "lies beyond the capacity"),
    ],
)
def test_address_that_cannot_come_now(tmp_path: Path, address: int, why: str) -> None:
    disk = packed(tmp_path)
    at = markers(disk)[2]
    poke(disk, at, "<Q", address)
    says(pipe_error(disk), f"pipe: stream marker: address at byte {at} is {address}", why)


@pytest.mark.parametrize("kind", [5, 6, 0xFFFFFFFF])
def test_marker_of_an_unknown_kind(tmp_path: Path, kind: int) -> None:
    disk = packed(tmp_path)
    at = disk.stat().st_size - 3 * SECTOR
    poke(disk, at + 12, "<I", kind)
    says(pipe_error(disk), f"stream marker: type at byte {at + 12} is {kind}", "not a known kind")


def test_progress_marker_is_passed_over(tmp_path: Path) -> None:
    disk = packed(tmp_path)
    data = disk.read_bytes()
    at = len(data) - 3 * SECTOR
    progress = struct.pack("<QII", 0, 0, 4).ljust(SECTOR, b"\0")
    disk.write_bytes(data[:at] + progress + data[at:])
    assert in_one_pass(disk) == mono_bytes()


@pytest.mark.parametrize("size", [BOUND + 1, 0xFFFFFFFF])
def test_grain_above_the_bound_in_a_pipe(tmp_path: Path, size: int) -> None:
    disk = packed(tmp_path)
    at = markers(disk)[1]
    poke(disk, at + 8, "<I", size)
    says(pipe_error(disk), f"size at byte {at + 8} is {size}", f"1 to {BOUND} bytes")


@pytest.mark.parametrize("variant", VARIANTS)
def test_stream_cut_anywhere_is_noticed(tmp_path: Path, variant: Variant) -> None:
    disk = packed(tmp_path, variant)
    whole = disk.read_bytes()
    good = set()
    cut = tmp_path / "cut.vmdk"
    step = SECTOR if len(whole) < 100_000 else 5 * SECTOR
    for size in range(0, len(whole), step):
        cut.write_bytes(whole[:size])
        try:
            data = in_one_pass(cut)
        except FormatError:
            continue
        assert data == mono_bytes()
        good.add(size)
    # Only padding, the end-of-stream sector, or what some makers leave out may be missing.
    assert all(not any(whole[size:][i] for i in range(len(whole) - size)) for size in good)


def test_data_behind_the_end_of_a_stream(tmp_path: Path) -> None:
    disk = packed(tmp_path)
    at = disk.stat().st_size
    with disk.open("ab") as f:
        f.write(bytes(SECTOR) + b"more")
    says(pipe_error(disk), f"stream marker: marker at byte {at + SECTOR}", "data follows the end")
