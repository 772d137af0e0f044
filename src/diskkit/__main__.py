# SPDX-License-Identifier: Apache-2.0
"""`python -m diskkit`."""

from diskkit.cli import program

program()
