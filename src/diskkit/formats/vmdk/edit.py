# SPDX-License-Identifier: Apache-2.0
"""Changing a descriptor's text and leaving alone whatever was not asked for. Pure.

The text is edited as the bytes it was read from, line by line, so order, comments, unknown keys,
line ends, trailing blanks and even bytes that no codec knows stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import FormatError, UsageError
from diskkit.formats.vmdk import descriptor
from diskkit.formats.vmdk.compose import check_name, new_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from diskkit.formats.vmdk.descriptor import Descriptor

_BOM = b"\xef\xbb\xbf"
_IDS = frozenset({"cid", "parentcid"})
_BARE = _IDS | {"version"}
"""Header keys whose values stand without quotes; all others have them."""
_TRACKING = "changetrackpath"
_TRACKING_TITLE = "# change tracking file"


def untracked(found: Descriptor) -> dict[str, str | None]:
    """What ends a disk's change tracking, if it has any (vmdk-formats, 4.2).

    A tracking file is VMware's to write: one that misses changes is worse than none.
    """
    if found.change_track_path is None:
        return {}
    return {"changeTrackPath": None} | ({"version": "1"} if found.version == 3 else {})


class Changes(NamedTuple):
    """What `edited` is to change: keys and their values, None for a key to remove."""

    header: dict[str, str | None]
    ddb: dict[str, str | None]


def new_content_id(found: Descriptor) -> Changes:
    """The changes that say that a disk's content is no longer what it was.

    The long content ID follows if the disk has one: its low 32 bits are the CID.
    """
    identity = new_identity()
    while identity.cid == found.cid:
        identity = new_identity()
    ddb: dict[str, str | None] = {}
    if any(key.lower() == "longcontentid" for key in found.ddb):
        ddb["longContentID"] = identity.long_content_id
    return Changes({"CID": f"{identity.cid:08x}"}, ddb)


def edited(
    found: Descriptor,
    *,
    header: Mapping[str, str | None] | None = None,
    ddb: Mapping[str, str | None] | None = None,
    extents: Mapping[int, str] | Sequence[str] | None = None,
) -> bytes:
    """The new text of `found`, in its own encoding and style.

    `header` and `ddb` (keys without "ddb.") map keys, in any case, to new values; None removes the
    line. Content IDs are hexadecimal text. `extents` is either a mapping from an extent's number,
    from 0, to its new file name, or all the new extent lines, which take the place of the old.

    Raises `UsageError` for what cannot be written, or would leave a text that is no descriptor.
    """
    text = _Text(found)
    header = _checked(header or {}, _check_header)
    for key, value in header.items():
        if key.lower() == "encoding":
            text.recode(value or "UTF-8")
    for key, value in header.items():
        text.set_header(key, value)
    for key, value in _checked(ddb or {}, _check_ddb).items():
        text.set_ddb(key, value)
    if isinstance(extents, Mapping):
        text.rename_extents(extents)
    elif extents is not None:
        text.replace_extents(extents)
    out = text.joined()
    try:
        descriptor.parse(out, path="the changed descriptor")
    except FormatError as error:
        raise UsageError(str(error)) from error
    return out


def _checked(
    changes: Mapping[str, str | None], check: Callable[[str], None]
) -> Mapping[str, str | None]:
    """The changes, if all of them can be written."""
    seen: set[str] = set()
    for key, value in changes.items():
        check(key)
        if key.lower() in seen:
            raise UsageError(f"key {key!r} is given twice")
        seen.add(key.lower())
        if value is not None and any(_breaks(c) for c in value):
            text = "it holds a quote, a line end or a control character"
            raise UsageError(f"value {value!r} of {key} cannot stand in a descriptor: {text}")
    return changes


def _breaks(c: str) -> bool:
    return c < " " or "\x7f" <= c <= "\x9f" or c in '"\u2028\u2029'


def _check_header(key: str) -> None:
    if not descriptor.is_key(key) or key.lower().startswith("ddb."):
        raise UsageError(f"key {key!r} cannot stand in a descriptor's header")


def _check_ddb(key: str) -> None:
    if not key or not descriptor.is_key(f"ddb.{key}"):
        text = "letters, digits, '_', '.', ':' and '-' can"
        raise UsageError(f"key {key!r} cannot stand in the disk database: only {text}")


class _Text:
    """The lines of a descriptor, as bytes."""

    def __init__(self, found: Descriptor) -> None:
        self.codec = found.codec
        self.bom = _BOM if found.raw.startswith(_BOM) else b""
        self.lines = found.raw.removeprefix(_BOM).split(b"\n")
        self.end = b"\r" if self.lines[0].endswith(b"\r") else b""
        self.extents = [e.line - 1 for e in found.extents]

    def joined(self) -> bytes:
        return self.bom + b"\n".join(self.lines)

    def encode(self, line: str) -> bytes:
        try:
            return line.encode(self.codec)
        except UnicodeEncodeError as error:
            text = f"{line[error.start : error.end]!r} has no place in its encoding, {self.codec}"
            raise UsageError(f"{line!r} cannot be written into the descriptor: {text}") from error

    def recode(self, encoding: str) -> None:
        codec = descriptor.codec_of(encoding)
        if codec is None:
            raise UsageError(f"encoding {encoding!r} is not one that diskkit knows")
        try:
            text = b"\n".join(self.lines).decode(self.codec)
        except UnicodeDecodeError as error:
            raise UsageError(f"the text cannot be put into {encoding}: {error.reason}") from error
        self.codec = codec
        self.lines = self.encode(text).split(b"\n")
        if codec != "utf-8":
            self.bom = b""

    def shown(self, index: int) -> str:
        return self.lines[index].decode(self.codec, "replace")

    def key(self, index: int) -> str:
        """The key of a line, in lower case; "" if it has none."""
        body = self.shown(index).strip()
        if body.startswith("#") or index in self.extents:
            return ""
        name, equals, _ = body.partition("=")
        return name.rstrip().lower() if equals else ""

    def where(self, wanted: Callable[[str], bool]) -> list[int]:
        """The lines whose keys are wanted."""
        keys = ((i, self.key(i)) for i in range(len(self.lines)))
        return [i for i, key in keys if key and wanted(key)]

    def set_header(self, key: str, value: str | None) -> None:
        if value is not None and key.lower() in _IDS:
            try:
                value = f"{int(value, 16):08x}"
            except ValueError:
                raise UsageError(f"{key} {value!r} is not hexadecimal") from None
        written = value if key.lower() in _BARE else f'"{value}"'
        if self.replace(key, None if value is None else written):
            return
        place = self.tracking_place() if key.lower() == _TRACKING else self.header_end()
        self.insert(place, f"{key}={written}")

    def set_ddb(self, key: str, value: str | None) -> None:
        if not self.replace(f"ddb.{key}", None if value is None else f'"{value}"'):
            self.insert(self.ddb_end(), f'ddb.{key} = "{value}"')

    def replace(self, key: str, value: str | None) -> bool:
        """Give the line of `key` another value, or take it out; False if it is missing."""
        found = self.where(lambda k: k == key.lower())
        if not found:
            return value is None
        if value is None:
            self.remove(found[0])
            return True
        line = self.shown(found[0])
        before, _, old = line.partition("=")
        blanks = old[: len(old) - len(old.lstrip())].rstrip("\r\n")
        after = old[len(old.rstrip()) :] if old.strip() else self.end.decode()
        self.lines[found[0]] = self.encode(f"{before}={blanks}{value}{after}")
        return True

    def header_end(self) -> int:
        """The last line of the header proper: change tracking has a place of its own."""
        keys = self.where(lambda k: not k.startswith("ddb.") and k != _TRACKING)
        before = [i for i in keys if i < self.extents[0]]
        return (before or keys)[-1]

    def tracking_place(self) -> int:
        for index in range(len(self.lines)):
            if self.shown(index).strip().lower() == _TRACKING_TITLE:
                return index
        self.insert(self.extents[-1], "")
        self.insert(self.extents[-1] + 1, "# Change Tracking File")
        return self.extents[-1] + 2

    def ddb_end(self) -> int:
        if keys := self.where(lambda k: k.startswith("ddb.")):
            return keys[-1]
        last = max(i for i in range(len(self.lines)) if self.lines[i].strip())
        if not any(self.shown(i).strip() == "#DDB" for i in range(len(self.lines))):
            for line in ("", "# The Disk Data Base", "#DDB", ""):
                self.insert(last, line)
                last += 1
        return last

    def insert(self, after: int, line: str) -> None:
        if after == len(self.lines) - 1:
            # The last line has no line end yet.
            self.lines[after] += self.end
            self.lines.append(b"")
        self.lines.insert(after + 1, self.encode(line) + self.end)
        self.extents = [i + (i > after) for i in self.extents]

    def remove(self, index: int) -> None:
        del self.lines[index]
        self.extents = [i - (i > index) for i in self.extents if i != index]

    def rename_extents(self, names: Mapping[int, str]) -> None:
        for number, name in names.items():
            if not 0 <= number < len(self.extents):
                raise UsageError(f"extent {number}: the disk has {len(self.extents)}")
            line = self.shown(self.extents[number])
            before, quote, rest = line.partition('"')
            if not quote:
                raise UsageError(f"extent {number} has no file")
            after = rest[rest.rindex('"') :]
            self.lines[self.extents[number]] = self.encode(f'{before}"{check_name(name)}{after}')

    def replace_extents(self, lines: Sequence[str]) -> None:
        if not lines:
            raise UsageError("a disk has one extent at least")
        for line in lines:
            if "\n" in line or line.split(None, 1)[0].upper() not in descriptor.ACCESS:
                raise UsageError(f"{line!r} is not one extent line")
        first = self.extents[0]
        for index in reversed(self.extents):
            del self.lines[index]
        self.lines[first:first] = [self.encode(line) + self.end for line in lines]
        if self.lines[-1]:
            self.lines.append(b"")
        self.extents = list(range(first, first + len(lines)))
