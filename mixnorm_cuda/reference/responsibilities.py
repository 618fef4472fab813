"""E-step: posterior probabilities of the components at every position."""

import torch
from torch import Tensor

from mixnorm_cuda.reference.layout import by_component
from mixnorm_cuda.types import Mixture


def log_joint(x: Tensor, mixture: Mixture, eps: float) -> Tensor:
    """log λ_k − ½ Σ_{c∈g} [(x − μ)²/(σ² + ε) + log(σ² + ε)], ``[N, G, K, L]``.

    The constant −½ D log 2π is left out; it cancels in the softmax. λ is held at the smallest
    normal number, so that a component whose weight reached 0 stays finite.
    """
    groups, components = mixture.mixing_weight.shape
    mean = by_component(mixture.mean, groups)
    var = by_component(mixture.var, groups) + eps
    distance = torch.stack(
        [((x - mean[k]).square() / var[k]).sum(2) for k in range(components)], dim=2
    )
    log_det = var.log().sum(dim=(2, 3)).T
    log_weight = mixture.mixing_weight.clamp_min(torch.finfo(x.dtype).tiny).log()
    return (log_weight - 0.5 * log_det).unsqueeze(-1) - 0.5 * distance


def responsibilities(x: Tensor, mixture: Mixture, eps: float) -> Tensor:
    """ν = softmax_k of `log_joint`, ``[N, G, K, L]``; one component owns everything."""
    if mixture.mixing_weight.shape[1] == 1:
        return x.new_ones(x.shape[0], x.shape[1], 1, x.shape[3])
    return log_joint(x, mixture, eps).softmax(dim=2)
