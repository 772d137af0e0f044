# SPDX-License-Identifier: Apache-2.0
"""The drop-in C library: `include/` for programs, `csrc/` its code, `calls.py` what that calls."""
