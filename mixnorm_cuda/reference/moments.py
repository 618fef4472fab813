"""M-step: responsibility-weighted mass, mean and variance."""

import torch
from torch import Tensor

from mixnorm_cuda.reference.layout import by_channel, by_component, group_entry
from mixnorm_cuda.types import BatchMoments, Mixture


def safe_mass(mass: Tensor) -> Tensor:
    """S̃ = max(S, 1e-6), the divisor: an empty component keeps its mean, its variance is 0."""
    # A literal: with dynamic shapes torch.compile makes a named number an input of the graph, which
    # it cannot do in the backward pass of an autograd function.
    return mass.clamp_min(1e-6)


def moments(x: Tensor, nu: Tensor, mean: Tensor) -> BatchMoments:
    """S = Σ ν, m = μ + Σ ν (x − μ)/S̃, q = Σ ν (x − m)²/S̃ with S̃ = max(S, 1e-6).

    ``x`` is ``[N, G, D, L]``, ``nu`` is ``[N, G, K, L]``, ``mean`` μ is ``[K, C]``. The mean is
    computed as Σ ν x/S̃ + μ (1 − S/S̃), whose second term is 0 unless the component is empty: a
    stale μ far from the data would cost digits of x − μ.
    """
    groups = x.shape[1]
    mass = nu.sum(dim=(0, 3))
    floored = safe_mass(mass)
    kept = 1 - mass / floored
    means, variances = [], []
    for k, mu in enumerate(by_component(mean, groups)):
        nu_k = nu[:, :, k, None]
        scale = 1 / group_entry(floored, k)
        m = (nu_k * x).sum(dim=(0, 3)).unsqueeze(-1) * scale + mu * group_entry(kept, k)
        q = (nu_k * (x - m).square()).sum(dim=(0, 3)).unsqueeze(-1) * scale
        means.append(m)
        variances.append(q)
    return BatchMoments(mass, by_channel(torch.stack(means)), by_channel(torch.stack(variances)))


def em_step(moments: BatchMoments, count: int) -> Mixture:
    """The mixture of an M-step over ``count`` positions: λ = S/M, μ = m, σ² = q."""
    return Mixture(moments.mass / max(count, 1), moments.mean, moments.var)
