"""Expectation-maximization on one batch."""

import torch
from torch import Tensor

from mixnorm_cuda import dispatch
from mixnorm_cuda.types import BatchMoments, Mixture


def batch_moments(x: Tensor, mixture: Mixture, eps: float, backend: str) -> BatchMoments:
    """S, m and q of ``x`` under the responsibilities of ``mixture``."""
    groups, components = mixture.mixing_weight.shape
    return dispatch.select(backend, x, components, groups).moments(x, mixture, eps=eps)


@torch.no_grad()
def em(x: Tensor, mixture: Mixture, *, iters: int, eps: float, backend: str) -> Mixture:
    """``iters`` EM steps from ``mixture``: λ = S/M, μ = m, σ² = q.

    Equal to scikit-learn's diagonal ``GaussianMixture`` with ``reg_covar = eps`` and
    σ² + ε = ``covariances_``. A step whose result is not finite leaves ``mixture`` as it is, so
    that the seeds of a first batch with such values stay usable.
    """
    for _ in range(iters):
        moments = batch_moments(x, mixture, eps, backend)
        count = x.numel() // x.shape[1]
        step = Mixture(moments.mass / max(count, 1), moments.mean, moments.var)
        finite = torch.stack([t.isfinite().all() for t in step]).all()
        mixture = Mixture(
            *(torch.where(finite, new, old) for new, old in zip(step, mixture, strict=True))
        )
    return mixture
