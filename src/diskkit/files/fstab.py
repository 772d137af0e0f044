# SPDX-License-Identifier: Apache-2.0
"""Where a Linux guest mounts its volumes, by its /etc/fstab (fstab(5))."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from diskkit.files.walk import NotThere, resolve

if TYPE_CHECKING:
    from diskkit.files.filesystem import FileSystem
    from diskkit.volumes import Volume

MAX_TEXT = 1 << 20
MAX_ROWS = 500
"""Lines believed; each is compared with every volume."""
_OCTAL = re.compile(r"\\([0-7]{3})")
_PARTITION = re.compile(r"/dev/(?:[hsv]d[a-z]|xvd[a-z]|(?:nvme\d+n|mmcblk)\d+p)(\d+)")


def read_fstab(fs: FileSystem) -> list[tuple[str, str]]:
    """What is mounted, as fstab names it, and where; nothing if there is no such file."""
    try:
        found = resolve(fs, b"/etc/fstab")
    except NotThere:
        return []
    if not found.node.is_file or found.node.problem:
        return []
    raw = fs.read_at(found.node.id, 0, min(found.node.size, MAX_TEXT))
    rows = []
    for line in raw.decode("utf-8", "replace").splitlines():
        fields = line.split()
        if len(fields) >= 2 and not fields[0].startswith("#") and fields[1].startswith("/"):
            rows.append((_plain(fields[0]), _plain(fields[1])))
    return rows[:MAX_ROWS]


def means(what: str, volume: Volume) -> bool:
    """Whether fstab names a volume so.

    Names of devices are taken for the first disk's: what a guest calls which disk is not known.
    """
    content = volume.content
    tag, equals, value = what.partition("=")
    if equals:
        value = value.strip("\"'").lower()
        values = {
            "UUID": content.uuid if content else None,
            "LABEL": content.label if content else None,
            "PARTUUID": volume.part_uuid,
            "PARTLABEL": volume.part_label,
        }
        return bool(value) and (values.get(tag.upper()) or "").lower() == value
    partition = _PARTITION.fullmatch(what)
    if partition is not None:
        return volume.name == f"p{partition[1]}"
    if volume.type != "lvm":
        return False
    group, _, name = volume.name.partition("/")
    # The device mapper doubles dashes, because one dash stands between group and volume.
    mapped = f"{group.replace('-', '--')}-{name.replace('-', '--')}"
    return what in (f"/dev/{group}/{name}", f"/dev/mapper/{mapped}")


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8) & 0x7F), text)
