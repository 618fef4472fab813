"""The output: every component's normalization, combined by the responsibilities."""

import torch
from torch import Tensor

from mixnorm_cuda.reference.layout import affine_by_component, by_component, group_entry


def mixing_factor(mixing_weight: Tensor, mixing_scale: bool) -> Tensor:
    """λ̃^(−½) with λ̃ = max(λ, 1e-3), or 1 without the mixing scale; ``[G, K]``.

    The floor bounds the gain of a rare component at about 32.
    """
    if not mixing_scale:
        return torch.ones_like(mixing_weight)
    return mixing_weight.clamp_min(1e-3).rsqrt()


def above_floor(mixing_weight: Tensor) -> Tensor:
    """Where λ̃ = λ."""
    return mixing_weight >= 1e-3


def normalize(
    x: Tensor,
    nu: Tensor,
    mean: Tensor,
    var: Tensor,
    mixing_weight: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mixing_scale: bool,
) -> Tensor:
    """y = Σ_k ν_k [γ_k (x − m_k) (q_k + ε)^(−½) λ̃_k^(−½) + β_k], ``[N, G, D, L]``."""
    groups = x.shape[1]
    il = mixing_factor(mixing_weight, mixing_scale)
    m, inv_std = by_component(mean, groups), by_component((var + eps).rsqrt(), groups)
    gamma = affine_by_component(weight, mean, groups)
    beta = affine_by_component(bias, mean, groups)
    y = torch.zeros_like(x)
    for k in range(nu.shape[2]):
        scale = inv_std[k] * group_entry(il, k)
        z = (x - m[k]) * (scale if gamma is None else scale * gamma[k])
        y = y + nu[:, :, k, None] * (z if beta is None else z + beta[k])
    return y
