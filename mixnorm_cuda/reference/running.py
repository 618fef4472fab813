"""Mass-weighted running averages of the mixture."""

import torch
from torch import Tensor

from mixnorm_cuda.types import BatchMoments, Mixture


@torch.no_grad()
def update_running(
    running: Mixture, moments: BatchMoments, count: int, factor: float | Tensor
) -> Tensor:
    """λ' = (1−f)λ + f λ̂, ρ = f λ̂/λ', μ' = μ + ρ(m − μ), σ²' = σ² + ρ(q̂ − σ²), in place.

    λ̂ = S/M and q̂ = q·min(S/(S−1), 2) where S > 1: unbiased from two observations on, while a
    soft mass just above 1 does not blow its variance up. Nothing changes where a moment is not
    finite; returns whether all were, a 0-dim bool tensor.
    """
    groups = running.mixing_weight.shape[0]
    channels_per_group = running.mean.shape[1] // groups
    mass, mean, var = moments
    finite = torch.stack([t.isfinite().all() for t in moments]).all()

    unbiased = torch.where(mass > 1, (mass / (mass - 1)).clamp_max(2), 1)
    unbiased = _per_channel(unbiased, channels_per_group)
    share = mass / count
    # λ + f(λ̂ − λ) rather than (1−f)λ + f λ̂: at K = 1 it keeps λ = 1 exactly.
    mixing_weight = running.mixing_weight + factor * (share - running.mixing_weight)
    tiny = torch.finfo(mass.dtype).tiny
    # ρ ≤ 1 as numbers; rounding could take λ' to 0 below f λ̂, and ρ far above.
    rho = (factor * share / mixing_weight.clamp_min(tiny)).clamp_max(1)
    rho = _per_channel(rho, channels_per_group)
    updated = (
        mixing_weight,
        running.mean + rho * (mean - running.mean),
        running.var + rho * (var * unbiased - running.var),
    )
    for buffer, value in zip(running, updated, strict=True):
        buffer.copy_(torch.where(finite, value, buffer))
    return finite


def _per_channel(value: Tensor, channels_per_group: int) -> Tensor:
    """[G, K] -> [K, C]."""
    return value.T.repeat_interleave(channels_per_group, dim=1)
