# SPDX-License-Identifier: Apache-2.0
"""Which operating system a filesystem holds, told by its own files. Nothing is run.

Linux: /etc/os-release and older files (os-release(5)); Windows: the hives SOFTWARE and SYSTEM. What
the guest says of itself is reported, not verified.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any, NamedTuple

from diskkit.errors import FormatError, printable
from diskkit.files.walk import NotThere, resolve

if TYPE_CHECKING:
    from diskkit.files.filesystem import FileSystem, RegistryValue

MAX_TEXT = 65536
FIRST_WINDOWS_11 = 22000
"""Build from which the product is Windows 11, whatever its ProductName says."""

_RELEASES = (b"/etc/os-release", b"/usr/lib/os-release", b"/etc/lsb-release")
_ONE_LINE = (b"/etc/redhat-release", b"/etc/SuSE-release", b"/etc/debian_version")
_ELF_64 = 2
_MACHINES = {3: "x86", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64", 22: "s390x"}
_CONFIG = b"/Windows/System32/config/"
_VERSION_KEY = "Microsoft\\Windows NT\\CurrentVersion"


class GuestOS(NamedTuple):
    """What the files say; "" and None where they say nothing."""

    family: str
    """"linux" or "windows"."""
    vendor: str
    """Microsoft, or the distribution's id."""
    name: str
    """For people: "Debian GNU/Linux 12 (bookworm)", "Windows Server 2022 Datacenter"."""
    version: str
    major: int | None
    minor: int | None
    edition: str
    architecture: str
    """"x86_64", "aarch64", "x86" ..."""
    hostname: str
    folder: str
    """Where the system is: "/", or "/Windows"."""

    @property
    def is_64_bit(self) -> bool | None:
        """Whether it is for 64 bits; None if unknown."""
        return self.architecture.endswith("64") or self.architecture == "s390x" or None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self._asdict(), "is_64_bit": self.is_64_bit}


def detect(fs: FileSystem) -> GuestOS | None:
    """The system that begins on this filesystem, or None if there is none.

    Raises `FormatError` or `StorageError` where a file that would tell is there and cannot be read.
    """
    if fs.kind == "ntfs":
        return _windows(fs)
    return _linux(fs)


def _linux(fs: FileSystem) -> GuestOS | None:
    for path in _RELEASES:
        fields = _fields(_text(fs, path))
        if fields:
            return _from_release(fs, fields)
    for path in _ONE_LINE:
        line = _text(fs, path).split("\n", 1)[0].strip()
        if line:
            vendor = "debian" if path.endswith(b"debian_version") else line.split()[0].lower()
            name = f"Debian {line}" if vendor == "debian" else line
            version = re.search(r"\d+(\.\d+)*", line)
            return _linux_os(fs, vendor, name, version.group() if version else "", "")
    return None


def _from_release(fs: FileSystem, fields: dict[str, str]) -> GuestOS:
    vendor = fields.get("ID") or fields.get("DISTRIB_ID", "").lower()
    version = fields.get("VERSION_ID") or fields.get("DISTRIB_RELEASE", "")
    name = fields.get("PRETTY_NAME") or fields.get("DISTRIB_DESCRIPTION") or f"{vendor} {version}"
    return _linux_os(fs, vendor, name, version, fields.get("VARIANT", ""))


def _linux_os(fs: FileSystem, vendor: str, name: str, version: str, edition: str) -> GuestOS:
    major, minor = _numbers(version)
    hostname = _text(fs, b"/etc/hostname").split("\n", 1)[0].strip()
    return GuestOS(
        "linux",
        printable(vendor),
        printable(name),
        printable(version),
        major,
        minor,
        printable(edition),
        _elf_machine(fs),
        printable(hostname),
        "/",
    )


def _elf_machine(fs: FileSystem) -> str:
    """The processor that the shell was built for."""
    for path in (b"/bin/sh", b"/sbin/init", b"/usr/bin/env"):
        head = _bytes(fs, path, 20)
        if len(head) == 20 and head[:4] == b"\x7fELF":
            order = "big" if head[5] == 2 else "little"
            number = int.from_bytes(head[18:20], order)  # type: ignore[arg-type]
            unknown = "unknown64" if head[4] == _ELF_64 else "unknown"
            return _MACHINES.get(number, unknown)
    return ""


def _fields(text: str) -> dict[str, str]:
    """KEY=value, quoted as a shell would; lines that are not so are passed over."""
    found = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if not equals or not re.fullmatch(r"[A-Z][A-Z0-9_]*", key):
            continue
        try:
            words = shlex.split(value)
        except ValueError:
            continue
        found[key] = words[0] if words else ""
    return found


def _numbers(version: str) -> tuple[int | None, int | None]:
    found = [int(part) for part in re.findall(r"\d{1,9}", version)[:2]]
    return (found[0] if found else None), (found[1] if len(found) > 1 else None)


# --- Windows ----------------------------------------------------------------------------------


def _windows(fs: FileSystem) -> GuestOS | None:
    names = ("ProductName", "CurrentBuild", "EditionID", "CurrentVersion", "DisplayVersion")
    numbers = ("CurrentMajorVersionNumber", "CurrentMinorVersionNumber")
    found = hive_values(fs, b"SOFTWARE", [(_VERSION_KEY, name) for name in (*names, *numbers)])
    if found is None:
        return None
    product, build, edition, old, display = map(_word, found[:5])
    major, minor = found[5:]
    if not isinstance(major, int) or not isinstance(minor, int):
        # Before Windows 10 there was a text only: "6.3".
        major, minor = _numbers(old)
    if build.isdecimal() and int(build) >= FIRST_WINDOWS_11:
        product = product.replace("Windows 10", "Windows 11")
    architecture, hostname = _system(fs)
    version = ".".join(str(v) for v in (major, minor, build) if v not in (None, ""))
    return GuestOS(
        "windows",
        "Microsoft",
        printable(f"{product} {display}".strip()),
        printable(version),
        major,
        minor,
        printable(edition),
        architecture,
        printable(hostname),
        "/Windows",
    )


def _system(fs: FileSystem) -> tuple[str, str]:
    """Architecture and name of the computer, from the control set in use."""
    try:
        return _system_of(fs)
    except FormatError:
        # The first hive was good, and told which system it is.
        return "", ""


def _system_of(fs: FileSystem) -> tuple[str, str]:
    current = hive_values(fs, b"SYSTEM", [("Select", "Current")])
    number = current[0] if current and isinstance(current[0], int) else 1
    control = f"ControlSet{number:03d}\\Control\\"
    values = hive_values(
        fs,
        b"SYSTEM",
        [
            (control + "Session Manager\\Environment", "PROCESSOR_ARCHITECTURE"),
            (control + "ComputerName\\ComputerName", "ComputerName"),
        ],
    )
    named, hostname = map(_word, values or ("", ""))
    known = {"AMD64": "x86_64", "ARM64": "aarch64", "x86": "x86"}
    architecture = known.get(named, "")
    if not architecture and _there(fs, b"/Program Files (x86)"):
        architecture = "x86_64"
    return architecture, hostname


def _word(value: RegistryValue) -> str:
    """What is a text, or a number as one; else nothing."""
    return str(value) if isinstance(value, str | int) else ""


def hive_values(
    fs: FileSystem, name: bytes, wanted: list[tuple[str, str]]
) -> list[RegistryValue] | None:
    """Values of a hive of the system; None if there is none."""
    try:
        found = resolve(fs, _CONFIG + name)
    except NotThere:
        return None
    return fs.registry(found.node.id, wanted) if found.node.is_file else None


def _there(fs: FileSystem, path: bytes) -> bool:
    try:
        resolve(fs, path)
    except NotThere:
        return False
    return True


def _bytes(fs: FileSystem, path: bytes, length: int) -> bytes:
    """The start of a file; nothing if there is none."""
    try:
        found = resolve(fs, path)
    except NotThere:
        return b""
    if not found.node.is_file or found.node.problem:
        return b""
    return fs.read_at(found.node.id, 0, min(length, found.node.size))


def _text(fs: FileSystem, path: bytes) -> str:
    return _bytes(fs, path, MAX_TEXT).decode("utf-8", "replace")
