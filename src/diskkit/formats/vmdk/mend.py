# SPDX-License-Identifier: Apache-2.0
"""Looking at one link, broken as it may be, and planning what mends it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diskkit.errors import FormatError, UnsupportedFeature
from diskkit.formats.vmdk import (
    descriptor,
    descriptor_of,
    family,
    layout,
    mending_cowd,
    mending_hosted,
    mending_stream,
    mending_text,
    open_link,
    sparse,
)
from diskkit.formats.vmdk.cowd import CowdScheme
from diskkit.formats.vmdk.examine import examine
from diskkit.formats.vmdk.mending import Mend, Patch, Plan, Stage, View, Views
from diskkit.formats.vmdk.sparse import SparseMap
from diskkit.formats.vmdk.tablemap import TableMap
from diskkit.problem import from_error
from diskkit.units import SECTOR

if TYPE_CHECKING:
    from diskkit.formats.link import Extent, Link
    from diskkit.interfaces import OpenPolicy, Place, Storage

_ATTEMPTS = 8
_MENDABLE = ("SPARSE", "VMFSSPARSE")
_UNCLEAN_AT = 72


class Patient:
    """One link and its files, as they are and as the plan would have them."""

    def __init__(self, storage: Storage, place: Place, policy: OpenPolicy, *, lossy: bool) -> None:
        """`storage` is the link's own file; `policy` opens for writing if anything is to be done.

        The caller closes `files`.
        """
        self.path = storage.name
        self.plan = Plan(lossy=lossy)
        self._write = policy.writable
        self._policy = policy._replace(writable=False, warn=lambda text: None)
        self.own = View(storage)
        self._views = Views(place, self._opens_for_writing)
        self.link: Link | None = None

    @property
    def files(self) -> list[View]:
        """Every file, the link's own first."""
        return [self.own, *self._views.opened.values()]

    def _opens_for_writing(self, name: str) -> bool:
        if not self._write:
            return False
        found = descriptor.parse(self.own.read(0, self.own.size), path=self.path)
        lines = [e for e in found.extents if e.name == name]
        return all(e.access == "RW" and e.kind in _MENDABLE for e in lines)

    def look(self) -> None:
        """Plan all that can be done without a parent; `link` is the link if it opens then.

        Raises `UnsupportedFeature` for a disk that is never touched.
        """
        self.link = self._open()
        if self.link is None:
            return
        found = self.link.descriptor
        assert found is not None
        if found.encrypted:
            raise UnsupportedFeature(
                f"the disk is encrypted: {found.encrypted}; it is not repaired",
                path=self.path,
                structure="descriptor",
            )
        for extent in self.link.extents:
            self._extent(extent)

    def reach(self) -> None:
        """Open the files that the link names, as far as its descriptor can be read."""
        if self.own.read(0, min(4, self.own.size)) in (
            layout.MAGIC_SPARSE,
            layout.MAGIC_UNFINISHED,
        ):
            return
        found = descriptor.parse(self.own.read(0, self.own.size), path=self.path)
        for name in {e.name: None for e in found.extents if e.name and e.kind in _MENDABLE}:
            self._views.open_extent(name)

    def _open(self) -> Link | None:
        for _ in range(_ATTEMPTS):
            try:
                return open_link(self.own, self._views, self._policy)
            except UnsupportedFeature:
                raise
            except FormatError as error:
                mend = self._revive(error)
                if mend is None or not self.plan.add(mend):
                    if not self.plan.hopeless(mend.where if mend else error.path):
                        self._leave(error)
                    return None
                self._view(mend.where).apply(mend)
        self.plan.leave("file", self.path, "is damaged in more ways than a repair can follow")
        return None

    def _leave(self, error: FormatError) -> None:
        problem = from_error(error, self.path)
        self.plan.leave(problem.code, problem.where, problem.message)

    def _view(self, name: str) -> View:
        return next(v for v in self.files if v.name == name)

    def _revive(self, error: FormatError) -> Mend | None:
        """What lets the link get past an error when it is opened."""
        view = next((v for v in self.files if v.name == error.path), None)
        if view is None:
            return None
        head = view.read(0, min(SECTOR, view.size))
        if head[:4] == layout.MAGIC_COWD:
            return mending_cowd.revive_cowd(error, view)
        if head[:4] not in (layout.MAGIC_SPARSE, layout.MAGIC_UNFINISHED) or len(head) < SECTOR:
            return None
        text = error.structure in ("descriptor", "file")
        if mending_stream.is_stream(head):
            if text and view is self.own:
                amended = mending_stream.amended_header(head)
                return self._lost(view, layout.parse_sparse_header(amended, view.name))
            return None if text else mending_stream.rebuild(view, error.what, self.plan)
        if error.code == "sparse-header.uncleanShutdown":
            patch = Patch(Stage.HEAD, _UNCLEAN_AT, 1, b"\1")
            return Mend("unclean", view.name, f"{error.what}: taken for 1", patches=(patch,))
        try:
            header = sparse.read_header(view, self._policy)
        except FormatError:
            return None
        if error.code == "sparse-header.capacity":
            return mending_text.capacities(view, header, self.plan)
        return self._lost(view, header) if text and view is self.own else None

    def _lost(self, view: View, header: layout.SparseHeader) -> Mend | None:
        name = Path(self.path).name
        # Parts of split disks have no descriptor, or room for one that stays empty.
        if descriptor_of(self.path) or family.others_using(self.path, {name}):
            return None
        area = sparse.read_descriptor(view, header)
        if area:
            try:
                descriptor.parse(area, path=self.path, embedded=True)
            except FormatError:
                pass
            else:
                return None
        return mending_text.lost_descriptor(view, header, name, self.plan)

    def _extent(self, extent: Extent) -> None:
        of = extent.map
        if not isinstance(of, TableMap):
            return
        separate = extent.storage is not self.own
        if isinstance(of, SparseMap) and of.header.compressed:
            self._stream(extent, of)
        elif separate and (extent.line.access != "RW" or extent.line.kind not in _MENDABLE):
            for problem in examine(extent, lambda done: None):
                if problem.severity == "error":
                    text = f"{problem.message} (extents of this kind are not repaired)"
                    self.plan.leave(problem.code, problem.where, text)
        elif isinstance(of, SparseMap):
            mending_hosted.mend_hosted(of, self.plan)
        elif isinstance(of.tables.scheme, CowdScheme):
            mending_cowd.mend_cowd(extent, of, of.tables.scheme, self.plan)

    def _stream(self, extent: Extent, of: SparseMap) -> None:
        wrong = [p for p in examine(extent, lambda done: None) if p.severity == "error"]
        if not wrong:
            return
        if not of.header.markers:
            for problem in wrong:
                self.plan.leave(problem.code, problem.where, problem.message)
            return
        mend = mending_stream.rebuild(of.storage, wrong[0].message, self.plan)
        if mend is not None:
            self.plan.add(mend)

    def ids(self, parent: Link | None, *, fix_ids: bool) -> None:
        """Plan what makes the ids fit; `parent` is the parent if there is one to be had."""
        assert self.link is not None
        mend = mending_text.ids(self.link, parent, self.plan, fix_ids=fix_ids)
        if mend is not None:
            self.plan.add(mend)
