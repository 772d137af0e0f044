# SPDX-License-Identifier: Apache-2.0
"""LUKS 1 and 2: from a volume and a passphrase to the volume inside.

Rules: the LUKS1 and LUKS2 on-disk format specifications. Only aes-xts-plain64, which cryptsetup has
made since 2011. What a header asks for in time and memory is bounded before it is done.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from diskkit.errors import FormatError, UnsupportedFeature, UsageError
from diskkit.units import SECTOR, align_down, align_up
from diskkit.volumes.reading import read_at
from diskkit.volumes.volume import Segment, Stripe, Volume
from diskkit.volumes.xts import Xts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diskkit.interfaces import Readable

MAX_ITERATIONS = 50_000_000
"""Of PBKDF2: half a minute. cryptsetup makes as many as take one or two seconds."""
MAX_MEMORY_KIB = 1 << 20
"""Of Argon2: a gigabyte, the most that cryptsetup takes unless told otherwise."""
MAX_STRIPES = 8192
MAX_HEADER = 4 << 20
KEY_SIZES = (32, 64)

_ACTIVE = 0x00AC71F3
_HASHES = ("sha1", "sha256", "sha384", "sha512", "ripemd160")
_SECOND_HEADERS = tuple(1 << n for n in range(14, 23))


class Kdf(NamedTuple):
    """How a passphrase becomes a key."""

    kind: str
    hash: str
    salt: bytes
    cost: int
    """Iterations, or passes of Argon2."""
    memory_kib: int = 0
    lanes: int = 0


class Slot(NamedTuple):
    """A copy of the volume's key, under a passphrase."""

    kdf: Kdf
    key_size: int
    area_key_size: int
    offset: int
    stripes: int
    hash: str


class Header(NamedTuple):
    """What is needed to open the volume; bytes."""

    slots: list[Slot]
    digests: list[tuple[Kdf, bytes]]
    offset: int
    length: int
    sector: int
    first_number: int


class Plaintext:
    """What is inside, deciphered as it is read."""

    def __init__(self, source: Readable, header: Header, key: bytes) -> None:
        self._source = source
        self._header = header
        self._cipher = Xts(key, header.sector)
        self.size = header.length

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Whole sectors are read and deciphered where they are asked for."""
        sector = self._header.sector
        begin, end = align_down(offset, sector), align_up(offset + len(buffer), sector)
        whole = begin == offset and end == offset + len(buffer)
        target = buffer if whole else memoryview(bytearray(end - begin))
        self._source.read_into(self._header.offset + begin, target)
        number = self._header.first_number + begin // SECTOR
        self._cipher.decipher(target, number, sector // SECTOR)
        if not whole:
            buffer[:] = target[offset - begin : offset - begin + len(buffer)]


def unlock(volume: Volume, passphrase: bytes, number: int) -> Volume:
    """The volume inside of a LUKS volume.

    Raises `UsageError` if no slot opens with the passphrase, `FormatError` for a header that makes
    no sense, `UnsupportedFeature` for other ciphers.
    """
    header = read_header(volume)
    key = _volume_key(volume, header, passphrase)
    source = Plaintext(volume, header, key)
    inside = Volume(
        [Segment(0, source.size, [Stripe(source, 0)], source.size)],
        number=number,
        name=f"{volume.name}.luks",
        type="luks",
    )
    inside.type_name = "inside of LUKS"
    return inside


def read_header(source: Readable) -> Header:
    """The header of either version, judged."""
    start = read_at(source, 0, min(4096, source.size)).ljust(4096, b"\0")
    (version,) = struct.unpack_from(">H", start, 6)
    header = _version_1(source, start) if version == 1 else _version_2(source, start)
    outside = header.offset <= 0 or header.offset + header.length > source.size
    if outside or header.length <= 0:
        raise _wrong("segment", header.offset, f"not inside of the volume's {source.size} bytes")
    if header.sector not in (512, 1024, 2048, 4096) or header.length % header.sector:
        raise _wrong("sector size", header.sector, "not 512 to 4096, or no divisor of the size")
    if not 0 <= header.first_number < 1 << 62:
        raise _wrong("iv_tweak", header.first_number, "not a number of a sector")
    for slot in header.slots:
        size = slot.area_key_size
        if slot.key_size not in KEY_SIZES or size not in KEY_SIZES:
            raise _wrong("key size", slot.key_size, f"not one of {KEY_SIZES}")
        material = align_up(slot.key_size * slot.stripes, SECTOR)
        if not 0 < slot.stripes <= MAX_STRIPES or not (0 < slot.offset <= source.size - material):
            raise _wrong("key material", slot.offset, "not inside of the volume")
    return header


def _wrong(field: str, value: object, rule: str) -> FormatError:
    return FormatError(rule, structure="LUKS header", field=field, value=value)


def _check_cipher(text: str) -> None:
    if text != "aes-xts-plain64":
        raise UnsupportedFeature(
            "only aes-xts-plain64 can be read", structure="LUKS header", field="cipher", value=text
        )


def _version_1(source: Readable, start: bytes) -> Header:
    cipher, mode, digest = (_text(start[a : a + 32]) for a in (8, 40, 72))
    _check_cipher(f"{cipher}-{mode}")
    payload, size = struct.unpack_from(">II", start, 104)
    (rounds,) = struct.unpack_from(">I", start, 164)
    check = Kdf("pbkdf2", digest, start[132:164], rounds), start[112:132]
    slots = []
    for place in range(208, 208 + 8 * 48, 48):
        active, cost, salt, at, stripes = struct.unpack_from(">II32sII", start, place)
        if active == _ACTIVE:
            kdf = Kdf("pbkdf2", digest, salt, cost)
            slots.append(Slot(kdf, size, size, at * SECTOR, stripes, digest))
    offset = payload * SECTOR
    return Header(slots, [check], offset, align_down(source.size - offset, SECTOR), SECTOR, 0)


def _version_2(source: Readable, start: bytes) -> Header:
    """The first of two copies, or the second; each has a checksum."""
    try:
        document = _document(source, 0, start)
    except FormatError as error:
        for place in _SECOND_HEADERS:
            if place + 4096 <= source.size:
                raw = read_at(source, place, 4096)
                if raw[:6] == b"SKUL\xba\xbe":
                    document = _document(source, place, raw)
                    break
        else:
            raise error from None
    try:
        return _from_document(source, document)
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        text = f"a part is missing or of another kind: {type(error).__name__} {error}"
        raise FormatError(text, structure="LUKS2 metadata") from None


def _document(source: Readable, place: int, raw: bytes) -> dict[str, Any]:
    (version, size) = struct.unpack_from(">HQ", raw, 6)
    if version != 2 or not 4096 < size <= MAX_HEADER or place + size > source.size:
        raise _wrong("size", size, "not that of a LUKS2 header")
    (own,) = struct.unpack_from(">Q", raw, 256)
    if own != place or _text(raw[72:104]) != "sha256":
        raise _wrong("offset or checksum", own, "not those of this header")
    whole = bytearray(read_at(source, place, size))
    whole[448:512] = bytes(64)
    if hashlib.sha256(whole).digest() != raw[448:480]:
        raise _wrong("checksum", raw[448:452].hex(), "the header has another")
    try:
        document = json.loads(bytes(whole[4096:]).split(b"\0", 1)[0])
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}", structure="LUKS2 metadata") from None
    if not isinstance(document, dict):
        raise FormatError("not an object", structure="LUKS2 metadata")
    return document


def _from_document(source: Readable, document: dict[str, Any]) -> Header:
    segments = document["segments"]
    if len(segments) != 1:
        raise UnsupportedFeature(
            f"{len(segments)} segments: it is being encrypted anew", structure="LUKS2 metadata"
        )
    (segment,) = segments.values()
    if segment["type"] != "crypt" or "integrity" in segment:
        raise UnsupportedFeature("a segment of another kind", structure="LUKS2 metadata")
    _check_cipher(segment["encryption"])
    offset, sector = int(segment["offset"]), int(segment["sector_size"])
    whole = segment["size"] == "dynamic"
    length = source.size - offset if whole else int(segment["size"])
    if whole and sector > 0:
        length = align_down(length, sector)
    slots = [_slot(row) for row in document["keyslots"].values() if row["type"] == "luks2"]
    digests = [
        (
            Kdf("pbkdf2", row["hash"], base64.b64decode(row["salt"]), int(row["iterations"])),
            base64.b64decode(row["digest"]),
        )
        for row in document["digests"].values()
    ]
    return Header(slots, digests, offset, length, sector, int(segment["iv_tweak"]))


def _slot(row: dict[str, Any]) -> Slot:
    area, split, kdf = row["area"], row["af"], row["kdf"]
    _check_cipher(area["encryption"])
    salt = base64.b64decode(kdf["salt"])
    if kdf["type"] == "pbkdf2":
        made = Kdf("pbkdf2", kdf["hash"], salt, int(kdf["iterations"]))
    else:
        cost, memory, lanes = (int(kdf[key]) for key in ("time", "memory", "cpus"))
        made = Kdf(kdf["type"], "", salt, cost, memory, lanes)
    return Slot(
        made,
        int(row["key_size"]),
        int(area["key_size"]),
        int(area["offset"]),
        int(split["stripes"]),
        split["hash"],
    )


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("ascii", "replace")


# --- keys -------------------------------------------------------------------------------------


def _volume_key(source: Readable, header: Header, passphrase: bytes) -> bytes:
    for slot in header.slots:
        key = _open_slot(source, slot, passphrase)
        for kdf, wanted in header.digests:
            if hmac.compare_digest(derive(kdf, key, len(wanted)), wanted):
                return key
    raise UsageError(f"the key opens none of the {len(header.slots)} slots of this LUKS volume")


def _open_slot(source: Readable, slot: Slot, passphrase: bytes) -> bytes:
    key = derive(slot.kdf, passphrase, slot.area_key_size)
    size = slot.key_size * slot.stripes
    material = bytearray(read_at(source, slot.offset, align_up(size, SECTOR)))
    Xts(key, SECTOR).decipher(memoryview(material), 0)
    return _merge(bytes(material[:size]), slot)


def _merge(material: bytes, slot: Slot) -> bytes:
    """Undo the anti-forensic splitting: all stripes are needed for one bit of the key."""
    size = slot.key_size
    mixed = bytes(size)
    for stripe in range(slot.stripes):
        part = material[stripe * size : (stripe + 1) * size]
        joined = int.from_bytes(mixed, "big") ^ int.from_bytes(part, "big")
        mixed = joined.to_bytes(size, "big")
        if stripe < slot.stripes - 1:
            mixed = b"".join(_diffuse(mixed, slot.hash))
    return mixed


def _diffuse(block: bytes, name: str) -> Iterator[bytes]:
    width = _hash(name).digest_size
    for number, at in enumerate(range(0, len(block), width)):
        part = block[at : at + width]
        yield _hash(name, struct.pack(">I", number) + part).digest()[: len(part)]


def _hash(name: str, data: bytes = b"") -> Any:  # noqa: ANN401 - hashlib has no public type for it
    if name not in _HASHES:
        raise UnsupportedFeature("unknown", structure="LUKS header", field="hash", value=name)
    try:
        return hashlib.new(name, data)
    except ValueError:
        raise UnsupportedFeature(
            "not built into this Python", structure="LUKS header", field="hash", value=name
        ) from None


def derive(kdf: Kdf, secret: bytes, length: int) -> bytes:
    """A key from a secret, within bounds."""
    if not 1 <= length <= 512 or not 8 <= len(kdf.salt) <= 128:
        raise _wrong("key derivation", length, "salt or length make no sense")
    if kdf.kind == "pbkdf2":
        if not 1 <= kdf.cost <= MAX_ITERATIONS:
            raise _wrong("iterations", kdf.cost, f"not 1 to {MAX_ITERATIONS}")
        _hash(kdf.hash)
        return hashlib.pbkdf2_hmac(kdf.hash, secret, kdf.salt, kdf.cost, length)
    if not (
        1 <= kdf.cost <= 100
        and 1 <= kdf.lanes <= 16
        and 8 * kdf.lanes <= kdf.memory_kib <= MAX_MEMORY_KIB
    ):
        raise _wrong("memory of Argon2", kdf.memory_kib, f"not up to {MAX_MEMORY_KIB} KiB")
    if kdf.kind != "argon2id":
        raise UnsupportedFeature(
            "only pbkdf2 and argon2id", structure="LUKS header", field="kdf", value=kdf.kind
        )
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    return Argon2id(
        salt=kdf.salt,
        length=length,
        iterations=kdf.cost,
        lanes=kdf.lanes,
        memory_cost=kdf.memory_kib,
    ).derive(secret)
