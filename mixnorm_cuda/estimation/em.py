"""Expectation-maximization on one batch."""

import torch
from torch import Tensor

from mixnorm_cuda import dispatch
from mixnorm_cuda.distributed import Processes, joined_count, joined_moments
from mixnorm_cuda.types import BatchMoments, Mixture


def batch_moments(
    x: Tensor, mixture: Mixture, eps: float, backend: str, processes: Processes | None = None
) -> BatchMoments:
    """S, m and q of ``x``, with those of other ``processes``, under the responsibilities of
    ``mixture``."""
    groups, components = mixture.mixing_weight.shape
    moments = dispatch.select(backend, x, components, groups).moments(x, mixture, eps=eps)
    return moments if processes is None else joined_moments(moments, mixture.mean, processes)


@torch.no_grad()
def em(
    x: Tensor,
    mixture: Mixture,
    *,
    iters: int,
    eps: float,
    backend: str,
    processes: Processes | None = None,
) -> Mixture:
    """``iters`` EM steps from ``mixture``: λ = S/M, μ = m, σ² = q.

    Equal to scikit-learn's diagonal ``GaussianMixture`` with ``reg_covar = eps`` and
    σ² + ε = ``covariances_``. A step whose result is not finite leaves ``mixture`` as it is, so
    that the seeds of a first batch with such values stay usable. With ``processes`` the batch is
    that of all of them, and each step exchanges its moments once.
    """
    for _ in range(iters):
        moments = batch_moments(x, mixture, eps, backend, processes)
        own = max(x.numel() // x.shape[1], 1)
        count = own if processes is None else joined_count(moments)
        step = Mixture(moments.mass / count, moments.mean, moments.var)
        finite = torch.stack([t.isfinite().all() for t in step]).all()
        mixture = Mixture(
            *(torch.where(finite, new, old) for new, old in zip(step, mixture, strict=True))
        )
    return mixture
