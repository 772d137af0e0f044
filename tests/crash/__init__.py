# SPDX-License-Identifier: Apache-2.0
"""What a crash, or a failing medium, could leave of a folder of disks. For tests.

with record(folder) as recording:
    diskkit.shrink(folder / "disk.vmdk")
for state in states(recording, most=200, seed=1):
    materialise(state, scratch)
    ...                                # open it, judge it; `state.text` says what was lost

for outcome in faults(folder, scratch, operation, Fault.NO_SPACE):
    ...                                # outcome.error, outcome.folder
"""

from crash.faults import Fault, Outcome, faults
from crash.recorder import Recording, record
from crash.states import State, materialise, states

__all__ = [
    "Fault",
    "Outcome",
    "Recording",
    "State",
    "faults",
    "materialise",
    "record",
    "states",
]
