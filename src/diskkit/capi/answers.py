# SPDX-License-Identifier: Apache-2.0
"""How calls of the C library end: errors as codes that were told, answers as bytes."""

from __future__ import annotations

import _thread
import functools
import signal
import struct
import threading
from typing import TYPE_CHECKING, Any

from diskkit.vixdisklib.codes import NUMBERS
from diskkit.vixdisklib.failures import VixError, from_exception
from diskkit.vixdisklib.library import library

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Answer = int | bytes

_OK, _FAIL = NUMBERS["VIX_OK"], NUMBERS["VIX_E_FAIL"]
_EXPECTED = {
    NUMBERS[f"VIX_E_{name}"] for name in ("BUFFER_TOOSMALL", "DISK_KEY_NOTFOUND", "DISK_OUTOFRANGE")
}
"""Answers that programs ask for on purpose: no reason to warn."""
_NUL = b"\0"

_say: Callable[[int, bytes], object]
_last = threading.local()


def speak_by(say: Callable[[int, bytes], object]) -> None:
    """Lines for the program go to `say`, with a level: 0 log, 1 warn."""
    global _say
    _say = say


def tell(level: int, text: str) -> None:
    """Give a line to the program."""
    _say(level, text.replace("\0", "\\0").encode("utf-8", "backslashreplace") + b"\n")


def _failed(name: str, error: BaseException) -> int:
    """The code of an error, after telling about it."""
    if isinstance(error, KeyboardInterrupt):
        _thread.interrupt_main(signal.SIGINT)  # for the Python program around us
        error = VixError(NUMBERS["VIX_E_CANCELLED"])
    elif not isinstance(error, Exception):
        error = VixError(_FAIL, f"{type(error).__name__}: {error}")
    failure = from_exception(error)
    _last.code, _last.text = failure.code, failure.text
    speak = library.log if failure.code in _EXPECTED else library.warn
    if name == "VixDiskLib_InitEx" and not library.ready:
        speak = functools.partial(tell, 1)  # the library did not take the program's functions
    speak(f"{name}: {failure.text}")
    return failure.code or _FAIL


def last_failure(code: int) -> str:
    """What was told of this thread's last failure, if that is the code it had."""
    return _last.text if getattr(_last, "code", None) == code else ""


def failed(name: str, error: BaseException) -> int:
    """The code of an error, after telling about it, whatever happens then."""
    try:
        return _failed(name, error)
    except BaseException:
        return _FAIL


def guarded(name: str) -> Callable[[Callable[..., Any]], Callable[..., Answer]]:
    """Errors become codes, None becomes VIX_OK; `name` is the function's in C."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Answer]:
        @functools.wraps(function)
        def call(*arguments: Any) -> Answer:  # noqa: ANN401 - as many as the function takes
            try:
                answer = function(*arguments)
                return _OK if answer is None else answer
            except BaseException as error:
                return failed(name, error)

        return call

    return wrap


def text(value: str | None) -> bytes:
    """A text with its length and a NUL; all ones are NULL."""
    if value is None:
        return b"\xff\xff\xff\xff"
    raw = value.encode("utf-8", "surrogateescape")
    return struct.pack("=I", len(raw)) + raw + _NUL


def number(value: int) -> bytes:
    """A number of 64 bits."""
    return struct.pack("=Q", value)


def ended(texts: Iterable[str]) -> bytes:
    """Texts, each with a NUL."""
    return b"".join(
        text.replace("\0", "").encode("utf-8", "surrogateescape") + _NUL for text in texts
    )
