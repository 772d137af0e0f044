# SPDX-License-Identifier: Apache-2.0
"""The text descriptor: which extents, which parent, what metadata. Pure.

Reads leniently where makers differ (case, blanks, line ends, first line) and refuses whatever
could be read in two ways: a key given twice, a quote inside a name, a number that is no decimal.
The rules are those of docs/formats/descriptor.md.
"""

from __future__ import annotations

from typing import NamedTuple, NoReturn

from diskkit.errors import FormatError
from diskkit.formats.link import NO_PARENT
from diskkit.units import SECTOR

MAX_BYTES = 1 << 20
"""No descriptor is larger, in its own file or embedded."""
MAX_EXTENTS = 8192
"""No disk has more extents."""
MAX_BYTES_OF_DISK = (1 << 63) - 1

_ENCODINGS = {
    "utf8": "utf-8",
    "usascii": "ascii",
    "ascii": "ascii",
    "gbk": "gbk",
    "gb2312": "gb2312",
    "gb18030": "gb18030",
    "big5": "big5",
    "shiftjis": "shift_jis",
    "sjis": "shift_jis",
    "eucjp": "euc_jp",
    "euckr": "euc_kr",
    "koi8r": "koi8_r",
    **{f"windows{n}": f"cp{n}" for n in (874, 932, 936, 949, 950, *range(1250, 1259))},
    **{f"cp{n}": f"cp{n}" for n in (437, 850, 852, 866, 932, 936, 949, 950, *range(1250, 1259))},
    **{f"iso8859{n}": f"iso8859_{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16)},
}
"""Encodings that keep ASCII as it is. Anything else that Python knows could rewrite the text."""

_SPARSE = frozenset({"SPARSE"})
_FLAT = frozenset({"FLAT"})
_VMFS = frozenset({"VMFS"})
_RDM = frozenset({"VMFSRDM", "VMFSRDMP", "VMFSRAW"})
CREATE_TYPES: dict[str, frozenset[str] | None] = {
    "monolithicSparse": _SPARSE,
    "monolithicFlat": _FLAT,
    "twoGbMaxExtentSparse": _SPARSE,
    "2GbMaxExtentSparse": _SPARSE,
    "twoGbMaxExtentFlat": _FLAT,
    "2GbMaxExtentFlat": _FLAT,
    "streamOptimized": _SPARSE,
    "fullDevice": _FLAT,
    "partitionedDevice": _FLAT | _SPARSE,
    "custom": None,
    "vmfs": _VMFS,
    "vmfsPreallocated": _VMFS,
    "vmfsEagerZeroedThick": _VMFS,
    "vmfsThin": _VMFS,
    "vmfsThick": _VMFS,
    "vmfsSparse": frozenset({"VMFSSPARSE"}),
    "seSparse": frozenset({"SESPARSE"}),
    "vmfsSeSparse": frozenset({"SESPARSE"}),
    "vsanSparse": frozenset({"VSANSPARSE"}),
    "vmfsRDM": _RDM,
    "vmfsRawDeviceMap": _RDM,
    "vmfsRDMP": _RDM,
    "vmfsPassthroughRawDeviceMap": _RDM,
    "vmfsRaw": _RDM,
}
"""createType: the extent types it may hold besides ZERO; None for any."""

EXTENT_TYPES = frozenset({"ZERO"}).union(*(t for t in CREATE_TYPES.values() if t))
ACCESS = ("RW", "RDONLY", "NOACCESS")
_OFFSET_REQUIRED = frozenset({"FLAT"})
_OFFSET_ALLOWED = frozenset({"FLAT", "VMFS", "VMFSRDM", "VMFSRDMP", "VMFSRAW"})

_KEY_MARKS = frozenset("_.:-")
_HEX = frozenset("0123456789abcdefABCDEF")


class ExtentLine(NamedTuple):
    """One line of the extent description."""

    access: str
    """"RW", "RDONLY" or "NOACCESS"."""
    length: int
    """Bytes of the disk it covers."""
    kind: str
    """One of `EXTENT_TYPES`."""
    name: str | None
    """The file name as written; None for ZERO."""
    offset: int = 0
    """Bytes into that file at which the extent begins."""
    device: tuple[str, ...] = ()
    """Partition UUID and device id, where a line has them."""
    line: int = 0
    """Its line number, from 1."""


class Descriptor:
    """What a descriptor says, and its text as it was."""

    version = 1
    encoding = "UTF-8"
    cid = 0
    parent_cid = NO_PARENT
    create_type = ""
    parent_hint: str | None = None
    native_snapshot = False
    change_track_path: str | None = None
    encrypted = ""
    """Why the data is known to be encrypted; "" if it is not."""

    def __init__(self, text: str, raw: bytes = b"", codec: str = "utf-8") -> None:
        """Nothing known yet but the text, the bytes it was read from, and by which codec."""
        self.text = text
        self.raw = raw
        """The text as it is stored, a BOM included; embedded, up to its first NUL."""
        self.codec = codec
        self.extents: list[ExtentLine] = []
        self.ddb: dict[str, str] = {}
        """The disk database, keys without "ddb.", in their order."""
        self.header: dict[str, str] = {}
        """All header keys as written, in their order."""
        self.warnings: list[str] = []

    @property
    def capacity(self) -> int:
        """Bytes of the disk: the sum over the extent lines."""
        return sum(e.length for e in self.extents)


def looks_like_descriptor(head: bytes) -> bool:
    """Whether the first line of `head` that is neither blank nor a comment is "version=<n>"."""
    for line in head.removeprefix(b"\xef\xbb\xbf").splitlines():
        body = line.strip()
        if body and not body.startswith(b"#"):
            key, _, value = body.partition(b"=")
            return key.strip().lower() == b"version" and value.strip()[:1].isdigit()
    return False


def parse(data: bytes, *, path: str = "", at: int = 0, embedded: bool = False) -> Descriptor:
    """Read a descriptor, its own file or the text embedded at byte `at` of an extent.

    Raises `FormatError` naming the line's byte offset in the file and what it holds.
    """
    return _Parser(data, path, at, embedded).parse()


class _Parser:
    def __init__(self, data: bytes, path: str, at: int, embedded: bool) -> None:
        self.path = path
        self.at = at
        self.line_number = 0
        self.line_at: int | None = None
        self.keys: set[str] = set()
        self.capacity = 0
        text, _, rest = data.partition(b"\0")
        # Room reserved behind an embedded text costs nothing: makers leave plenty.
        size = len(text) if embedded else len(data)
        if size > MAX_BYTES:
            self.fail("size", size, f"is more than {MAX_BYTES} bytes")
        stale = rest.rstrip(b"\0")
        # qemu pads with NULs, and where it writes a content ID of fewer digits, the end of the
        # longer text stays behind the first NUL: the last bytes of the text, once more.
        stray = bool(stale) and not (len(stale) < 8 and text.endswith(stale))
        if stray and not embedded:
            self.line_at = at + len(text)
            self.fail("text", None, "a NUL byte in the middle of the text")
        self.data = text.removeprefix(b"\xef\xbb\xbf")
        self.at += len(text) - len(self.data)
        self.codec = "utf-8"
        self.out = Descriptor(self.decode(self.data), text, self.codec)
        if stray:
            self.out.warnings.append("embedded descriptor: bytes after the text's end were ignored")

    def fail(self, name: str, value: object, problem: str, advice: str = "") -> NoReturn:
        if self.line_number:
            name = f"line {self.line_number}, {name}"
        raise FormatError(
            problem,
            path=self.path,
            structure="descriptor",
            field=name,
            offset=self.line_at,
            value=value,
            advice=advice,
        )

    def decode(self, data: bytes) -> str:
        found = _find_encoding(data)
        if found is None:
            try:
                return data.decode("utf-8")
            except UnicodeDecodeError:
                self.codec = "cp1252"
                return data.decode("cp1252", "replace")
        name = found[1]
        self.line_at = self.at + found[0]
        codec = codec_of(name)
        if codec is None:
            self.fail("encoding", name, "an encoding that diskkit does not know")
        self.codec = codec
        try:
            text = data.decode(codec)
        except UnicodeDecodeError as error:
            self.line_at = self.at + error.start
            self.fail("text", data[error.start : error.end], f"not valid in the encoding {name}")
        self.line_at = None
        return text

    def parse(self) -> Descriptor:
        out = self.out
        place = self.at
        # None of the known encodings uses a line feed's byte inside a character.
        for line, raw in zip(out.text.split("\n"), self.data.split(b"\n"), strict=True):
            self.line_number += 1
            self.line_at = place
            place += len(raw) + 1
            self.read_line(line.rstrip("\r"))
        self.line_number, self.line_at = 0, None
        self.read_header()
        return out

    def read_line(self, line: str) -> None:
        body = line.strip()
        if body.startswith("#"):
            return
        for c in line:
            if (c < " " and c != "\t") or c == "\x7f":
                self.fail("text", c, "a control character")
        if not body:
            return
        access, *rest = body.split(None, 1)
        if rest and access.upper() in ACCESS:
            self.read_extent(access.upper(), rest[0])
            return
        key, equals, value = body.partition("=")
        key = key.rstrip()
        if not equals or not is_key(key):
            self.fail("text", body, "neither a comment, a key=value nor an extent line")
        value = self.unquote(key, value.lstrip())
        if key.lower() in self.keys:
            self.fail("key", key, "given twice")
        self.keys.add(key.lower())
        if key.lower().startswith("ddb."):
            self.out.ddb[key[4:]] = value
        else:
            self.out.header[key] = value

    def unquote(self, key: str, value: str) -> str:
        if not value.startswith('"'):
            return value
        if len(value) < 2 or not value.endswith('"'):
            self.fail(key, value, "a quote is missing")
        if '"' in value[1:-1]:
            self.fail(key, value, "a quote inside a quoted value")
        return value[1:-1]

    def read_extent(self, access: str, body: str) -> None:
        if len(self.out.extents) == MAX_EXTENTS:
            self.fail("extent", None, f"more than {MAX_EXTENTS} extents")
        sectors, *more = body.split(None, 2)
        if not more:
            self.fail("extent", body, "not of the form: access sectors type [name [offset]]")
        length = self.sectors("extent sectors", sectors)
        if not length:
            self.fail("extent sectors", sectors, "an extent of no sectors")
        kind = more[0].upper()
        if kind not in EXTENT_TYPES:
            self.fail("extent type", more[0], "not a known extent type")
        self.capacity += length
        if self.capacity > MAX_BYTES_OF_DISK:
            self.fail("extent sectors", sectors, "the extents add up to more than 2^63 bytes")
        name, rest = self.extent_name("".join(more[1:]))
        if kind == "ZERO":
            name = None
        elif name is None:
            self.fail("extent", body, "the quoted file name is missing")
        offset, device = self.extent_tail(kind, rest)
        self.out.extents.append(
            ExtentLine(access, length, kind, name, offset, device, self.line_number)
        )

    def extent_name(self, text: str) -> tuple[str | None, list[str]]:
        if not text:
            return None, []
        if not text.startswith('"'):
            self.fail("extent", text, "the file name is not in quotes")
        end = text.rfind('"')
        if end == 0:
            self.fail("extent", text, "a quote is missing")
        name, rest = text[1:end], text[end + 1 :].split()
        if '"' in name:
            self.fail("extent file name", name, "a quote inside the name")
        return name, rest

    def extent_tail(self, kind: str, rest: list[str]) -> tuple[int, tuple[str, ...]]:
        if not rest:
            if kind in _OFFSET_REQUIRED:
                self.fail("extent offset", None, f"a {kind} extent needs one")
            return 0, ()
        if kind not in _OFFSET_ALLOWED:
            self.fail("extent offset", rest[0], f"a {kind} extent has none")
        if len(rest) > 3:
            self.fail("extent", " ".join(rest), "more fields than an extent line has")
        return self.sectors("extent offset", rest[0]), tuple(rest[1:])

    def sectors(self, name: str, text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or len(text) > 20:
            self.fail(name, text, "not a decimal number of sectors")
        value = int(text) * SECTOR
        if value > MAX_BYTES_OF_DISK:
            self.fail(name, text, "more than 2^63 bytes")
        return value

    def read_header(self) -> None:
        out = self.out
        keys = {k.lower(): v for k, v in out.header.items()}
        self.read_version(keys)
        out.encoding = keys.get("encoding", "UTF-8")
        out.encrypted = _encryption(keys, out)
        out.cid = self.content_id("CID", keys)
        out.parent_cid = self.content_id("parentCID", keys)
        out.parent_hint = keys.get("parentfilenamehint")
        out.change_track_path = keys.get("changetrackpath")
        native = keys.get("isnativesnapshot", "no").lower()
        if native not in ("yes", "no"):
            self.fail("isNativeSnapshot", native, 'neither "yes" nor "no"')
        out.native_snapshot = native == "yes"
        self.read_create_type(keys)

    def read_version(self, keys: dict[str, str]) -> None:
        if "version" not in keys:
            self.fail("version", None, "missing")
        if keys["version"] not in ("1", "2", "3"):
            self.fail("version", keys["version"], "only 1, 2 and 3 are known")
        self.out.version = int(keys["version"])

    def content_id(self, name: str, keys: dict[str, str]) -> int:
        value = keys.get(name.lower())
        if value is None:
            self.fail(name, None, "missing")
        if not 1 <= len(value) <= 8 or not _HEX.issuperset(value):
            self.fail(name, value, "not 1 to 8 hex digits")
        return int(value, 16)

    def read_create_type(self, keys: dict[str, str]) -> None:
        out = self.out
        value = keys.get("createtype")
        if value is None:
            self.fail("createType", None, "missing")
        known = {name.lower(): name for name in CREATE_TYPES}
        if value.lower() not in known:
            self.fail("createType", value, "not a known kind of disk")
        out.create_type = known[value.lower()]
        if not out.extents:
            self.fail("extents", None, "no extent line")
        allowed = CREATE_TYPES[out.create_type]
        for extent in out.extents:
            if allowed is not None and extent.kind not in allowed | {"ZERO"}:
                self.line_number = extent.line
                self.fail("extent type", extent.kind, f"a {out.create_type} disk cannot hold it")


def codec_of(encoding: str) -> str | None:
    """Python's name for an encoding that a descriptor may be in; None if it may not."""
    return _ENCODINGS.get("".join(c for c in encoding.lower() if c.isalnum()))


def is_key(text: str) -> bool:
    """Whether `text` can stand before an equals sign."""
    return (
        text.isascii()
        and text[:1].replace("_", "a").isalpha()
        and all(c.isalnum() or c in _KEY_MARKS for c in text)
    )


def _find_encoding(data: bytes) -> tuple[int, str] | None:
    """Where the line that names the text's encoding begins, and the name."""
    place = 0
    for line in data.split(b"\n"):
        key, equals, value = line.partition(b"=")
        if equals and key.strip().lower() == b"encoding":
            return place, value.strip().strip(b'"').decode("latin-1").strip()
        place += len(line) + 1
    return None


def _encryption(keys: dict[str, str], out: Descriptor) -> str:
    for key in ("keyID", "encryptionKeys"):
        if key.lower() in keys:
            return f"the descriptor has {key}"
    filters = {k.lower(): v for k, v in out.ddb.items()}.get("iofilters", "")
    if "vmwarevmcrypt" in filters.lower():
        return "the I/O filter vmwarevmcrypt is set"
    return "version 2 marks a disk encrypted by a hosted product" if out.version == 2 else ""
