"""Mixture normalization a second time, from the definitions, to hold the library to.

Shares no code and no layout with the library: rows are positions, every channel looks up the
responsibilities of its own group, densities come from `torch.distributions`, and gradients from
autograd. Float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Normal


class Oracle(NamedTuple):
    y: Tensor
    nu: Tensor
    """[M, G, K]"""
    mass: Tensor
    mean: Tensor
    var: Tensor


def rows(x: Tensor) -> Tensor:
    """[N, C, *S] -> [M, C], one row per position."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def posterior(x: Tensor, mixing_weight: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    """ν [M, G, K] by Bayes' rule: prior times the product of the channels' densities."""
    density = Normal(mean, (var + eps).sqrt()).log_prob(rows(x)[:, None, :])
    of_group = density.tensor_split(mixing_weight.shape[0], dim=-1)
    joint = torch.stack([part.sum(-1) for part in of_group], dim=1) + mixing_weight.log()
    return (joint - joint.logsumexp(-1, keepdim=True)).exp()


def given_posterior(responsibilities: Tensor, x: Tensor, groups: int) -> Tensor:
    """[N, K] or [N, K, *S] -> [M, G, K]."""
    if responsibilities.dim() == 2:
        responsibilities = responsibilities.reshape(*responsibilities.shape, *[1] * (x.dim() - 2))
    per_position = responsibilities.expand(-1, -1, *x.shape[2:])
    return rows(per_position)[:, None, :].repeat(1, groups, 1)


def oracle(
    x: Tensor,
    mixing_weight: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    training: bool = True,
    eps: float = 1e-5,
    em_iters: int = 0,
    mixing_scale: bool = True,
    responsibility_grad: bool = True,
    responsibilities: Tensor | None = None,
) -> Oracle:
    """Arguments as `mixture_normalize`; gradients flow as that promises."""
    groups, channels = mixing_weight.shape[0], x.shape[1]
    group_of = torch.arange(channels) // (channels // groups)
    at = rows(x)
    for _ in range(em_iters):
        nu = posterior(x, mixing_weight, mean, var, eps).detach()
        s = nu.sum(0)
        per_channel = nu[:, group_of]
        mixing_weight = s / len(at)
        mean = (torch.einsum("ick,ic->ck", per_channel, at) / s[group_of]).T.detach()
        var = torch.einsum("ick,ick->kc", per_channel, (at[..., None] - mean.T) ** 2).detach()
        var = var / s[group_of].T
    if responsibilities is None:
        nu = posterior(x, mixing_weight, mean, var, eps)
        nu = nu if responsibility_grad else nu.detach()
    else:
        nu = given_posterior(responsibilities, x, groups)
    of_channel = nu[:, group_of]  # [M, C, K]
    mass = nu.sum(0)
    if training:
        m = torch.einsum("ick,ic->ck", of_channel, at) / mass[group_of]
        q = torch.einsum("ick,ick->ck", of_channel, (at[..., None] - m) ** 2) / mass[group_of]
    else:
        m, q = mean.T, var.T
    z = (at[..., None] - m) / (q + eps) ** 0.5
    if mixing_scale:
        z = z / mixing_weight.clamp(min=1e-3)[group_of] ** 0.5
    if weight is not None:
        z = z * (weight.T if weight.dim() == 2 else weight[:, None])
    if bias is not None:
        z = z + (bias.T if bias.dim() == 2 else bias[:, None])
    y = (of_channel * z).sum(-1).reshape(x.shape[0], *x.shape[2:], channels).movedim(-1, 1)
    return Oracle(y, nu, mass, m.T, q.T)
