# SPDX-License-Identifier: Apache-2.0
"""NBD: any disk for any program that speaks it, and any export as a disk."""
