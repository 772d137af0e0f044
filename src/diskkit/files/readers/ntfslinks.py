# SPDX-License-Identifier: Apache-2.0
"""NTFS: symbolic links of WSL and of Interix, which libfsntfs (20260827) does not give.

Rules: [MS-FSCC] 2.1.2.7 and file records as ntfs-3g's layout.h has them; ntfs-3g writes both forms.
All fields are little-endian.
"""

from __future__ import annotations

import struct

INTERIX = b"IntxLNK\1"
"""How the content of a system file begins that is a link; then comes its target."""
MAX_INTERIX = len(INTERIX) + 2 * 4096
_WSL, _WSL_VERSION = 0xA000001D, 2
_SECTOR = 512
_REPARSE_POINT, _END = 0xC0, 0xFFFFFFFF


def interix_target(content: bytes) -> bytes | None:
    """Where the link leads that a system file with this content is; None if it is none."""
    target = content.removeprefix(INTERIX)
    if len(target) == len(content) or len(target) % 2:
        return None
    return _judged(target.decode("utf-16-le", "surrogatepass").encode("utf-8", "surrogatepass"))


def wsl_target(record: bytes) -> bytes | None:
    """Where the link leads that the file with this record is; None if it is none of WSL."""
    point = _reparse_point(_mended(record))
    if point is None or len(point) < 12:
        return None
    tag, length, version = struct.unpack_from("<IH2xI", point)
    if tag != _WSL or version != _WSL_VERSION or 8 + length != len(point):
        return None
    return _judged(point[12:])


def _judged(target: bytes) -> bytes | None:
    return None if not target or b"\0" in target else target


def _mended(record: bytes) -> bytes:
    """With the last two bytes of each sector back, in place of which a check was written."""
    if record[:4] != b"FILE" or len(record) % _SECTOR:
        return b""
    at, count = struct.unpack_from("<HH", record, 4)
    if count != 1 + len(record) // _SECTOR or at + 2 * count > len(record):
        return b""
    mended = bytearray(record)
    for number in range(1, count):
        end = number * _SECTOR
        if mended[end - 2 : end] != record[at : at + 2]:
            return b""
        mended[end - 2 : end] = record[at + 2 * number : at + 2 * number + 2]
    return bytes(mended)


def _reparse_point(record: bytes) -> bytes | None:
    """The attribute's value, if it lies in the record."""
    if not record:
        return None
    (at,) = struct.unpack_from("<H", record, 20)
    while at + 24 <= len(record):
        kind, length, elsewhere = struct.unpack_from("<IIB", record, at)
        if kind == _END or length < 24 or at + length > len(record):
            return None
        if kind == _REPARSE_POINT and not elsewhere:
            size, begin = struct.unpack_from("<IH", record, at + 16)
            return record[at + begin : at + begin + size] if begin + size <= length else None
        at += length
    return None
