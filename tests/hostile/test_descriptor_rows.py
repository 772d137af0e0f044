# SPDX-License-Identifier: Apache-2.0
"""Descriptors that lie: rows 18 to 21 and 23 to 26, through `open_disk`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from diskkit import UnsupportedFeature, open_disk
from hostile.images import (
    CAPACITY,
    SECTOR,
    Warnings,
    content,
    flat_disk,
    mono,
    open_files,
    policy,
    put,
    refusal,
    says,
    split,
)
from makers import descriptor, text_replace, write_descriptor

if TYPE_CHECKING:
    from pathlib import Path

FLAT_LINE = 'RW 8 FLAT "flat.bin" 0'


def written(folder: Path, text: str | bytes) -> Path:
    """A descriptor of that text beside the flat file."""
    disk = flat_disk(folder)
    disk.write_bytes(text if isinstance(text, bytes) else text.encode())
    return disk


def changed(folder: Path, old: str, new: str) -> Path:
    """The good flat descriptor with one piece of text replaced."""
    disk = flat_disk(folder)
    text_replace(disk, old, new)
    return disk


def place_of(disk: Path, text: str) -> str:
    """ "line n, …" and the byte offset of the line that holds `text`, as messages give them."""
    data = disk.read_bytes()
    at = data.rindex(b"\n", 0, data.index(text.encode())) + 1
    return f"at byte {at}"


def test_the_good_one_reads(tmp_path: Path) -> None:
    wanted = b"".join(bytes([65 + i]) * SECTOR for i in range(8))
    assert content(flat_disk(tmp_path)) == wanted


# --- row 18: text --------------------------------------------------------------------------------


def test_descriptor_above_the_limit(tmp_path: Path) -> None:
    good = flat_disk(tmp_path).read_bytes()
    disk = written(tmp_path, good + b"#" * ((1 << 20) - len(good)))
    assert content(disk)
    disk = written(tmp_path, good + b"#" * ((1 << 20) - len(good) + 1))
    says(refusal(disk), disk, "is not a VMDK", good[:8])


def test_nul_in_the_text(tmp_path: Path) -> None:
    good = flat_disk(tmp_path).read_bytes()
    at = good.index(b"# Extent")
    disk = written(tmp_path, good[:at] + b"\0" + good[at:])
    says(refusal(disk), disk, f"descriptor: text at byte {at}", "NUL")
    disk = written(tmp_path, good + bytes(1000) + b"more")
    says(refusal(disk), f"descriptor: text at byte {len(good)}", "NUL")


def test_text_behind_the_end_of_an_embedded_descriptor_is_a_warning(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    data = bytearray(disk.read_bytes())
    data[20 * SECTOR : 20 * SECTOR + 5] = b"stray"
    disk.write_bytes(data)
    warnings = Warnings()
    assert content(disk, warnings)
    assert warnings.has(str(disk), "bytes after the text's end")


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("UTF-8", b"\xff"),
        ("GBK", b"\xff"),
        ("Big5", b"\xff"),
        ("Shift_JIS", b"\xff"),
        ("US-ASCII", b"\xe9"),
        ("windows-1252", b"\x81"),
    ],
)
def test_text_not_decodable_in_its_encoding(tmp_path: Path, name: str, bad: bytes) -> None:
    disk = changed(tmp_path, 'encoding="UTF-8"', f'encoding="{name}"')
    text = disk.read_bytes() + b"# " + bad + b"\n"
    disk.write_bytes(text)
    at = text.index(b"# " + bad) + 2
    says(refusal(disk), disk, f"descriptor: text at byte {at} is {bad!r}", f"encoding {name}")


@pytest.mark.parametrize("name", ["utf-7", "utf-16", "zlib_codec", "rot13", "klingon", "", "idna"])
def test_encoding_that_is_not_known_or_rewrites_text(tmp_path: Path, name: str) -> None:
    disk = changed(tmp_path, 'encoding="UTF-8"', f'encoding="{name}"')
    says(
        refusal(disk),
        f"descriptor: encoding {place_of(disk, 'encoding=')} is {name}",
        "an encoding that diskkit does not know",
    )


@pytest.mark.parametrize("control", ["\x01", "\x1b", "\x7f", "\x0b", "a\rb"])
def test_control_characters(tmp_path: Path, control: str) -> None:
    disk = changed(tmp_path, "ddb.adapterType", f"ddb.x{control}y")
    text = refusal(disk)
    says(text, "descriptor: line", place_of(disk, "ddb.x"), "a control character")
    assert control not in text


# --- row 19: header keys -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("version=1\n", "version"),
        ("CID=12345678\n", "CID"),
        ("parentCID=ffffffff\n", "parentCID"),
        ('createType="monolithicFlat"\n', "createType"),
    ],
)
def test_key_missing(tmp_path: Path, line: str, key: str) -> None:
    says(refusal(changed(tmp_path, line, "")), f"descriptor: {key}: missing")


def test_no_extent(tmp_path: Path) -> None:
    says(refusal(changed(tmp_path, FLAT_LINE, "")), "descriptor: extents: no extent line")


@pytest.mark.parametrize(
    ("old", "extra", "key"),
    [
        ("CID=12345678", "CID=12345678", "CID"),
        ("CID=12345678", "cid=12345679", "cid"),
        ("version=1", "VERSION=1", "VERSION"),
        ("parentCID=ffffffff", "ParentCid=ffffffff", "ParentCid"),
        ('createType="monolithicFlat"', 'createtype="custom"', "createtype"),
        ('ddb.adapterType = "lsilogic"', 'ddb.ADAPTERtype = "ide"', "ddb.ADAPTERtype"),
        ('encoding="UTF-8"', 'Encoding="UTF-8"', "Encoding"),
    ],
)
def test_key_given_twice(tmp_path: Path, old: str, extra: str, key: str) -> None:
    disk = changed(tmp_path, "# Extent description", f"{extra}\n# Extent description")
    if extra.startswith("ddb."):
        disk = changed(tmp_path, old, f"{old}\n{extra}")
    assert old in disk.read_text()
    says(refusal(disk), "descriptor: line", f"is {key}", "given twice")


@pytest.mark.parametrize("value", ["0", "4", "-1", "01", "1.0", "99999999999999999999"])
def test_version_that_is_not_known(tmp_path: Path, value: str) -> None:
    disk = changed(tmp_path, "version=1", f"version={value}")
    says(refusal(disk), f"descriptor: version is {value}", "only 1, 2 and 3")


@pytest.mark.parametrize("key", ["CID", "parentCID"])
@pytest.mark.parametrize("value", ["", "xyz", "123456789", "0x1", "-1", "1 2", "\u0661"])
def test_content_id_that_is_no_hex_number(tmp_path: Path, key: str, value: str) -> None:
    old = {"CID": "\nCID=12345678", "parentCID": "\nparentCID=ffffffff"}[key]
    disk = changed(tmp_path, old, f"\n{key}={value}")
    says(refusal(disk), f"descriptor: {key} is {value}", "not 1 to 8 hex digits")


def test_line_that_means_nothing(tmp_path: Path) -> None:
    disk = changed(tmp_path, "#DDB", "hello there")
    says(refusal(disk), "line", place_of(disk, "hello"), "is hello there", "neither a comment")


@pytest.mark.parametrize("value", ['"a', 'a"', '"a"b"', '"'])
def test_quotes_that_do_not_match(tmp_path: Path, value: str) -> None:
    disk = changed(tmp_path, 'ddb.adapterType = "lsilogic"', f"ddb.x = {value}")
    if not value.startswith('"'):
        assert content(disk)
        return
    says(refusal(disk), f"ddb.x at byte {place_of(disk, 'ddb.x').split()[-1]} is {value}", "quote")


# --- row 20: createType --------------------------------------------------------------------------


def test_create_type_that_is_not_known(tmp_path: Path) -> None:
    disk = changed(tmp_path, '"monolithicFlat"', '"flatulent"')
    says(refusal(disk), "descriptor: createType is flatulent", "not a known kind of disk")


@pytest.mark.parametrize(
    ("create_type", "line", "kind"),
    [
        ("monolithicFlat", 'RW 8 SPARSE "flat.bin"', "SPARSE"),
        ("monolithicSparse", FLAT_LINE, "FLAT"),
        ("streamOptimized", FLAT_LINE, "FLAT"),
        ("vmfs", FLAT_LINE, "FLAT"),
        ("monolithicFlat", 'RW 8 VMFS "flat.bin"', "VMFS"),
        ("vmfsSparse", 'RW 8 SESPARSE "flat.bin"', "SESPARSE"),
        ("seSparse", 'RW 8 VMFSSPARSE "flat.bin"', "VMFSSPARSE"),
        ("vmfs", 'RW 8 VMFSRDM "flat.bin"', "VMFSRDM"),
    ],
)
def test_create_type_that_contradicts_the_extents(
    tmp_path: Path, create_type: str, line: str, kind: str
) -> None:
    disk = flat_disk(tmp_path, line, create_type=create_type)
    text = refusal(disk)
    says(text, "descriptor: line 9, extent type", f"is {kind}", f"a {create_type} disk cannot")


# --- row 21: extent lines ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "field", "why"),
    [
        ('WR 8 FLAT "flat.bin" 0', "text", "neither a comment, a key=value nor an extent line"),
        ('RWX 8 FLAT "flat.bin" 0', "text", "nor an extent line"),
        ('RW -8 FLAT "flat.bin" 0', "extent sectors", "not a decimal number"),
        ('RW 0x8 FLAT "flat.bin" 0', "extent sectors", "not a decimal number"),
        ('RW 8.0 FLAT "flat.bin" 0', "extent sectors", "not a decimal number"),
        ('RW 1e3 FLAT "flat.bin" 0', "extent sectors", "not a decimal number"),
        ('RW ٨ FLAT "flat.bin" 0', "extent sectors", "not a decimal number"),
        ('RW ² FLAT "flat.bin" 0', "extent sectors", "not a decimal number"),
        ('RW +8 FLAT "flat.bin" 0', "extent sectors", "not a decimal number"),
        ('RW 8_0 FLAT "flat.bin" 0', "extent sectors", "not a decimal number"),
        (f'RW {"9" * 21} FLAT "flat.bin" 0', "extent sectors", "not a decimal number"),
        (f'RW {"9" * 5000} FLAT "flat.bin" 0', "extent sectors", "not a decimal number"),
        (f'RW {1 << 54} FLAT "flat.bin" 0', "extent sectors", "more than 2^63 bytes"),
        ('RW 0 FLAT "flat.bin" 0', "extent sectors", "an extent of no sectors"),
        ('RW 8 FLOT "flat.bin" 0', "extent type", "not a known extent type"),
        ("RW 8 FLAT flat.bin 0", "extent", "not in quotes"),
        ('RW 8 FLAT "flat.bin', "extent", "a quote is missing"),
        ('RW 8 FLAT "flat".bin" 0', "extent file name", "a quote inside the name"),
        ("RW 8 FLAT", "extent", "the quoted file name is missing"),
        ("RW 8", "extent", "not of the form"),
        ('RW 8 FLAT "flat.bin"', "extent offset", "a FLAT extent needs one"),
        ('RW 8 FLAT "flat.bin" -1', "extent offset", "not a decimal number"),
        ('RW 8 FLAT "flat.bin" 0x0', "extent offset", "not a decimal number"),
        (f'RW 8 FLAT "flat.bin" {1 << 60}', "extent offset", "more than 2^63 bytes"),
        ('RW 8 FLAT "flat.bin" 0 a b c', "extent", "more fields than an extent line has"),
        ('RW 8 SPARSE "flat.bin" 0', "extent offset", "a SPARSE extent has none"),
        ('RW 8 FLAT "flat\x01.bin" 0', "text", "a control character"),
    ],
)
def test_extent_line_that_cannot_be_read(tmp_path: Path, line: str, field: str, why: str) -> None:
    disk = flat_disk(tmp_path, line, create_type="custom")
    text = refusal(disk)
    says(text, disk, f"descriptor: line 9, {field} {place_of(disk, line)}", why)
    assert len(text) < 1000


def test_extents_that_add_up_to_too_much(tmp_path: Path) -> None:
    line = f"RW {(1 << 53) - 1} ZERO"
    disk = flat_disk(tmp_path, line, line, line, create_type="custom")
    place = f"line 11, extent sectors at byte {disk.read_bytes().rindex(b'RW ')}"
    says(refusal(disk), place, "add up to more than 2^63 bytes")


def test_the_largest_disk_there_can_be(tmp_path: Path) -> None:
    line = f"RW {(1 << 53) - 1} ZERO"
    disk = flat_disk(tmp_path, line, line, FLAT_LINE.replace("8", "1", 1), create_type="custom")
    with open_disk(disk, policy=policy()) as opened:
        assert opened.size == ((1 << 54) - 1) * SECTOR
        assert opened.read(opened.size - 2 * SECTOR, 2 * SECTOR) == bytes(SECTOR) + b"A" * SECTOR
        assert [(r.state.name, r.link) for r in opened.runs()] == [("ZERO", 0), ("DATA", 0)]


# --- row 23: extents that are not what the line says ----------------------------------------------


def test_extent_missing(tmp_path: Path) -> None:
    disk = split(tmp_path)
    (tmp_path / "disk-s002.vmdk").unlink()
    text = refusal(disk)
    says(text, disk, "extent file name is disk-s002.vmdk", "No such file", "copy it beside")


def test_flat_file_shorter_than_its_line(tmp_path: Path) -> None:
    disk = flat_disk(tmp_path, 'RW 9 FLAT "flat.bin" 0')
    flat = tmp_path / "flat.bin"
    says(refusal(disk), flat, "flat extent: length is 4608", "needs 4608 bytes, the file has 4096")
    warnings = Warnings()
    wanted = flat.read_bytes() + bytes(SECTOR)
    assert content(disk, warnings, allow_truncated=True) == wanted
    assert warnings.has(str(flat), "the rest reads as zeros")


def test_flat_offset_beyond_its_file(tmp_path: Path) -> None:
    disk = flat_disk(tmp_path, f'RW 8 FLAT "flat.bin" {(1 << 54) - 9}')
    says(refusal(disk), "flat extent", f"needs {((1 << 54) - 1) * SECTOR} bytes, the file has 4096")
    assert content(disk, allow_truncated=True) == bytes(8 * SECTOR)


def test_flat_extents_that_overlap_in_one_file(tmp_path: Path) -> None:
    good = flat_disk(tmp_path, 'RW 4 FLAT "flat.bin" 4', 'RW 4 FLAT "flat.bin" 0')
    data = (tmp_path / "flat.bin").read_bytes()
    assert content(good) == data[2048:] + data[:2048]
    disk = flat_disk(tmp_path, 'RW 4 FLAT "flat.bin" 4', 'RW 5 FLAT "flat.bin" 0')
    says(refusal(disk), "line 9, extent file name is flat.bin", "overlaps another extent")


def test_sparse_capacity_smaller_than_the_line(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    text_replace(disk, f"RW {CAPACITY} ", f"RW {CAPACITY + 1} ")
    place = f"sparse header: capacity at byte 12 is {CAPACITY}"
    says(refusal(disk), disk, place, f"extent line needs {CAPACITY + 1} sectors")


def test_sparse_capacity_larger_than_the_line_is_a_warning(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    text_replace(disk, f"RW {CAPACITY} ", f"RW {CAPACITY - 1} ")
    warnings = Warnings()
    assert len(content(disk, warnings)) == (CAPACITY - 1) * SECTOR
    assert warnings.has(str(disk), f"{CAPACITY - 1} sectors", "the line counts")


def test_part_with_a_bad_header_is_named(tmp_path: Path) -> None:
    disk = split(tmp_path)
    part = tmp_path / "disk-s002.vmdk"
    put(part, "grainSize", 7)
    says(refusal(disk), f"{part}: sparse header: grainSize at byte 20 is 7")


def test_renamed_single_file_ignores_the_name_in_its_line(tmp_path: Path) -> None:
    disk = mono(tmp_path)
    text_replace(disk, '"disk.vmdk"', '"/etc/passwd"')
    moved = disk.rename(tmp_path / "renamed.vmdk")
    assert content(moved)


# --- row 24: data that may not or cannot be had ---------------------------------------------------


@pytest.mark.parametrize(
    ("header", "ddb", "version", "why"),
    [
        (["keyID=abc"], {}, 1, "the descriptor has keyID"),
        (['KEYid="abc"'], {}, 1, "the descriptor has keyID"),
        (['encryptionKeys="vmware:key/list/()"'], {}, 1, "the descriptor has encryptionKeys"),
        ([], {"iofilters": "spm,vmwarevmcrypt"}, 1, "vmwarevmcrypt"),
        ([], {"IOFilters": "VMWAREvmcrypt"}, 1, "vmwarevmcrypt"),
        ([], {}, 2, "version 2"),
    ],
)
def test_encrypted_disk(
    tmp_path: Path, header: list[str], ddb: dict[str, str], version: int, why: str
) -> None:
    disk = flat_disk(tmp_path)
    write_descriptor(
        disk,
        "monolithicFlat",
        [FLAT_LINE],
        header=header,
        version=version,
        ddb={"uuid": "u", **ddb},
    )
    text = refusal(disk, UnsupportedFeature, opens=True)
    says(text, disk, "RW FLAT extent is flat.bin", "encrypted", why, "decrypt it")
    with open_disk(disk, policy=policy()) as opened:
        assert opened.info.encrypted
        assert opened.info.uuid == "u"
        assert opened.info.capacity == 4096
        with pytest.raises(UnsupportedFeature, match="encrypted"):
            list(opened.runs())
        with pytest.raises(UnsupportedFeature, match="encrypted"):
            list(opened.allocated())


def test_encrypted_single_file(tmp_path: Path) -> None:
    text = descriptor("monolithicSparse", [f'RW {CAPACITY} SPARSE "d"'], header=["keyID=1"])
    says(refusal(mono(tmp_path, descriptor=text), UnsupportedFeature, opens=True), "encrypted")


def test_encrypted_parent(tmp_path: Path) -> None:
    from hostile.images import cowd_chain

    disk = cowd_chain(tmp_path)
    text_replace(tmp_path / "base.vmdk", "CID=aaaaaaaa\n", "CID=aaaaaaaa\nkeyID=1\n")
    with open_disk(disk, policy=policy()) as opened:
        assert opened.info.encrypted
        assert opened.read(3 * SECTOR, SECTOR) == b"a" * SECTOR
        with pytest.raises(UnsupportedFeature, match=re.escape(str(tmp_path / "base.vmdk"))):
            opened.read(0, SECTOR)


@pytest.mark.parametrize(
    ("create_type", "line", "field", "why"),
    [
        ("vmfsRDM", 'RW 8 VMFSRDM "flat.bin"', "RW VMFSRDM extent", "raw device mapping"),
        ("vmfsRDMP", 'RW 8 VMFSRDM "flat.bin" 0', "RW VMFSRDM extent", "raw device mapping"),
        ("vmfsPassthroughRawDeviceMap", 'RW 8 VMFSRDMP "x"', "VMFSRDMP", "raw device mapping"),
        ("vmfsRaw", 'RW 8 VMFSRAW "/vmfs/devices/disks/x"', "VMFSRAW", "raw device mapping"),
        ("vsanSparse", 'RW 8 VSANSPARSE "vsan://52-a"', "RW VSANSPARSE extent", "vSAN object"),
        ("vmfs", 'RW 8 VMFS "vsan://52-a"', "RW VMFS extent", "vSAN object"),
        ("monolithicFlat", 'NOACCESS 8 FLAT "flat.bin" 0', "NOACCESS FLAT", "marked NOACCESS"),
    ],
)
def test_data_that_cannot_be_had_here(
    tmp_path: Path, create_type: str, line: str, field: str, why: str
) -> None:
    disk = flat_disk(tmp_path, line, create_type=create_type)
    name = line.split('"')[1]
    says(refusal(disk, UnsupportedFeature, opens=True), f"{field}", f"is {name}", why)
    with open_disk(disk, policy=policy()) as opened:
        assert opened.info.create_type == create_type
        assert opened.info.capacity == 4096
        assert opened.info.links[0].extents[0].path == name


def test_noaccess_reads_as_zeros_on_request(tmp_path: Path) -> None:
    disk = flat_disk(tmp_path, 'NOACCESS 8 FLAT "flat.bin" 0', FLAT_LINE)
    wanted = bytes(4096) + (tmp_path / "flat.bin").read_bytes()
    assert content(disk, noaccess_zeros=True) == wanted
    # The refusal is for its own bytes only.
    with open_disk(disk, policy=policy()) as opened:
        assert opened.read(4096, 4096) == wanted[4096:]


# --- row 25: two formats in one file --------------------------------------------------------------


@pytest.mark.parametrize(
    "front",
    [b"QFI\xfb\0\0\0\x03", b"QFI\xfb", b"\x7fELF\n", b"<<< Oracle VM VirtualBox Disk Image >>>\n"],
)
def test_other_format_in_front_of_a_descriptor(tmp_path: Path, front: bytes) -> None:
    disk = written(tmp_path, front + flat_disk(tmp_path).read_bytes())
    says(refusal(disk), disk, "is not a VMDK", "begins with")


@pytest.mark.parametrize("tail", [b"conectix" + bytes(504), bytes(32768) + b"\1CD001"])
def test_other_format_behind_a_descriptor(tmp_path: Path, tail: bytes) -> None:
    disk = written(tmp_path, flat_disk(tmp_path).read_bytes() + b"\n" + tail)
    says(refusal(disk), disk, "descriptor: ")


def test_raw_image_in_whose_first_sectors_a_guest_wrote_a_descriptor(tmp_path: Path) -> None:
    text = flat_disk(tmp_path).read_bytes()
    disk = tmp_path / "disk.raw"
    disk.write_bytes(text.ljust(4096, b"\0"))
    assert content(disk) == text.ljust(4096, b"\0")


# --- row 26: many extents -------------------------------------------------------------------------


def test_more_extents_than_a_disk_may_have(tmp_path: Path) -> None:
    lines = ["RW 1 ZERO"] * 8192
    assert content(flat_disk(tmp_path, *lines, create_type="custom")) == bytes(8192 * SECTOR)
    disk = flat_disk(tmp_path, *lines, "RW 1 ZERO", create_type="custom")
    at = disk.read_bytes().rindex(b"RW 1 ZERO")
    says(refusal(disk), f"line {9 + 8192}, extent at byte {at}", "more than 8192 extents")


def test_as_many_extents_as_allowed_in_one_file_are_cheap(tmp_path: Path) -> None:
    lines = [f'RW 1 FLAT "flat.bin" {8191 - i}' for i in range(8192)]
    disk = flat_disk(tmp_path, *lines)
    data = b"".join(i.to_bytes(2, "little") * 256 for i in range(8192))
    (tmp_path / "flat.bin").write_bytes(data)
    before = open_files()
    with open_disk(disk, policy=policy()) as opened:
        assert open_files() <= before + 3
        assert opened.read(0, 2 * SECTOR) == data[-SECTOR:] + data[-2 * SECTOR : -SECTOR]
