# SPDX-License-Identifier: Apache-2.0
"""Reading a streamOptimized disk in one pass, as it arrives from a pipe.

The tables are not needed: every grain says where it belongs. They are used to notice a stream that
was cut: the grains seen must be as many as the tables name. Memory stays flat; grains must come in
ascending order, as ESXi and every tool that writes for it send them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from diskkit.errors import FormatError, UnsupportedFeature
from diskkit.formats.link import NO_PARENT
from diskkit.formats.vmdk import descriptor, layout
from diskkit.formats.vmdk.stream import check_size, inflate
from diskkit.units import SECTOR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diskkit.formats.vmdk.descriptor import Descriptor
    from diskkit.formats.vmdk.layout import Marker
    from diskkit.interfaces import OpenPolicy

_MOST_FRONT = 128 << 20
"""Tables larger than this, sent before the grains, are not kept to count them."""
_SKIP = 1 << 20


class Source(Protocol):
    """Bytes that come once: anything with `read`."""

    def read(self, size: int, /) -> bytes | None:
        """Up to `size` bytes; empty at the end."""


class Grain(NamedTuple):
    """One compressed grain on its way."""

    offset: int
    """Guest bytes."""
    body: bytes
    rules: layout.Rules


class StreamSequence:
    """A stream being read. `capacity` and `descriptor` are known at once; then take `grains`."""

    def __init__(self, source: Source, name: str, policy: OpenPolicy) -> None:
        """Read up to the first grain. Raises `FormatError`."""
        self.name = name
        self._source = source
        self._at = 0
        self.header = layout.parse_sparse_header(self._head(), name)
        if not self.header.compressed or not self.header.markers:
            raise UnsupportedFeature(
                "only a streamOptimized disk can be read from a pipe",
                path=name,
                structure="sparse header",
                field="flags",
                offset=8,
                advice="save it to a file first",
            )
        size = max(self.header.overhead, SECTOR) - SECTOR
        front = self._exactly(min(size, _MOST_FRONT), "the tables before the first grain")
        self._skip(size - len(front))
        self._front = b"\0" * SECTOR + front
        for warning in self._layout_warnings():
            policy.warning(f"{name}: {warning}")
        self.descriptor = self._descriptor(policy)
        self.capacity = self.descriptor.capacity
        self._expected = self._count_front() if size <= _MOST_FRONT else None
        self._front = b""
        self._in_tables = 0

    def _head(self) -> bytes:
        head = self._source.read(SECTOR) or b""
        while 0 < len(head) < SECTOR and (more := self._source.read(SECTOR - len(head))):
            head += more
        self._at = len(head)
        return head

    def _layout_warnings(self) -> list[str]:
        # The regions are checked against the largest size a file of u32 sectors can have: the
        # true one is not known. Whatever is missing shows when the stream ends too early.
        return layout.check_sparse_layout(self.header, 1 << 41, self.name)

    def _descriptor(self, policy: OpenPolicy) -> Descriptor:
        begin, size = self.header.descriptor_offset, self.header.descriptor_size
        text = self._front[begin : begin + size]
        if not text.strip(b"\0"):
            raise FormatError("the stream holds no descriptor", path=self.name, structure="stream")
        found = descriptor.parse(text, path=self.name, at=begin, embedded=True)
        for warning in found.warnings:
            policy.warning(f"{self.name}: {warning}")
        problem = ""
        if found.encrypted:
            problem = f"the disk is encrypted: {found.encrypted}"
        elif found.parent_hint is not None or found.parent_cid != NO_PARENT:
            problem = "the disk has a parent, which a pipe cannot give; save it beside its parent"
        if problem:
            raise UnsupportedFeature(problem, path=self.name, structure="descriptor")
        if len(found.extents) != 1 or found.extents[0].kind != "SPARSE":
            problem = "a stream's descriptor must describe one SPARSE extent"
            raise FormatError(problem, path=self.name, structure="descriptor", field="extents")
        if found.capacity > self.header.capacity:
            rules = layout.Rules("sparse header", self.name)
            sectors = self.header.capacity // SECTOR
            problem = f"the descriptor's extent line needs {found.capacity // SECTOR} sectors"
            rules.fail("capacity", 12, sectors, problem)
        return found

    def _count_front(self) -> int | None:
        """How many grains the tables before the grains name; None if they come later."""
        import numpy as np

        header = self.header
        end = header.directory_offset + header.directory_size
        if header.at_end or end > len(self._front):
            return None
        front = np.frombuffer(self._front, np.uint8)
        directory = front[header.directory_offset :][: header.tables * 4].view("<u4")
        words, entries = front.view("<u4"), np.arange(header.table_entries)
        places = directory[directory != 0].astype(np.int64) * (SECTOR // 4)
        if len(places) and int(places.max()) + len(entries) > len(words):
            return None
        # Many at a time: there may be millions of tables of one entry.
        step = (1 << 20) // len(entries)
        tables = (places[i : i + step, None] + entries for i in range(0, len(places), step))
        return sum(int(np.count_nonzero(words[table] > 1)) for table in tables)

    def grains(self) -> Iterator[Grain]:
        """Every grain in the order of the stream. Raises `FormatError` when it is cut or wrong."""
        seen, last = 0, -1
        ended = footer = False
        while (sector := self._sector()) is not None:
            at = (self._at - 1) // SECTOR * SECTOR  # the last sector may be a part of one
            rules = layout.Rules("stream marker", self.name, at)
            marker = layout.parse_marker(sector)
            if ended:
                if any(sector):
                    rules.fail("marker", 0, None, "data follows the end of the stream")
                continue
            if marker.size:
                grain = self._grain(rules, marker, sector, last)
                seen, last = seen + 1, grain.offset
                yield grain
            elif marker.kind == layout.MARKER_EOS:
                ended = True
            else:
                footer = footer or marker.kind == layout.MARKER_FOOTER
                self._metadata(rules, marker)
        self._check_end(seen, ended, footer)

    def inflate(self, grain: Grain) -> bytes:
        """The contents of a grain; only this is worth doing on several threads."""
        need = min(self.header.grain, self.capacity - grain.offset)
        return inflate(grain.body, need, self.header.grain, grain.rules, 12)[:need]

    def _grain(self, rules: layout.Rules, marker: Marker, sector: bytes, last: int) -> Grain:
        header, offset = self.header, marker.value * SECTOR
        if offset >= self.capacity:
            text = f"lies beyond the capacity of {self.capacity // SECTOR} sectors"
            rules.fail("address", 0, marker.value, text)
        if offset % header.grain:
            text = f"is no multiple of the grain's {header.grain // SECTOR} sectors"
            rules.fail("address", 0, marker.value, text)
        if offset <= last:
            text = f"comes after sector {last // SECTOR}: a pipe is read in ascending order"
            rules.fail("address", 0, marker.value, text, "save the stream to a file first")
        check_size(rules, header, marker.size, 12)
        body = sector[12 : 12 + marker.size]
        rest = marker.size - len(body)
        if rest > 0:
            body += self._exactly(rest, "a grain")
            self._skip(-rest % SECTOR, may_end=True)
        return Grain(offset, body, rules)

    def _metadata(self, rules: layout.Rules, marker: Marker) -> None:
        header = self.header
        if marker.kind == layout.MARKER_GT:
            import numpy as np

            table = self._exactly(header.table_entries * 4, "a grain table")
            self._skip(-len(table) % SECTOR)
            self._in_tables += int(np.count_nonzero(np.frombuffer(table, "<u4") > 1))
        elif marker.kind == layout.MARKER_GD:
            self._skip(header.directory_size)
        elif marker.kind == layout.MARKER_FOOTER:
            at = self._at
            data = self._exactly(SECTOR, "the footer")
            footer = layout.parse_sparse_header(data, self.name, structure="footer", at=at)
            layout.compare_footer(header, footer, self.name, at)
        elif marker.kind != layout.MARKER_PROGRESS:
            rules.fail("type", 12, marker.kind, "not a known kind of marker")

    def _check_end(self, seen: int, ended: bool, footer: bool) -> None:
        rules = layout.Rules("stream", self.name, self._at)
        advice = "it was cut short; get it again"
        if self.header.at_end and not footer:
            rules.fail("end", 0, None, "there is no footer", advice)
        expected = self._expected
        if expected is None:
            expected = self._in_tables
            if not ended:
                rules.fail("end", 0, None, "there is no end-of-stream marker", advice)
        if seen != expected:
            rules.fail("end", 0, None, f"{seen} grains came, the tables name {expected}", advice)

    def _sector(self) -> bytes | None:
        """The next sector; None at the end. A last sector that is not whole is padded."""
        data = self._read(SECTOR)
        return data + bytes(SECTOR - len(data)) if data else None

    def _exactly(self, size: int, what: str) -> bytes:
        data = self._read(size)
        if len(data) < size:
            rules = layout.Rules("stream", self.name, self._at)
            rules.fail("end", 0, None, f"the stream ends inside {what}", "it was cut short")
        return data

    def _skip(self, size: int, *, may_end: bool = False) -> None:
        while size > 0:
            n = min(size, _SKIP)
            if may_end:
                self._read(n)
            else:
                self._exactly(n, "its metadata")
            size -= n

    def _read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end of the stream."""
        parts, missing = [], size
        while missing:
            part = self._source.read(min(missing, _SKIP))
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        self._at += size - missing
        return parts[0] if len(parts) == 1 else b"".join(parts)
