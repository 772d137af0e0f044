# SPDX-License-Identifier: Apache-2.0
"""The text descriptor, in its own file or inside a sparse extent."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from .common import SECTOR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

DEFAULT_DDB: Mapping[str, str] = {
    "adapterType": "lsilogic",
    "geometry.cylinders": "20",
    "geometry.heads": "64",
    "geometry.sectors": "32",
    "virtualHWVersion": "7",
}


def descriptor(
    create_type: str,
    extents: Sequence[str],
    *,
    cid: str = "12345678",
    parent_cid: str = "ffffffff",
    hint: str | None = None,
    header: Sequence[str] = (),
    ddb: Mapping[str, str] | None = None,
    version: int = 1,
    encoding: str | None = "UTF-8",
    after_extents: Sequence[str] = (),
    first_line: str = "# Disk DescriptorFile",
) -> str:
    """Descriptor text with LF line ends.

    ``header`` adds whole lines before createType, ``after_extents`` (change tracking) before the
    database. ``ddb`` keys come without their ``ddb.`` prefix; None means a small default set.
    """
    lines = [first_line, f"version={version}"]
    if encoding is not None:
        lines.append(f'encoding="{encoding}"')
    lines += [f"CID={cid}", f"parentCID={parent_cid}", *header, f'createType="{create_type}"']
    if hint is not None:
        lines.append(f'parentFileNameHint="{hint}"')
    lines += ["", "# Extent description", *extents, ""]
    if after_extents:
        lines += [*after_extents, ""]
    lines += ["# The Disk Data Base ", "#DDB", ""]
    lines += [
        f'ddb.{key} = "{value}"' for key, value in (DEFAULT_DDB if ddb is None else ddb).items()
    ]
    return "\n".join(lines) + "\n"


def write_descriptor(
    path: Path,
    create_type: str,
    extents: Sequence[str],
    *,
    cid: str = "12345678",
    parent_cid: str = "ffffffff",
    hint: str | None = None,
    header: Sequence[str] = (),
    ddb: Mapping[str, str] | None = None,
    version: int = 1,
    encoding: str | None = "UTF-8",
    after_extents: Sequence[str] = (),
    codec: str = "utf-8",
    eol: str = "\n",
) -> None:
    """Write a descriptor file; ``codec`` is how it is stored, ``encoding`` what it claims."""
    text = descriptor(
        create_type,
        extents,
        cid=cid,
        parent_cid=parent_cid,
        hint=hint,
        header=header,
        ddb=ddb,
        version=version,
        encoding=encoding,
        after_extents=after_extents,
    )
    path.write_bytes(text.replace("\n", eol).encode(codec))


def pad_text(text: str, sectors: int) -> bytes:
    """Embedded form: the text, then NULs up to the end of its area."""
    raw = text.encode()
    if len(raw) > sectors * SECTOR:
        raise ValueError(f"descriptor of {len(raw)} bytes does not fit {sectors} sectors")
    return raw.ljust(sectors * SECTOR, b"\0")


def text_replace(path: Path, old: str, new: str) -> None:
    """Edit the descriptor of ``path``, whether it is the whole file or embedded in an extent.

    All places of ``old`` change. An embedded area keeps its size and stays NUL-padded.
    """
    before, after = old.encode(), new.encode()
    with path.open("r+b") as f:
        head = f.read(SECTOR)
        embedded = head[:4] in (b"KDMV", b"kdmv")
        start, area = 0, path.stat().st_size
        if embedded:
            offset, size = struct.unpack_from("<QQ", head, 28)
            if not offset or not size:
                raise ValueError(f"{path.name} has no embedded descriptor")
            start, area = offset * SECTOR, size * SECTOR
        f.seek(start)
        text = f.read(area)
        if embedded:
            text = text.partition(b"\0")[0]
        if before not in text:
            raise ValueError(f"{old!r} is not in the descriptor of {path.name}")
        text = text.replace(before, after)
        if embedded:
            if len(text) > area:
                raise ValueError(f"descriptor grows to {len(text)} bytes, room for {area}")
            text = text.ljust(area, b"\0")
        f.seek(start)
        f.write(text)
        if not embedded:
            f.truncate()
