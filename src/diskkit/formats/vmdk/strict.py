# SPDX-License-Identifier: Apache-2.0
"""Strict reading, for services that take images from strangers.

Only what one file can hold, with nothing in it that another reader might take for something else:
the rules OpenStack came to after CVE-2024-32498 and CVE-2024-40767. With `OpenPolicy.strict` every
warning is an error too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diskkit.errors import FormatError
from diskkit.units import SECTOR

if TYPE_CHECKING:
    from diskkit.formats.link import Link
    from diskkit.formats.vmdk.layout import SparseHeader

_KINDS = ("monolithicSparse", "streamOptimized")
_KEYS = frozenset({"version", "encoding", "cid", "parentcid", "isnativesnapshot", "createtype"})


def judge(link: Link, header: SparseHeader | None) -> None:
    """Raise `FormatError` for what strict reading refuses."""
    found = link.descriptor
    assert found is not None

    def refuse(field: str, value: object, problem: str) -> FormatError:
        text = f"strict reading: {problem}"
        return FormatError(text, path=link.path, structure="descriptor", field=field, value=value)

    if found.create_type not in _KINDS:
        raise refuse("createType", found.create_type, f"only {' and '.join(_KINDS)} are read")
    if header is None:
        raise refuse("createType", found.create_type, "the disk must be a single file")
    if header.descriptor_offset != SECTOR:
        at = header.descriptor_offset // SECTOR
        raise refuse("place, sector", at, "the descriptor must begin at sector 1")
    for key in found.header:
        if key.lower() not in _KEYS:
            raise refuse("key", key, "an unknown key, or one that names another file")
    for extent in found.extents:
        if "/" in (extent.name or ""):
            raise refuse("extent file name", extent.name, "it holds a slash")
