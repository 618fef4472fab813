"""The 2-Wasserstein distance between Gaussian mixtures. POT is imported when it is needed."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mixnorm_cuda.gaussian_mixture import GaussianMixture


def wasserstein_mixture(
    features_a: Tensor, features_b: Tensor, n_components: int, **mixture_options: Any
) -> float:
    """WaM: the squared 2-Wasserstein distance between mixtures fitted to two sets of features.

    A `GaussianMixture` of K = ``n_components`` diagonal components is fitted to each set; the
    result is `mixture_distance` of the two. With K = 1 it is the Fréchet distance of Gaussians
    with diagonal covariance. Source: L. Luzi, C. Ortiz Marrero, N. Wynar, R. Baraniuk and M. Henry,
    *Evaluating generative networks using Gaussian mixtures of image features*, WACV 2023, who use
    full covariances.

    Args:
        features_a: ``[n, C]``, float32 or float64, on any device.
        features_b: ``[m, C]``; m need not be n.
        n_components: K, for both sets.
        mixture_options: further keyword arguments of `GaussianMixture`. A fit ends in an optimum
            that depends on its seeds: ``random_state`` fixes them, ``n_init`` tries several.

    Raises:
        ImportError: POT is not installed.
        ValueError: the sets differ in C; K < 1; a set has fewer rows than components, or is not a
            finite matrix; a mixture option is out of range.
        TypeError: a set is neither float32 nor float64.
    """
    ot = _pot()
    for name, features in (("features_a", features_a), ("features_b", features_b)):
        if features.dim() != 2 or features.shape[0] < n_components or features.shape[1] < 1:
            raise ValueError(
                f"{name} has shape {tuple(features.shape)}: expected [n, C] with at least "
                f"n_components={n_components} rows"
            )
    if features_a.shape[1] != features_b.shape[1]:
        raise ValueError(
            f"features_b has {features_b.shape[1]} columns: expected {features_a.shape[1]}, "
            "as features_a has"
        )
    first = GaussianMixture(n_components, **mixture_options)
    second = GaussianMixture(n_components, **mixture_options)
    return _distance(ot, first.fit(features_a), second.fit(features_b))


def mixture_distance(first: GaussianMixture, second: GaussianMixture) -> float:
    """The squared 2-Wasserstein distance MW₂² between two fitted diagonal mixtures.

    Among the couplings that are themselves Gaussian mixtures the cheapest transports whole
    components: with ω over the ``[K, L]`` matrices ≥ 0 whose rows sum to λ and columns to λ',

        MW₂² = min_ω Σ_kl ω_kl Σ_c [ (μ_kc − μ'_lc)² + (σ_kc − σ'_lc)² ]

    an upper bound of W₂² that vanishes for equal mixtures only; its root is a metric. Source:
    J. Delon and A. Desolneux, *A Wasserstein-type distance in the space of Gaussian mixture
    models*, SIAM Journal on Imaging Sciences 13(2), 2020. Computed in float64.

    Args:
        first: fitted, with K components. second: fitted, with L components.

    Raises:
        ImportError: POT is not installed.
        RuntimeError: a mixture is not fitted.
        ValueError: the mixtures differ in their number of columns.
    """
    return _distance(_pot(), first, second)


def _distance(ot: ModuleType, first: GaussianMixture, second: GaussianMixture) -> float:
    for name, mixture in (("first", first), ("second", second)):
        if not hasattr(mixture, "means_"):
            raise RuntimeError(f"{name} is not fitted yet: call its fit")
    if first.means_.shape[1] != second.means_.shape[1]:
        raise ValueError(
            f"second has {second.means_.shape[1]} columns: expected {first.means_.shape[1]}, "
            "as first has"
        )
    # [K, 2C]: the cost between diagonal Gaussians is Euclidean in means and standard deviations.
    points = [
        torch.cat([m.means_.double(), m.covariances_.double().sqrt()], dim=1).cpu()
        for m in (first, second)
    ]
    # Not the expanded square of cdist's fast path: near components would cancel.
    cost = (points[0][:, None] - points[1]).square().sum(dim=2)
    # Exact sums of one, which the solver asks for and float32 weights miss by a rounding.
    weights = [m.weights_.double().cpu() / m.weights_.double().sum().cpu() for m in (first, second)]
    return float(ot.emd2(weights[0].numpy(), weights[1].numpy(), cost.numpy()))


def _pot() -> ModuleType:
    try:
        import ot
    except ImportError as error:
        raise ImportError(
            "the transport between mixtures is computed by POT, which is not installed: "
            "pip install POT, or mixnorm_cuda[metrics]"
        ) from error
    module: ModuleType = ot
    return module
