# SPDX-License-Identifier: Apache-2.0
"""The verb vdiskmanager: the options of vmware-vdiskmanager, for scripts that know those."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from diskkit.cli.failures import DONE, NO, warn
from diskkit.errors import UsageError, printable_line
from diskkit.interfaces import OpenPolicy
from diskkit.units import SECTOR

if TYPE_CHECKING:
    from collections.abc import Callable

    from diskkit.problem import Problem

TYPES = (
    "monolithicSparse",
    "twoGbMaxExtentSparse",
    "monolithicFlat",
    "twoGbMaxExtentFlat",
    "vmfs",
    "streamOptimized",
    "vmfsThin",
)
"""Kinds by the number that -t takes."""
_UNITS = {"KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
_ADAPTERS = ("ide", "buslogic", "lsilogic")
_OPERATIONS = "c d k n p r x R e D"


def vdiskmanager(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="OPTIONS DISK", help="See: diskkit vdiskmanager --help"),
    ] = None,
) -> int:
    """Do what vmware-vdiskmanager does, with its options."""
    return run_words(words or [])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"vdiskmanager: {message}")


def _parser() -> _Parser:
    parser = _Parser(
        "diskkit vdiskmanager",
        usage="diskkit vdiskmanager OPTIONS DISK",
        description="Make and maintain virtual disks, with the options of vmware-vdiskmanager.",
        epilog="Types: "
        + ", ".join(f"{number} {kind}" for number, kind in enumerate(TYPES))
        + ". A size is in sectors, or has a suffix KB, MB, GB or TB.",
        add_help=False,
        allow_abbrev=False,
    )
    one = parser.add_mutually_exclusive_group()
    flag = "store_true"
    one.add_argument("-c", action=flag, help="create DISK; needs -a, -s and -t")
    one.add_argument("-d", action=flag, help="defragment DISK")
    one.add_argument("-k", action=flag, help="shrink DISK")
    one.add_argument("-n", metavar="SOURCE", help="rename SOURCE to DISK")
    one.add_argument("-p", action=flag, help="prepare a volume for -k: not supported")
    one.add_argument("-r", metavar="SOURCE", help="convert SOURCE to DISK; needs -t")
    one.add_argument("-x", metavar="SIZE", help="give DISK this capacity, more than it has")
    one.add_argument("-R", action=flag, help="check DISK, and repair it")
    one.add_argument("-e", action=flag, help="check DISK and all its parents")
    one.add_argument("-D", action=flag, help="mark DISK as deletable")
    parser.add_argument("-q", action=flag, help="print nothing but errors")
    parser.add_argument("-a", metavar="ADAPTER", choices=_ADAPTERS, help=", ".join(_ADAPTERS))
    parser.add_argument("-s", metavar="SIZE", help="capacity of a new disk")
    parser.add_argument("-t", metavar="TYPE", type=int, choices=range(len(TYPES)), help="0 to 6")
    for name in ("-h", "-u", "-f"):
        parser.add_argument(name, metavar="X", help="remote conversion: not supported yet")
    parser.add_argument("--help", action=flag, help="print this")
    parser.add_argument("disk", nargs="?", metavar="DISK")
    return parser


def run_words(words: list[str]) -> int:
    """Run one command line, without the verb; returns the exit status."""
    parser = _parser()
    if not words or "--help" in words:
        parser.print_help()
        return DONE if words else UsageError.exit_code
    asked = parser.parse_args(words)
    if asked.h or asked.u or asked.f:
        raise UsageError("vdiskmanager: remote disks are not supported yet (-h, -u, -f)")
    chosen = [o for o in _OPERATIONS.split() if getattr(asked, o) not in (None, False)]
    if len(chosen) != 1 or not asked.disk:
        what = f"one of -{', -'.join(_OPERATIONS.split())}" if not chosen else "the disk"
        raise UsageError(f"vdiskmanager: say {what} (--help)")
    return _DO[chosen[0]](asked)


def sectors_or_more(text: str) -> int:
    """Bytes meant by a size: sectors, or a number with KB, MB, GB or TB."""
    number, unit = text, SECTOR
    for suffix, factor in _UNITS.items():
        if text.upper().endswith(suffix):
            number, unit = text[:-2].strip(), factor
    if not (number.isascii() and number.isdecimal() and len(number) < 19) or not int(number):
        raise UsageError(f"vdiskmanager: size {text!r} is not a number with KB, MB, GB or TB")
    return int(number) * unit


def _policy(asked: argparse.Namespace) -> OpenPolicy:
    return OpenPolicy(warn=(lambda _: None) if asked.q else warn)


def _tell(asked: argparse.Namespace, text: str) -> int:
    if not asked.q:
        print(printable_line(text))
    return DONE


def _need(asked: argparse.Namespace, operation: str, names: str) -> None:
    missing = [f"-{name}" for name in names if getattr(asked, name) is None]
    if missing:
        raise UsageError(f"vdiskmanager: -{operation} needs {', '.join(missing)} too")


def _create(asked: argparse.Namespace) -> int:
    from diskkit.tasks.clone import create_disk

    _need(asked, "c", "ast")
    kind, size = TYPES[asked.t], sectors_or_more(asked.s)
    create_disk(asked.disk, size, kind, adapter=asked.a)
    return _tell(asked, f"created {asked.disk}, {kind}, {size} bytes")


def _convert(asked: argparse.Namespace) -> int:
    from diskkit.open import open_disk
    from diskkit.tasks.clone import clone

    _need(asked, "r", "t")
    with open_disk(asked.r, format="vmdk", policy=_policy(asked)) as disk:
        clone(disk, asked.disk, TYPES[asked.t], adapter=asked.a, sync=True)
    return _tell(asked, f"converted {asked.r} to {asked.disk}, {TYPES[asked.t]}")


def _rename(asked: argparse.Namespace) -> int:
    from diskkit.tasks.rename import rename_disk

    rename_disk(asked.n, asked.disk, policy=_policy(asked))
    return _tell(asked, f"renamed {asked.n} to {asked.disk}")


def _grow(asked: argparse.Namespace) -> int:
    from diskkit.tasks.grow import grow

    done = grow(asked.disk, sectors_or_more(asked.x), policy=_policy(asked))
    return _tell(asked, f"grown from {done.before} to {done.after} bytes")


def _compact(asked: argparse.Namespace) -> int:
    from diskkit.tasks.compact import defragment, shrink

    done = (shrink if asked.k else defragment)(asked.disk, policy=_policy(asked))
    for reason in done.left:
        _tell(asked, f"left alone: {reason}")
    return _tell(asked, f"{done.before} bytes before, {done.after} now")


def _problems(asked: argparse.Namespace) -> list[Problem]:
    from diskkit.tasks.check import check

    problems = check(asked.disk, format="vmdk", policy=_policy(asked)).problems
    return _print_errors(problems)


def _print_errors(problems: list[Problem]) -> list[Problem]:
    errors = [p for p in problems if p.severity == "error"]
    for problem in errors:
        print(printable_line(str(problem)), file=sys.stderr)
    return errors


def _check(asked: argparse.Namespace) -> int:
    return NO if _problems(asked) else _tell(asked, "the disk and its chain are consistent")


def _repair(asked: argparse.Namespace) -> int:
    from diskkit.tasks.repair import repair

    if not _problems(asked):
        return _tell(asked, "no errors were found")
    done = repair(asked.disk, policy=_policy(asked))
    if done.backup is not None:
        _tell(asked, f"repaired; {done.backup} holds the old bytes")
    return NO if _print_errors(done.remaining) else DONE


def _deletable(asked: argparse.Namespace) -> int:
    from diskkit.tasks.metadata import write_metadata

    write_metadata(asked.disk, {"deletable": "true"}, policy=_policy(asked))
    return _tell(asked, "marked as deletable")


def _prepare(_asked: argparse.Namespace) -> int:
    raise UsageError("vdiskmanager: -p is not supported: fill free space with zeros in the guest")


_DO: dict[str, Callable[[argparse.Namespace], int]] = {
    "c": _create,
    "d": _compact,
    "k": _compact,
    "n": _rename,
    "p": _prepare,
    "r": _convert,
    "x": _grow,
    "R": _repair,
    "e": _check,
    "D": _deletable,
}
