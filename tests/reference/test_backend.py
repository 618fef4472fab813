"""What a backend owes its callers beyond the right numbers."""

import pytest
import torch

from mixnorm_cuda import dispatch
from tests.support import EPS, Target, assert_close, problem, same_bits


def run(target: Target, p, em_iters: int = 0):
    target.require(p.x, *reversed(p.mixture.mixing_weight.shape))
    return dispatch.BACKENDS[target.backend].forward(
        p.x, p.mixture, p.weight, p.bias, eps=EPS, em_iters=em_iters, mixing_scale=True
    )


@pytest.mark.parametrize("em_iters", [0, 1, 3])
def test_the_mixture_it_returns_is_that_of_the_em_steps(target: Target, em_iters):
    p = problem((6, 4, 5), 3, 2, affine="component", device=target.device)
    result = run(target, p, em_iters)
    mixture = p.mixture
    for _ in range(em_iters):
        moments = dispatch.BACKENDS[target.backend].moments(p.x, mixture, eps=EPS)
        mixture = mixture._replace(
            mixing_weight=moments.mass / 30, mean=moments.mean, var=moments.var
        )
    for value, expected in zip(result.mixture, mixture, strict=True):
        assert_close(value, expected, 1e-12)


@pytest.mark.parametrize("em_iters", [0, 1])
def test_no_output_shares_memory_with_an_input(target: Target, em_iters):
    """θ is usually the running statistics, which change in place right after."""
    p = problem((6, 4, 5), 3, 2, affine="component", device=target.device)
    result = run(target, p, em_iters)
    outputs = [result.y, *result.moments, *result.mixture, result.responsibilities]
    inputs = {t.untyped_storage().data_ptr() for t in (p.x, *p.mixture, p.weight, p.bias)}
    for tensor in outputs:
        assert tensor.numel() == 0 or tensor.untyped_storage().data_ptr() not in inputs


def test_statistics_are_float32_for_half_inputs(target: Target):
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        p = problem((6, 4, 5), 3, affine="component", dtype=dtype, device=target.device)
        result = run(target, p, em_iters=1)
        assert result.y.dtype == dtype
        assert {t.dtype for t in (*result.moments, *result.mixture)} == {torch.float32}


def test_does_not_change_its_arguments(target: Target):
    p = problem((6, 4, 5), 3, 2, affine="component", device=target.device)
    before = [t.clone() for t in (p.x, *p.mixture, p.weight, p.bias)]
    result = run(target, p)
    backend, dy = dispatch.BACKENDS[target.backend], torch.randn_like(p.x)
    kept = dy.clone()
    options = {"eps": EPS, "mixing_scale": True, "responsibility_grad": True}
    backend.backward(
        dy, p.x, result.responsibilities, result.moments, result.mixture, p.weight, p.bias,
        given=False, mixture_grad=False, **options,
    )  # fmt: skip
    backend.evaluate_backward(dy, p.x, p.mixture, p.weight, p.bias, **options)
    after = (p.x, *p.mixture, p.weight, p.bias, dy)
    assert all(map(same_bits, after, (*before, kept)))


def test_affine_pairs_may_be_expanded_views(target: Target):
    """A shared pair reaches a backend as a [K, C] view with stride 0."""
    p = problem((6, 4, 5), 3, device=target.device)
    shared = p._replace(weight=p.weight.expand(3, 4), bias=p.bias.expand(3, 4))
    copied = p._replace(weight=shared.weight.contiguous(), bias=shared.bias.contiguous())
    assert same_bits(run(target, shared).y, run(target, copied).y)
