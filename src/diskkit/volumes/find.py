# SPDX-License-Identifier: Apache-2.0
"""`find_volumes`: everything on a disk, or on several that belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from diskkit.errors import FormatError, StorageError, UnsupportedFeature, UsageError
from diskkit.volumes.gpt import LDM_TYPES
from diskkit.volumes.identify import Content, identify
from diskkit.volumes.lvm import PhysicalVolume, as_volume, logical_volumes, read_physical
from diskkit.volumes.partitions import LDM_PARTITION, find_partitions

if TYPE_CHECKING:
    from diskkit.interfaces import Readable
    from diskkit.volumes.volume import Volume


class VolumeTable(NamedTuple):
    """What was found."""

    scheme: str
    """Of the first disk: "mbr", "gpt" or "none"."""
    volumes: list[Volume]
    """Partitions in the order of the table, then logical volumes."""
    warnings: list[str]
    """What is odd, and did not keep anything from being listed."""
    sector_size: int

    def volume(self, name: str | int) -> Volume:
        """The one with this number or name ("p2", "vg0/root"). Raises `UsageError`."""
        for volume in self.volumes:
            if str(name) in (str(volume.number), volume.name):
                return volume
        known = ", ".join(f"{v.number} ({v.name})" for v in self.volumes) or "none"
        # It may be missing for a reason: a key that does not fit, a damaged table.
        hints = "".join(f"; {text}" for text in self.warnings)
        raise UsageError(f"no volume {name}: there are {known}{hints}")

    def as_dict(self) -> dict[str, Any]:
        """The JSON document of `diskkit volumes`."""
        return {
            "scheme": self.scheme,
            "sector_size": self.sector_size,
            "volumes": [_row(volume) for volume in self.volumes],
            "warnings": self.warnings,
        }


def _row(volume: Volume) -> dict[str, Any]:
    content = volume.content or Content("", None, None)
    return {
        "number": volume.number,
        "name": volume.name,
        "offset": volume.offset,
        "length": volume.length,
        "type": volume.type,
        "type_name": volume.type_name or None,
        "filesystem": content.filesystem or None,
        "label": content.label,
        "uuid": content.uuid,
        "part_label": volume.part_label,
        "part_uuid": volume.part_uuid,
        "problem": str(volume.problem) if volume.problem else None,
    }


def find_volumes(*disks: Readable, key: bytes | None = None) -> VolumeTable:
    """Partitions and logical volumes of a disk, each with what it holds.

    More disks are looked at for parts of logical volumes that begin on the first, and for their
    own volumes. With `key`, LUKS volumes that it opens are listed with what is inside; one
    that it does not open is a warning. Raises `FormatError` if the first has a partition table that
    cannot be read, and what reading it raises. A volume that cannot be had is listed with its
    `problem`.
    """
    if not disks:
        raise UsageError("find_volumes: name at least one disk")
    warnings: list[str] = []
    volumes: list[Volume] = []
    schemes: list[tuple[str, int]] = []
    for place, disk in enumerate(disks):
        found = find_partitions(disk, warnings.append)
        schemes.append((found.scheme, found.sector_size))
        for volume in found.volumes:
            if place:
                volume.name = f"d{place + 1}{volume.name}"
                volume.number += max((v.number for v in volumes), default=0)
            _look(volume, warnings)
        volumes += found.volumes
    _unlock(volumes, 0, key, warnings)
    outer = len(volumes)
    physical = _physical(volumes, warnings)
    number = max((v.number for v in volumes), default=0)
    for logical in logical_volumes(physical, warnings.append):
        number += 1
        volume = as_volume(logical, number)
        _look(volume, warnings)
        volumes.append(volume)
    _unlock(volumes, outer, key, warnings)
    scheme, sector_size = schemes[0]
    return VolumeTable(scheme, volumes, warnings, sector_size)


def _look(volume: Volume, warnings: list[str]) -> None:
    if volume.problem is not None:
        return
    try:
        volume.content = identify(volume)
    except (FormatError, StorageError) as error:
        warnings.append(f"volume {volume.name}: cannot tell what it holds: {error}")
    if volume.type == f"0x{LDM_PARTITION:02x}" or volume.type in LDM_TYPES:
        # The filesystem that may show at the start belongs to a volume of the dynamic disk.
        volume.content = Content("ldm", None, None)
        volume.problem = UnsupportedFeature(
            "a part of a Windows dynamic disk (LDM), whose volumes are not known",
            structure=f"partition {volume.number}",
        )


def _unlock(volumes: list[Volume], begin: int, key: bytes | None, warnings: list[str]) -> None:
    """Add what is inside of the LUKS volumes from number `begin` of the list on."""
    if key is None:
        return
    from diskkit.volumes.luks import unlock

    for volume in volumes[begin:]:
        if volume.content is None or not volume.content.filesystem.startswith("luks"):
            continue
        try:
            inside = unlock(volume, key, max(v.number for v in volumes) + 1)
        except (FormatError, UsageError) as error:
            warnings.append(f"volume {volume.name}: {error}")
            continue
        _look(inside, warnings)
        volumes.append(inside)


def _physical(volumes: list[Volume], warnings: list[str]) -> list[PhysicalVolume]:
    found = []
    for volume in volumes:
        if volume.content is not None and volume.content.filesystem == "lvm2":
            try:
                found.append(read_physical(volume))
            except FormatError as error:
                warnings.append(f"volume {volume.name}: {error}")
    return found
