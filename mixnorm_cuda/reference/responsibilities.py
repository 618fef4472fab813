"""E-step: posterior probabilities of the components at every position."""

import torch
from torch import Tensor

from mixnorm_cuda.reference.layout import by_component
from mixnorm_cuda.types import Mixture


def log_joint(x: Tensor, mixture: Mixture, eps: float) -> Tensor:
    """log λ_k − ½ Σ_{c∈g} [(x − μ)²/(σ² + ε) + log(σ² + ε)], ``[N, G, K, L]``.

    The constant −½ D log 2π is left out; it cancels in the softmax.
    """
    mean, var = _by_component(mixture, eps)
    terms = [(x - m).square() / v + v.log() for m, v in zip(mean, var, strict=True)]
    return _joined(terms, mixture)


def remoteness(mixture: Mixture, eps: float) -> Tensor:
    """Mean squared Mahalanobis distance of each component from all of the mixture, ``[G, K]``.

    Σ_{c∈g} [(μ_k − μ̄)² + σ̄²] / (σ²_k + ε), with the mean μ̄ and the variance σ̄² of the mixture: how
    large the terms of the component's log density are where the data is. The least remote component
    is broad and amid the others, so that differences to it cost the fewest digits.
    """
    mean, var = _by_component(mixture, eps)
    weight = mixture.mixing_weight.T[:, :, None, None]
    centre = (weight * mean).sum(0)
    spread = (weight * ((mean - centre).square() + var)).sum(0)
    return (((mean - centre).square() + spread) / var).sum((2, 3)).T


def log_odds(x: Tensor, mixture: Mixture, eps: float) -> Tensor:
    """`log_joint` less that of each group's least remote component, ``[N, G, K, L]``.

    The difference is taken channel by channel, before the sum: where components overlap, their
    log densities grow with the D channels of the group while the differences do not, and rounding
    errors with them. At D = 512 this saves a digit of ν in float32.
    """
    mean, var = _by_component(mixture, eps)
    origin = remoteness(Mixture(*(t.detach() for t in mixture)), eps).argmin(1)
    origin = origin[None, :, None, None].expand_as(mean[:1])
    origin_mean, origin_var = mean.gather(0, origin)[0], var.gather(0, origin)[0]
    first = (x - origin_mean).square() / origin_var
    terms = [
        (x - m).square() / v - first + (v / origin_var).log()
        for m, v in zip(mean, var, strict=True)
    ]
    return _joined(terms, mixture)


def responsibilities(x: Tensor, mixture: Mixture, eps: float) -> Tensor:
    """ν = softmax_k of `log_joint`, ``[N, G, K, L]``; one component owns everything."""
    if mixture.mixing_weight.shape[1] == 1:
        return x.new_ones(x.shape[0], x.shape[1], 1, x.shape[3])
    return log_odds(x, mixture, eps).softmax(dim=2)


def _by_component(mixture: Mixture, eps: float) -> tuple[Tensor, Tensor]:
    groups = mixture.mixing_weight.shape[0]
    return by_component(mixture.mean, groups), by_component(mixture.var, groups) + eps


def _joined(terms: list[Tensor], mixture: Mixture) -> Tensor:
    """log λ_k − ½ Σ_c terms[k]; λ is held at the smallest normal number, so that a component whose
    weight reached 0 stays finite."""
    mixing_weight = mixture.mixing_weight
    log_weight = mixing_weight.clamp_min(torch.finfo(mixing_weight.dtype).tiny).log()
    return log_weight.unsqueeze(-1) - 0.5 * torch.stack([term.sum(2) for term in terms], dim=2)
