"""The distance between mixtures against POT's, and against closed forms."""

import math
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

import mixnorm_cuda as mx
from mixnorm_cuda.metrics import mixture_distance, wasserstein_mixture

ot = pytest.importorskip("ot", reason="POT is not installed: pip install POT")


def fitted(weights: Tensor, means: Tensor, covariances: Tensor) -> mx.GaussianMixture:
    mixture = mx.GaussianMixture(len(weights))
    mixture.weights_, mixture.means_, mixture.covariances_ = weights, means, covariances
    return mixture


def random_mixture(components: int, channels: int, dtype=torch.float64) -> mx.GaussianMixture:
    weights = torch.rand(components, dtype=dtype) + 0.1
    return fitted(
        weights / weights.sum(),
        3 * torch.randn(components, channels, dtype=dtype),
        torch.rand(components, channels, dtype=dtype) + 0.05,
    )


def pots_distance(a: mx.GaussianMixture, b: mx.GaussianMixture) -> float:
    """POT's own distance, with the diagonals as full covariance matrices."""
    import ot.gmm

    means, covariances, weights = (
        [getattr(m, name).double().numpy() for m in (a, b)]
        for name in ("means_", "covariances_", "weights_")
    )
    full = [np.stack([np.diag(row) for row in rows]) for rows in covariances]
    exact = [w / w.sum() for w in weights]
    return float(ot.gmm.gmm_ot_loss(*means, *full, *exact))


@pytest.mark.parametrize(
    ("first", "second", "channels"), [(1, 1, 3), (3, 3, 4), (5, 2, 1), (2, 6, 16)]
)
def test_pots_distance(first, second, channels):
    a, b = random_mixture(first, channels), random_mixture(second, channels)
    # POT takes roots of full matrices through eigenvalues: good to about 1e-8 of the cost.
    assert mixture_distance(a, b) == pytest.approx(pots_distance(a, b), rel=1e-7)
    assert mixture_distance(a, b) == pytest.approx(mixture_distance(b, a), rel=1e-12)


def test_float32_mixtures():
    a, b = random_mixture(3, 8, torch.float32), random_mixture(4, 8, torch.float32)
    assert mixture_distance(a, b) == pytest.approx(pots_distance(a, b), rel=1e-6)


def test_equal_and_permuted_mixtures_have_distance_zero():
    a = random_mixture(4, 3)
    order = torch.tensor([2, 0, 3, 1])
    b = fitted(a.weights_[order], a.means_[order], a.covariances_[order])
    assert mixture_distance(a, a) == 0
    assert mixture_distance(a, b) == pytest.approx(0, abs=1e-12)


def test_single_gaussians():
    """Hand-computed: squared distance of means plus that of standard deviations."""
    a = fitted(torch.ones(1), torch.tensor([[0.0, 1.0]]), torch.tensor([[4.0, 1.0]]))
    b = fitted(torch.ones(1), torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 9.0]]))
    assert mixture_distance(a, b) == pytest.approx(9 + 1 + 4)


def test_mass_moves_only_where_it_has_to():
    """Two far modes, of which a quarter of the mass changes sides: 0.25 · 10²."""
    means, covariances = torch.tensor([[0.0], [10.0]]), torch.ones(2, 1)
    a = fitted(torch.tensor([0.5, 0.5]), means, covariances)
    b = fitted(torch.tensor([0.25, 0.75]), means, covariances)
    assert mixture_distance(a, b) == pytest.approx(25.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features(dtype):
    """Fitted as by hand, and far sets are further apart than halves of one set."""
    x = torch.randn(600, 5, dtype=dtype)
    x[:200] += 6
    options = {"random_state": 0, "max_iter": 200}
    fits = [mx.GaussianMixture(2, **options).fit(half) for half in (x[::2], x[1::2])]
    near = wasserstein_mixture(x[::2], x[1::2], 2, **options)
    assert near == mixture_distance(*fits)
    far = wasserstein_mixture(x[::2], x[1::2] + 2, 2, **options)
    assert far == pytest.approx(4 * 5, rel=0.2)
    assert 0 < near < 0.3 < far


def test_modes_that_one_gaussian_cannot_tell_apart():
    """Equal means and variances, two modes against one: only K > 1 sees it."""
    sign = (torch.arange(2000) % 2 * 2.0 - 1.0)[:, None]
    two = 3 * sign + torch.randn(2000, 1)
    one = math.sqrt(10) * torch.randn(2000, 1)
    options = {"random_state": 0, "n_init": 3, "max_iter": 500}
    assert wasserstein_mixture(two, one, 1, **options) < 0.1
    assert wasserstein_mixture(two, one, 2, **options) > 0.3


@pytest.mark.parametrize(
    ("a", "b", "k", "error", "message"),
    [
        (torch.randn(9, 3), torch.randn(9, 4), 2, ValueError, "features_b has 4 columns: expected"),
        (torch.randn(9), torch.randn(9, 4), 2, ValueError, r"features_a has shape \(9,\)"),
        (torch.randn(9, 4), torch.randn(1, 4), 2, ValueError, r"features_b has shape \(1, 4\)"),
        (torch.randn(9, 4), torch.randn(9, 4), 0, ValueError, "n_components=0"),
        (torch.full((9, 4), math.nan), torch.randn(9, 4), 2, ValueError, "NaN or infinity"),
        (torch.randn(9, 4).half(), torch.randn(9, 4), 2, TypeError, "float16"),
    ],
)
def test_bad_features(a, b, k, error, message):
    with pytest.raises(error, match=message):
        wasserstein_mixture(a, b, k)


def test_bad_mixtures():
    with pytest.raises(RuntimeError, match="second is not fitted"):
        mixture_distance(random_mixture(2, 3), mx.GaussianMixture(2))
    with pytest.raises(ValueError, match="second has 4 columns: expected 3"):
        mixture_distance(random_mixture(2, 3), random_mixture(2, 4))


def test_without_pot(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match=r"POT, which is not installed: pip install POT"):
        wasserstein_mixture(torch.randn(9, 3), torch.randn(9, 3), 2)
