# SPDX-License-Identifier: Apache-2.0
"""Messages between the process that reads a filesystem and the one that reads the disk.

A message is a letter, a length and that many bytes. Nothing in it can run code: numbers in fixed
places, and JSON. What comes from the reader's side is believed no more than the image is.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

from diskkit.errors import DiskkitError, FormatError, StorageError, UnsupportedFeature
from diskkit.files.filesystem import Details, Extent, Node, RegistryValue

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Iterator, Mapping

MAX_MESSAGE = 32 << 20
CALL, DATA, FAILED = b"C", b"D", b"X"
"""To the reader: do this; the bytes you asked for; they cannot be had."""
READ, ANSWER, BYTES, ERROR = b"R", b"A", b"B", b"E"
"""From it: give me these bytes; the answer as JSON, as bytes; it cannot be done."""

ROWS = 128
"""Entries of a directory in a message."""
MORE, LAST = b"+", b"."
"""What such a message begins with."""
RANGE = struct.Struct("<QI")
MAX_READ = 16 << 20

_HEAD = struct.Struct("<cI")
_NODE = struct.Struct("<QIqIIIqqqqIIHH")
_EXTENT = struct.Struct("<qq")
_DETAILS = struct.Struct("<BBII")
"""What the body is, whether the attributes are an error instead, and the length of both."""
_NONE, _EXTENTS, _CONTENT, _TARGET, _ERROR = range(5)
_XATTR = struct.Struct("<HI")


def send(peer: socket.socket, kind: bytes, *parts: bytes | bytearray | memoryview) -> None:
    """One message."""
    head = _HEAD.pack(kind, sum(map(len, parts)))
    if sum(map(len, parts)) < 1 << 16:
        peer.sendall(b"".join((head, *parts)))
        return
    peer.sendall(head)
    for part in parts:
        peer.sendall(part)


def receive(peer: socket.socket, data: memoryview | None = None) -> tuple[bytes, bytearray]:
    """One message. Raises `EOFError` when the other side has gone.

    The content of a message of `DATA` goes to `data`, which it must fill, if that is given.
    """
    kind, length = _HEAD.unpack(_exactly(peer, memoryview(bytearray(_HEAD.size))))
    if kind == DATA and data is not None:
        if length != len(data):
            raise FormatError(f"{length} bytes, not {len(data)}", structure="filesystem reader")
        _exactly(peer, data)
        return kind, bytearray()
    if length > MAX_MESSAGE:
        raise FormatError(f"a message of {length} bytes", structure="filesystem reader")
    content = bytearray(length)
    _exactly(peer, memoryview(content))
    return kind, content


def _exactly(peer: socket.socket, view: memoryview) -> memoryview:
    """Fill `view`."""
    rest = view
    while rest:
        count = peer.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return view


def pack_json(value: object) -> bytes:
    """Numbers, lists and text; bytes travel as text of one letter each."""
    return json.dumps(value).encode()


def unpack_json(raw: bytes | bytearray) -> Any:  # noqa: ANN401 - whatever it says; callers judge it
    """Raises `FormatError`."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}", structure="filesystem reader") from None


def pack_values(values: Iterable[RegistryValue]) -> list[Any]:
    """Registry values for JSON: a binary one is a list of one text."""
    return [[v.decode("latin-1")] if isinstance(v, bytes) else v for v in values]


def unpack_values(answer: object, count: int) -> list[RegistryValue]:
    """What `pack_values` made of so many; or a `FormatError`."""
    if not isinstance(answer, list) or len(answer) != count:
        raise FormatError(f"not {count} values", structure="filesystem reader")
    return [_unpack_value(value) for value in answer]


def _unpack_value(value: object) -> RegistryValue:
    match value:
        case [str(letters)]:
            try:
                return letters.encode("latin-1")
            except UnicodeEncodeError:
                pass
        case str() | None:
            return value
        case int() if not isinstance(value, bool):
            return value
    raise FormatError("a value of no kind", structure="filesystem reader")


def pack_nodes(rows: Iterable[tuple[bytes, Node]]) -> bytes:
    """Directory entries."""
    pack = _NODE.pack
    parts: list[bytes] = []
    for name, node in rows:
        problem = node[12].encode("utf-8", "replace")[:400] if node[12] else b""
        parts += (pack(*node[:12], len(name), len(problem)), name, problem)
    return b"".join(parts)


def unpack_nodes(raw: bytearray) -> Iterator[tuple[bytes, Node]]:
    """What `pack_nodes` made; or a `FormatError`."""
    at, size, width = 0, len(raw), _NODE.size
    unpack = _NODE.unpack_from
    view = bytes(raw)
    while at < size:
        if at + width > size:
            raise FormatError("entries break off", structure="filesystem reader")
        *fields, name_length, problem_length = unpack(view, at)
        at += width
        end = at + name_length + problem_length
        if end > size:
            raise FormatError("entries break off", structure="filesystem reader")
        name = view[at : at + name_length]
        problem = view[at + name_length : end].decode("utf-8", "replace") if problem_length else ""
        at = end
        yield name, Node._make((*fields, problem))


def pack_extents(extents: Iterable[Extent]) -> bytes:
    """Extents."""
    return b"".join(_EXTENT.pack(*extent) for extent in extents)


def unpack_extents(raw: bytearray) -> list[Extent]:
    """What `pack_extents` made; or a `FormatError`."""
    if len(raw) % _EXTENT.size:
        raise FormatError("extents break off", structure="filesystem reader")
    return [Extent(*row) for row in _EXTENT.iter_unpack(raw)]


def pack_error(error: DiskkitError) -> bytes:
    """An error, as the other side raises it again."""
    if isinstance(error, UnsupportedFeature):
        return pack_json(["unsupported", error.what])
    if isinstance(error, FormatError):
        return pack_json(["format", error.what])
    return pack_json(["storage", str(error)])


def unpack_error(raw: bytes | bytearray, kind: str) -> DiskkitError:
    """The error that a filesystem of this `kind` told of; or raises a `FormatError`."""
    match unpack_json(raw):
        case ["unsupported", str(text)]:
            return UnsupportedFeature(text)
        case ["storage", str(text)]:
            return StorageError(f"{kind} filesystem", text)
        case ["format", str(text)]:
            return FormatError(text)
    raise FormatError("an error that makes no sense", structure="filesystem reader")


def pack_xattrs(xattrs: Mapping[bytes, bytes]) -> bytes:
    """Extended attributes. Names have at most 65,535 bytes."""
    return b"".join(part for k, v in xattrs.items() for part in (_XATTR.pack(len(k), len(v)), k, v))


def unpack_xattrs(raw: bytes | bytearray) -> dict[bytes, bytes]:
    """What `pack_xattrs` made; or a `FormatError`."""
    found = {}
    at, size = 0, len(raw)
    view = bytes(raw)
    while at < size:
        name, value = _XATTR.unpack_from(view, at) if at + _XATTR.size <= size else (size, size)
        at += _XATTR.size
        end = at + name + value
        if end > size:
            raise FormatError("attributes break off", structure="filesystem reader")
        found[view[at : at + name]] = view[at + name : end]
        at = end
    return found


def pack_details(details: Details) -> bytes:
    """Of one file."""
    kind, body = _NONE, b""
    if details.error is not None:
        kind, body = _ERROR, pack_error(details.error)
    elif details.extents is not None:
        kind, body = _EXTENTS, pack_extents(details.extents)
    elif details.content is not None:
        kind, body = _CONTENT, details.content
    elif details.target:
        kind, body = _TARGET, details.target
    failed = details.xattrs_error
    rest = pack_xattrs(details.xattrs) if failed is None else pack_error(failed)
    return _DETAILS.pack(kind, failed is not None, len(body), len(rest)) + body + rest


def unpack_details(raw: bytearray, kind: str) -> Iterator[Details]:
    """What `pack_details` made, one after the other; or a `FormatError`."""
    at, size = 0, len(raw)
    while at < size:
        if at + _DETAILS.size > size:
            raise FormatError("details break off", structure="filesystem reader")
        what, failed, length, more = _DETAILS.unpack_from(raw, at)
        at += _DETAILS.size
        end = at + length + more
        if what > _ERROR or failed > 1 or end > size:
            raise FormatError("details break off", structure="filesystem reader")
        body, rest = raw[at : at + length], raw[at + length : end]
        at = end
        yield Details(
            unpack_extents(body) if what == _EXTENTS else None,
            bytes(body) if what == _CONTENT else None,
            bytes(body) if what == _TARGET else b"",
            unpack_error(body, kind) if what == _ERROR else None,
            {} if failed else unpack_xattrs(rest),
            unpack_error(rest, kind) if failed else None,
        )
