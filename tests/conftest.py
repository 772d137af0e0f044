# SPDX-License-Identifier: Apache-2.0
"""How long the property tests search, and assertions that explain themselves in the suites.

HYPOTHESIS_PROFILE chooses: "quick" (the default) for every run at home, "ci" for every change,
"nightly" for a long search with fresh seeds, whose tests take longer than a hang may:
add `-o faulthandler_timeout=3600`.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("diskkit.testing")

# A deadline would judge the machine's mood: examples make files.
_COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", _COMMON, max_examples=25, derandomize=True)
settings.register_profile("ci", _COMMON, max_examples=100, derandomize=True)
settings.register_profile("nightly", _COMMON, max_examples=5000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
