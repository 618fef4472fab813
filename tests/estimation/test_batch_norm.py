"""Starting as Batch Normalization, and going back."""

import itertools

import pytest
import torch
from torch.nn.functional import batch_norm

from mixnorm_cuda.estimation import collapse_affine, expand_affine, split_gaussian
from mixnorm_cuda.functional import mixture_normalize
from mixnorm_cuda.types import Mixture
from tests.support import EPS, Target, assert_close, problem

ROUNDING = 1e-12


def pooled(mixture: Mixture) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the whole mixture, channel by channel."""
    channels = mixture.mean.shape[1]
    group = torch.arange(channels) // (channels // mixture.mixing_weight.shape[0])
    share = mixture.mixing_weight[group].T
    mean = (share * mixture.mean).sum(0)
    return mean, (share * (mixture.var + mixture.mean**2)).sum(0) - mean**2


@pytest.mark.parametrize("mixing_scale", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("components", [1, 2, 3, 5])
class TestEqualsBatchNorm:
    def test_of_a_split_gaussian(self, target: Target, seed: int, components, groups, mixing_scale):
        """For every input, however far from the data of the statistics."""
        x = problem((8, 6, 5), 1).x * 10
        mean, var = torch.randn(6).double(), torch.rand(6).double() + 0.1
        weight, bias = torch.randn(2, 6).double()
        mixture = split_gaussian(mean, var, components, groups)
        pairs = expand_affine(weight, bias, mixture, eps=EPS, mixing_scale=mixing_scale)
        there = [t.to(target.device) for t in (x, *mixture, *pairs)]
        y, _ = mixture_normalize(
            *there, training=False, mixing_scale=mixing_scale, backend=target.backend
        )
        assert_close(y, batch_norm(x, mean, var, weight, bias, False, 0.0, EPS), ROUNDING)

    def test_of_any_mixture(self, target: Target, components, groups, mixing_scale):
        p = problem((8, 6, 5), components, groups)
        pairs = expand_affine(p.weight, p.bias, p.mixture, eps=EPS, mixing_scale=mixing_scale)
        there = [t.to(target.device) for t in (p.x, *p.mixture, *pairs)]
        y, _ = mixture_normalize(
            *there, training=False, mixing_scale=mixing_scale, backend=target.backend
        )
        expected = batch_norm(p.x, *pooled(p.mixture), p.weight, p.bias, False, 0.0, EPS)
        assert_close(y, expected, ROUNDING)

    def test_of_a_batch(self, target: Target, components, groups, mixing_scale):
        """In training the batch's masses weigh the components, not λ."""
        p = problem((8, 6, 5), components, groups, device=target.device)
        options = {"mixing_scale": mixing_scale, "backend": target.backend}
        _, moments = mixture_normalize(p.x, *p.mixture, **options)
        of_batch = Mixture(p.mixture.mixing_weight, moments.mean, moments.var)
        pairs = expand_affine(
            p.weight, p.bias, of_batch, eps=EPS, mixing_scale=mixing_scale, mass=moments.mass
        )
        y, _ = mixture_normalize(p.x, *p.mixture, *pairs, **options)
        assert_close(y, batch_norm(p.x, None, None, p.weight, p.bias, True, 0.0, EPS), ROUNDING)

    def test_collapse_is_the_inverse(self, components, groups, mixing_scale):
        p = problem((8, 6, 5), components, groups)
        options = {"eps": EPS, "mixing_scale": mixing_scale}
        pairs = expand_affine(p.weight, p.bias, p.mixture, **options)
        weight, bias = collapse_affine(*pairs, p.mixture, **options)
        assert_close(weight, p.weight, ROUNDING)
        assert_close(bias, p.bias, ROUNDING)


def test_a_rare_component_below_the_floor_of_its_weight():
    p = problem((8, 4, 5), 2)
    mixture = p.mixture._replace(
        mixing_weight=torch.tensor([[1e-5, 1 - 1e-5]], dtype=torch.float64)
    )
    pairs = expand_affine(p.weight, p.bias, mixture, eps=EPS, mixing_scale=True)
    y, _ = mixture_normalize(p.x, *mixture, *pairs, training=False)
    expected = batch_norm(p.x, *pooled(mixture), p.weight, p.bias, False, 0.0, EPS)
    assert_close(y, expected, ROUNDING)


@pytest.mark.parametrize("channels", [1, 2, 7, 64])
@pytest.mark.parametrize("components", [1, 2, 3, 5, 8])
def test_split_gaussian_keeps_mean_and_variance(components, channels):
    mean, var = torch.randn(channels).double(), torch.rand(channels).double() + 0.1
    mixture = split_gaussian(mean, var, components, 1)
    assert_close(mixture.mixing_weight, torch.full((1, components), 1 / components), 1e-7)
    total_mean, total_var = pooled(mixture)
    assert_close(total_mean, mean, ROUNDING)
    assert_close(total_var, var, ROUNDING)
    assert (mixture.var > 0).all()
    for i, j in itertools.combinations(range(components), 2):
        apart = (mixture.mean[i] - mixture.mean[j]).abs() / var.sqrt()
        assert apart.min() > 0.05, "components that start alike in a channel would stay alike"


def test_collapse_averages_pairs_of_no_single_batch_norm():
    p = problem((2, 4), 3)
    options = {"eps": EPS, "mixing_scale": True}
    first = expand_affine(p.weight, p.bias, p.mixture, **options)
    single = collapse_affine(
        first[0], first[1] + torch.tensor([[3.0], [0], [0]]), p.mixture, **options
    )
    assert_close(single[0], p.weight, ROUNDING)
    assert_close(single[1], p.bias + 1, ROUNDING)
