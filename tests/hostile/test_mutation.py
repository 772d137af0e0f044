# SPDX-License-Identifier: Apache-2.0
"""Images of every kind with bytes changed: they work or raise a `DiskkitError`, and soon.

The changes come from fixed seeds, so a failure names an input that can be made again. The search
that follows coverage instead is in the folder fuzz.
"""

from __future__ import annotations

import itertools
import random
import struct
import time
from typing import TYPE_CHECKING

import pytest

from diskkit import DiskkitError, OpenPolicy, ShortRead, open_disk
from hostile.images import FIELDS, SAMPLES, SECTOR, error_of, policy, read_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MUTATIONS = 200
"""Byte-level inputs per kind; text-level ones are a quarter of that."""
SLOWEST = 2.0
"""Seconds that one input may take."""

U64 = (
    *(0, 1, 2, 3, 7, 8, 127, 128, 511, 512, 1024, 4095, 4096),
    *((1 << p) + d for p in (16, 31, 32, 41, 52, 53, 54, 55, 62, 63) for d in (-1, 0, 1)),
    *((1 << 64) - 1, (1 << 64) - 2, 3 << 60, (3 << 60) | (1 << 48), (4 << 60) - 1),
    *(0x1000000000000000, 0x10000000FFFFFFFF, 0xCAFEBABE, 0xCAFECAFE),
)
U32 = tuple(sorted({v & 0xFFFFFFFF for v in U64}))


def exercise(path: Path, with_policy: OpenPolicy) -> None:
    """Open, describe, map and read: anything but a `DiskkitError` passes through."""
    began = time.perf_counter()
    try:
        with open_disk(path, policy=with_policy) as disk:
            disk.info.as_dict()
            found = [
                error_of(lambda: list(disk.runs())),
                error_of(lambda: read_all(disk, 8 << 20)),
            ]
    except DiskkitError as error:
        found = [error]
    assert all(str(error).isprintable() for error in found)
    # Nobody cuts these files while they are read: a place beyond their end was not judged.
    assert not any(isinstance(error, ShortRead) for error in found), found
    seconds = time.perf_counter() - began
    assert seconds < SLOWEST, f"took {seconds:.1f} s"


class Victim:
    """A small image whose files are damaged and restored, again and again."""

    def __init__(self, folder: Path, make: Callable[[Path], Path]) -> None:
        self.leaf = make(folder)
        self.files = {p: p.read_bytes() for p in sorted(folder.iterdir())}

    def attempt(self, path: Path, data: bytes, label: object, **changes: object) -> None:
        """Exercise the image with `data` in place of one of its files."""
        path.write_bytes(data)
        self._exercise(path, label, changes)
        path.write_bytes(self.files[path])

    def patched(self, path: Path, at: int, data: bytes, label: object, **changes: object) -> None:
        """Exercise the image with a few bytes of one of its files changed."""
        with path.open("r+b") as f:
            f.seek(at)
            f.write(data)
        self._exercise(path, label, changes)
        with path.open("r+b") as f:
            f.seek(at)
            f.write(self.files[path][at : at + len(data)])

    def _exercise(self, path: Path, label: object, changes: dict[str, object]) -> None:
        try:
            exercise(self.leaf, policy(None, **changes))
        except Exception as error:
            error.add_note(f"input: {path.name}, {label}")
            raise


@pytest.fixture(params=sorted(SAMPLES))
def victim(request: pytest.FixtureRequest, tmp_path: Path) -> Victim:
    return Victim(tmp_path, SAMPLES[request.param].make)


def hot_places(path: Path, data: bytes) -> list[tuple[int, int]]:
    """The (offset, length) of what is worth damaging in a file: structures, not guest data."""
    size = len(data)
    places = [(0, min(size, SECTOR)), (max(0, size - 3 * SECTOR), min(size, 3 * SECTOR))]
    if data[:4] == b"KDMV":
        overhead = int.from_bytes(data[64:72], "little") * SECTOR
        places += [(0, 80)] * 3 + [(SECTOR, min(1024, size)), (21 * SECTOR, 8 * SECTOR)]
        places += [(max(0, overhead - 16), 64), (SECTOR, overhead - SECTOR)]
        # Markers: in a stream every grain begins with one.
        places += [(at, 16) for at in range(overhead, size, SECTOR) if data[at + 12] == 0x78][:8]
    elif data[:4] == b"COWD":
        places += [(0, 32), (1648, 4), (2048, 8), (2560, 16400)]
    elif data[:4] == b"\xbe\xba\xfe\xca":
        places += [(0, 208), (SECTOR, 40), (4096 * SECTOR, 16), (6144 * SECTOR, 4096)]
    return [(at, n) for at, n in places if 0 <= at < size and n > 0]


def mutate(path: Path, data: bytes, rng: random.Random) -> bytes:
    """`data` with one to four changes."""
    out = bytearray(data)
    places = hot_places(path, data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at, length = rng.choice(places)
        at += rng.randrange(length)
        way = rng.randrange(8)
        if way == 0:
            out[at : at + 1] = bytes([rng.choice((0, 1, 2, 3, 0x7F, 0x80, 0xFF))])
        elif way == 1:
            out[at : at + 1] = bytes([rng.randrange(256)])
        elif way in (2, 3):
            at -= at % 4
            value = rng.choice((*U32, rng.randrange(1 << 32), len(data) // SECTOR, 150))
            out[at : at + 4] = struct.pack("<I", value)
        elif way in (4, 5):
            at = at - at % 8 + rng.choice((0, 4))
            value = rng.choice((*U64, rng.randrange(1 << 64), 3 << 60 | rng.randrange(1 << 60)))
            out[at : at + 8] = struct.pack("<Q", value)
        elif way == 6:
            start = rng.randrange(len(data))
            piece = data[start : start + rng.choice((4, 16, 512))]
            out[at : at + len(piece)] = piece
        elif rng.random() < 0.5:
            del out[at:]
            out = out or bytearray(b"\0")
        else:
            out += bytes(rng.randrange(3000))
        places = [(p, n) for p, n in places if p < len(out)] or [(0, 1)]
    return bytes(out)


def test_bytes_changed_at_random(victim: Victim) -> None:
    rng = random.Random(f"bytes {victim.leaf.name} {len(victim.files)}")
    paths = list(victim.files)
    for number in range(MUTATIONS):
        path = paths[number % len(paths)]
        data = mutate(path, victim.files[path], rng)
        lenient = bool(number % 3 == 0)
        victim.attempt(
            path,
            data,
            f"number {number}",
            allow_truncated=lenient,
            allow_mismatch=lenient,
            noaccess_zeros=lenient,
        )


def test_files_cut_anywhere(victim: Victim) -> None:
    for path, data in victim.files.items():
        size = len(data)
        sizes = {size * i // 24 for i in range(24)} | {size - n for n in (1, 511, 512, 513)}
        sizes |= {1, 4, 80, 511, 512, 513, 1024, 2047, 2048}
        for cut in sorted(s for s in sizes if 0 <= s < size):
            victim.attempt(path, data[:cut], f"cut to {cut}", allow_truncated=bool(cut % 2))


# --- every field at every edge -------------------------------------------------------------------


def fields_of(data: bytes) -> Iterator[tuple[int, str]]:
    """Offset and format of every number in a file's headers."""
    if data[:4] == b"KDMV":
        for header in sorted({0, data.rfind(b"KDMV")}):
            yield from ((header + at, fmt) for at, fmt in FIELDS.values() if "s" not in fmt)
            for directory in struct.unpack_from("<QQ", data, header + 48):
                at = directory * SECTOR
                if SECTOR <= at < len(data):
                    yield at, "<I"
                    table = int.from_bytes(data[at : at + 4], "little") * SECTOR
                    yield from ((table + 4 * entry, "<I") for entry in (0, 2))
    elif data[:4] == b"COWD":
        yield from ((at, "<I") for at in (*range(4, 32, 4), 1648, 2048, 2560, 2572))
    elif data[:4] == b"\xbe\xba\xfe\xca":
        yield from ((at, "<Q") for at in range(0, 216, 8))
        yield from ((SECTOR + at, "<Q") for at in range(0, 40, 8))
        yield from ((at * SECTOR, "<Q") for at in (4096, 6144))
        yield 6144 * SECTOR + 24, "<Q"


@pytest.mark.parametrize("kind", ["sparse", "stream-A", "stream-B", "cowd", "sesparse"])
def test_every_field_at_every_edge(kind: str, tmp_path: Path) -> None:
    victim = Victim(tmp_path, SAMPLES[kind].make)
    for path, data in victim.files.items():
        for at, fmt in fields_of(data):
            width = struct.calcsize(fmt)
            edges = {v & ((1 << 8 * width) - 1) for v in (*U64, len(data), len(data) // SECTOR)}
            for value in sorted(edges):
                raw, lenient = struct.pack(fmt, value), value % 2 == 0
                victim.patched(path, at, raw, f"{value} at {at}", allow_truncated=lenient)


# --- descriptors as text -------------------------------------------------------------------------

WORDS = (
    *(
        "",
        "0",
        "-1",
        "1",
        "9" * 30,
        "18446744073709551616",
        str(1 << 54),
        "0x10",
        "1e9",
        "ffffffff",
    ),
    *("RW", "RDONLY", "NOACCESS", "FLAT", "SPARSE", "ZERO", "VMFS", "SESPARSE", "VMFSSPARSE"),
    *("VMFSRDM", "VSANSPARSE", '"', '""', "=", "#", "\t", "\r", "\n", "\0", "\x85", "\u2028"),
    *("é", "漢字", "\U0001f4a9", "\ufeff", "\u0661", "²", "custom", "vmfs", "monolithicSparse"),
    *("encoding=GBK", "encoding=utf-16", "/etc/passwd", "..", "a" * 5000, "9" * 5000, "ddb."),
)


def mutate_text(text: str, rng: random.Random) -> str:
    """`text` with lines dropped, doubled, swapped or cut, and words replaced or put in."""
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
        way = rng.randrange(7)
        if way == 0 and len(lines) > 1:
            del lines[i]
        elif way == 1:
            lines.insert(j, lines[i])
        elif way == 2:
            lines[i], lines[j] = lines[j], lines[i]
        elif way == 3:
            lines[i] = lines[i][: rng.randrange(len(lines[i]) + 1)]
        elif way == 4:
            at = rng.randrange(len(lines[i]) + 1)
            lines[i] = lines[i][:at] + rng.choice(WORDS) + lines[i][at:]
        elif way == 5:
            words = lines[i].split(" ")
            words[rng.randrange(len(words))] = rng.choice(WORDS)
            lines[i] = " ".join(words)
        else:
            key, _, value = lines[i].partition("=")
            lines[i] = rng.choice((key.swapcase(), key)) + "=" + rng.choice((value, *WORDS))
    return rng.choice(("\n", "\n", "\n", "\r\n")).join(lines)


@pytest.mark.parametrize("kind", ["flat", "cowd"])
def test_every_word_of_a_descriptor_replaced(kind: str, tmp_path: Path) -> None:
    victim = Victim(tmp_path, SAMPLES[kind].make)
    lines = victim.files[victim.leaf].decode().split("\n")
    for number, line in enumerate(lines[: lines.index("#DDB")]):
        separator = "=" if "=" in line else " "
        words = line.split(separator)
        for place, word in itertools.product(range(len(words)), WORDS):
            other = separator.join([*words[:place], word, *words[place + 1 :]])
            text = "\n".join([*lines[:number], other, *lines[number + 1 :]])
            victim.attempt(victim.leaf, text.encode(), f"line {number + 1}: {other[:80]}")


def test_descriptors_changed_as_text(victim: Victim) -> None:
    rng = random.Random(f"text {victim.leaf.name} {len(victim.files)}")
    data = victim.files[victim.leaf]
    begin, end = 0, len(data)
    if data[:4] == b"KDMV":
        offset, size = struct.unpack_from("<QQ", data, 28)
        begin, end = offset * SECTOR, (offset + size) * SECTOR
    text = data[begin:end].rstrip(b"\0").decode()
    for number in range(MUTATIONS // 4):
        codec = rng.choice(("utf-8", "utf-8", "gbk", "cp1252", "utf-16"))
        changed = mutate_text(text, rng).encode(codec, "replace")
        if begin:
            changed = data[:begin] + changed[: end - begin].ljust(end - begin, b"\0") + data[end:]
        victim.attempt(victim.leaf, changed, f"number {number}")
