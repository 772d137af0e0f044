# SPDX-License-Identifier: Apache-2.0
"""What all targets share: the coverage-guided search, and the rule that every error is ours."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from diskkit import DiskkitError

if TYPE_CHECKING:
    from collections.abc import Callable


def tolerate(action: Callable[[], object]) -> DiskkitError | None:
    """Run `action`; only diskkit's own errors are caught, and must be printable."""
    try:
        action()
    except DiskkitError as error:
        text = str(error)
        assert text, "an error without a text"
        assert text.isprintable(), f"control characters in {text!r}"
        return error
    return None


def search(one_input: Callable[[bytes], None]) -> None:
    """Call `one_input` with inputs that reach new code, until one of them fails."""
    import atheris  # large, and needed for the search only

    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
