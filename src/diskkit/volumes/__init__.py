# SPDX-License-Identifier: Apache-2.0
"""What is on a disk: partitions, logical volumes, and which filesystem each holds. Own code.

`find_volumes(disk)` answers. A `Volume` has `size` and `read_into(offset, buffer)`, as disks have.
"""

from diskkit.volumes.find import VolumeTable, find_volumes
from diskkit.volumes.identify import Content, identify
from diskkit.volumes.volume import Segment, Volume

__all__ = ["Content", "Segment", "Volume", "VolumeTable", "find_volumes", "identify"]
