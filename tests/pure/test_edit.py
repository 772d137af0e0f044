# SPDX-License-Identifier: Apache-2.0
"""Editing a descriptor changes what was asked for, and no other byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from diskkit.errors import UsageError
from diskkit.formats.vmdk.descriptor import parse
from diskkit.formats.vmdk.edit import edited, new_content_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TEXT = """# Disk DescriptorFile
version=1\x20
encoding="windows-1252"
CID=52db3b7\x20
parentCID=ffffffff
vendorKey="caf\xe9"
createType="twoGbMaxExtentSparse"

# Extent description
RW 4192256 SPARSE "caf\xe9-s001.vmdk"
RW 128 SPARSE "caf\xe9-s002.vmdk"\x20

# The Disk Data Base\x20
#DDB

ddb.adapterType  =\t"ide"
ddb.longContentID = "0123456789abcdef01234567052db3b7"
"""


def raw(text: str = TEXT, end: str = "\n", codec: str = "cp1252") -> bytes:
    return text.replace("\n", end).encode(codec)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_one_line_changes_and_no_other_byte(end: str) -> None:
    new = edited(parse(raw(end=end)), header={"cid": "ABC"}, ddb={"ADAPTERTYPE": "lsilogic"})
    want = TEXT.replace("CID=52db3b7 ", "CID=00000abc ").replace('"ide"', '"lsilogic"')
    assert new == raw(want, end)


def test_bytes_that_no_codec_knows_stay() -> None:
    text = raw().replace(b'encoding="windows-1252"\n', b"").replace(b"caf\xe9", b"caf\x81")
    assert edited(parse(text), ddb={"adapterType": "ide"}) == text


def test_bom_stays() -> None:
    text = b"\xef\xbb\xbf" + raw(codec="utf-8").replace(b"windows-1252", b"UTF-8")
    new = edited(parse(text), header={"parentCID": "1", "parentFileNameHint": "x"})
    assert new.startswith(b"\xef\xbb\xbf# Disk")
    assert parse(new).parent_hint == "x"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_new_keys_go_to_their_places(end: str) -> None:
    new = edited(
        parse(raw(end=end)),
        header={"parentFileNameHint": "p\xe9re.vmdk", "changeTrackPath": "a-ctk.vmdk"},
        ddb={"uuid": ""},
    )
    want = TEXT.replace('Sparse"\n', 'Sparse"\nparentFileNameHint="p\xe9re.vmdk"\n', 1)
    tracking = '\n# Change Tracking File\nchangeTrackPath="a-ctk.vmdk"\n'
    want = want.replace('s002.vmdk" \n', 's002.vmdk" \n' + tracking)
    assert new == raw(want + 'ddb.uuid = ""\n', end)


def test_change_tracking_taken_out_and_put_back_is_as_before() -> None:
    with_it = edited(parse(raw()), header={"changeTrackPath": "a-ctk.vmdk"})
    without = edited(parse(with_it), header={"CHANGETRACKPATH": None})
    assert parse(without).change_track_path is None
    assert edited(parse(without), header={"changeTrackPath": "a-ctk.vmdk"}) == with_it


def test_header_key_after_change_tracking_goes_before_extents() -> None:
    with_it = edited(parse(raw()), header={"changeTrackPath": "a-ctk.vmdk"})
    new = edited(parse(with_it), header={"parentFileNameHint": "p"})
    assert new.index(b"parentFileNameHint") < new.index(b"# Extent")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_last_line_without_an_end_gets_one(end: str) -> None:
    new = edited(parse(raw(end=end).rstrip()), ddb={"comment": "x"})
    assert new == raw(TEXT + 'ddb.comment = "x"\n', end)


def test_disk_database_is_begun_where_there_is_none() -> None:
    text = raw(TEXT.partition("\n# The Disk")[0])
    new = edited(parse(text), ddb={"comment": "x"})
    assert new.removeprefix(text) == b'\n# The Disk Data Base\n#DDB\n\nddb.comment = "x"\n'


@pytest.mark.parametrize("tail", ["", "\n", '\n\nddb.a = "b"\n'])
def test_all_extents_replaced(tail: str) -> None:
    text = raw(TEXT.partition(" \n\n# The Disk")[0] + tail)
    lines = [f'RW 128 SPARSE "n\xe9-{i}.vmdk"' for i in range(3)]
    found = parse(edited(parse(text), extents=lines))
    assert [e.name for e in found.extents] == ["n\xe9-0.vmdk", "n\xe9-1.vmdk", "n\xe9-2.vmdk"]
    assert found.header == parse(text).header
    assert found.ddb == parse(text).ddb


def test_one_extent_renamed() -> None:
    new = edited(parse(raw()), extents={1: "b.vmdk"})
    assert new == raw(TEXT.replace("caf\xe9-s002", "b"))


def test_encoding_changed_with_the_text() -> None:
    new = edited(parse(raw()), header={"encoding": "UTF-8", "vendorKey": "\u4e2d"})
    want = TEXT.replace("windows-1252", "UTF-8").replace('Key="caf\xe9"', 'Key="\u4e2d"')
    assert new == raw(want, codec="utf-8")


@pytest.mark.parametrize(
    ("header", "ddb", "extents"),
    [
        ({"a": 'x"'}, {}, None),
        ({"a": "x\ny"}, {}, None),
        ({}, {"a": "x\x07"}, None),
        ({}, {"a": "\u2028"}, None),
        ({}, {"a b": "x"}, None),
        ({}, {"": "x"}, None),
        ({}, {"\xe9": "x"}, None),
        ({"ddb.a": "x"}, {}, None),
        ({"=": "x"}, {}, None),
        ({"CID": "xyz"}, {}, None),
        ({"CID": "123456789"}, {}, None),
        ({"CID": None}, {}, None),
        ({"version": "9"}, {}, None),
        ({"createType": "other"}, {}, None),
        ({"cid": "1", "CID": "1"}, {}, None),
        ({"vendorKey": "\u4e2d"}, {}, None),
        ({"encoding": "utf-16"}, {}, None),
        ({"encoding": "us-ascii"}, {}, None),
        ({}, {}, {2: "x"}),
        ({}, {}, {0: 'x"y'}),
        ({}, {}, []),
        ({}, {}, ["ddb.x = 1"]),
        ({}, {}, ['RW 1 SPARSE "a"\nRW 1 SPARSE "b"']),
        ({}, {}, ['RW 1 FLAT "a" 0']),
    ],
)
def test_refused(
    header: Mapping[str, str | None],
    ddb: Mapping[str, str | None],
    extents: Mapping[int, str] | Sequence[str] | None,
) -> None:
    with pytest.raises(UsageError):
        edited(parse(raw()), header=header, ddb=ddb, extents=extents)


def test_new_content_id_changes_both_ids_together() -> None:
    found = parse(raw())
    new = parse(edited(found, **new_content_id(found)._asdict()))
    assert new.cid != found.cid
    assert int(new.ddb["longContentID"][-8:], 16) == new.cid
    assert len(new.ddb) == len(found.ddb)


def test_new_content_id_adds_no_long_one() -> None:
    found = parse(raw(TEXT.replace("longContentID", "other")))
    assert not new_content_id(found).ddb
