# SPDX-License-Identifier: Apache-2.0
"""The configuration file of `InitEx`: `name=value` or `name="value"`, `#` begins a comment."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from diskkit.vixdisklib.failures import vix_error

OLD_PARAMS = "diskkit.connectParams.allowOld"
"""1: parameters that a program declares itself have all features, and give no warning."""
ALLOW = "diskkit.open.allow"
"""Folders, separated by colons, besides a disk's own, whose files it may name; / allows any."""
LOG_FILE = "log.fileName"
LOG_LEVEL = "vixDiskLib.transport.LogLevel"
_INFO_LEVEL, _MOST_LEVEL = 4, 6
_MOST_BYTES = 1 << 20

WITHOUT_EFFECT = (
    "tmpDirectory",
    "log.fileLevel",
    "vixDiskLib.nfc.LogLevel",
    "vixDiskLib.nfc.AcceptTimeoutMs",
    "vixDiskLib.nfc.RequestTimeoutMs",
    "vixDiskLib.nfc.ReadTimeoutsMs",
    "vixDiskLib.nfc.ReadTimeoutMs",
    "vixDiskLib.nfc.WriteTimeoutsMs",
    "vixDiskLib.nfc.WriteTimeoutMs",
    "vixDiskLib.nfcFssrvr.TimeoutMs",
    "vixDiskLib.nfcFssrvrWrite.TimeoutMs",
    "vixDiskLib.nfcAio.Session.BufSizeIn64KB",
    "vixDiskLib.nfcAio.Session.BufSizeIn64K",
    "vixDiskLib.nfcAio.Session.BufCount",
    "vixDiskLib.disklib.EnableCache",
    "vixDiskLib.linuxSSL.verifyCertificates",
    "vixDiskLib.ssl.enableSslFIPS",
    "vixDiskLib.transport.san.blacklist",
    "vixDiskLib.transport.san.whitelist",
    "vixDiskLib.transport.san.denyList",
    "vixDiskLib.transport.san.allowList",
    "vixDiskLib.transport.hotadd.NoNfcSession",
    "vixDiskLib.phoneHome.EnablePhoneHome",
    "vixDiskLib.phoneHome.ProductName",
    "vixDiskLib.phoneHome.ProductVersion",
    "vixMntapi.cfg.LogLevel",
)
"""Known keys that change nothing here, because what they are about does not exist here."""
_SILENT = {key.lower(): key for key in WITHOUT_EFFECT}


@dataclass(slots=True)
class Config:
    """What a configuration file asked for."""

    allow_old_params: bool = False
    allow: tuple[str, ...] = ()
    log_file: str | None = None
    informing: bool = True
    """Whether lines that only inform are logged."""
    notes: list[str] = field(default_factory=list)
    """What to tell in the log about the file itself."""


def read_config(path: str) -> Config:
    """The configuration in `path`. Raises `VixError` if it cannot be read, or is no text."""
    with open(path, "rb") as file:  # noqa: PTH123 - a name from a C program stays as it is
        raw = file.read(_MOST_BYTES + 1)
    if len(raw) > _MOST_BYTES:
        raise vix_error("ARGUMENT_TOO_BIG", f"{path}: has more than {_MOST_BYTES} bytes")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise vix_error("INVALID_UTF8_STRING", f"{path}: {error}") from error
    config = Config()
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, value = stripped.partition("=")
        where = f"{path}: line {number}"
        if not equals:
            config.notes.append(f"{where}: is not of the form name=value; ignored")
            continue
        _take(config, where, name.strip(), _plain(value.strip()))
    return config


def _plain(value: str) -> str:
    if value.startswith('"'):
        return value[1:].partition('"')[0]
    return value.partition("#")[0].rstrip()


def _take(config: Config, where: str, name: str, value: str) -> None:
    key = name.lower()
    if key == OLD_PARAMS.lower():
        if value in ("0", "1"):
            config.allow_old_params = value == "1"
        else:
            config.notes.append(f"{where}: {name} is {value!r}, neither 0 nor 1; ignored")
    elif key == ALLOW.lower():
        folders = tuple(part for part in value.split(":") if part)
        config.allow = tuple(f for f in folders if os.path.isabs(f))  # noqa: PTH117 - stays text
        if len(config.allow) < len(folders):
            config.notes.append(f"{where}: {name} has folders that are not whole paths; ignored")
    elif key == LOG_FILE.lower():
        config.log_file = value or None
    elif key == LOG_LEVEL.lower():
        if value.isascii() and value.isdecimal() and int(value[:9]) <= _MOST_LEVEL:
            config.informing = int(value) >= _INFO_LEVEL
        else:
            config.notes.append(f"{where}: {name} is {value!r}, not 0 to {_MOST_LEVEL}; ignored")
    elif key in _SILENT:
        config.notes.append(f"{where}: {name} has no effect here")
