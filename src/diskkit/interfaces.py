# SPDX-License-Identifier: Apache-2.0
"""THE page: the contracts that everything in diskkit is built on.

`Storage`   where do bytes live?          a file, a device, later an object or a web server
`Place`     which other files are there?  the one gate through which an image's text opens files
`BlockMap`  what do the bytes mean?       a driver answers *where*, as rows; it moves no guest data
`Disk`      what does a user get?         sectors, their map, and nothing of how they are stored

All are safe to use from many threads at once. All offsets and lengths are bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple, Protocol

from diskkit.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    import numpy as np
    from numpy.typing import NDArray

    from diskkit.table import RunTable

MAX_DEPTH = 256
"""No chain longer than this is opened, whatever the caller asks for (vmdk-formats, 4.1)."""


class Storage(ABC):
    """The bytes of one file. Positional, so that threads need no lock."""

    name: str
    """What messages call it: the path as it was opened."""
    identity: tuple[int, int] | str
    """Equal for two storages exactly when they are the same file."""
    size: int
    """Bytes, as found when it was opened."""

    @abstractmethod
    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill all of `buffer` from `offset`, or raise `ShortRead` or `StorageError`."""

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`."""
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def data_ranges(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """The parts of a range that may hold anything but zeros, as ascending (begin, end).

        What is left out reads as zeros and takes no room. A storage that cannot tell says all.
        """
        if length:
            yield offset, offset + length

    @property
    def physical_bytes(self) -> int:
        """Bytes of room it takes where it lives."""
        return self.size

    @property
    def descriptor(self) -> int | None:
        """A file descriptor for kernel copies, or None where there is none."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Give it back. Doing so twice is fine."""


class WritableStorage(Storage):
    """A storage whose bytes can be changed; all of it fails if it was not opened for writing."""

    @abstractmethod
    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Put all of `data` at `offset`, beyond the end too. Raises `StorageError`.

        After an error any part of it may have been written.
        """

    @abstractmethod
    def erase(self, offset: int, length: int, *, give_back: bool) -> None:
        """Make a range inside the file read as zeros; `give_back` the room it takes, if possible.

        Without `give_back` the range keeps its room, or gets it.
        """

    @abstractmethod
    def resize(self, size: int) -> None:
        """Make the file `size` bytes long; what is new reads as zeros and takes no room."""

    @abstractmethod
    def flush(self) -> None:
        """Return when everything written would survive a power cut."""


class Place(ABC):
    """The surroundings of an image: resolves the names that its text holds."""

    @abstractmethod
    def open_extent(self, name: str, *, write: bool = False) -> Storage:
        """The file that an extent line names. Raises `FormatError` if the name may not be used.

        With `write` it is a `WritableStorage`, and no symbolic link may lead to it.
        """

    @abstractmethod
    def find_parent(self, hint: str) -> str:
        """The path of the file that a parent hint names. Raises `ChainError`."""


class BlockMap(ABC):
    """What the bytes of one extent mean: a driver. It answers where; it never moves guest data."""

    length: int
    """Guest bytes it describes."""
    granularity: int
    """Bytes per table entry, 1 where there is no table."""

    @abstractmethod
    def scan(self, offset: int, length: int) -> RunTable:
        """Rows covering [offset, offset + k) for some 0 < k <= length, all from source 0.

        A driver chooses k so that its answer stays bounded (about a million rows) however large
        the extent. Rows are merged. An entry that cannot be right becomes a BAD row, never an
        error, so that the rest of the disk can still be had; `explain` gives the error.
        """

    def load(self, offset: int, position: int) -> bytes:
        """The contents of the PACKED grain that begins at guest `offset`, marker at `position`.

        At least the part of the grain that lies inside the extent, at most `granularity` bytes.
        """
        raise NotImplementedError

    def explain(self, offset: int) -> FormatError:
        """Why the row at guest `offset` is BAD."""
        raise NotImplementedError


ZEROS, NOTHING = -1, -2
"""In place of a file position: reads as zeros whatever a parent holds; ask the parent."""


class BlockWriter(ABC):
    """Changes one extent: the writing half of a driver. It keeps the tables; the chain moves bytes.

    `places` and `scan` may be called by many threads at any time; the rest by one at a time. Grains
    are counted from 0 in the extent. An extent without tables has grains of 1 byte.

    What makes a crash harmless: `allocate` gives room that nothing on the medium points at, the
    chain fills it, `enter` notes it in memory, and `commit` makes the bytes durable before it
    writes the first entry that points at them.
    """

    length: int
    """Guest bytes of the extent."""
    granularity: int
    """Bytes per grain."""
    storage: WritableStorage
    hides: bool
    """Whether `clear` can hide what a parent holds."""
    changing = False
    """Whether `begin` was called."""

    @abstractmethod
    def places(self, offset: int, length: int) -> Sequence[tuple[int, int, int]]:
        """Rows (begin, end, place) covering a range: a file position, `ZEROS` or `NOTHING`."""

    @abstractmethod
    def scan(self, offset: int, length: int) -> RunTable:
        """`BlockMap.scan`, with what is not committed yet."""

    @property
    def full(self) -> bool:
        """Whether so much was entered that it should be committed unasked."""
        return False

    def begin(self) -> None:
        """Mark the extent, durably, as being changed. Called before its first change."""
        self.changing = True

    def allocate(self, first: int, count: int) -> list[tuple[int, int, int, bool]]:
        """Room in the file for `count` grains from number `first`, which have none.

        As (first, count, position, blank): whether the room is known to read as zeros.
        """
        raise NotImplementedError

    def enter(self, first: int, count: int, position: int) -> None:
        """From now on these grains lie at `position`, where their bytes have been written."""
        raise NotImplementedError

    def clear(self, first: int, hide: NDArray[np.bool_]) -> None:
        """The grains from number `first` are zeros: hiding a parent's where `hide` says so."""
        raise NotImplementedError

    @abstractmethod
    def commit(self) -> None:
        """Return when all that was written and entered would survive a power cut."""

    def finish(self) -> None:
        """Commit, and take back what `begin` marked. Only if nothing went wrong."""
        self.commit()


class OpenPolicy(NamedTuple):
    """What the text inside an image may make us do, and what we overlook when asked to."""

    allow: tuple[str, ...] = ()
    """Folders, besides the disk's own, whose files its text may name. "/" allows any."""
    allow_devices: bool = False
    """Open block devices that extent lines name, for reading."""
    allow_truncated: bool = False
    """Read zeros where a file ends too early, with a warning, instead of failing."""
    allow_mismatch: bool = False
    """Open a chain although a parent's content ID is not the one its child recorded."""
    noaccess_zeros: bool = False
    """Read zeros from NOACCESS extents instead of failing."""
    single_link: bool = False
    """Open the named link alone; what it does not hold reads as a hole."""
    strict: bool = False
    """Refuse what is merely suspicious, and all that is not one self-contained file."""
    writable: bool = False
    """Open the named link for writing; its parents never are."""
    force: bool = False
    """Write into a disk although others are its children: they will no longer fit it."""
    experimental: bool = False
    """Write kinds of disk whose writing was never tried on the product they belong to."""
    ignore_locks: bool = False
    """Read a disk that another program may be writing; what is read may not fit together."""
    max_depth: int = 64
    """Links that a chain may have, at most `MAX_DEPTH`."""
    warn: Callable[[str], None] | None = None
    """Called with one line for each oddity overlooked; default: the "diskkit" logger."""

    def warning(self, text: str) -> None:
        """Report one oddity that was overlooked; in strict reading none is."""
        if self.strict:
            raise FormatError(text, advice="strict reading refuses what is merely suspicious")
        if self.warn is not None:
            self.warn(text)
        else:
            import logging

            logging.getLogger("diskkit").warning("%s", text)


class Readable(Protocol):
    """Bytes with a size, read by position: a disk, a volume of one, a cache over either."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill all of `buffer` from `offset`, or raise."""
        ...


class Closing:
    """`close()` at the end of a `with` block."""

    def close(self) -> None:
        """Give everything back. Doing so twice is fine."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()
