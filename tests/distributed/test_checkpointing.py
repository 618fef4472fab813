"""Activation checkpointing over several processes: the steps without it, to the last bit."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from mixnorm_cuda import SyncMixtureNorm


def train(rank, reentrant):
    """Two micro-batches in flight in each of two steps; gradients and buffers."""
    torch.manual_seed(0)
    layer = SyncMixtureNorm(4, momentum=0.5)
    generator = torch.Generator().manual_seed(rank)
    found = []
    for _ in range(2):
        inputs = [
            torch.randn(5 + rank, 4, 3, 3, generator=generator).requires_grad_() for _ in range(2)
        ]
        if reentrant is None:
            outputs = [layer(x) for x in inputs]
        else:
            outputs = [checkpoint(layer, x, use_reentrant=reentrant) for x in inputs]
        for y in outputs:
            y.square().sin().sum().backward()
        found += [x.grad for x in inputs]
    return [*found, *(b.clone() for b in layer.buffers())]


@pytest.mark.parametrize("reentrant", [False, True])
def test_steps_are_those_without_checkpointing(pair, reentrant):
    for plain, checkpointed in zip(pair.run(train, None), pair.run(train, reentrant), strict=True):
        for wanted, found in zip(plain, checkpointed, strict=True):
            assert torch.equal(found, wanted)
