# SPDX-License-Identifier: Apache-2.0
"""Disks whose every byte and state is known: links of any kind, and what their chain must be."""
