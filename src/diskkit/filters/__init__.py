# SPDX-License-Identifier: Apache-2.0
"""A disk in, a disk out."""
