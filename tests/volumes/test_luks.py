# SPDX-License-Identifier: Apache-2.0
"""LUKS 1 and 2: headers by cryptsetup, content by another implementation, headers that lie."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diskkit import DiskkitError, FormatError, UnsupportedFeature, UsageError
from diskkit.volumes import Volume, find_volumes
from diskkit.volumes.luks import unlock
from makers.peers import SKIP_PREFIX, qemu_img, requires
from volumes.tables import Memory, put_mbr

KEY = b"a passphrase \xff\n"
VOLUME_KEY = bytes(range(64))
MIB = 1 << 20
FAST = ["--pbkdf-force-iterations", "1000"]


@pytest.fixture(autouse=True)
def _cipher() -> None:
    pytest.importorskip("cryptography", reason=f"{SKIP_PREFIX} cryptography")


def encipher(content: bytes, sector: int, first: int = 0) -> bytes:
    """One cipher object per sector, in the cipher's own XTS mode."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    parts = []
    for at in range(0, len(content), sector):
        number = (first + at // 512).to_bytes(16, "little")
        cipher = Cipher(algorithms.AES(VOLUME_KEY), modes.XTS(number)).encryptor()
        parts.append(cipher.update(content[at : at + sector]))
    return b"".join(parts)


@cache
def content() -> bytes:
    raw = bytearray(random.Random(1).randbytes(3 * MIB))
    raw[1024 + 56 : 1024 + 58] = b"\x53\xef"
    return bytes(raw)


@cache
def made(kind: str, *words: str) -> tuple[bytes, int]:
    """A header by cryptsetup, padded to where its payload begins."""
    with TemporaryDirectory() as name:
        path, key, volume_key = (Path(name) / n for n in ("disk", "key", "volume-key"))
        path.write_bytes(bytes(24 * MIB))
        key.write_bytes(KEY)
        volume_key.write_bytes(VOLUME_KEY)
        subprocess.run(
            [requires("cryptsetup"), "-q", "luksFormat", "--type", kind, "--cipher",
             "aes-xts-plain64", "--key-size", "512", "--volume-key-file", volume_key,
             *words, path, key],
            capture_output=True, timeout=120, check=True,
        )  # fmt: skip
        raw = path.read_bytes()
    if kind == "luks1":
        offset = struct.unpack_from(">I", raw, 104)[0] * 512
    else:
        document = json.loads(raw[4096:].split(b"\0", 1)[0])
        offset = int(document["segments"]["0"]["offset"])
    return raw[:offset], offset


KINDS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "luks1": ("luks1", tuple(FAST), 512),
    "luks1 sha512": ("luks1", ("--hash", "sha512", *FAST), 512),
    "luks2": ("luks2", ("--pbkdf", "pbkdf2", "--sector-size", "512", *FAST), 512),
    "luks2 4096": ("luks2", ("--pbkdf", "pbkdf2", "--sector-size", "4096", *FAST), 4096),
    "luks2 argon2id": (
        "luks2",
        ("--pbkdf", "argon2id", "--sector-size", "512", "--pbkdf-memory", "64",
         "--pbkdf-force-iterations", "4", "--pbkdf-parallel", "1"),
        512,
    ),
}  # fmt: skip


def locked(name: str, plain: bytes | None = None) -> tuple[bytearray, int]:
    kind, words, sector = KINDS[name]
    header, offset = made(kind, *words)
    return bytearray(header + encipher(content() if plain is None else plain, sector)), offset


def whole(disk: bytes | bytearray) -> Volume:
    return find_volumes(Memory(disk)).volumes[0]


@pytest.mark.parametrize("name", KINDS)
def test_content_is_deciphered(name: str) -> None:
    disk, _ = locked(name)
    table = find_volumes(Memory(disk), key=KEY)
    assert table.warnings == []
    outer, inner = table.volumes
    assert outer.content is not None
    assert outer.content.filesystem == KINDS[name][0]
    assert (inner.number, inner.name, inner.type) == (2, "whole.luks", "luks")
    assert inner.content is not None
    assert inner.content.filesystem.startswith("ext")
    plain = content()
    assert inner.read(0, inner.size) == plain
    for offset, length in ((1, 1), (511, 2), (4095, 4098), (MIB - 7, 15), (3 * MIB - 1, 1)):
        assert inner.read(offset, length) == plain[offset : offset + length]


def test_disk_that_qemu_made_is_read(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain.raw", tmp_path / "luks.raw"
    plain.write_bytes(content())
    words = ["--object", "secret,id=s,data=abc", "-O", "luks", "-o", "key-secret=s,iter-time=10"]
    # qemu measures the time of its key derivation, and fails now and then where it cannot.
    for _ in range(8):
        done = qemu_img("convert", *words, plain, path)
        if done.returncode == 0:
            break
        assert "CPU usage" in done.stderr
    else:
        pytest.skip(f"{SKIP_PREFIX} a qemu-img that can measure its time")
    inner = find_volumes(Memory(path.read_bytes()), key=b"abc").volumes[1]
    assert inner.read(0, len(content())) == content()


@pytest.mark.parametrize("sector", [512, 4096])
def test_content_that_cryptsetup_enciphered_is_read(tmp_path: Path, sector: int) -> None:
    """By encrypting a disk in place, which it does by itself, without the kernel's mapper."""
    plain = random.Random(sector).randbytes(2 * MIB)
    path, key = tmp_path / "disk", tmp_path / "key"
    path.write_bytes(plain + bytes(40 * MIB))
    key.write_bytes(KEY)
    done = subprocess.run(
        [requires("cryptsetup"), "-q", "reencrypt", "--encrypt", "--type", "luks2", "--cipher",
         "aes-xts-plain64", "--key-size", "512", "--sector-size", str(sector),
         "--reduce-device-size", "32M", "--pbkdf", "pbkdf2", *FAST, "--key-file", key, path],
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"{SKIP_PREFIX} a cryptsetup that enciphers files by itself: {done.stderr!r}")
    raw = path.read_bytes()
    assert plain[:512] not in raw
    inner = find_volumes(Memory(raw), key=KEY).volumes[1]
    assert inner.read(0, 2 * MIB) == plain
    assert not any(inner.read(2 * MIB, 2 * MIB))


def test_wrong_key_is_a_warning_and_keeps_the_rest() -> None:
    disk, _ = locked("luks1")
    outer = bytearray(MIB) + disk
    put_mbr(outer, [(0x83, 2048, len(disk) // 512), (0x83, 100, 50)])
    table = find_volumes(Memory(outer), key=b"wrong")
    assert [v.name for v in table.volumes] == ["p1", "p2"]
    assert table.warnings == ["volume p1: the key opens none of the 1 slots of this LUKS volume"]
    with pytest.raises(UsageError):
        unlock(table.volumes[0], b"wrong", 9)
    assert unlock(table.volumes[0], KEY, 9).read(0, 64) == content()[:64]


def test_second_header_is_used_where_the_first_is_damaged() -> None:
    disk, _ = locked("luks2")
    disk[5000] ^= 1
    assert unlock(whole(disk), KEY, 2).read(0, 64) == content()[:64]
    disk[0x4000 + 5000] ^= 1
    with pytest.raises(FormatError, match="checksum"):
        unlock(whole(disk), KEY, 2)


def rewritten(change: dict[str, Any]) -> bytearray:
    """A LUKS2 disk whose metadata is changed under good checksums; keys are paths."""
    disk, _ = locked("luks2 argon2id")
    size = struct.unpack_from(">Q", disk, 8)[0]
    document = json.loads(bytes(disk[4096:size]).split(b"\0", 1)[0])
    for path, value in change.items():
        *way, last = path.split("/")
        place = document
        for part in way:
            place = place[part]
        place[last] = value
    disk[4096:size] = json.dumps(document).encode().ljust(size - 4096, b"\0")
    disk[448:512] = bytes(64)
    disk[448:480] = hashlib.sha256(disk[:size]).digest()
    return disk


@pytest.mark.parametrize(
    ("path", "value", "kind"),
    [
        ("keyslots/0/kdf/memory", 1 << 31, FormatError),
        ("keyslots/0/kdf/time", 1 << 31, FormatError),
        ("keyslots/0/kdf/cpus", 1 << 31, FormatError),
        ("keyslots/0/kdf/type", "argon2i", UnsupportedFeature),
        ("keyslots/0/kdf/salt", "AA==", FormatError),
        ("keyslots/0/kdf/salt", 5, FormatError),
        ("keyslots/0/af/stripes", 1 << 31, FormatError),
        ("keyslots/0/af/hash", "md5", UnsupportedFeature),
        ("keyslots/0/key_size", 1 << 31, FormatError),
        ("keyslots/0/area/offset", str(1 << 62), FormatError),
        ("keyslots/0/area", None, FormatError),
        ("digests/0/iterations", 1 << 31, FormatError),
        ("digests/0/digest", "", FormatError),
        ("segments/0/offset", "-512", FormatError),
        ("segments/0/iv_tweak", str(1 << 70), FormatError),
        ("segments/0/iv_tweak", "-1", FormatError),
        ("keyslots/0/area/offset", "-4096", FormatError),
        ("segments/0/size", str(1 << 62), FormatError),
        ("segments/0/sector_size", 0, FormatError),
        ("segments/0/encryption", "serpent-xts-plain64", UnsupportedFeature),
        ("segments", {}, UnsupportedFeature),
        ("segments", [], UnsupportedFeature),
    ],
)
def test_metadata_that_asks_too_much_is_refused(
    path: str, value: object, kind: type[DiskkitError]
) -> None:
    disk = rewritten({path: value})
    with pytest.raises(kind):
        unlock(whole(disk), KEY, 2)


def paths_of(document: dict[str, Any], front: str = "") -> list[str]:
    """All keys of the metadata, as `rewritten` takes them."""
    found = []
    for key, value in document.items():
        found.append(front + key)
        if isinstance(value, dict):
            found += paths_of(value, f"{front}{key}/")
    return found


_NUMBERS = (-1, 0, 1, 1 << 40, 1 << 70, 1.5)
_WORDS = ("", "0", "-1", "x", "1" * 5000, "\ud800")
_ODD: tuple[object, ...] = (*_NUMBERS, *_WORDS, None, True, [], {}, [1], {"0": {}}, {"x": None})


@given(st.integers(0, 2**32))
@settings(max_examples=settings().max_examples // 2)
def test_metadata_of_any_kind_gives_a_volume_or_an_error(seed: int) -> None:
    """Under good checksums, and with a key that would open it."""
    chance = random.Random(seed)
    raw, _ = locked("luks2 argon2id")
    paths = paths_of(json.loads(bytes(raw[4096:16384]).split(b"\0", 1)[0]))
    change = {chance.choice(paths): chance.choice(_ODD)}
    try:
        inner = unlock(whole(rewritten(change)), KEY, 2)
        assert inner.read(0, 512)[:0] == b""
    except DiskkitError:
        pass


@given(st.sampled_from(["luks1", "luks2"]), st.integers(0, 2**32))
def test_changed_headers_give_a_volume_or_an_error(name: str, seed: int) -> None:
    chance = random.Random(seed)
    disk, _ = locked(name)
    for _ in range(chance.choice((1, 3))):
        at = 6 + chance.randrange(592) if name == "luks1" else chance.randrange(6, 5200)
        # Iteration counts stay low, or the test would be about patience.
        disk[at] = chance.choice((0, 1, 0xFF)) if at % 4 == 3 else disk[at] ^ chance.choice((0, 1))
    try:
        inner = unlock(whole(disk), KEY, 2)
        inner.read(0, 1)
    except DiskkitError:
        pass
