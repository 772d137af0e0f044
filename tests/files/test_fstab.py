# SPDX-License-Identifier: Apache-2.0
"""Which volume an fstab means, and where."""

from __future__ import annotations

import pytest

from diskkit.files.fstab import means
from diskkit.volumes import Content, Volume


def volume(number: int, name: str, kind: str = "0x83", **about: str) -> Volume:
    made = Volume([], number=number, name=name, type=kind, size=0)
    made.content = Content("ext4", about.get("label"), about.get("uuid"))
    made.part_uuid, made.part_label = about.get("part_uuid"), about.get("part_label")
    return made


VOLUMES = [
    volume(1, "p1", uuid="AA-1", label="boot disk"),
    volume(2, "p2", part_uuid="11111111-02", part_label="Data"),
    volume(3, "vg-a/root-1", "lvm"),
]


@pytest.mark.parametrize(
    ("what", "number"),
    [
        ("UUID=aa-1", 1),
        ('UUID="aa-1"', 1),
        ("LABEL=boot disk", 1),
        ("PARTUUID=11111111-02", 2),
        ("PARTLABEL=data", 2),
        ("/dev/sda1", 1),
        ("/dev/nvme0n1p2", 2),
        ("/dev/vg-a/root-1", 3),
        ("/dev/mapper/vg--a-root--1", 3),
        ("/dev/mapper/vg-a-root-1", None),
        ("UUID=", None),
        ("tmpfs", None),
        ("/dev/sda", None),
        ("/dev/sda3", None),
        ("server:/export", None),
    ],
)
def test_names(what: str, number: int | None) -> None:
    assert [v.number for v in VOLUMES if means(what, v)] == [n for n in [number] if n]
