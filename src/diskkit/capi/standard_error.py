# SPDX-License-Identifier: Apache-2.0
"""Lines that nobody takes, in a program that a broken pipe would end."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_STANDARD_ERROR = 2


def spare(say: Callable[[int, bytes], object]) -> None:
    """Let the C side write what is logged to no one: it keeps SIGPIPE from the program.

    Python ignores that signal in its own programs; where it does not, this is a program in C.
    """
    if signal.getsignal(signal.SIGPIPE) == signal.SIG_DFL:
        logging.lastResort = _Handler(say)


class _Handler(logging.Handler):
    def __init__(self, say: Callable[[int, bytes], object]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record).replace("\0", "\\0")
        self._say(_STANDARD_ERROR, text.encode("utf-8", "backslashreplace") + b"\n")
