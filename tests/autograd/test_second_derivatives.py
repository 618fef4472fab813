"""Second derivatives: finite differences of the first, and autograd through the oracle."""

import pytest
import torch

from mixnorm_cuda.functional import mixture_normalize
from tests.oracle import oracle
from tests.support import Target, assert_close, problem

both_modes = pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])


@both_modes
@pytest.mark.parametrize("learned", [False, True], ids=["constant", "learned"])
@pytest.mark.parametrize(("components", "groups"), [(1, 1), (2, 1), (3, 2), (2, 4)])
def test_finite_differences(target: Target, components, groups, learned, training):
    p = problem((4, 4), components, groups, affine="component", device=target.device)
    target.require(p.x, components, groups)
    leaves = [p.x, p.weight, p.bias, *(p.mixture if learned else ())]

    def y(x, weight, bias, *mixture):
        return mixture_normalize(
            x, *(mixture or p.mixture), weight, bias, training=training, backend=target.backend
        )[0]

    assert torch.autograd.gradgradcheck(y, [t.requires_grad_() for t in leaves])


@both_modes
def test_finite_differences_of_given_responsibilities(target: Target, training):
    p = problem((4, 4), 2, 2, affine="component", device=target.device)
    target.require(p.x, 2, 2, given=True)
    nu = torch.rand(4, 2, dtype=torch.float64, device=target.device)

    def y(x, weight, bias, nu):
        return mixture_normalize(
            x, *p.mixture, weight, bias,
            training=training, responsibilities=nu, backend=target.backend,
        )[0]  # fmt: skip

    leaves = [t.requires_grad_() for t in (p.x, p.weight, p.bias, nu)]
    assert torch.autograd.gradgradcheck(y, leaves)


@both_modes
@pytest.mark.parametrize("learned", [False, True], ids=["constant", "learned"])
@pytest.mark.parametrize("responsibility_grad", [True, False])
@pytest.mark.parametrize("mixing_scale", [True, False])
def test_gradient_penalty(target: Target, learned, responsibility_grad, mixing_scale, training):
    """A penalty on the norm of the input gradient: autograd of autograd of the oracle."""
    p = problem((5, 4, 3), 3, 2, device=target.device)
    target.require(p.x, 3, 2)
    options = {
        "training": training,
        "responsibility_grad": responsibility_grad,
        "mixing_scale": mixing_scale,
    }
    results = []
    for ours in (True, False):
        q = p if ours else p.to("cpu")
        leaves = [t.detach().requires_grad_() for t in (q.x, q.weight, q.bias)]
        mixture = [t.detach().requires_grad_(learned) for t in q.mixture]
        arguments = (leaves[0], *mixture, *leaves[1:])
        if ours:
            y, _ = mixture_normalize(*arguments, backend=target.backend, **options)
        else:
            y = oracle(*arguments, **options).y
        (dx,) = torch.autograd.grad(y.sin().sum(), leaves[0], create_graph=True)
        wanted = leaves + (mixture if learned else [])
        second = torch.autograd.grad(dx.square().sum(), wanted, allow_unused=True)
        results.append([dx, *second])
    for ours, expected in zip(*results, strict=True):
        if expected is None or expected.norm() == 0:
            assert ours is None or ours.abs().max() <= 1e-12
        else:
            assert_close(ours, expected, 1e-11, terms=1)


@both_modes
def test_create_graph_gives_the_same_first_gradient(target: Target, training):
    for learned in (False, True):
        p = problem((5, 4, 3), 3, 2, affine="component", device=target.device)
        mixture = [t.requires_grad_(learned) for t in p.mixture]
        leaves = [p.x.requires_grad_(), p.weight.requires_grad_(), p.bias.requires_grad_()]
        y, _ = mixture_normalize(
            p.x, *mixture, p.weight, p.bias, training=training, backend=target.backend
        )
        leaves += mixture if learned else []
        dy = torch.randn_like(y)
        plain = torch.autograd.grad(y, leaves, dy, retain_graph=True)
        graph = torch.autograd.grad(y, leaves, dy, create_graph=True)
        for first, second in zip(plain, graph, strict=True):
            assert second.requires_grad
            assert_close(second, first, 1e-12, terms=1)


def test_second_derivatives_through_em_hold_the_mixture_constant(target: Target):
    p = problem((6, 4, 3), 3, 2, device=target.device)
    results = []
    for ours in (True, False):
        q = p if ours else p.to("cpu")
        x = q.x.detach().requires_grad_()
        if ours:
            y, _ = mixture_normalize(x, *q.mixture, em_iters=2, backend=target.backend)
        else:
            y = oracle(x, *q.mixture, em_iters=2).y
        (dx,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(dx.square().sum(), x)[0])
    assert_close(*results, 1e-11)
