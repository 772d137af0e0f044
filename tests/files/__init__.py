# SPDX-License-Identifier: Apache-2.0
"""Files inside of disks, and what is under them."""
