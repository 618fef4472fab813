"""Gradients of the output with respect to the input, the affine pairs, ν and θ, by hand.

Written with u = x − m_k; expanding the squares gives the form with α, τ, a, b and h that suits
kernels. All operations are differentiable, so the second derivative follows from them.
"""

import torch
from torch import Tensor

from mixnorm_cuda.reference.layout import by_channel, by_component, group_entry
from mixnorm_cuda.reference.moments import MIN_MASS
from mixnorm_cuda.reference.normalize import MIN_MIXING_WEIGHT, mixing_factor
from mixnorm_cuda.types import BatchMoments, Gradients, Mixture


def backward(
    dy: Tensor,
    x: Tensor,
    nu: Tensor,
    moments: BatchMoments,
    mixture: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    mixing_scale: bool,
    batch_statistics: bool,
    responsibility_grad: bool,
    given: bool = False,
    mixture_grad: bool = False,
) -> Gradients:
    """Gradients for ``dy`` [N, G, D, L].

    ``batch_statistics``: m and q depend on x (training) or are constants (eval).
    ``given``: ν came from the caller, so dν is returned instead of going on to x.
    ``responsibility_grad=False`` treats ν as a constant.
    """
    groups, components = x.shape[1], nu.shape[2]
    il = mixing_factor(mixture.mixing_weight, mixing_scale)
    inv_mass = 1 / moments.mass.clamp_min(MIN_MASS)
    m, q = by_component(moments.mean, groups), by_component(moments.var, groups)
    r = (q + eps).rsqrt()
    mean = mixture.mean
    gamma = (
        torch.ones_like(m)
        if weight is None
        else by_component(weight.to(x.dtype).expand_as(mean), groups)
    )
    beta = (
        torch.zeros_like(m)
        if bias is None
        else by_component(bias.to(x.dtype).expand_as(mean), groups)
    )

    dx = torch.zeros_like(x)
    dweight, dbias, dnu, alpha_h2 = [], [], [], []
    for k in range(components):
        nu_k, u = nu[:, :, k, None], x - m[k]
        h1 = (nu_k * dy).sum(dim=(0, 3)).unsqueeze(-1)
        h2 = (nu_k * dy * u).sum(dim=(0, 3)).unsqueeze(-1)
        scale = r[k] * group_entry(il, k)
        alpha = gamma[k] * scale
        slope = alpha * dy
        value = dy * (alpha * u + beta[k])
        if batch_statistics:
            through_mean = alpha * h1 * group_entry(inv_mass, k)
            b = -0.5 * alpha * r[k].square() * h2 * group_entry(inv_mass, k)
            slope = slope - through_mean + 2 * b * u
            value = value - through_mean * u + b * (u.square() - q[k])
        dx = dx + nu_k * slope
        dnu.append(value.sum(2))
        dbias.append(h1)
        dweight.append(scale * h2)
        alpha_h2.append((alpha * h2).sum(dim=(1, 2)))

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
        if mixing_scale:
            mixing_weight = mixture.mixing_weight
            through_scale = -0.5 * torch.stack(alpha_h2, dim=1) / mixing_weight
            through_scale = through_scale.where(mixing_weight >= MIN_MIXING_WEIGHT, 0)
            dmixture = dmixture._replace(mixing_weight=dmixture.mixing_weight + through_scale)
    return Gradients(
        dx,
        by_channel(torch.stack(dweight)),
        by_channel(torch.stack(dbias)),
        dnu_all if given else None,
        dmixture,
    )


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
