"""The M-step: weighted mass, mean and variance, and components without mass."""

import pytest
import torch

from mixnorm_cuda import dispatch
from mixnorm_cuda.functional import mixture_normalize
from mixnorm_cuda.reference import em_step
from mixnorm_cuda.types import BatchMoments
from tests.oracle import oracle
from tests.support import EPS, Target, assert_close, problem


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("components", [1, 2, 3, 5])
def test_moments_of_every_backend(target: Target, seed: int, components, groups):
    """The operation that EM is built on; the same as the forward pass finds."""
    p = problem((5, 6, 3, 2), components, groups, device=target.device)
    target.require(p.x, components, groups)
    moments = dispatch.BACKENDS[target.backend].moments(p.x, p.mixture, eps=EPS)
    expected = oracle(p.x.cpu(), *p.to("cpu").mixture)
    for value, reference in zip(moments, expected[2:], strict=True):
        assert_close(value, reference, 1e-13)
    assert_close(moments.mass.sum(1), torch.full((groups,), 30.0), 1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("groups", [1, 2])
def test_an_empty_component_keeps_its_mean(target: Target, groups, dtype):
    """S = 0 for the component far from all data: m = μ, q = 0, and everything finite.

    A fast exponential may end at the smallest normal number instead of 0.
    """
    p = problem((6, 4, 5), 3, groups, affine="component", dtype=dtype, device=target.device)
    p.mixture.mean[1] = 1e4
    leaves = [t.requires_grad_() for t in (p.x, p.weight, p.bias)]
    y, moments = mixture_normalize(p.x, *p.mixture, p.weight, p.bias, backend=target.backend)
    assert moments.mass[:, 1].max() < 1e-30
    assert_close(moments.mean[1], p.mixture.mean[1], torch.finfo(dtype).eps)
    assert moments.var[1].max() < 1e-15

    others = [0, 2]
    q = p.to("cpu", torch.float64)
    without = oracle(
        q.x.detach(), q.mixture.mixing_weight[:, others], q.mixture.mean[others],
        q.mixture.var[others], mixing_scale=False,
    )  # fmt: skip
    tolerance = 1e-13 if dtype == torch.float64 else 1e-6
    assert_close(moments.mean[others], without.mean, tolerance)
    assert y.isfinite().all()
    for grad in torch.autograd.grad(y.square().sum(), leaves):
        assert grad.isfinite().all()


def test_given_responsibilities_may_leave_a_component_empty(target: Target):
    p = problem((6, 4, 5), 3, affine="component", device=target.device)
    target.require(p.x, 3, given=True)
    nu = torch.zeros(6, 3, dtype=torch.float64, device=target.device)
    nu[:, 0] = 1
    leaves = [t.requires_grad_() for t in (p.x, p.weight, p.bias, nu)]
    y, moments = mixture_normalize(
        p.x, *p.mixture, p.weight, p.bias, responsibilities=nu, backend=target.backend
    )
    assert moments.mass.tolist() == [[30, 0, 0]]
    assert_close(moments.mean[1:], p.mixture.mean[1:], 1e-15)
    grads = torch.autograd.grad(y.square().sum(), leaves)
    assert all(grad.isfinite().all() for grad in grads)
    assert torch.equal(grads[1][1:], torch.zeros_like(grads[1][1:]))


def test_em_step_divides_the_mass_by_the_positions():
    moments = BatchMoments(torch.tensor([[3.0, 1.0]]), torch.randn(2, 4), torch.rand(2, 4))
    mixture = em_step(moments, 4)
    assert mixture.mixing_weight.tolist() == [[0.75, 0.25]]
    assert mixture.mean is moments.mean
    assert mixture.var is moments.var
