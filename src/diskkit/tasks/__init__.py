# SPDX-License-Identifier: Apache-2.0
"""What can be done with open disks: each task consumes maps and moves data through chains."""
