# SPDX-License-Identifier: Apache-2.0
"""What goes over the wire, byte by byte, and what is refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diskkit.errors import ProtocolError
from diskkit.nbd import protocol as p
from diskkit.runs import State
from diskkit.table import RunTable, from_rows

SIZE = 1 << 20
NAMES = {name: getattr(p, name) for name in ("READ", "WRITE", "TRIM", "CACHE", "FLUSH")}


def test_a_request_is_28_bytes() -> None:
    packed = p.Request(p.FUA, p.WRITE, 0x0102030405060708, 0x1000, 512).pack()
    assert packed.hex() == "256095130001000101020304050607080000000000001000" + "00000200"
    assert p.unpack_request(packed) == (p.FUA, p.WRITE, 0x0102030405060708, 0x1000, 512)
    assert p.unpack_request(b"xx" + packed, 2).length == 512


def test_short_answers() -> None:
    assert p.simple_reply(7).hex() == "67446698000000000000000000000007"
    assert p.simple_reply(7, p.EIO).hex() == "67446698000000050000000000000007"
    none = p.chunk(7, p.NONE, b"", done=True)
    assert none.hex() == "668e33ef00010000000000000000000700000000"
    error = p.error_chunk(7, p.EINVAL, "no")
    assert error.hex() == "668e33ef000180010000000000000007000000080000001600026e6f"


@pytest.mark.parametrize(
    ("request_", "writable", "error"),
    [
        (p.Request(0, p.READ, 1, 0, SIZE), False, 0),
        (p.Request(p.DF, p.READ, 1, 0, 1), False, 0),
        (p.Request(p.FUA, p.READ, 1, 0, 1), False, 0),
        (p.Request(p.NO_HOLE, p.READ, 1, 0, 1), False, p.EINVAL),
        (p.Request(0, p.READ, 1, SIZE, 1), False, p.EINVAL),
        (p.Request(0, p.READ, 1, SIZE - 1, 2), False, p.EINVAL),
        (p.Request(0, p.READ, 1, (1 << 64) - 1, 2), False, p.EINVAL),
        (p.Request(0, p.READ, 1, SIZE, 0), False, 0),
        (p.Request(0, p.WRITE, 1, 0, 1), False, p.EPERM),
        (p.Request(0, p.WRITE, 1, 0, 1), True, 0),
        (p.Request(p.DF, p.WRITE, 1, 0, 1), True, p.EINVAL),
        (p.Request(0, p.WRITE, 1, SIZE, 1), True, p.ENOSPC),
        (p.Request(0, p.FLUSH, 1, 0, 0), False, 0),
        (p.Request(0, p.FLUSH, 1, 0, 1), False, p.EINVAL),
        (p.Request(0, p.TRIM, 1, 0, SIZE), True, 0),
        (p.Request(0, p.TRIM, 1, 0, SIZE), False, p.EPERM),
        (p.Request(p.FAST_ZERO | p.NO_HOLE | p.FUA, p.WRITE_ZEROES, 1, 0, 1), True, 0),
        (p.Request(p.FAST_ZERO, p.TRIM, 1, 0, 1), True, p.EINVAL),
        (p.Request(0, p.CACHE, 1, 0, 1), False, 0),
        (p.Request(0, p.BLOCK_STATUS, 1, 0, 0), False, p.EINVAL),
        (p.Request(p.REQ_ONE, p.BLOCK_STATUS, 1, 0, 1), False, 0),
        (p.Request(0, 8, 1, 0, 0), True, p.EINVAL),
        (p.Request(0, p.DISC, 1, 0, 0), True, p.EINVAL),
        (p.Request(0, 0xFFFF, 1, 0, 0), True, p.EINVAL),
    ],
)
def test_requests_are_judged(request_: p.Request, writable: bool, error: int) -> None:
    assert p.refusal(request_, SIZE, writable=writable) == error


def test_requests_for_too_much() -> None:
    most = p.MOST_PAYLOAD
    assert p.refusal(p.Request(0, p.READ, 1, 0, most), 1 << 40, writable=True) == 0
    assert p.refusal(p.Request(0, p.READ, 1, 0, most + 1), 1 << 40, writable=True) == p.EOVERFLOW
    assert p.refusal(p.Request(0, p.WRITE, 1, 0, most + 1), 1 << 40, writable=True) == p.EINVAL
    assert p.refusal(p.Request(0, p.TRIM, 1, 0, (1 << 32) - 1), 1 << 40, writable=True) == 0


@pytest.mark.parametrize(
    ("kind", "flags", "length", "fits"),
    [
        (p.NONE, 1, 0, True),
        (p.NONE, 0, 0, False),
        (p.NONE, 1, 1, False),
        (p.OFFSET_DATA, 0, 9, True),
        (p.OFFSET_DATA, 0, 8, False),
        (p.OFFSET_DATA, 0, 8 + p.MOST_PAYLOAD + 1, False),
        (p.OFFSET_HOLE, 1, 12, True),
        (p.OFFSET_HOLE, 1, 8, False),
        (p.STATUS, 1, 12, True),
        (p.STATUS, 1, 4, False),
        (p.STATUS, 1, 16, False),
        (p.STATUS, 1, 0xFFFFFFFC, False),
        (p.ERROR, 1, 6, True),
        (p.ERROR, 1, 5, False),
        (p.ERROR, 1, p.MOST_ERROR + 1, False),
        (p.ERROR_OFFSET, 0, 14, True),
        (p.IS_ERROR | 77, 1, 6, True),
        (3, 1, 0, False),
        (p.NONE, 3, 0, False),
    ],
)
def test_heads_of_chunks_are_judged(kind: int, flags: int, length: int, fits: bool) -> None:
    head = p.CHUNK.pack(p.CHUNK_MAGIC, flags, kind, 5, length)
    assert p.unpack_reply(head[:16], True) is None
    if fits:
        assert p.unpack_reply(head, True) == (5, True, kind, bool(flags & 1), 0, length)
    else:
        with pytest.raises(ProtocolError):
            p.unpack_reply(head, True)
    with pytest.raises(ProtocolError):
        p.unpack_reply(head, False)


def test_error_texts_lie_about_their_length() -> None:
    assert p.unpack_error(struct.pack(">IH", 5, 2) + b"no" + bytes(8)) == (5, "no")
    for payload in (struct.pack(">IH", 5, 3) + b"no", struct.pack(">IH", 0, 0)):
        with pytest.raises(ProtocolError):
            p.unpack_error(payload)


def test_every_byte_of_a_read_comes_once() -> None:
    cover = p.Cover(100, 50)
    assert cover.place(120, 30) == 20
    assert cover.place(100, 10) == 0
    assert cover.place(110, 10) == 10
    cover.finish()


@pytest.mark.parametrize(
    "parts",
    [
        [(99, 10)],
        [(140, 11)],
        [(100, 0)],
        [(100, 49)],
        [(100, 25), (124, 25)],
        [(100, 25), (126, 24)],
        [(100, 50), (100, 1)],
        [(100, 30), (100, 20)],
        [],
    ],
)
def test_reads_that_do_not_add_up(parts: list[tuple[int, int]]) -> None:
    cover = p.Cover(100, 50)

    def take() -> None:
        for offset, length in parts:
            cover.place(offset, length)
        cover.finish()

    with pytest.raises(ProtocolError):
        take()


# --- block status ---------------------------------------------------------------------------------

TABLE = from_rows(
    [(0, State.HOLE, 0), (10, State.ZERO, 0), (20, State.DATA, 7), (30, State.PACKED, 9)], 40
)


def test_status_is_the_map() -> None:
    flags = p.allocation_flags(TABLE)
    assert flags.tolist() == [3, 3, 0, 0]
    packed = p.pack_status(1, TABLE, flags)
    assert packed == struct.pack(">IIIII", 1, 20, 3, 20, 0)
    links = np.array([0, 1], np.int64)
    table = TABLE._replace(sources=np.array([1, 0, 1, 0], np.int64))
    assert p.depth_flags(table, links).tolist() == [0, 1, 2, 1]


def test_status_is_cut_at_a_number_of_extents() -> None:
    packed = p.pack_status(1, TABLE, np.array([1, 2, 3, 4], np.uint32), most=2)
    assert packed == struct.pack(">IIIII", 1, 10, 1, 10, 2)


def test_a_status_is_judged() -> None:
    good = struct.pack(">IIIII", 1, 20, 3, 30, 0)
    context, ends, flags = p.unpack_status(good, 40)
    assert (context, ends.tolist(), flags.tolist()) == (1, [20, 40], [3, 0])
    assert p.unpack_status(good, 100)[1].tolist() == [20, 50]
    for bad in (struct.pack(">III", 1, 0, 3), struct.pack(">IIIII", 1, 40, 3, 1, 0)):
        with pytest.raises(ProtocolError):
            p.unpack_status(bad, 40)


def _column(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, np.int64)


def rows(table: RunTable) -> list[tuple[int, State]]:
    return [(int(s), State(k)) for s, k in zip(table.starts, table.states, strict=True)]


def test_depth_tells_zeros_from_holes() -> None:
    allocation = _column(20, 40, 50, 60), _column(3, 0, 2, 1)
    alone = p.combine(1000, allocation, None)
    assert rows(alone) == [
        (1000, State.HOLE),
        (1020, State.DATA),
        (1040, State.ZERO),
        (1050, State.DATA),
    ]
    assert alone.end == 1060
    both = p.combine(1000, allocation, (_column(10, 20, 55), _column(0, 2, 1)))
    assert rows(both) == [
        (1000, State.HOLE),
        (1010, State.ZERO),
        (1020, State.DATA),
        (1040, State.ZERO),
        (1050, State.DATA),
    ]
    assert both.end == 1055


# --- anything at all ------------------------------------------------------------------------------


@given(st.binary(min_size=28, max_size=40))
def test_any_request_is_parsed_or_refused(data: bytes) -> None:
    try:
        request = p.unpack_request(data)
    except ProtocolError:
        return
    assert p.refusal(request, SIZE, writable=True) in (0, *p.ERROR_NAMES)


@given(
    st.sampled_from([p.SIMPLE_MAGIC, p.CHUNK_MAGIC, 0]),
    st.binary(min_size=16, max_size=16),
    st.booleans(),
)
def test_any_reply_is_parsed_or_refused(magic: int, rest: bytes, structured: bool) -> None:
    try:
        reply = p.unpack_reply(magic.to_bytes(4, "big") + rest, structured)
    except ProtocolError:
        return
    assert reply is not None
    assert 0 <= reply.length <= p.MOST_PAYLOAD + 8


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 4)), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 4)), min_size=1, max_size=12),
    st.integers(1, 300),
)
def test_any_status_is_a_map_or_refused(
    one: list[tuple[int, int]], two: list[tuple[int, int]], length: int
) -> None:
    found = []
    for extents in (one, two):
        body = b"".join(struct.pack(">II", *extent) for extent in extents)
        try:
            found.append(p.unpack_status(b"\0\0\0\1" + body, length)[1:])
        except ProtocolError:
            return
    table = p.combine(50, *found)
    assert table.offset == 50
    assert 50 < table.end <= 50 + length
    assert (table.lengths > 0).all()
    for begin, state in rows(table):
        flags = next(int(f) for e, f in zip(*found[0], strict=True) if begin - 50 < e)
        assert (state >= State.DATA) == (not flags & p.STATE_ZERO)
