"""The E-step: Bayes' rule, and what becomes of it at the edges."""

import pytest
import torch
from torch.distributions import Independent, Normal

from mixnorm_cuda.reference import ReferenceBackend, log_joint
from mixnorm_cuda.reference.layout import grouped
from mixnorm_cuda.types import Mixture
from tests.oracle import posterior
from tests.support import EPS, assert_close, problem

BACKEND = ReferenceBackend()


def by_row(nu: torch.Tensor) -> torch.Tensor:
    """[N, G, K, L] -> [M, G, K]."""
    return nu.permute(0, 3, 1, 2).flatten(0, 1)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("components", [1, 2, 3, 5])
def test_bayes_rule(seed: int, components, groups):
    p = problem((5, 6, 3, 2), components, groups)
    nu = BACKEND.responsibilities(p.x, p.mixture, eps=EPS)
    assert nu.shape == (5, groups, components, 6)
    assert_close(by_row(nu), posterior(p.x, *p.mixture, EPS), 1e-13)


def test_log_joint_is_the_log_density_without_its_constant():
    p = problem((5, 6, 3), 3)
    joint = log_joint(grouped(p.x, 1), p.mixture, EPS)
    constant = 0.5 * 6 * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64))
    for k in range(3):
        density = Independent(Normal(p.mixture.mean[k], (p.mixture.var[k] + EPS).sqrt()), 1)
        expected = density.log_prob(p.x.movedim(1, -1)) + p.mixture.mixing_weight[0, k].log()
        assert_close(joint[:, 0, k] - constant, expected, 1e-13)


def test_far_positions_belong_to_the_nearest_component():
    """A plain product of densities would be 0/0 here."""
    mixture = Mixture(torch.tensor([[0.5, 0.5]]), torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1))
    nu = BACKEND.responsibilities(torch.tensor([[-3e4], [3e4]]), mixture, eps=EPS)
    assert by_row(nu)[:, 0].tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_component_of_weight_zero_owns_nothing_and_spoils_nothing(dtype):
    p = problem((5, 4, 3), 3, dtype=dtype)
    mixture = p.mixture._replace(mixing_weight=torch.tensor([[0.4, 0.6, 0.0]], dtype=dtype))
    nu = by_row(BACKEND.responsibilities(p.x, mixture, eps=EPS))[:, 0]
    assert nu.isfinite().all()
    assert nu[:, 2].max() < 1e-30
    assert_close(nu.sum(1), torch.ones(15, dtype=dtype), 1e-6)


def test_a_mixture_without_any_weight_is_finite():
    """What EM steps on an empty batch leave: λ = S/M = 0 for every component."""
    p = problem((5, 4, 3), 3)
    mixture = p.mixture._replace(mixing_weight=torch.zeros(1, 3, dtype=torch.float64))
    equal = torch.full((1, 3), 1 / 3, dtype=torch.float64)
    nu = BACKEND.responsibilities(p.x, mixture, eps=EPS)
    assert_close(by_row(nu), posterior(p.x, equal, *mixture[1:], EPS), 1e-12)


def test_variance_zero_stands_on_epsilon():
    mixture = Mixture(
        torch.tensor([[0.5, 0.5]], dtype=torch.float64),
        torch.tensor([[0.0], [0.02]], dtype=torch.float64),
        torch.zeros(2, 1, dtype=torch.float64),
    )
    x = torch.tensor([[0.009]], dtype=torch.float64)
    nu = by_row(BACKEND.responsibilities(x, mixture, eps=1e-4))[0, 0]
    odds = torch.tensor((0.011**2 - 0.009**2) / (2 * 1e-4), dtype=torch.float64).exp()
    assert (nu[0] / nu[1]).item() == pytest.approx(odds.item(), rel=1e-12)
