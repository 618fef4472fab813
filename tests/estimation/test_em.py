"""EM against scikit-learn, step by step."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from mixnorm_cuda.estimation import batch_moments, em, initial_mixture
from mixnorm_cuda.types import Mixture
from tests.oracle import rows
from tests.support import EPS, Target, assert_close, problem, same_bits


def after(x: np.ndarray, start: Mixture, steps: int, reg_covar: float) -> tuple[np.ndarray, ...]:
    """Weights, means and covariances of scikit-learn's estimator after ``steps`` EM steps."""
    model = GaussianMixture(
        start.mean.shape[0],
        covariance_type="diag",
        reg_covar=reg_covar,
        tol=0,
        max_iter=steps,
        weights_init=start.mixing_weight[0].numpy(),
        means_init=start.mean.numpy(),
        precisions_init=1 / (start.var.numpy() + reg_covar),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x)
    return model.weights_, model.means_, model.covariances_


@pytest.mark.parametrize("reg_covar", [1e-6, 1e-2])
@pytest.mark.parametrize("components", [1, 2, 3, 5])
def test_every_step_is_that_of_scikit_learn(target: Target, seed: int, components, reg_covar):
    p = problem((20, 4, 5), components, device=target.device)
    target.require(p.x, components)
    mixture, start = p.mixture, p.to("cpu").mixture
    x = rows(p.x.cpu()).numpy()
    for step in range(1, 7):
        mixture = em(p.x, mixture, iters=1, eps=reg_covar, backend=target.backend)
        weights, means, covariances = after(x, start, step, reg_covar)
        assert_close(mixture.mixing_weight[0], torch.from_numpy(weights), 1e-10)
        assert_close(mixture.mean, torch.from_numpy(means), 1e-10)
        assert_close(mixture.var + reg_covar, torch.from_numpy(covariances), 1e-10)


def test_each_group_is_a_mixture_of_its_own(target: Target):
    p = problem((20, 6, 5), 3, 2, device=target.device)
    target.require(p.x, 3, 2)
    mixture = em(p.x, p.mixture, iters=3, eps=EPS, backend=target.backend)
    start = p.to("cpu").mixture
    for g in range(2):
        own = slice(3 * g, 3 * g + 3)
        alone = Mixture(start.mixing_weight[g : g + 1], start.mean[:, own], start.var[:, own])
        weights, means, covariances = after(rows(p.x.cpu())[:, own].numpy(), alone, 3, EPS)
        assert_close(mixture.mixing_weight[g], torch.from_numpy(weights), 1e-10)
        assert_close(mixture.mean[:, own], torch.from_numpy(means), 1e-10)
        assert_close(mixture.var[:, own] + EPS, torch.from_numpy(covariances), 1e-10)


def test_several_steps_are_one_step_several_times(target: Target):
    p = problem((20, 4, 5), 3, 2, device=target.device)
    target.require(p.x, 3, 2)
    at_once = em(p.x, p.mixture, iters=4, eps=EPS, backend=target.backend)
    mixture = p.mixture
    for _ in range(4):
        mixture = em(p.x, mixture, iters=1, eps=EPS, backend=target.backend)
    assert all(map(same_bits, at_once, mixture))


def test_no_steps_return_the_start(target: Target):
    p = problem((20, 4), 3, device=target.device)
    assert em(p.x, p.mixture, iters=0, eps=EPS, backend=target.backend) is p.mixture


def test_an_empty_component_stays_where_it_is(target: Target):
    p = problem((20, 4, 5), 3, device=target.device)
    target.require(p.x, 3)
    p.mixture.mean[1] = 1e4
    mixture = em(p.x, p.mixture, iters=3, eps=EPS, backend=target.backend)
    assert all(t.isfinite().all() for t in mixture)
    assert mixture.mixing_weight[0, 1] < 1e-30
    assert_close(mixture.mean[1], p.mixture.mean[1], 1e-15)


def test_carries_no_gradient(target: Target):
    p = problem((20, 4, 5), 3, device=target.device)
    target.require(p.x, 3)
    mixture = em(p.x.requires_grad_(), p.mixture, iters=2, eps=EPS, backend=target.backend)
    assert not any(t.requires_grad for t in mixture)


def test_empty_batch(target: Target):
    x = torch.empty(0, 4, 5, device=target.device)
    target.require(x, 3)
    start = initial_mixture(x, 3, 1)
    mixture = em(x, start, iters=2, eps=EPS, backend=target.backend)
    assert all(t.isfinite().all() for t in mixture)
    moments = batch_moments(x, start, EPS, target.backend)
    assert torch.equal(moments.mass, torch.zeros_like(moments.mass))
    assert torch.equal(moments.mean, start.mean)
