"""The output formula, where it is easy to see what it must give."""

import math

import pytest
import torch

from mixnorm_cuda.functional import mixture_normalize
from mixnorm_cuda.reference import mixing_factor
from tests.support import EPS, Target, assert_close, problem


def test_mixing_factor_is_bounded():
    weights = torch.tensor([[0.0, 5e-4, 1e-3, 0.25, 1.0]], dtype=torch.float64)
    bound = 1 / math.sqrt(1e-3)
    expected = torch.tensor([[bound, bound, bound, 2, 1]], dtype=torch.float64)
    assert_close(mixing_factor(weights, mixing_scale=True), expected, 1e-15)
    assert torch.equal(mixing_factor(weights, mixing_scale=False), torch.ones_like(weights))


@pytest.mark.parametrize("mixing_scale", [True, False])
def test_every_component_is_standardized(target: Target, mixing_scale):
    """Under one-hot responsibilities each component's outputs have mean 0 and variance 1/λ̃."""
    p = problem((60, 4), 3, affine=None, device=target.device)
    target.require(p.x, 3, given=True)
    component = torch.arange(60, device=target.device) % 3
    nu = (component[:, None] == torch.arange(3, device=target.device)).double()
    y, moments = mixture_normalize(
        p.x, *p.mixture, responsibilities=nu, mixing_scale=mixing_scale, backend=target.backend
    )
    for k in range(3):
        z = y[component == k]
        assert z.mean(0).abs().max() < 1e-13
        gain = 1 / p.mixture.mixing_weight[0, k] if mixing_scale else 1
        expected = gain * moments.var[k] / (moments.var[k] + EPS)
        assert_close(z.var(0, correction=0), expected, 1e-12)


def test_shared_affine_is_an_affine_map_of_the_plain_output(target: Target):
    p = problem((6, 4, 5), 3, 2, device=target.device)
    for training in (True, False):
        plain, _ = mixture_normalize(p.x, *p.mixture, training=training, backend=target.backend)
        y, _ = mixture_normalize(
            p.x, *p.mixture, p.weight, p.bias, training=training, backend=target.backend
        )
        assert_close(y, plain * p.weight[:, None] + p.bias[:, None], 1e-13)


def test_groups_are_independent_mixtures(target: Target):
    """G groups at once equal one call per group on its own channels."""
    p = problem((6, 6, 5), 3, 3, affine="component", device=target.device)
    for training in (True, False):
        y, _ = mixture_normalize(
            p.x, *p.mixture, p.weight, p.bias, training=training, backend=target.backend
        )
        for g in range(3):
            own = slice(2 * g, 2 * g + 2)
            alone, _ = mixture_normalize(
                p.x[:, own], p.mixture.mixing_weight[g : g + 1],
                p.mixture.mean[:, own], p.mixture.var[:, own],
                p.weight[:, own], p.bias[:, own],
                training=training, backend=target.backend,
            )  # fmt: skip
            assert_close(y[:, own], alone, 1e-13)


def test_weight_and_bias_alone(target: Target):
    p = problem((6, 4, 5), 3, affine="component", device=target.device)
    zero, one = torch.zeros_like(p.bias), torch.ones_like(p.weight)
    for training in (True, False):
        options = {"training": training, "backend": target.backend}
        only_weight, _ = mixture_normalize(p.x, *p.mixture, p.weight, **options)
        both, _ = mixture_normalize(p.x, *p.mixture, p.weight, zero, **options)
        assert_close(only_weight, both, 1e-14)
        only_bias, _ = mixture_normalize(p.x, *p.mixture, None, p.bias, **options)
        both, _ = mixture_normalize(p.x, *p.mixture, one, p.bias, **options)
        assert_close(only_bias, both, 1e-14)
