# SPDX-License-Identifier: Apache-2.0
"""A volume: a run of bytes mapped onto ranges of one or more disks."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple, cast

from diskkit.errors import FormatError, OutOfRange, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diskkit.disk import Disk
    from diskkit.interfaces import Readable
    from diskkit.volumes.identify import Content


class Stripe(NamedTuple):
    """Where a part of a segment lies."""

    source: Readable
    offset: int
    """Byte of the source at which it begins."""


class Segment(NamedTuple):
    """A stretch of a volume: one range, or several of the same length taken in turns."""

    start: int
    """Byte of the volume at which it begins."""
    length: int
    stripes: Sequence[Stripe]
    stripe_size: int
    """Bytes taken from one stripe before the next; means nothing where there is only one."""


class Piece(NamedTuple):
    """A contiguous range of one source."""

    source: Readable
    offset: int
    length: int


class Part(NamedTuple):
    """A range of a volume, as it lies."""

    start: int
    """Byte of the volume at which it begins."""
    unit: int
    """Bytes taken from one lane before the next; means nothing where there is only one."""
    lanes: Sequence[Piece]
    """Of the same length, a whole number of units."""


class Volume:
    """A partition, a logical volume, or a whole disk. Reads are safe from many threads.

    `number` is what users call it by; `offset` and `length` are bytes of the first disk, `offset`
    None where it lies in several places. `problem` says why its bytes cannot be had, if they
    cannot; reading raises it. `type` is the partition type ("0x83" or a GUID), "lvm", or "none"
    for a disk without a table.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        *,
        number: int,
        name: str,
        type: str,
        size: int | None = None,
        problem: FormatError | None = None,
    ) -> None:
        """Take over segments: ascending, gap-free from 0."""
        self.segments = segments
        self._starts = [segment.start for segment in segments]
        self.size = sum(s.length for s in segments) if size is None else size
        self.number = number
        self.name = name
        self.type = type
        self.type_name = ""
        self.part_label: str | None = None
        self.part_uuid: str | None = None
        self.problem = problem
        self.content: Content | None = None
        """What it holds; None if nothing was recognised, or it cannot be read."""

    @property
    def length(self) -> int:
        """Bytes."""
        return self.size

    @property
    def offset(self) -> int | None:
        """Byte of its disk at which it begins, if it is one range of it."""
        if len(self.segments) == 1 and len(self.segments[0].stripes) == 1:
            return self.segments[0].stripes[0].offset
        return None

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`."""
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill all of a writable, contiguous `buffer` from `offset`."""
        view = memoryview(buffer).cast("B")
        at = 0
        for piece in self.pieces(offset, len(view)):
            piece.source.read_into(piece.offset, view[at : at + piece.length])
            at += piece.length

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data` at `offset`. Raises `UsageError` if its disk cannot be written to."""
        view = memoryview(data).cast("B")
        at = 0
        for piece in self.pieces(offset, len(view)):
            if not getattr(piece.source, "writable", False):
                raise UsageError(f"volume {self.name}: its disk was opened for reading only")
            cast("Disk", piece.source).write(piece.offset, view[at : at + piece.length])
            at += piece.length

    @property
    def writable(self) -> bool:
        """Whether every disk it lies on was opened for writing."""
        return self.problem is None and all(
            getattr(stripe.source, "writable", False) for s in self.segments for stripe in s.stripes
        )

    def flush(self) -> None:
        """Return when everything written so far would survive a power cut."""
        for source in {id(t.source): t.source for s in self.segments for t in s.stripes}.values():
            cast("Disk", source).flush()

    def pieces(self, offset: int, length: int) -> Iterator[Piece]:
        """Where a range lies, in order. Raises `OutOfRange`, and the volume's own problem."""
        if offset < 0 or length < 0 or offset + length > self.size:
            text = f"bytes {offset} to {offset + length} are not inside its {self.size} bytes"
            raise OutOfRange(f"volume {self.name}: {text}")
        if self.problem is not None:
            raise self.problem
        return self._pieces(offset, length)

    def parts(self, offset: int, length: int) -> Iterator[Part]:
        """The same with stripes side by side, so that many turns are few parts."""
        self.pieces(offset, length)  # raises what it raises
        while length:
            segment = self.segments[bisect_right(self._starts, offset) - 1]
            inside, count = offset - segment.start, len(segment.stripes)
            room = min(length, segment.length - inside)
            turn = segment.stripe_size * count
            if count > 1 and inside % turn == 0 and room >= turn:
                step, begin = room - room % turn, inside // count
                lanes = [Piece(s.source, s.offset + begin, step // count) for s in segment.stripes]
                yield Part(offset, segment.stripe_size, lanes)
            else:
                step = room if count == 1 else min(room, turn - inside % turn)
                at = offset
                for piece in self._pieces(offset, step):
                    yield Part(at, piece.length, [piece])
                    at += piece.length
            offset, length = offset + step, length - step

    def _pieces(self, offset: int, length: int) -> Iterator[Piece]:
        number = bisect_right(self._starts, offset) - 1
        while length:
            segment = self.segments[number]
            inside = offset - segment.start
            if inside >= segment.length:
                number += 1
                continue
            if len(segment.stripes) == 1:
                stripe, place, room = segment.stripes[0], inside, segment.length - inside
            else:
                chunk, within = divmod(inside, segment.stripe_size)
                row, column = divmod(chunk, len(segment.stripes))
                stripe = segment.stripes[column]
                place = row * segment.stripe_size + within
                room = segment.stripe_size - within
            step = min(length, room)
            yield Piece(stripe.source, stripe.offset + place, step)
            offset += step
            length -= step

    def __repr__(self) -> str:
        """Name, type and size."""
        return f"<Volume {self.name} of {self.size} bytes>"


def one_range(
    source: Readable, offset: int, length: int, *, number: int, name: str, type: str
) -> Volume:
    """A volume that is one range of a disk; beyond its end, one that cannot be read."""
    volume = Volume(
        [Segment(0, length, [Stripe(source, offset)], length)],
        number=number,
        name=name,
        type=type,
    )
    if offset + length > source.size:
        volume.problem = FormatError(
            f"reaches to byte {offset + length}, beyond the disk's {source.size} bytes",
            structure=f"partition {number}",
            field="length",
            value=length,
        )
    return volume
