"""Shapes inside the reference."""

import pytest
import torch

from mixnorm_cuda.reference.layout import by_channel, by_component, grouped, ungrouped


@pytest.mark.parametrize("shape", [(3, 6), (3, 6, 4), (3, 6, 4, 2), (3, 6, 2, 2, 2), (0, 6, 4)])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_round_trip(shape, groups):
    x = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    inside = grouped(x, groups)
    assert inside.shape == (shape[0], groups, 6 // groups, torch.Size(shape[2:]).numel())
    assert torch.equal(ungrouped(inside, x), x)


def test_channels_stay_together():
    """Group g holds the channels g·D to (g+1)·D − 1."""
    channel = torch.arange(6.0).reshape(1, 6, 1).expand(2, 6, 3)
    assert grouped(channel, 3)[0, :, :, 0].tolist() == [[0, 1], [2, 3], [4, 5]]
    parameter = torch.arange(12.0).reshape(2, 6)
    assert by_component(parameter, 3)[1, :, :, 0].tolist() == [[6, 7], [8, 9], [10, 11]]
    assert torch.equal(by_channel(by_component(parameter, 3)), parameter)
