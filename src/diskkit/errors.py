# SPDX-License-Identifier: Apache-2.0
"""The errors: whose fault it is, what exactly is wrong, and what to do about it.

Every error diskkit raises on purpose is a `DiskkitError`. Its class says whose fault it is
(`UsageError`: the caller; `FormatError`: the image; `StorageError`: the place the bytes live in;
`RemoteError`: the other end of a connection); its text names the thing, the reason and, where there
is one, the way out. Texts never carry raw control characters, whatever an image holds. `exit_code`
is the command line's.
"""

from __future__ import annotations


def printable(value: object) -> str:
    """`value` as text that cannot steer a terminal: control characters escaped, length bounded."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= 240 else text[:237] + "..."


class DiskkitError(Exception):
    """Base of all errors diskkit raises on purpose."""

    exit_code = 1


class UsageError(DiskkitError, ValueError):
    """The caller asked for something that makes no sense; nothing was touched."""

    exit_code = 2


class OutOfRange(UsageError):
    """A range does not lie inside the disk."""

    exit_code = 1


class FormatError(DiskkitError):
    """The image breaks the rules of its format.

    Attributes: `path` (the file), `structure` (such as "sparse header"), `field`, `offset` (bytes
    into the file, or None), `value` (what was found), `problem` (the rule it breaks) and `advice`
    (what to do, or ""). `code` is the stable short name that `check` reports.
    """

    def __init__(
        self,
        problem: str,
        *,
        path: str = "",
        structure: str = "",
        field: str = "",
        offset: int | None = None,
        value: object = None,
        advice: str = "",
    ) -> None:
        """Keep the parts; `str()` of the error joins them into one line."""
        super().__init__(problem)
        self.path = path
        self.structure = structure
        self.field = field
        self.offset = offset
        self.value = value
        self.problem = problem
        self.advice = advice

    @property
    def code(self) -> str:
        """A stable short name, such as "sparse-header.grainSize"."""
        parts = (self.structure or type(self).__name__, self.field)
        return ".".join(p.replace(" ", "-") for p in parts if p)

    @property
    def what(self) -> str:
        """Everything but the path: structure, field, place, value, rule, advice."""
        text = self.field
        if self.offset is not None:
            text += f" at byte {self.offset}" if text else f"at byte {self.offset}"
        if self.value is not None:
            text += f" is {printable(self.value)}" if text else printable(self.value)
        parts = [p for p in (self.structure, text, self.problem) if p]
        return printable_line(": ".join(parts) + (f" ({self.advice})" if self.advice else ""))

    def __str__(self) -> str:
        """One line: file, structure, field, offset, value, rule, advice."""
        return f"{printable(self.path)}: {self.what}" if self.path else self.what


def printable_line(text: str) -> str:
    """`text` with control characters escaped, whole however long."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class UnsupportedFeature(FormatError):
    """The image is valid, but its data cannot or must not be had this way; the text says why."""


class ChainError(FormatError):
    """The links of a chain do not belong together, or one is missing."""


class StorageError(DiskkitError, OSError):
    """Bytes could not be moved. Names the file and, for reads and writes, the place in it."""

    def __init__(self, name: str, problem: str, *, errno: int | None = None) -> None:
        """`name` is the file or device, `problem` the reason in words."""
        super().__init__(f"{printable(name)}: {problem}")
        self.errno = errno
        self.name = name

    def __str__(self) -> str:
        """The one line given at construction."""
        return str(self.args[0])


class LockedError(StorageError):
    """Another program uses the file in a way that does not go with what was asked."""

    exit_code = 11


class LostWrites(StorageError):
    """A flush failed: what was written since the last one may be lost, and nobody can tell."""


class ShortRead(StorageError):
    """A file ended before the bytes that its size promised: it was cut while in use."""


class RemoteError(DiskkitError):
    """A server, or a client of ours, did not do what was asked of it."""

    transient = False
    """Whether trying again later may help."""

    def __str__(self) -> str:
        """One line; what the other side said, too, cannot steer a terminal."""
        return printable_line(super().__str__())


class ConnectionLost(RemoteError):
    """The connection broke, or could not be made."""

    transient = True


class AccessDenied(RemoteError):
    """The other side wants to know who asks, or does not let them."""

    exit_code = 12


class ProtocolError(RemoteError):
    """The other side broke the rules of the protocol; nothing it says is believed any more."""
