"""The bytes a case must move, and the bandwidth of a copy to hold them against."""

import torch

from bench.cases import Case
from bench.timing import Timer

EM_STEPS = 10
"""EM steps of one fit in the ``"em"`` cases."""

PASSES = {"forward": 3, "train": 3 + 5, "eval": 2}
"""Reads and writes of a tensor like x: what BatchNorm's kernels move."""


def bytes_moved(case: Case) -> int:
    """Training forward 3B (read, read, write), backward 5B, eval 2B; each EM step one more read.

    Statistics, parameters and stored responsibilities are left out, as they are work of the
    implementation and small next to x.
    """
    if case.phase == "em":
        return EM_STEPS * case.bytes
    steps = 0 if case.phase == "eval" else case.em_iters
    return (PASSES[case.phase] + steps) * case.bytes


def copy_bytes(case: Case) -> int:
    return 2 * case.bytes


def peak_copy_bandwidth(timer: Timer, device: torch.device) -> float:
    """Bytes per second, read and written, of copying a tensor far larger than any cache."""
    megabytes = 256 if device.type == "cpu" else 2048
    source = torch.ones(megabytes * 2**20 // 4, device=device)
    target = torch.empty_like(source)
    measure = timer.prepare([lambda: target.copy_(source)])
    times = sorted(measure() for _ in range(7))
    return 2 * source.nbytes / times[len(times) // 2]
