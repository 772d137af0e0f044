# SPDX-License-Identifier: Apache-2.0
"""LVM2's metadata text: sections, `key = value`, strings, integers, lists, comments. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from diskkit.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

Value: TypeAlias = "int | str | list[Value] | dict[str, Value]"
Section: TypeAlias = "dict[str, Value]"

MAX_DEPTH = 8
MAX_TOKENS = 4_000_000
"""The text of a volume group with tens of thousands of segments stays far below."""

_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<number>-?\d{1,20}(?:\.\d{1,20})?(?![A-Za-z_.+\-/]))
      | (?P<word>[A-Za-z0-9_.+\-/]{1,256})
      | (?P<mark>[={}\[\],])""",
    re.VERBOSE | re.DOTALL,
)


class _Token(NamedTuple):
    kind: str
    text: str
    place: int


def parse(text: str) -> Section:
    """The text as nested dicts. Raises `FormatError` naming the byte."""
    tokens = _tokens(text)
    return _section(tokens, 0)


def _tokens(text: str) -> Iterator[_Token]:
    place = count = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup is None:
            raise _wrong("unexpected character", place, text[place : place + 16])
        if match.lastgroup != "skip":
            count += 1
            if count > MAX_TOKENS:
                raise _wrong(f"more than {MAX_TOKENS} words", place, None)
            yield _Token(match.lastgroup, match.group(), place)
        place = match.end()


def _section(tokens: Iterator[_Token], depth: int) -> Section:
    """Up to its closing brace, or to the end at depth 0."""
    found: Section = {}
    for token in tokens:
        if token.text == "}" and token.kind == "mark" and depth:
            return found
        if token.kind not in ("word", "number"):
            raise _wrong("a name was expected", token.place, token.text)
        follower = _next(tokens)
        if follower.text == "{" and follower.kind == "mark":
            if depth >= MAX_DEPTH:
                raise _wrong(f"more than {MAX_DEPTH} sections in each other", token.place, None)
            found[token.text] = _section(tokens, depth + 1)
        elif follower.text == "=" and follower.kind == "mark":
            found[token.text] = _value(tokens, _next(tokens))
        else:
            raise _wrong("'=' or '{' was expected", follower.place, follower.text)
    if depth:
        raise _wrong("the text ends inside a section", 0, None)
    return found


def _value(tokens: Iterator[_Token], token: _Token) -> Value:
    if token.text == "[" and token.kind == "mark":
        return _list(tokens)
    return _scalar(token)


def _list(tokens: Iterator[_Token]) -> Value:
    found: list[Value] = []
    token = _next(tokens)
    while token.text != "]":
        if token.text != ",":
            found.append(_scalar(token))
        token = _next(tokens)
    return found


def _scalar(token: _Token) -> Value:
    if token.kind == "string":
        return re.sub(r"\\(.)", r"\1", token.text[1:-1], flags=re.DOTALL)
    if token.kind == "number" and "." not in token.text:
        return int(token.text)
    if token.kind == "number":
        return token.text
    raise _wrong("a value was expected", token.place, token.text)


def _next(tokens: Iterator[_Token]) -> _Token:
    token = next(tokens, None)
    if token is None:
        raise _wrong("the text ends too early", 0, None)
    return token


def _wrong(problem: str, place: int, value: object) -> FormatError:
    return FormatError(problem, structure="LVM metadata text", offset=place or None, value=value)
