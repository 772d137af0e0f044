# SPDX-License-Identifier: Apache-2.0
"""Options that every verb has: how to open a disk, and how to talk."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

from diskkit.cli.failures import warn
from diskkit.interfaces import OpenPolicy
from diskkit.open import open_disk

if TYPE_CHECKING:
    from collections.abc import Callable

    from diskkit.disk import Disk

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

DiskName = Annotated[str, typer.Argument(metavar="DISK", help="The disk: see diskkit --help.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, max=64, help="Threads to work on.")
]


@dataclass(frozen=True, slots=True)
class Common:
    """What the common options said."""

    policy: OpenPolicy
    format_name: str | None
    quiet: bool

    def of(self, format_name: str | None) -> Common:
        """The same, but for how to take the disk."""
        return replace(self, format_name=format_name)

    def open(self, name: str, *, writable: bool = False, overlay: str | None = None) -> Disk:
        """Open a disk as they said; with `overlay`, what is written to it goes to that file."""
        policy = self.policy._replace(writable=writable) if writable else self.policy
        disk = open_disk(name, format=self.format_name, policy=policy)
        if overlay is None:
            return disk
        from diskkit.filters.overlay import open_overlay

        try:
            return open_overlay(disk, overlay, self.policy)
        except BaseException:
            disk.close()
            raise


def _common(
    format_name: Annotated[
        str | None, typer.Option("--format", metavar="FMT", help="Take the disk for: vmdk or raw.")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow", metavar="DIR", help="Let the image name files in DIR (repeatable)."
        ),
    ] = None,
    allow_devices: Annotated[
        bool, typer.Option("--allow-devices", help="Open devices that extent lines name.")
    ] = False,
    allow_truncated: Annotated[
        bool, typer.Option("--allow-truncated", help="Read zeros where a file was cut short.")
    ] = False,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow-mismatch", help="Open a chain whose content IDs do not fit.")
    ] = False,
    noaccess_zeros: Annotated[
        bool, typer.Option("--noaccess-zeros", help="Read zeros from NOACCESS extents.")
    ] = False,
    single_link: Annotated[
        bool, typer.Option("--no-parent", help="Open this link alone, without its parents.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse what is merely suspicious.")
    ] = False,
    ignore_locks: Annotated[
        bool, typer.Option("--ignore-locks", help="Read a disk that another program may write.")
    ] = False,
    max_depth: Annotated[
        int, typer.Option("--max-depth", metavar="N", help="Links a chain may have, at most 256.")
    ] = 64,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no warnings.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of a failure.")
    ] = False,
) -> Common:
    policy = OpenPolicy(
        allow=tuple(allow or ()),
        allow_devices=allow_devices,
        allow_truncated=allow_truncated,
        allow_mismatch=allow_mismatch,
        noaccess_zeros=noaccess_zeros,
        single_link=single_link,
        strict=strict,
        ignore_locks=ignore_locks,
        max_depth=max_depth,
        warn=(lambda text: None) if quiet else warn,
    )
    return Common(policy, format_name, quiet)


def with_common(verb: Callable[..., Result]) -> Callable[..., Result]:
    """Give `verb` the common options; it gets them as its parameter `common`."""
    shared = inspect.signature(_common, eval_str=True).parameters
    own = inspect.signature(verb, eval_str=True).parameters
    kept = [p for name, p in own.items() if name != "common"]
    added = [p for name, p in shared.items() if name not in own]

    @functools.wraps(verb)
    def wrapper(**values: Any) -> Result:  # noqa: ANN401 - whatever typer parsed
        given = {name: values.pop(name) for name in list(values) if name in shared}
        passed = {name: given[name] for name in given if name in own}
        return verb(
            **values, **passed, common=_common(**{n: given[n] for n in given if n not in own})
        )

    parameters = kept + added
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper
