# SPDX-License-Identifier: Apache-2.0
"""VMDK: from a file to a `Link` of opened extents, by way of the table of extent kinds."""

from __future__ import annotations

from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, cast

from diskkit.errors import FormatError, UnsupportedFeature
from diskkit.formats.link import NO_PARENT, Extent, Link
from diskkit.formats.vmdk import descriptor, layout, sparse
from diskkit.formats.vmdk.opening import Opening
from diskkit.units import SECTOR

if TYPE_CHECKING:
    from collections.abc import Callable

    from diskkit.formats.vmdk.descriptor import Descriptor, ExtentLine
    from diskkit.formats.vmdk.layout import SparseHeader
    from diskkit.interfaces import BlockMap, BlockWriter, OpenPolicy, Place, Storage


class ExtentKind(NamedTuple):
    """One type of extent: who opens it and who writes it, loaded when first needed."""

    opener: str
    has_file: bool = True
    writer: str = ""
    """Empty for what cannot be written."""


EXTENT_KINDS = {
    "SPARSE": ExtentKind("sparse:open_sparse", writer="writing.hosted:write_sparse"),
    "FLAT": ExtentKind("flat:open_flat", writer="writing.flat:write_flat"),
    "VMFS": ExtentKind("flat:open_flat", writer="writing.flat:write_flat"),
    "ZERO": ExtentKind("flat:open_zero", has_file=False),
    "VMFSSPARSE": ExtentKind("cowd:open_cowd", writer="writing.cowd:write_cowd"),
    "SESPARSE": ExtentKind("sesparse:open_sesparse", writer="writing.sesparse:write_sesparse"),
    "VMFSRDM": ExtentKind("flat:open_mapping", has_file=False),
    "VMFSRDMP": ExtentKind("flat:open_mapping", has_file=False),
    "VMFSRAW": ExtentKind("flat:open_mapping", has_file=False),
    "VSANSPARSE": ExtentKind("flat:open_vsan", has_file=False),
}
"""By the word in the extent line. A new kind is a file or two and a line here."""

_FLAT_KINDS = ("FLAT", "VMFS")

_PARTS = {
    layout.MAGIC_COWD: "a redo log without its descriptor",
    layout.MAGIC_SESPARSE[:4]: "an seSparse extent without its descriptor",
}


def probe(head: bytes) -> bool:
    """Whether a file that begins with `head` (at least 4 KiB of it, if it has that) is a VMDK."""
    magic = head[:4]
    return magic in (layout.MAGIC_SPARSE, *_PARTS) or descriptor.looks_like_descriptor(head)


def open_link(storage: Storage, place: Place, policy: OpenPolicy) -> Link:
    """Open the one link whose descriptor, or whole content, `storage` holds.

    Takes over `storage`: it is closed with the link, or on failure. Raises `FormatError`.
    """
    link = Link(storage.name, storage)
    try:
        _fill(link, storage, place, policy)
        if policy.writable and not policy.force:
            from diskkit.formats.vmdk import family

            family.refuse_parent(link.path)
    except BaseException:
        link.close()
        raise
    return link


def _fill(link: Link, storage: Storage, place: Place, policy: OpenPolicy) -> None:
    text, at, header = _find_descriptor(storage, policy)
    embedded = header is not None
    found = descriptor.parse(text, path=storage.name, at=at, embedded=embedded)
    for warning in found.warnings:
        policy.warning(f"{storage.name}: {warning}")
    link.descriptor = found
    if policy.strict:
        from diskkit.formats.vmdk import strict

        strict.judge(link, header)
    link.capacity = found.capacity
    _check_consistency(link, found, header)
    files, start = _Files(link, place, policy), 0
    for line in found.extents:
        part = _open_extent(link, line, header, files, policy)
        link.extents.append(Extent(start, line, *part))
        start += line.length
    _check_overlaps(link)


def _find_descriptor(
    storage: Storage, policy: OpenPolicy
) -> tuple[bytes, int, SparseHeader | None]:
    """The descriptor's text, where it begins, and the header it was embedded behind."""
    head = storage.read(0, min(SECTOR, storage.size))
    magic = head[:4]
    if magic in _PARTS:
        raise _part_error(storage.name, f"is {_PARTS[magic]}")
    if magic == layout.MAGIC_SPARSE or magic.lower() == b"vmdk" or magic[::-1].lower() == b"vmdk":
        header = sparse.read_header(storage, policy)
        text = sparse.read_descriptor(storage, header)
        if not text:
            raise _part_error(storage.name, "is one part of a disk: it holds no descriptor")
        return text, header.descriptor_offset, header
    if storage.size > descriptor.MAX_BYTES:
        raise not_a_vmdk(storage.name, head)
    text = storage.read(0, storage.size)
    titled = head[:17].lower().startswith((b"# disk descriptor", b"#disk descriptor"))
    # A text with the usual title is meant as one: its own error says more than "not a VMDK".
    if not titled and not descriptor.looks_like_descriptor(text):
        raise not_a_vmdk(storage.name, head)
    return text, 0, None


def not_a_vmdk(path: str, head: bytes) -> FormatError:
    """The error for a file that no format claims."""
    shown = head[:8]
    problem = f"is not a VMDK: it begins with {shown!r}" if shown else "is not a VMDK: it is empty"
    if descriptor_of(path):
        return _part_error(path, problem)
    advice = "if it is a raw image, say so: --format raw"
    return FormatError(problem, path=path, structure="file", advice=advice)


def _part_error(path: str, problem: str) -> FormatError:
    """The error for an extent that was opened in place of its descriptor."""
    beside = descriptor_of(path) or "of the same name without the suffix"
    advice = f"open the descriptor file beside it, {beside}"
    return FormatError(problem, path=path, structure="file", advice=advice)


def descriptor_of(path: str) -> str:
    """The name of the descriptor of an extent's file, as VMware's tools name them; "" if none."""
    name = path.rpartition("/")[2]
    stem, dash, suffix = name.removesuffix(".vmdk").rpartition("-")
    numbered = suffix[:1] in ("s", "f") and len(suffix) >= 4 and suffix[1:].isdecimal()
    known = numbered or suffix in ("flat", "delta", "sesparse", "rdm", "rdmp")
    return f"{stem}.vmdk" if dash and stem and known and name.endswith(".vmdk") else ""


def _check_consistency(link: Link, found: Descriptor, header: SparseHeader | None) -> None:
    path = link.path
    if header is not None and (len(found.extents) != 1 or found.extents[0].kind != "SPARSE"):
        raise FormatError(
            "a descriptor inside a sparse extent must describe that extent alone",
            path=path,
            structure="descriptor",
            field="extents",
            value=", ".join(e.kind for e in found.extents[:8]),
        )
    has_cid, has_hint = found.parent_cid != NO_PARENT, found.parent_hint is not None
    if has_cid != has_hint:
        text = "a parentCID, but no hint" if has_cid else "a hint, but parentCID says no parent"
        raise FormatError(
            f"it has {text}",
            path=path,
            structure="descriptor",
            field="parentFileNameHint",
            value=found.parent_hint,
        )
    flat = [e.kind for e in found.extents if e.kind in _FLAT_KINDS]
    if has_hint and flat:
        raise FormatError(
            "only sparse extents can have a parent",
            path=path,
            structure="descriptor",
            field="extent type",
            value=flat[0],
        )
    if found.native_snapshot:
        raise UnsupportedFeature(
            "a snapshot held by the storage array: the files alone are not the disk",
            path=path,
            structure="descriptor",
            field="isNativeSnapshot",
            value="yes",
        )


def _unreadable(link: Link, opening: Opening) -> BlockMap | None:
    """The map of an extent that has no data for us, whatever its type; None if it may have."""
    line, found = opening.line, link.descriptor
    assert found is not None
    on_vsan = (line.name or "").lower().startswith("vsan:")
    if not found.encrypted and line.access != "NOACCESS" and not on_vsan:
        return None
    from diskkit.formats.vmdk import flat

    if found.encrypted:
        reason = f"the disk is encrypted: {found.encrypted}"
        return flat.refused(opening, reason, "decrypt it with the product that made it")
    if on_vsan:
        return flat.open_vsan(opening)
    if opening.policy.noaccess_zeros:
        return flat.open_zero(opening)
    reason = "the extent is marked NOACCESS: the guest may not read it"
    return flat.refused(opening, reason, "ask for zeros in its place")


def _opener(kind: str) -> tuple[Callable[[Opening], BlockMap], bool]:
    place = EXTENT_KINDS[kind]
    return cast("Callable[[Opening], BlockMap]", _load(place.opener)), place.has_file


def _load(name: str) -> object:
    module, _, function = name.partition(":")
    return getattr(import_module(f"{__name__}.{module}"), function)


def _open_extent(
    link: Link,
    line: ExtentLine,
    header: SparseHeader | None,
    files: _Files,
    policy: OpenPolicy,
) -> tuple[BlockMap, Storage | None]:
    opening = Opening(link.path, line, None, policy, header)
    unreadable = _unreadable(link, opening)
    if unreadable is not None:
        return unreadable, None
    opener, has_file = _opener(line.kind)
    storage = None
    if header is not None:
        storage = link.storages[0]
    elif has_file:
        storage = files.open(line)
    return opener(Opening(link.path, line, storage, policy, header)), storage


def make_writable(link: Link, policy: OpenPolicy) -> None:
    """Give every extent that can be written its writer, and the link its way to renew its id."""
    from diskkit.formats.vmdk.writing import judge, renewal

    judge(link, policy)
    link.renew = renewal(link, policy)
    for number, extent in enumerate(link.extents):
        name = EXTENT_KINDS[extent.line.kind].writer
        if name and extent.line.access == "RW":
            make = cast("Callable[[Link, Extent, OpenPolicy], BlockWriter]", _load(name))
            link.extents[number] = extent._replace(writer=make(link, extent, policy))


class _Files:
    """The files of one link's extents. Flat extents may share one; all others have their own."""

    def __init__(self, link: Link, place: Place, policy: OpenPolicy) -> None:
        """`place` opens the names in the link's text."""
        self._link = link
        self._place = place
        self._writable = policy.writable
        lines = link.descriptor.extents if link.descriptor and policy.writable else ()
        self._written = {e.name for e in lines if e.access == "RW"}
        """Names of files that some line lets us write to."""
        self._flat: dict[object, Storage | None] = {link.storage.identity: None}
        """By identity: the file of flat extents, else None."""
        self._named: dict[str, object] = {}
        """The identity of each that was opened."""

    def open(self, line: ExtentLine) -> Storage:
        """The file of `line`, owned by the link. It is opened once, however many lines name it."""
        assert line.name is not None
        is_flat = line.kind in _FLAT_KINDS
        if self._writable and line.name in self._named:
            # Its lock would be in our own way.
            known = self._flat[self._named[line.name]]
            if known is not None and is_flat:
                return known
            raise _extent_error(self._link, line, "names a file that another extent uses already")
        storage = self._place.open_extent(line.name, write=line.name in self._written)
        key = storage.identity
        self._named[line.name] = key
        if key not in self._flat:
            self._link.storages.append(storage)
            self._flat[key] = storage if is_flat else None
            return storage
        storage.close()
        known = self._flat[key]
        if known is not None and is_flat:
            return known
        if key == self._link.storage.identity:
            raise _extent_error(self._link, line, "names the descriptor itself")
        raise _extent_error(self._link, line, "names a file that another extent uses already")


def _check_overlaps(link: Link) -> None:
    """No two flat extents may lie on the same bytes of one file."""
    taken = [
        (str(e.storage.identity), e.line.offset, e.line)
        for e in link.extents
        if e.storage is not None and e.line.kind in _FLAT_KINDS
    ]
    taken.sort(key=lambda t: t[:2])
    for (file, begin, line), (other, after, second) in pairwise(taken):
        if file == other and after < begin + line.length:
            raise _extent_error(link, second, "overlaps another extent in the same file")


def _extent_error(link: Link, line: ExtentLine, problem: str) -> FormatError:
    return FormatError(
        problem,
        path=link.path,
        structure="descriptor",
        field=f"line {line.line}, extent file name",
        value=line.name,
    )
