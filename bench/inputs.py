"""Tensors for a case: activations of unequal channels, and a mixture with soft responsibilities."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bench.cases import Case
from mixnorm_cuda.types import Mixture


class Inputs(NamedTuple):
    """One input set. ``weight`` and ``bias`` are γ and β, ``[C]``."""

    x: Tensor
    dy: Tensor
    mixture: Mixture
    weight: Tensor
    bias: Tensor


def make_inputs(case: Case, device: torch.device, seed: int = 0) -> Inputs:
    """Draw x, dy, θ, γ and β. The same seed gives the same θ, γ and β on a device.

    The components' offsets shrink with the square root of a group's channels, so that the
    responsibilities stay between 0 and 1 and every term of the gradient counts in the check.
    """
    generator = torch.Generator(device).manual_seed(seed)
    channels, components, groups = case.shape.channels, case.num_components, case.num_groups

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, device=device, generator=generator)

    soft = 1.5 / math.sqrt(channels // groups)
    centre, scale = 0.5 * normal(channels), normal(channels).mul(0.3).exp()
    mixture = Mixture(
        torch.softmax(0.5 * normal(groups, components), dim=1),
        centre + scale * soft * normal(components, channels),
        scale.square() * normal(components, channels).mul(0.5 * soft).exp(),
    )
    weight, bias = 1 + 0.2 * normal(channels), 0.2 * normal(channels)
    tensor_shape = (1, channels) + (1,) * (len(case.shape.size) - 2)

    def draw(mean: Tensor | None, std: Tensor | None) -> Tensor:
        batch = case.shape.size[0] // case.shape.repeats
        t = torch.randn(
            (batch, *case.shape.size[1:]), device=device, generator=generator, dtype=torch.float32
        )
        if mean is not None and std is not None:
            t.mul_(std.view(tensor_shape)).add_(mean.view(tensor_shape))
        t = t.to(case.dtype)
        if case.shape.repeats > 1:
            t = t.repeat(case.shape.repeats, *(1,) * (t.dim() - 1))
        return in_layout(t, case.layout)

    return Inputs(draw(centre, scale), draw(None, None), mixture, weight, bias)


def in_layout(t: Tensor, layout: str) -> Tensor:
    if layout == "contiguous" or t.dim() not in (4, 5):
        return t.contiguous()
    channels_last = torch.channels_last if t.dim() == 4 else torch.channels_last_3d
    return t.contiguous(memory_format=channels_last)


def make_sets(case: Case, device: torch.device, count: int) -> list[Inputs]:
    """``count`` input sets with the same θ, γ and β, so that one layer serves them all."""
    first = make_inputs(case, device)

    def another(step: int) -> Inputs:
        x, dy = (in_layout(t.roll(step, 0), case.layout) for t in (first.x, first.dy))
        return first._replace(x=x, dy=dy)

    return [first, *(another(step) for step in range(1, count))]
