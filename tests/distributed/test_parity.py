"""Several processes compute what one does on their joined batch."""

import pytest
import torch
from torch import nn

from mixnorm_cuda import MixtureNorm2d
from tests.distributed import jobs
from tests.distributed.jobs import CHANNELS, Batches
from tests.support import assert_close, same_bits

STEPS = 3
SHARDS = {
    2: {"equal": (4, 4), "unequal": (7, 1), "empty": (8, 0)},
    4: {"equal": (2, 2, 2, 2), "unequal": (1, 5, 1, 3), "empty": (0, 5, 0, 3)},
}
OPTIONS = [
    {},
    {"num_components": 1},
    {"groups": 2},
    {"groups": CHANNELS, "em_iters": 1},
    {"em_iters": 2},
    {"component_affine": True},
    {"mixing_scale": False, "momentum": None},
    {"responsibility_grad": False, "bias": False},
    {"track_running_stats": False, "num_components": 1},
    {"backend": "reference", "em_iters": 1},
]


def state_of(options, dtype):
    """Running statistics that overlap with the data, and affine pairs."""
    layer = MixtureNorm2d(CHANNELS, dtype=dtype, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
        if layer.track_running_stats:
            layer.running_mean.copy_(torch.randn_like(layer.running_mean) * 0.5)
            layer.running_var.uniform_(1, 2)
            layer.num_batches_tracked.fill_(3)
    return layer.state_dict()


def batches_of(sizes, dtype, shape=(3, 2)):
    x, dy = torch.randn(2, STEPS, sum(sizes), CHANNELS, *shape, dtype=dtype)
    return Batches(x * 1.5 + 0.5, dy, sizes=sizes)


def check(team, batches, state, options, tolerance, sums_tolerance=None):
    """``sums_tolerance``: of sums over positions, where it is another."""
    sums_tolerance = sums_tolerance or tolerance
    parts = team.run(jobs.train_part, batches, state, options)
    whole = jobs.train_whole(batches, state, options)
    for i, expected in enumerate(whole):
        steps = [part[i] for part in parts]
        assert_close(torch.cat([s.y for s in steps]), expected.y, tolerance)
        assert_close(torch.cat([s.dx for s in steps]), expected.dx, tolerance)
        for name, gradient in expected.parameter_gradients.items():
            total = sum(s.parameter_gradients[name] for s in steps)
            assert_close(total, gradient, sums_tolerance)
        if expected.given_gradient is not None:
            given = torch.cat([s.given_gradient for s in steps])
            assert_close(given, expected.given_gradient, tolerance)
        for name, buffer in expected.buffers.items():
            for step in steps:
                assert same_bits(step.buffers[name], steps[0].buffers[name])
            assert_close(steps[0].buffers[name], buffer, tolerance)


@pytest.mark.parametrize("shards", ["equal", "unequal", "empty"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_joined_batch(team, options, shards):
    # 1e-12: a few hundred float64 roundings, of sums in another order.
    options = options | {"dtype": torch.float64}
    batches = batches_of(SHARDS[team.size][shards], torch.float64)
    check(team, batches, state_of(_without_dtype(options), torch.float64), options, 1e-12)


def _without_dtype(options):
    return {name: value for name, value in options.items() if name != "dtype"}
