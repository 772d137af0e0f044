# SPDX-License-Identifier: Apache-2.0
"""A volume's files by the kernel's own driver: FUSE file → loop device → mount(2). For root.

The FUSE mount leaves the file tree as soon as the loop device has the file. From then on each part
is held by the one above it alone: when the folder is unmounted, by whomever, the kernel gives the
loop device back, with it the file and the FUSE mount, and the server sees that it is done. After a
killed server nothing is left but the folder itself.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from diskkit.errors import StorageError, UnsupportedFeature
from diskkit.fuse import loop, mounting
from diskkit.fuse.servers import Note, Reader, notes

if TYPE_CHECKING:
    from diskkit.fuse.servers import Writer
    from diskkit.volumes import Volume

_NOSUID, _NODEV, _RDONLY = 2, 4, 1
_PATIENCE = 15
"""Seconds in which a server ends once its folder is gone; else the volume is in use elsewhere."""
_GLANCE = 0.01


class NoRoot(UnsupportedFeature):
    """The kernel mounts for root only."""


class NoDriver(UnsupportedFeature):
    """This kernel has no driver for the filesystem."""


class Driver(NamedTuple):
    """How the kernel mounts a filesystem."""

    names: tuple[str, ...]
    """The drivers that can, the best first."""
    untouched: str = ""
    """Options that keep a journal from being replayed, for mounts that must change nothing."""
    always: str = ""


# What to do about errors is written in the superblock, too, and may be: let the machine panic.
_KEEP_GOING = "errors=remount-ro"
DRIVERS = {
    "ext2": Driver(("ext2", "ext4"), always=_KEEP_GOING),
    "ext3": Driver(("ext3", "ext4"), "noload", _KEEP_GOING),
    "ext4": Driver(("ext4",), "noload", _KEEP_GOING),
    # A copy of a disk has the same UUID as the disk, which may be mounted on this machine.
    "xfs": Driver(("xfs",), "norecovery", "nouuid"),
    "btrfs": Driver(("btrfs",), "rescue=nologreplay"),
    "ntfs": Driver(("ntfs3",)),
    "fat12": Driver(("vfat",)),
    "fat16": Driver(("vfat",)),
    "fat32": Driver(("vfat",)),
    "exfat": Driver(("exfat",)),
    "f2fs": Driver(("f2fs",), "norecovery"),
    "squashfs": Driver(("squashfs",)),
    "erofs": Driver(("erofs",)),
    "iso9660": Driver(("iso9660",)),
}
"""Filesystem, as volumes are told it: how."""


def known_to_kernel() -> set[str]:
    """The drivers that this kernel has now."""
    text = Path("/proc/filesystems").read_text(encoding="ascii")
    return {line.split("\t")[1] for line in text.splitlines() if line.startswith("\t")}


def driver_for(volume: Volume) -> tuple[str, Driver]:
    """Name and options of the driver for a volume. Raises where none of this can work.

    `UnsupportedFeature`, `NoRoot` and `NoDriver` say what is missing and what can be done instead,
    `NoLoop` that there are no loop devices.
    """
    if volume.problem is not None:
        raise volume.problem
    where = f"volume {volume.name}"
    kind = volume.content.filesystem if volume.content else ""
    driver = DRIVERS.get(kind)
    if driver is None:
        text = f"{kind} is not mounted by the kernel" if kind else "no filesystem was recognised"
        locked = kind.startswith("luks")
        advice = f"give its key, and name {volume.name}.luks" if locked else ""
        raise UnsupportedFeature(text, structure=where, advice=advice)
    advice = "without --writable, --overlay and --kernel its files are shown by readers"
    if kind in ("btrfs", "f2fs", "squashfs", "erofs", "iso9660", "exfat"):
        advice = "and there is no reader for its files"
    if os.geteuid():
        text = "only root may have the kernel mount it"
        raise NoRoot(text, structure=where, advice=advice)
    here = known_to_kernel()
    for name in driver.names:
        if name in here:
            loop.check_usable()
            return name, driver
    text = f"this kernel has no driver for {kind}"
    raise NoDriver(text, structure=where, advice=advice)


def mount_volume(source: Path, folder: str, volume: Volume, writer: Writer, note: Note) -> Note:
    """Mount the volume that is the file `source` in a FUSE mount, which leaves the file tree.

    What the kernel says becomes a `StorageError`. Returns the note with the loop device, after
    writing it down.
    """
    name, driver = driver_for(volume)
    flags = os.O_RDWR if note.writable else os.O_RDONLY
    file = os.open(source, flags | os.O_CLOEXEC)
    try:
        held = loop.attach(file, note.label.encode(), read_only=not note.writable)
    finally:
        os.close(file)
    try:
        mounting.unmount(str(source.parent), lazy=True)
        source.parent.rmdir()
        options = [driver.always, "" if note.writable else driver.untouched]
        note = note._replace(loop=held.path)
        writer.write(note)
        _mount(held.path, folder, name, ",".join(filter(None, options)), writable=note.writable)
    finally:
        # Once it is mounted, the mount keeps it; else nothing does.
        os.close(held.device)
    return note


def _mount(device: str, folder: str, name: str, options: str, *, writable: bool) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _NOSUID | _NODEV | (0 if writable else _RDONLY)
    words = (device.encode(), os.fsencode(folder), name.encode(), flags, options.encode())
    if libc.mount(*words):
        number = ctypes.get_errno()
        reasons = {
            errno.EINVAL: "it finds the filesystem wrong",
            errno.EUCLEAN: "it finds the filesystem damaged",
            errno.EROFS: "it cannot be mounted without being changed: use --overlay",
        }
        text = reasons.get(number, os.strerror(number))
        raise StorageError(folder, f"the kernel's {name} does not mount it: {text}", errno=number)


def kernel_mounts() -> list[tuple[Reader, Note]]:
    """Volumes that the kernel has mounted for us, newest last; open notes, the caller closes.

    What dead servers left behind that is mounted nowhere any more is removed on the way.
    """
    # In this order: a server that was dead before has mounted nothing since.
    known = [(reader, reader.note, reader.alive()) for reader in notes()]
    sources = {(row.source, row.folder) for row in mounting.rows()}
    found = []
    for reader, note, alive in known:
        if note is not None and loop.label_of(note.loop) == note.label.encode():
            if (note.loop, note.folder) in sources:
                found.append((reader, note))
                continue
        elif not alive:
            reader.remove()
        reader.close()
    return found


def unmount_volume(reader: Reader, note: Note, *, lazy: bool) -> None:
    """Take the folder away, and return when all is durable and the server has ended.

    With `lazy`, it is not waited for while somebody is inside. Raises `StorageError` if it is in
    use, if the server could not write all, or if it died with something to write.
    """
    try:
        mounting.unmount(note.folder, lazy=lazy)
    except StorageError as error:
        if error.errno != errno.EINVAL:  # others have just unmounted it
            raise
    patience = time.monotonic() + _PATIENCE
    # The kernel gives the loop device back a little later, and the server sees that.
    while reader.alive() or loop.label_of(note.loop) == note.label.encode():
        if lazy:
            return
        if time.monotonic() > patience and loop.label_of(note.loop) == note.label.encode():
            text = "is unmounted here, but still in use elsewhere"
            raise StorageError(note.folder, text)
        time.sleep(_GLANCE)
    ended = reader.ended()
    if ended:
        raise StorageError(note.folder, f"what was written may be lost: {ended}")
    if ended is None:
        reader.remove()
        if note.writable:
            text = "is unmounted, but its server had died: what was not flushed before is lost"
            raise StorageError(note.folder, text)
