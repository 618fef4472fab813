"""What crosses from process to process.

Nothing here waits for a device, except the check before a layer's first step (`agree`).
"""

from mixnorm_cuda.distributed.agreement import agree
from mixnorm_cuda.distributed.collectives import from_first, gather
from mixnorm_cuda.distributed.moments import joined_count, joined_moments, joined_sums
from mixnorm_cuda.distributed.processes import Processes, processes_of

__all__ = [
    "Processes",
    "agree",
    "from_first",
    "gather",
    "joined_count",
    "joined_moments",
    "joined_sums",
    "processes_of",
]
