# SPDX-License-Identifier: Apache-2.0
"""NTFS, through libfsntfs. Folders and files get modes 755 and 644: it has none of its own."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

import pyfsntfs

from diskkit.errors import FormatError, UnsupportedFeature
from diskkit.files.filesystem import LARGE_STREAM, Extent, Node
from diskkit.files.readers.folders import upper
from diskkit.files.readers.libyal import LibraryReader, judged, lost, read_from, reason, try_name
from diskkit.files.readers.ntfslinks import INTERIX, MAX_INTERIX, interix_target, wsl_target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diskkit.filters.cache import BlockCache

MFT, ROOT = 0, 5
FIRST_OWN = 24
"""File records below this are the filesystem's own, and not listed."""
LARGEST_ATTRIBUTE = 65536
"""Bytes that Linux lets an extended attribute have."""
MOST_STREAMED = 1 << 20
"""Bytes of all streams of a file that are given as attributes."""
MOST_STREAMS = 4096
_RECORD = (1 << 48) - 1
_EPOCH = 116_444_736_000_000_000
"""1970 in units of 100 ns since 1601."""
_LATEST = _EPOCH + (1 << 63) // 100
_SYSTEM, _REPARSE, _COMPRESSED, _ENCRYPTED = 0x4, 0x400, 0x800, 0x4000
_DATA = 0x80


class Reader(LibraryReader):
    """An NTFS filesystem."""

    root = ROOT

    def __init__(self, kind: str, volume: BlockCache) -> None:
        """Open it."""
        super().__init__(kind, volume, pyfsntfs)

    def _open(self, id: int) -> Any:  # noqa: ANN401
        return self.library_volume.get_file_entry(id)

    def scandir(self, id: int) -> Iterator[tuple[bytes, Node]]:
        folder = self.entry(id)
        with judged(self.kind, f"directory {id}"):
            count = folder.get_number_of_sub_file_entries()
        get, node_of = folder.get_sub_file_entry, self._node
        for number in range(count):
            try:
                entry = get(number)
                if id == ROOT and entry.get_file_reference() & _RECORD < FIRST_OWN:
                    continue
                node = node_of(entry)
            except OSError as error:
                yield b"?%d" % number, lost(reason(error))
                continue
            name = try_name(entry)
            if name is None:
                yield b"?%d" % node.id, node._replace(problem="the reader cannot give its name")
            else:
                yield name.encode("utf-8", "surrogatepass"), node

    def lookup(self, id: int, name: bytes) -> Node | None:
        """Upper and lower case are alike; an exact match wins."""
        return self.look(id, name, upper)

    def stat(self, id: int) -> Node:
        with judged(self.kind, f"file {id}"):
            return self._node(self.entry(id))

    def readlink(self, id: int) -> bytes:
        entry = self.entry(id)
        with judged(self.kind, f"link {id}"):
            found = self._own_target(entry, entry.get_file_attribute_flags() or 0)
            if found is not None:
                return found
            target: str | None = entry.get_symbolic_link_target()
        return (target or "").replace("\\", "/").encode("utf-8", "surrogatepass")

    def _own_target(self, entry: Any, flags: int) -> bytes | None:  # noqa: ANN401
        """Where a link leads that is none to the library and to Windows: one of WSL or Interix.

        Ordinary files are not read for that.
        """
        if flags & _REPARSE:
            size = self.library_volume.get_mft_entry_size()
            number = entry.get_file_reference() & _RECORD
            return wsl_target(read_from(self.entry(MFT), number * size, size))
        size = entry.get_size() if flags & _SYSTEM and not flags & _ENCRYPTED else 0
        if len(INTERIX) < size <= MAX_INTERIX and not entry.has_directory_entries_index():
            return interix_target(read_from(entry, 0, size))
        return None

    def _node(self, entry: Any) -> Node:  # noqa: ANN401
        flags = entry.get_file_attribute_flags()
        if flags is None:
            raise FormatError("has no standard information", structure="NTFS file record")
        problem = ""
        if entry.has_directory_entries_index():
            kind, size = stat.S_IFDIR | 0o755, 0
        else:
            kind, size = stat.S_IFREG | 0o644, entry.get_size()
        # Nearly all have none of these, and are many.
        target = self._own_target(entry, flags) if flags & (_REPARSE | _SYSTEM) else None
        if target is not None:
            kind, size = stat.S_IFLNK | 0o777, len(target)
        elif flags & _REPARSE:
            try:
                is_link = entry.get_symbolic_link_target() is not None
            except OSError:
                is_link = False
            if is_link:
                kind = stat.S_IFLNK | 0o777
            elif stat.S_ISREG(kind):
                problem = "a reparse point: deduplicated, compressed by Windows, or kept elsewhere"
            elif not entry.get_number_of_sub_file_entries():
                problem = "a reparse point: a junction, or a folder kept elsewhere"
        elif flags & _ENCRYPTED and stat.S_ISREG(kind):
            problem = "encrypted by Windows (EFS)"
        return Node(
            entry.get_file_reference() & _RECORD,
            kind,
            size,
            0,  # hard links are found by their ids; counting them would read every record
            0,
            0,
            _time(entry.get_modification_time_as_integer()),
            _time(entry.get_access_time_as_integer()),
            _time(entry.get_entry_modification_time_as_integer()),
            _time(entry.get_creation_time_as_integer()),
            0,
            0,
            problem,
        )

    def xattrs(self, id: int) -> dict[bytes, bytes]:
        """Its alternate data streams, as ntfs-3g shows them: as attributes of the user."""
        entry = self.entry(id)
        found: dict[bytes, bytes] = {}
        left = MOST_STREAMED
        with judged(self.kind, f"streams of {id}"):
            count = entry.get_number_of_alternate_data_streams()
            if not count or self._node(entry).problem:
                return found
            if count > MOST_STREAMS:
                raise FormatError(f"more than {MOST_STREAMS}", structure=f"streams of {id}")
            for number in range(count):
                stream = entry.get_alternate_data_stream(number)
                name = stream.get_name().encode("utf-8", "surrogatepass")
                size = stream.get_size()
                if size > min(LARGEST_ATTRIBUTE, left):
                    found[LARGE_STREAM + name] = b""
                    continue
                left -= size
                content = found[b"user." + name] = read_from(stream, 0, size)
                if len(content) < size:
                    raise FormatError(
                        f"ends after {len(content)} bytes of {size}",
                        structure=f"file {id}",
                        field=f"stream {stream.get_name()}",
                    )
        return found

    def streams(self, id: int) -> list[tuple[str, int]]:
        entry = self.entry(id)
        with judged(self.kind, f"streams of {id}"):
            count = entry.get_number_of_alternate_data_streams()
            found = [entry.get_alternate_data_stream(n) for n in range(count)]
            return [(stream.get_name(), stream.get_size()) for stream in found]

    def content(self, id: int, stream: str) -> Any:  # noqa: ANN401
        entry = self.entry(id)
        problem = self._node(entry).problem
        if problem:
            raise UnsupportedFeature(problem, structure=f"file {id}")
        if not stream:
            return entry
        found = entry.get_alternate_data_stream_by_name(stream)
        if found is None:
            raise UnsupportedFeature("no such stream", structure=f"file {id}", value=stream)
        return found

    def extents(self, id: int, stream: str = "") -> list[Extent] | None:
        source = self.content(id, stream)
        entry = self.entry(id)
        if entry.get_file_attribute_flags() & _COMPRESSED:
            return None
        with judged(self.kind, f"file {id}"):
            size = valid = source.get_size()
            for number in range(entry.get_number_of_attributes()):
                attribute = entry.get_attribute(number)
                if attribute.get_attribute_type() == _DATA and (
                    (attribute.get_attribute_name() or "") == stream
                ):
                    valid = min(valid, attribute.get_valid_data_size())
        # Content that lies in the file record itself has no extents.
        found = self.library_extents(source, size)
        return found if found is None or valid == size else _zeros_behind(found, valid)


def _zeros_behind(extents: list[Extent], valid: int) -> list[Extent]:
    """What lies behind the valid size was never written by the guest, and reads as zeros."""
    found = []
    at = 0
    for extent in extents:
        kept = max(0, min(extent.length, valid - at))
        if extent.offset < 0 or kept == extent.length:
            found.append(extent)
        else:
            if kept:
                found.append(Extent(kept, extent.offset))
            found.append(Extent(extent.length - kept, -1))
        at += extent.length
    return found


def _time(units: int) -> int:
    """Hostile values too must fit into 64 bits."""
    return (units - _EPOCH) * 100 if 0 < units < _LATEST else 0
