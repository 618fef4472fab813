"""Gradients of the output with respect to the input, the affine pairs, ν and θ, by hand.

Two sweeps over (x, dy), each a function: the sums H1 and H2 that the moments' dependence on x
needs, then dx. What runs in several processes adds the sums up between the two.

Written with u = x − m_k; expanding the squares gives the form with α, τ, a, b and h that suits
kernels. All operations are differentiable, so the second derivative follows from them.
"""

import torch
from torch import Tensor

from mixnorm_cuda.reference.layout import (
    affine_by_component,
    by_channel,
    by_component,
    group_entry,
    per_channel,
)
from mixnorm_cuda.reference.moments import safe_mass
from mixnorm_cuda.reference.normalize import above_floor, mixing_factor
from mixnorm_cuda.types import BatchMoments, GradientSums, Mixture


def backward_sums(dy: Tensor, x: Tensor, nu: Tensor, mean: Tensor) -> GradientSums:
    """H1 = Σ ν dy and H2 = Σ ν dy (x − m), ``[K, C]``, of ``dy`` [N, G, D, L]."""
    h1, h2 = [], []
    for k, m in enumerate(by_component(mean, x.shape[1])):
        weighted = nu[:, :, k, None] * dy
        h1.append(weighted.sum(dim=(0, 3)).unsqueeze(-1))
        h2.append((weighted * (x - m)).sum(dim=(0, 3)).unsqueeze(-1))
    return GradientSums(by_channel(torch.stack(h1)), by_channel(torch.stack(h2)))


def affine_gradients(
    sums: GradientSums, var: Tensor, mixing_weight: Tensor, eps: float, mixing_scale: bool
) -> tuple[Tensor, Tensor]:
    """dγ = λ̃^(−½) (q + ε)^(−½) H2 and dβ = H1, ``[K, C]``."""
    il = per_channel(mixing_factor(mixing_weight, mixing_scale), var.shape[1])
    return il * (var + eps).rsqrt() * sums.h2, sums.h1


def backward_apply(
    dy: Tensor,
    x: Tensor,
    nu: Tensor,
    moments: BatchMoments,
    mixture: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    sums: GradientSums | None,
    *,
    eps: float,
    mixing_scale: bool,
    responsibility_grad: bool,
    given: bool = False,
    mixture_grad: bool = False,
) -> tuple[Tensor, Tensor | None, Mixture | None]:
    """Gradients of x, of given responsibilities and of θ, for ``dy`` [N, G, D, L].

    ``sums``: H1 and H2 over the batch that the moments are of; None where m and q are constants
    (eval). ``given``: ν came from the caller, so dν is returned instead of going on to x.
    ``responsibility_grad=False`` treats ν as a constant.
    """
    groups, components = x.shape[1], nu.shape[2]
    il = mixing_factor(mixture.mixing_weight, mixing_scale)
    inv_mass = 1 / safe_mass(moments.mass)
    m, q = by_component(moments.mean, groups), by_component(moments.var, groups)
    r = (q + eps).rsqrt()
    gamma = affine_by_component(weight, mixture.mean, groups)
    gamma = torch.ones_like(m) if gamma is None else gamma
    beta = affine_by_component(bias, mixture.mean, groups)
    beta = torch.zeros_like(m) if beta is None else beta
    h1, h2 = (None, None) if sums is None else (by_component(h, groups) for h in sums)

    dx = torch.zeros_like(x)
    dnu = []
    for k in range(components):
        nu_k, u = nu[:, :, k, None], x - m[k]
        alpha = gamma[k] * r[k] * group_entry(il, k)
        slope = alpha * dy
        value = dy * (alpha * u + beta[k])
        if h1 is not None and h2 is not None:
            through_mean = alpha * h1[k] * group_entry(inv_mass, k)
            b = -0.5 * alpha * r[k].square() * h2[k] * group_entry(inv_mass, k)
            slope = slope - through_mean + 2 * b * u
            value = value - through_mean * u + b * (u.square() - q[k])
        dx = dx + nu_k * slope
        dnu.append(value.sum(2))

    dnu_all = torch.stack(dnu, dim=2)
    dlog = None
    if responsibility_grad and not given and components > 1:
        dlog = nu * (dnu_all - (nu * dnu_all).sum(2, keepdim=True))
        mu, precision = _log_parameters(mixture, groups, eps)
        for k in range(components):
            dx = dx - dlog[:, :, k, None] * (x - mu[k]) * precision[k]
    dmixture = None
    if mixture_grad:
        dmixture = _mixture_gradients(dlog, x, mixture, eps)
        if mixing_scale and h2 is not None:
            mixing_weight = mixture.mixing_weight
            alpha_h2 = (gamma * r * h2).sum(dim=(2, 3)).T * il
            through_scale = -0.5 * alpha_h2 / mixing_weight
            through_scale = through_scale.where(above_floor(mixing_weight), 0)
            dmixture = dmixture._replace(mixing_weight=dmixture.mixing_weight + through_scale)
    return dx, dnu_all if given else None, dmixture


def _log_parameters(mixture: Mixture, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    return by_component(mixture.mean, groups), 1 / (by_component(mixture.var, groups) + eps)


def _mixture_gradients(dlog: Tensor | None, x: Tensor, mixture: Mixture, eps: float) -> Mixture:
    """Gradients of θ through the responsibilities, from the sums of dℓ, dℓ(x−μ), dℓ(x−μ)²."""
    if dlog is None:
        return Mixture(*(torch.zeros_like(t) for t in mixture))
    mu, precision = _log_parameters(mixture, x.shape[1], eps)
    l0 = dlog.sum(dim=(0, 3))
    dmean, dvar = [], []
    for k in range(dlog.shape[2]):
        dlog_k, u = dlog[:, :, k, None], x - mu[k]
        l1 = (dlog_k * u).sum(dim=(0, 3)).unsqueeze(-1)
        l2 = (dlog_k * u.square()).sum(dim=(0, 3)).unsqueeze(-1)
        dmean.append(l1 * precision[k])
        dvar.append(0.5 * (l2 * precision[k] - group_entry(l0, k)) * precision[k])
    tiny = torch.finfo(x.dtype).tiny
    return Mixture(
        l0 / mixture.mixing_weight.clamp_min(tiny),
        by_channel(torch.stack(dmean)),
        by_channel(torch.stack(dvar)),
    )
