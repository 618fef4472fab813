"""Bytes a case must move, and the measured copy."""

import pytest
import torch

from bench.cases import Case, Shape
from bench.timing import WallClock
from bench.traffic import EM_STEPS, bytes_moved, copy_bytes, peak_copy_bandwidth

SHAPE = Shape("s", (2, 4, 3, 5), "a test")
ELEMENTS = 120


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({"phase": "forward"}, 3),
        ({"phase": "train"}, 8),
        ({"phase": "eval"}, 2),
        ({"phase": "train", "em_iters": 2}, 10),
        ({"phase": "eval", "em_iters": 2}, 2),
        ({"phase": "em"}, EM_STEPS),
    ],
)
def test_bytes_are_passes_over_x(changes, passes):
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
        case = Case(SHAPE, dtype).vary(**changes)
        assert bytes_moved(case) == passes * ELEMENTS * size
        assert copy_bytes(case) == 2 * ELEMENTS * size


def test_copy_bandwidth_counts_read_and_write():
    class OneSecond(WallClock):
        def prepare(self, steps):
            return lambda: 1.0

    assert peak_copy_bandwidth(OneSecond(), torch.device("cpu")) == 2 * 256 * 2**20
