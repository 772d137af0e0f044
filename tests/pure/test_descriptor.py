# SPDX-License-Identifier: Apache-2.0
"""The descriptor parser against everything that real makers write: variants that must be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from diskkit.errors import FormatError
from diskkit.formats.link import NO_PARENT
from diskkit.formats.vmdk.descriptor import CREATE_TYPES, looks_like_descriptor, parse
from makers import descriptor

if TYPE_CHECKING:
    from diskkit.formats.vmdk.descriptor import Descriptor

FLAT = 'RW 8 FLAT "disk-flat.vmdk" 0'


def text(*lines: str, create_type: str = "custom", **options: object) -> str:
    return descriptor(create_type, lines or (FLAT,), **options)  # type: ignore[arg-type]


def read(value: str | bytes, *, embedded: bool = False) -> Descriptor:
    data = value.encode() if isinstance(value, str) else value
    return parse(data, path="disk.vmdk", embedded=embedded)


def test_every_field_is_read() -> None:
    found = read(
        text(
            'RW 4192256 VMFSSPARSE "disk-000001-delta.vmdk"',
            create_type="vmfsSparse",
            cid="52db3b7",
            parent_cid="fffffffe",
            hint="disk.vmdk",
            version=3,
            header=['isNativeSnapshot="no"'],
            after_extents=["# Change Tracking File", 'changeTrackPath="disk-ctk.vmdk"'],
            ddb={"longContentID": "0123456789abcdef0123456752db3b70", "thinProvisioned": "1"},
        )
    )
    assert found.version == 3
    assert found.cid == 0x52DB3B7
    assert found.parent_cid == 0xFFFFFFFE
    assert found.create_type == "vmfsSparse"
    assert found.parent_hint == "disk.vmdk"
    assert found.change_track_path == "disk-ctk.vmdk"
    assert not found.native_snapshot
    assert found.ddb == {
        "longContentID": "0123456789abcdef0123456752db3b70",
        "thinProvisioned": "1",
    }
    assert found.capacity == 4192256 * 512
    assert not found.encrypted
    assert not found.warnings


def test_what_an_extent_line_says() -> None:
    lines = (
        'RW 63 FLAT "disk-pt.vmdk" 0',
        'RDONLY 100 FLAT "/dev/sda" 2048 0a1b-2c3d dev:1',
        "NOACCESS 7 ZERO ",
        'RW 9 VMFS "with space; # and = .vmdk"',
    )
    found = read(text(*lines)).extents
    assert [e.access for e in found] == ["RW", "RDONLY", "NOACCESS", "RW"]
    assert [e.length for e in found] == [63 * 512, 100 * 512, 7 * 512, 9 * 512]
    assert [e.kind for e in found] == ["FLAT", "FLAT", "ZERO", "VMFS"]
    assert [e.name for e in found] == [
        *("disk-pt.vmdk", "/dev/sda", None, "with space; # and = .vmdk"),
    ]
    assert [e.offset for e in found] == [0, 2048 * 512, 0, 0]
    assert found[1].device == ("0a1b-2c3d", "dev:1")
    assert [e.line for e in found] == [9, 10, 11, 12]


# --- the first line, and what a descriptor is recognised by --------------------------------------

FIRST_LINES = (
    "# Disk DescriptorFile",
    "# Disk Descriptor File",
    "#Disk Descriptor File",
    "#Disk DescriptorFile",
    "# Description file created by VMDK stream converter",
    "#",
    "",
    "\n\n   \n# anything",
)


@pytest.mark.parametrize("first", FIRST_LINES)
def test_first_lines_seen_in_the_wild(first: str) -> None:
    data = text(first_line=first).encode()
    assert looks_like_descriptor(data)
    assert read(data).extents


@pytest.mark.parametrize(
    ("head", "is_one"),
    [
        (b"version=1", True),
        (b"VERSION = 3\n", True),
        (b"\xef\xbb\xbf# x\r\n\r\nversion=1\r\n", True),
        (b"version=", False),
        (b"version=x", False),
        (b"CID=1\nversion=1", False),
        (b"versions=1", False),
        (b"", False),
        (b"\n#\n", False),
        (b"QFI\xfb\nversion=1", False),
    ],
)
def test_recognised_by_its_version_line(head: bytes, is_one: bool) -> None:
    assert looks_like_descriptor(head) == is_one


# --- lexical freedom ------------------------------------------------------------------------------


def variants() -> dict[str, str]:
    plain = text()
    return {
        "crlf": plain.replace("\n", "\r\n"),
        "byte order mark": "\ufeff" + plain,
        "trailing blanks": plain.replace("\n", "  \t\n"),
        "leading blanks": plain.replace("\n", "\n \t"),
        "lower case": plain.lower(),
        "upper case": plain.upper().replace("DISK-FLAT.VMDK", "disk-flat.vmdk"),
        "blanks round equals": plain.replace("=", " \t=\t "),
        "no blanks round equals": plain.replace(" = ", "="),
        "unquoted values": "\n".join(
            line if "FLAT" in line else line.replace('"', "") for line in plain.split("\n")
        ),
        "quoted numbers": plain.replace("CID=12345678", 'CID="12345678"').replace(
            "version=1", 'version="1"'
        ),
        "tabs in the extent line": plain.replace(FLAT, FLAT.replace(" ", "\t")),
        "wide blanks in the extent line": plain.replace(FLAT, FLAT.replace(" ", "    ")),
        "no line end at the end": plain.rstrip("\n"),
        "no comments": "\n".join(x for x in plain.split("\n") if not x.startswith("#")),
        "ddb before the extents": "\n".join(sorted(plain.split("\n"), key=lambda x: "RW" in x)),
        "no database": plain.split("# The Disk Data Base")[0],
        "blank lines": plain.replace("\n", "\n\n\n"),
        "missing encoding": plain.replace('encoding="UTF-8"\n', ""),
        "zero in front": plain.replace("RW 8 ", "RW 0008 "),
    }


@pytest.mark.parametrize("name", sorted(variants()))
def test_lexical_variant_reads_the_same(name: str) -> None:
    found, wanted = read(variants()[name]), read(text())
    assert found.extents[0].name == "disk-flat.vmdk"
    assert found.extents[0].kind == "FLAT"
    assert found.extents[0].length == 4096
    assert (found.cid, found.parent_cid) == (0x12345678, NO_PARENT)
    assert found.create_type == "custom"
    assert found.version == 1
    if name not in ("lower case", "upper case", "no database"):
        assert found.ddb == wanted.ddb


def test_the_text_and_its_keys_are_kept_as_written() -> None:
    odd = text(header=["Vendor.key-1:x=Some Value", 'empty=""']).replace("\n", "\r\n")
    found = read(odd)
    assert found.text == odd
    assert found.header["Vendor.key-1:x"] == "Some Value"
    assert found.header["empty"] == ""
    assert list(found.header)[:2] == ["version", "encoding"]


def test_embedded_text_ends_at_its_first_nul() -> None:
    found = read(text().encode() + bytes(5000), embedded=True)
    assert found.extents[0].length == 4096
    assert not found.warnings
    found = read(text().encode() + bytes(10) + b"rest", embedded=True)
    assert found.warnings


@pytest.mark.parametrize(
    ("cid", "value"),
    [("0", 0), ("1", 1), ("52db3b7", 0x52DB3B7), ("FFFFFFFE", 0xFFFFFFFE), ("00000000", 0)],
)
def test_content_ids_of_one_to_eight_digits(cid: str, value: int) -> None:
    assert read(text(cid=cid)).cid == value


@pytest.mark.parametrize(("native", "value"), [("no", False), ("NO", False), ("yes", True)])
def test_native_snapshots(native: str, value: bool) -> None:
    assert read(text(header=[f'isNativeSnapshot="{native}"'])).native_snapshot is value


# --- encodings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "codec", "name"),
    [
        ("UTF-8", "utf-8", "größe-漢字.vmdk"),
        ("utf8", "utf-8", "größe.vmdk"),
        ("GBK", "gbk", "虚拟磁盘.vmdk"),
        ("GB18030", "gb18030", "虚拟磁盘€.vmdk"),
        ("Big5", "big5", "虛擬磁碟功.vmdk"),
        ("Shift_JIS", "shift_jis", "ソ仮想ディスク表.vmdk"),
        ("EUC-JP", "euc_jp", "仮想ディスク.vmdk"),
        ("EUC-KR", "euc_kr", "가상디스크.vmdk"),
        ("windows-1252", "cp1252", "größe–€.vmdk"),
        ("windows-1251", "cp1251", "диск.vmdk"),
        ("Windows-936", "cp936", "虚拟.vmdk"),
        ("ISO-8859-1", "latin-1", "größe.vmdk"),
        ("ISO8859-15", "iso8859_15", "größe€.vmdk"),
        ("US-ASCII", "ascii", "plain.vmdk"),
    ],
)
@pytest.mark.parametrize("quoted", [True, False])
def test_declared_encoding(encoding: str, codec: str, name: str, quoted: bool) -> None:
    data = text(f'RW 8 FLAT "{name}" 0', encoding=encoding)
    if not quoted:
        data = data.replace(f'encoding="{encoding}"', f"encoding = {encoding} ")
    found = read(data.encode(codec))
    assert found.extents[0].name == name
    assert found.encoding.strip() == encoding


@pytest.mark.parametrize(("codec", "name"), [("utf-8", "größe-漢.vmdk"), ("cp1252", "größe–.vmdk")])
def test_missing_encoding_means_utf8_or_else_windows_1252(codec: str, name: str) -> None:
    data = text(f'RW 8 FLAT "{name}" 0', encoding=None).encode(codec)
    assert read(data).extents[0].name == name


def test_line_numbers_and_places_count_bytes_not_characters() -> None:
    for mark in (b"", b"\xef\xbb\xbf"):
        data = mark + text(header=["# 漢字漢字"], encoding="GBK").encode("gbk") + b"bad line\n"
        with pytest.raises(FormatError) as caught:
            read(data)
        assert caught.value.offset == data.index(b"bad line")
        number = data[: caught.value.offset].count(b"\n") + 1
        assert caught.value.field == f"line {number}, text"


def test_encoding_in_a_comment_or_in_the_database_is_not_the_texts() -> None:
    data = text("# encoding=UTF-16", FLAT, encoding=None, ddb={"encoding": "UTF-16"})
    found = read(data)
    assert found.encoding == "UTF-8"
    assert found.ddb["encoding"] == "UTF-16"


# --- kinds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("create_type", sorted(CREATE_TYPES))
def test_every_create_type_with_what_it_may_hold(create_type: str) -> None:
    allowed = CREATE_TYPES[create_type] or {"FLAT", "SPARSE", "VMFS"}
    for kind in sorted(allowed | {"ZERO"}):
        tail = {"FLAT": ' "x" 0', "ZERO": ""}.get(kind, ' "x"')
        found = read(text(f"RW 8 {kind}{tail}", create_type=create_type.swapcase()))
        assert found.create_type == create_type
        assert found.extents[0].kind == kind


@pytest.mark.parametrize("kind", ["VMFS", "VMFSRDM", "VMFSRDMP", "VMFSRAW"])
@pytest.mark.parametrize("tail", ["", " 0", " 0 uuid", " 0 uuid device"])
def test_offsets_that_may_be_left_out(kind: str, tail: str) -> None:
    extent = read(text(f'RW 8 {kind} "x"{tail}')).extents[0]
    assert extent.offset == 0
    assert extent.device == tuple(tail.split()[1:])


def test_zero_extents_may_carry_anything_a_maker_left() -> None:
    for line in ("RW 8 ZERO", "RW 8 ZERO ", 'RW 8 ZERO ""', 'RW 8 ZERO "x"'):
        assert read(text(line)).extents[0].name is None


@pytest.mark.parametrize("kind", ["SPARSE", "VMFSSPARSE", "SESPARSE", "VSANSPARSE", "ZERO"])
def test_offsets_that_mean_nothing_are_refused(kind: str) -> None:
    with pytest.raises(FormatError, match=f"a {kind} extent has none"):
        read(text(f'RW 8 {kind} "x" 0'))


@pytest.mark.parametrize("ends", ["\r", "\r\r\n"])
def test_bare_carriage_returns_are_no_line_ends(ends: str) -> None:
    bare = text().replace("\n", ends)
    if ends == "\r":
        with pytest.raises(FormatError, match="control character"):
            read(bare[bare.index("version") :])
        return
    assert read(bare).extents[0].length == 4096
