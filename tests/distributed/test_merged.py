"""Passes in parts, without processes: moments of parts merged, gradients from the sums of parts."""

import pytest
import torch

from mixnorm_cuda import dispatch
from mixnorm_cuda.distributed.moments import joined_count, merged
from mixnorm_cuda.types import BatchMoments, GradientSums
from tests.support import EPS, Target, assert_close, problem, same_bits

OPTIONS = {"eps": EPS, "mixing_scale": True}


def stacked(parts):
    return BatchMoments(*(torch.stack(each) for each in zip(*parts, strict=True)))


def moments_of_parts(target, p, sizes):
    backend = dispatch.BACKENDS[target.backend]
    parts = [backend.moments(x, p.mixture, eps=EPS) for x in p.x.split(sizes)]
    return merged(stacked(parts), p.mixture.mean), backend.moments(p.x, p.mixture, eps=EPS)


@pytest.mark.parametrize("sizes", [(6,), (3, 3), (1, 0, 5), (0, 6)])
@pytest.mark.parametrize(("components", "groups"), [(1, 1), (3, 1), (3, 2)])
def test_moments(target: Target, components, groups, sizes):
    p = problem((6, 4, 5), components, groups, device=target.device)
    target.require(p.x, components, groups)
    joined, whole = moments_of_parts(target, p, sizes)
    for value, expected in zip(joined, whole, strict=True):
        assert_close(value, expected, 1e-13)
    assert_close(joined_count(joined), torch.full((groups, 1), 30.0), 1e-14)


@pytest.mark.parametrize("distance", [4.0, 5.5, 7.0, 100.0])
def test_components_of_next_to_no_mass(distance):
    """Masses on both sides of the floor 1e-6, in the parts and in the whole."""
    p = problem((6, 4, 5), 3)
    p.mixture.mean[1] = p.x.mean() + distance
    p.mixture.var[:] = 0.5
    joined, whole = moments_of_parts(Target("reference", "cpu"), p, (1, 2, 3))
    for value, expected in zip(joined, whole, strict=True):
        assert_close(value[..., 1] if value.shape[0] == 1 else value[1],
                     expected[..., 1] if value.shape[0] == 1 else expected[1], 1e-12)  # fmt: skip
    if distance == 100:
        assert same_bits(joined.mean[1], p.mixture.mean[1])
        assert not joined.var[1].any()


def test_the_distance_of_the_old_mean_costs_no_digits():
    p = problem((64, 4, 5), 1, dtype=torch.float32)
    p.mixture.mean[:] = -1e6
    joined, _ = moments_of_parts(Target("reference", "cpu"), p, (10, 54))
    exact = p.x.double()
    assert_close(joined.mean[0], exact.mean(dim=(0, 2)), 1e-6)
    assert_close(joined.var[0], exact.var(dim=(0, 2), correction=0), 1e-6)


def test_parts_far_apart_have_the_variance_between_them():
    p = problem((8, 4, 5), 1, dtype=torch.float32)
    p.x[3:] += 1e4
    joined, _ = moments_of_parts(Target("reference", "cpu"), p, (3, 5))
    exact = p.x.double()
    assert_close(joined.var[0], exact.var(dim=(0, 2), correction=0), 1e-6)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("responsibility_grad", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_passes_of_every_split_backend(target: Target, groups, responsibility_grad, given):
    """Parts give the output and gradients of the whole."""
    p = problem((6, 4, 5), 3, groups, affine="component", device=target.device)
    nu = torch.rand(6, groups, 3, 5, dtype=torch.float64, device=target.device).softmax(2)
    nu = nu if given else None
    dy = torch.randn_like(p.x)
    reference, passes = dispatch.REFERENCE, dispatch.split(target.backend)
    passes = reference if given else passes
    result = reference.forward(p.x, p.mixture, p.weight, p.bias, nu, em_iters=0, **OPTIONS)
    expected = reference.backward(
        dy, p.x, result.responsibilities, result.moments, p.mixture, p.weight, p.bias,
        given=given, mixture_grad=False, responsibility_grad=responsibility_grad, **OPTIONS,
    )  # fmt: skip
    sizes = (2, 4)
    parts = list(zip(p.x.split(sizes), dy.split(sizes), nu.split(sizes) if given else (None,) * 2,
                     strict=True))  # fmt: skip
    y = [
        passes.normalize(x, p.mixture, result.moments, p.weight, p.bias, own, **OPTIONS)
        for x, _, own in parts
    ]
    assert_close(torch.cat(y), result.y, 1e-12)
    sums = GradientSums(
        *torch.stack([
            torch.stack(passes.backward_sums(g, x, p.mixture, result.moments, own, eps=EPS))
            for x, g, own in parts
        ]).sum(0)
    )  # fmt: skip
    grads = [
        passes.backward_apply(
            g, x, p.mixture, result.moments, sums, p.weight, p.bias, own,
            responsibility_grad=responsibility_grad, **OPTIONS,
        )
        for x, g, own in parts
    ]  # fmt: skip
    assert_close(torch.cat([g.x for g in grads]), expected.x, 1e-12)
    for part in grads:
        assert_close(part.weight, expected.weight, 1e-12)
        assert_close(part.bias, expected.bias, 1e-12)
    if given:
        dnu = torch.cat([g.responsibilities for g in grads])
        assert_close(dnu, expected.responsibilities, 1e-12)


def test_many_parts_with_a_large_mean():
    """The mean of 64 parts is rounded once, as that of one is: 2⁻¹¹ at 10⁴ in float32."""
    parts = BatchMoments(
        torch.rand(64, 1, 1) * 1e3, torch.randn(64, 1, 50) + 1e4, torch.rand(64, 1, 50)
    )
    joined = merged(parts, torch.zeros(1, 50))
    exact = merged(BatchMoments(*(t.double() for t in parts)), torch.zeros(1, 50).double())
    assert (joined.mean.double() - exact.mean).abs().max() <= 1.01 * 2**-11
    assert_close(joined.var, exact.var, 1e-6)
