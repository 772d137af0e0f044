# SPDX-License-Identifier: Apache-2.0
"""Partition tables, logical volumes, and what a volume holds."""
