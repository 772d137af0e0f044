# SPDX-License-Identifier: Apache-2.0
"""NBD after the handshake: requests, replies and block status as bytes. Pure.

Numbers and rules are those of the NBD project's doc/proto.md ("Transmission phase", "Values").
Whatever cannot be right raises `ProtocolError`. Lengths are judged here, before anybody makes room.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from diskkit.errors import ProtocolError
from diskkit.runs import State
from diskkit.table import RunTable, merge

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from diskkit.table import Int64

    UInt32 = NDArray[np.uint32]

PORT = 10809
MOST_PAYLOAD = 32 << 20
"""Bytes that one read or write may move: what every client may assume to be allowed."""

# Transmission flags: what an export can do.
HAS_FLAGS = 1 << 0
READ_ONLY = 1 << 1
SEND_FLUSH = 1 << 2
SEND_FUA = 1 << 3
SEND_TRIM = 1 << 5
SEND_WRITE_ZEROES = 1 << 6
SEND_DF = 1 << 7
CAN_MULTI_CONN = 1 << 8
SEND_CACHE = 1 << 10
SEND_FAST_ZERO = 1 << 11

READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = range(8)
COMMANDS = ("read", "write", "disconnect", "flush", "trim", "cache", "write-zeroes", "block-status")

# Flags of a command.
FUA = 1 << 0
NO_HOLE = 1 << 1
DF = 1 << 2
REQ_ONE = 1 << 3
FAST_ZERO = 1 << 4

# Types of chunks of a structured reply, and its one flag.
NONE, OFFSET_DATA, OFFSET_HOLE, STATUS = 0, 1, 2, 5
IS_ERROR = 1 << 15
ERROR, ERROR_OFFSET = IS_ERROR | 1, IS_ERROR | 2
DONE = 1 << 0

EPERM, EIO, ENOMEM, EINVAL, ENOSPC = 1, 5, 12, 22, 28
EOVERFLOW, ENOTSUP, ESHUTDOWN = 75, 95, 108
ERROR_NAMES = {
    EPERM: "operation not permitted",
    EIO: "input/output error",
    ENOMEM: "out of memory",
    EINVAL: "invalid argument",
    ENOSPC: "no space left",
    EOVERFLOW: "value too large",
    ENOTSUP: "not supported",
    ESHUTDOWN: "the server is shutting down",
}

ALLOCATION, DEPTH = "base:allocation", "qemu:allocation-depth"
STATE_HOLE, STATE_ZERO = 1, 2

REQUEST_MAGIC = 0x25609513
SIMPLE_MAGIC = 0x67446698
CHUNK_MAGIC = 0x668E33EF
REQUEST = struct.Struct(">IHHQQI")
SIMPLE = struct.Struct(">IIQ")
CHUNK = struct.Struct(">IHHQI")
DATA_CHUNK = struct.Struct(">IHHQIQ")
"""A chunk's head together with the offset that its data begins at."""
HOLE_CHUNK = struct.Struct(">IHHQIQI")
_ERROR_HEAD = struct.Struct(">IH")
MOST_ERROR = 4096 + 6 + 8
"""Bytes of an error chunk: its text has at most 4096."""
MOST_EXTENTS = 1 << 16
"""Extents that we report at most in one answer; the client asks on from there."""


class Request(NamedTuple):
    """What a client wants. Offset and length are bytes."""

    flags: int
    command: int
    handle: int
    offset: int
    length: int

    def pack(self) -> bytes:
        """As it goes over the wire; the payload of a write follows."""
        return REQUEST.pack(REQUEST_MAGIC, *self)


def unpack_request(data: bytes | bytearray | memoryview, at: int = 0) -> Request:
    """The request that begins at byte `at`; all of its `REQUEST.size` bytes are there."""
    magic, *fields = REQUEST.unpack_from(data, at)
    if magic != REQUEST_MAGIC:
        raise ProtocolError(f"NBD request: magic is {magic:#x}, not {REQUEST_MAGIC:#x}")
    return Request(*fields)


def refusal(request: Request, size: int, *, writable: bool) -> int:
    """The error with which a server answers a request that cannot be right; 0 if it can."""
    flags, command, _, offset, length = request
    allowed = _FLAGS.get(command)
    if allowed is None or flags & ~allowed:
        return EINVAL
    if command == FLUSH:
        return 0 if not offset and not length else EINVAL
    changes = command in (WRITE, TRIM, WRITE_ZEROES)
    if changes and not writable:
        return EPERM
    if offset + length > size:
        return ENOSPC if changes else EINVAL
    if command in (READ, WRITE) and length > MOST_PAYLOAD:
        return EOVERFLOW if command == READ else EINVAL
    return EINVAL if command == BLOCK_STATUS and not length else 0


_FLAGS = {
    READ: DF | FUA,
    WRITE: FUA,
    FLUSH: FUA,
    TRIM: FUA,
    CACHE: FUA,
    WRITE_ZEROES: FUA | NO_HOLE | FAST_ZERO,
    BLOCK_STATUS: FUA | REQ_ONE,
}
"""FUA is allowed with every command, and means nothing with most."""


# --- answers --------------------------------------------------------------------------------------


def simple_reply(handle: int, error: int = 0) -> bytes:
    """An answer without payload, or the head of one with."""
    return SIMPLE.pack(SIMPLE_MAGIC, error, handle)


def chunk(handle: int, kind: int, payload: bytes, *, done: bool) -> bytes:
    """One chunk of a structured reply."""
    return CHUNK.pack(CHUNK_MAGIC, DONE * done, kind, handle, len(payload)) + payload


def error_chunk(handle: int, error: int, text: str) -> bytes:
    """The last chunk of an answer that failed."""
    message = text.encode(errors="replace")[:4096]
    return chunk(handle, ERROR, _ERROR_HEAD.pack(error, len(message)) + message, done=True)


class Reply(NamedTuple):
    """The head of a simple reply, or of a chunk."""

    handle: int
    structured: bool
    kind: int
    """Type of the chunk; NONE for a simple reply."""
    done: bool
    """Whether it is the last one of its answer."""
    error: int
    """Of a simple reply."""
    length: int
    """Bytes of the chunk's payload, bounded."""


def unpack_reply(data: bytes | memoryview, structured: bool) -> Reply | None:
    """What the first 16 or 20 bytes of an answer say; None if 16 are given and 20 are needed.

    `structured` says whether structured replies were agreed on.
    """
    (magic,) = struct.unpack_from(">I", data)
    if magic == SIMPLE_MAGIC:
        _, error, handle = SIMPLE.unpack_from(data)
        return Reply(handle, False, NONE, True, error, 0)
    if magic != CHUNK_MAGIC or not structured:
        raise ProtocolError(f"NBD reply: magic is {magic:#x}, which no reply has")
    if len(data) < CHUNK.size:
        return None
    _, flags, kind, handle, length = CHUNK.unpack_from(data)
    done = bool(flags & DONE)
    if kind == NONE:
        fits = length == 0 and done
    elif kind == OFFSET_DATA:
        fits = 8 < length <= 8 + MOST_PAYLOAD
    elif kind == OFFSET_HOLE:
        fits = length == 12
    elif kind == STATUS:
        fits = length >= 12 and length % 8 == 4 and length <= 8 * (1 << 20) + 4
    else:
        fits = bool(kind & IS_ERROR) and 6 <= length <= MOST_ERROR
    if not fits or flags & ~DONE:
        text = f"a chunk of type {kind:#x} with flags {flags:#x} and {length} bytes cannot be"
        raise ProtocolError(f"NBD structured reply: {text}")
    return Reply(handle, True, kind, done, 0, length)


def unpack_error(payload: bytes) -> tuple[int, str]:
    """The number and the text of an error chunk."""
    error, length = _ERROR_HEAD.unpack_from(payload)
    if error == 0 or 6 + length > len(payload):
        raise ProtocolError(
            f"NBD error chunk: error {error} with a text of {length} bytes cannot be"
        )
    return error, payload[6 : 6 + length].decode(errors="replace")


class Cover:
    """Which bytes of a read its chunks have brought: each must come, and none twice."""

    def __init__(self, offset: int, length: int) -> None:
        """What was asked for."""
        self._begin, self._end = offset, offset + length
        self._parts: list[tuple[int, int]] = []
        self._got = 0

    def place(self, offset: int, length: int) -> int:
        """Where in the reader's buffer a part goes that begins at `offset` of the disk."""
        end = offset + length
        if not length or offset < self._begin or end > self._end:
            text = f"bytes {offset} to {end} were not asked for"
            raise ProtocolError(f"NBD read: {text}: only {self._begin} to {self._end}")
        # Chunks mostly follow each other.
        if self._parts and self._parts[-1][1] == offset:
            self._parts[-1] = self._parts[-1][0], end
        else:
            self._parts.append((offset, end))
        self._got += length
        if self._got > self._end - self._begin:
            raise ProtocolError("NBD read: more bytes came than were asked for")
        return offset - self._begin

    def finish(self) -> None:
        """Raise `ProtocolError` unless every byte came exactly once."""
        reach = self._begin
        for begin, end in sorted(self._parts):
            if begin != reach:
                raise ProtocolError(f"NBD read: byte {min(begin, reach)} came not once")
            reach = end
        if reach != self._end:
            raise ProtocolError(f"NBD read: byte {reach} did not come")


# --- block status ---------------------------------------------------------------------------------


def allocation_flags(table: RunTable) -> UInt32:
    """What `base:allocation` says of each row: what is known to be zeros is a hole, too."""
    empty = table.states < State.DATA
    return np.where(empty, STATE_HOLE | STATE_ZERO, 0).astype(np.uint32)


def depth_flags(table: RunTable, link_of: Int64) -> UInt32:
    """What `qemu:allocation-depth` says: 1 for the leaf, 2 for its parent, 0 for nobody's."""
    here = table.states != State.HOLE
    return np.where(here, link_of[table.sources] + 1, 0).astype(np.uint32)


def pack_status(context: int, table: RunTable, flags: UInt32, most: int = MOST_EXTENTS) -> bytes:
    """The payload of a status chunk: rows that say the same joined, `most` of them at most.

    The table covers less than 4 GiB.
    """
    keep = np.flatnonzero(np.append(True, flags[1:] != flags[:-1]))
    starts = table.starts[keep]
    lengths = np.append(starts[1:], np.int64(table.end)) - starts
    rows = np.empty((min(len(keep), most), 2), ">u4")
    rows[:, 0] = lengths[:most]
    rows[:, 1] = flags[keep][:most]
    return context.to_bytes(4, "big") + rows.tobytes()


def unpack_status(payload: bytes, length: int) -> tuple[int, Int64, Int64]:
    """The context, and where extents end (bytes from the request's offset) with their flags.

    Cut at the `length` that was asked for. An answer to less than that is fine.
    """
    context = int.from_bytes(payload[:4], "big")
    rows = np.frombuffer(payload, ">u4", offset=4).reshape(-1, 2).astype(np.int64)
    ends, flags = np.cumsum(rows[:, 0]), rows[:, 1]
    if not rows[:, 0].all():
        raise ProtocolError("NBD block status: an extent has no bytes")
    count = int(np.searchsorted(ends, length)) + 1
    if count < len(ends):
        raise ProtocolError("NBD block status: extents lie beyond what was asked for")
    return context, np.minimum(ends, length), flags


def combine(
    offset: int, allocation: tuple[Int64, Int64], depth: tuple[Int64, Int64] | None
) -> RunTable:
    """A table out of the answers for two contexts, over the stretch that both cover.

    The depth tells zeros that some link of the server's holds, which hide what is below them, from
    holes. Which link it is stays the server's business: all rows are of source 0.
    """
    ends, flags = allocation
    empty = (flags & STATE_ZERO) != 0
    hole = empty & ((flags & STATE_HOLE) != 0)
    if depth is not None:
        deep_ends, depths = depth
        end = min(int(ends[-1]), int(deep_ends[-1]))
        cuts = np.union1d(ends[ends < end], np.append(deep_ends[deep_ends < end], end))
        row = np.searchsorted(ends, cuts)
        empty = empty[row]
        hole = empty & (depths[np.searchsorted(deep_ends, cuts)] == 0)
        ends = cuts
    states = np.where(hole, State.HOLE, np.where(empty, State.ZERO, State.DATA)).astype(np.uint8)
    starts = np.concatenate([[0], ends[:-1]]) + offset
    end = offset + int(ends[-1])
    return merge(RunTable(starts, end, states, np.zeros(len(ends), np.int64), starts))
