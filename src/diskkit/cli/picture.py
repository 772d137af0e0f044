# SPDX-License-Identifier: Apache-2.0
"""Pictures of the map: a grid in the terminal, one self-contained HTML page, lines for borg."""

from __future__ import annotations

import html
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.text import Text

from diskkit.errors import printable
from diskkit.mapping import intervals
from diskkit.runs import State
from diskkit.storage.newfile import new_file
from diskkit.tasks.census import take_census
from diskkit.units import format_size

if TYPE_CHECKING:
    from diskkit.disk import Disk
    from diskkit.info import LinkInfo
    from diskkit.tasks.census import Census

_TERMINAL_ROWS = 16
_TERMINAL_MOST_COLUMNS = 128
_SHADES = "·░▒▓█"
_TERMINAL_COLOURS = ("green", "yellow", "blue", "magenta", "cyan", "red")
_PAGE_COLUMNS, _PAGE_ROWS = 96, 48
_PAGE_COLOURS = ("#2f9e6e", "#d9932b", "#3f7fd1", "#a35bc4", "#2aa7b8", "#cc4f4f")
"""Link 0, 1, 2, … and round again."""


def draw(disk: Disk) -> None:
    """A grid in which one cell is an equal part of the disk.

    Shade says how full it is, colour which link holds it; without colours, a digit says which link.
    """
    console = Console(highlight=False)
    columns = max(16, min(_TERMINAL_MOST_COLUMNS, console.width - 14))
    census = take_census(disk, columns * _TERMINAL_ROWS)
    shares, owners = census.share, census.owner
    plain = console.color_system is None
    for begin in range(0, len(shares), columns):
        line = Text(f"{format_size(int(census.edges[begin])):>11}  ", "dim")
        for cell in range(begin, min(begin + columns, len(shares))):
            glyph, style = _cell(float(shares[cell]), int(owners[cell]), bool(census.zero[cell]))
            line.append(str(owners[cell] % 10) if plain and owners[cell] >= 0 else glyph, style)
        console.print(line, soft_wrap=True)
    console.print()
    for line in _legend(disk, census, plain=plain):
        console.print(line, soft_wrap=True)


def _cell(share: float, owner: int, zero: bool) -> tuple[str, str]:
    if owner < 0:
        return ("z", "dim") if zero else (_SHADES[0], "dim")
    shade = _SHADES[min(4, 1 + int(share * 3.999))]
    return shade, _TERMINAL_COLOURS[owner % len(_TERMINAL_COLOURS)]


def _legend(disk: Disk, census: Census, *, plain: bool) -> list[Text]:
    cell = format_size(int(census.sizes.max()))
    lines = []
    for number, link in enumerate(disk.info.links):
        colour = _TERMINAL_COLOURS[number % len(_TERMINAL_COLOURS)]
        line = Text(f"  {number % 10 if plain else '█'} ", colour)
        size = format_size(int(census.data[number].sum()))
        line.append(f"{size:>10}  data in link {number}  ", "default")
        line.append(printable(Path(link.path).name), "bold default")
        lines.append(line)
    zero, data = int(census.zero.sum()), int(census.data.sum())
    lines.append(Text(f"  z {format_size(zero):>10}  known to be zero"))
    lines.append(Text(f"  · {format_size(disk.size - zero - data):>10}  not allocated"))
    lines.append(Text(f"\n{format_size(disk.size)} in {census.runs} runs; a cell is {cell}", "dim"))
    return lines


def print_borg(disk: Disk) -> None:
    """Lines of three words: start, length, "data" or "zero"."""
    for table in disk.tables():
        data = table.states >= State.DATA
        rows = [(b, e, "data") for b, e in intervals(table, data).tolist()]
        rows += [(b, e, "zero") for b, e in intervals(table, ~data).tolist()]
        sys.stdout.writelines(
            f"{begin} {end - begin} {word}\n" for begin, end, word in sorted(rows)
        )


def write_html(disk: Disk, path: str, *, force: bool) -> None:
    """One page that needs nothing else: the grid, its legend, and the numbers."""
    census = take_census(disk, _PAGE_COLUMNS * _PAGE_ROWS)
    page = _page(disk, census).encode()
    with new_file(path, force=force, sync=False) as (fd, _), open(fd, "wb", closefd=False) as out:
        out.write(page)


def _page(disk: Disk, census: Census) -> str:
    name = html.escape(printable(Path(disk.path).name))
    data, zero = int(census.data.sum()), int(census.zero.sum())
    facts = (
        ("capacity", format_size(disk.size)),
        ("data", f"{format_size(data)} ({data / disk.size:.1%})"),
        ("known to be zero", format_size(zero)),
        ("not allocated", format_size(disk.size - data - zero)),
        ("runs", f"{census.runs:,}"),
        ("one cell", format_size(int(census.sizes.max()))),
    )
    rows = "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in facts)
    links = disk.info.links
    listed = "".join(_page_link(links, census, n) for n in range(len(links)))
    return (
        _PAGE.replace("{name}", name)
        .replace("{facts}", rows)
        .replace("{links}", listed)
        .replace("{columns}", str(_PAGE_COLUMNS))
        .replace("{cells}", "".join(_page_cells(census)))
    )


def _page_link(links: list[LinkInfo], census: Census, number: int) -> str:
    link = links[number]
    colour = _PAGE_COLOURS[number % len(_PAGE_COLOURS)]
    role = "leaf" if number == 0 else "base" if number == len(links) - 1 else "parent"
    return (
        f'<tr><td><i style="background:{colour}"></i></td><td>{number}</td><td>{role}</td>'
        f"<td><b>{html.escape(printable(Path(link.path).name))}</b></td>"
        f"<td>{html.escape(link.create_type)}</td>"
        f"<td>{format_size(int(census.data[number].sum()))}</td></tr>"
    )


def _page_cells(census: Census) -> list[str]:
    shares, owners, sizes = census.share, census.owner, census.sizes
    data = census.data.sum(axis=0)
    cells = []
    for i in range(len(shares)):
        where = f"{format_size(int(census.edges[i]))} + {format_size(int(sizes[i]))}"
        owner = int(owners[i])
        if owner >= 0:
            colour = _PAGE_COLOURS[owner % len(_PAGE_COLOURS)]
            strength = round(25 + 75 * float(np.clip(shares[i], 0, 1)))
            holds = np.flatnonzero(census.data[:, i]).tolist()
            what = f"{format_size(int(data[i]))} data, link {', '.join(map(str, holds))}"
            style = f' style="--c:{colour};--s:{strength}%"'
            cells.append(f'<i{style} title="{where}: {what}"></i>')
        elif census.zero[i]:
            cells.append(f'<i class="z" title="{where}: zero"></i>')
        else:
            cells.append(f'<i title="{where}: not allocated"></i>')
    return cells


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{name} – map</title>
<style>
:root{color-scheme:light dark;--ink:#1d2228;--dim:#68727d;--paper:#fbfbfa;--line:#e2e4e6;
--none:#eceeef}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8ea;--dim:#98a2ac;--paper:#16191c;
--line:#2b3035;--none:#23282c}}
body{margin:2rem auto;max-width:76rem;padding:0 1.5rem;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.4rem;margin:0 0 1rem}
dl{display:flex;flex-wrap:wrap;gap:.5rem 2.5rem;margin:0 0 1.5rem}
dt{color:var(--dim);font-size:.8rem}dd{margin:0;font-size:1.1rem;font-variant-numeric:tabular-nums}
.grid{display:grid;grid-template-columns:repeat({columns},1fr);gap:1px}
.grid i{aspect-ratio:1;border-radius:1px;background:var(--none)}
.grid i[style]{background:color-mix(in srgb,var(--c) var(--s),var(--none))}
.grid i.z{background:repeating-linear-gradient(45deg,var(--none) 0 2px,var(--line) 2px 4px)}
.grid i:hover{outline:2px solid var(--ink)}
table{border-collapse:collapse;margin-top:1.5rem}
td,th{padding:.25rem 1rem .25rem 0;text-align:left;border-bottom:1px solid var(--line)}
th{color:var(--dim);font-weight:400;font-size:.8rem}
td i{display:inline-block;width:.9em;height:.9em;border-radius:2px;vertical-align:-.1em}
</style>
<h1>{name}</h1>
<dl>{facts}</dl>
<div class="grid">{cells}</div>
<table><tr><th></th><th>link</th><th></th><th>file</th><th>kind</th><th>data seen</th></tr>
{links}</table>
</html>
"""
