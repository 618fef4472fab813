"""Starting as Batch Normalization: a mixture that stands for one Gaussian, and its affine pairs.

With γ_k = γ √λ̃_k √(q_k + ε)/√(σ² + ε) and β_k = β + γ (m_k − μ)/√(σ² + ε), where μ, σ² are the
overall mean and variance of the mixture, the sum over k collapses: mixture normalization equals
Batch Normalization for every input, whatever the responsibilities.
"""

import torch
from torch import Tensor

from mixnorm_cuda.estimation.spread import spread
from mixnorm_cuda.reference import mixing_factor
from mixnorm_cuda.types import Mixture


@torch.no_grad()
def split_gaussian(mean: Tensor, var: Tensor, num_components: int, groups: int) -> Mixture:
    """A mixture of K distinct equal components with exactly this ``mean`` and ``var`` ``[C]``.

    λ_k = 1/K, μ_k = μ + d_k σ and σ_k² = σ² (1 − Σ_j d_j²/K), with the offsets d of `spread`.
    """
    offsets = spread(num_components, mean.shape[0], mean.device, mean.dtype)
    share = 1 - offsets.square().mean(0)
    return Mixture(
        torch.full(
            (groups, num_components), 1 / num_components, device=mean.device, dtype=mean.dtype
        ),
        mean + offsets * var.sqrt(),
        (var * share).expand(num_components, -1).clone(),
    )


@torch.no_grad()
def expand_affine(
    weight: Tensor,
    bias: Tensor,
    mixture: Mixture,
    *,
    eps: float,
    mixing_scale: bool,
    mass: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """BN's γ and β ``[C]`` -> the pairs ``[K, C]`` with which ``mixture`` normalizes like BN.

    ``mass`` ``[G, K]`` weighs the components in μ and σ² where it is not λ: for a batch, S.
    """
    gain, offset = _relation(
        mixture, mixture.mixing_weight if mass is None else mass, eps, mixing_scale
    )
    return weight * gain, bias + weight * offset


@torch.no_grad()
def collapse_affine(
    weight: Tensor, bias: Tensor, mixture: Mixture, *, eps: float, mixing_scale: bool
) -> tuple[Tensor, Tensor]:
    """The inverse of `expand_affine`; pairs of no single BN are averaged over the components."""
    gain, offset = _relation(mixture, mixture.mixing_weight, eps, mixing_scale)
    single = (weight / gain).mean(0)
    return single, (bias - single * offset).mean(0)


def _relation(
    mixture: Mixture, mass: Tensor, eps: float, mixing_scale: bool
) -> tuple[Tensor, Tensor]:
    """gain and offset ``[K, C]`` of γ_k = γ · gain_k, β_k = β + γ · offset_k."""
    mixing_weight, mean, var = mixture
    channels_per_group = mean.shape[1] // mixing_weight.shape[0]

    def by_channel(value: Tensor) -> Tensor:
        return value.T.repeat_interleave(channels_per_group, dim=1)

    share = by_channel(mass / mass.sum(1, keepdim=True))
    total_mean = (share * mean).sum(0)
    total_var = (share * (var + (mean - total_mean).square())).sum(0)
    inv_std = (total_var + eps).rsqrt()
    gain = (var + eps).sqrt() * inv_std / by_channel(mixing_factor(mixing_weight, mixing_scale))
    return gain, (mean - total_mean) * inv_std
