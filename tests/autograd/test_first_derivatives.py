"""The hand-written backward against autograd through the oracle, and finite differences."""

import itertools

import pytest
import torch
from torch import Tensor

from mixnorm_cuda import MixtureNorm2d
from mixnorm_cuda.estimation import em, seed_mixture
from mixnorm_cuda.functional import mixture_normalize
from mixnorm_cuda.types import Mixture
from tests.oracle import oracle
from tests.support import EPS, Problem, Target, assert_close, problem

# Some hundred float64 terms, with cancellation between the terms of one gradient.
ROUNDING = 1e-12


def leaves_of(p: Problem, given: Tensor | None = None, learned: bool = False) -> list[Tensor]:
    tensors = [p.x, *(p.mixture if learned else ()), p.weight, p.bias, given]
    return [t for t in tensors if t is not None]


def compare(
    target: Target,
    p: Problem,
    given: Tensor | None = None,
    learned: bool = False,
    **options,
) -> None:
    """Every gradient of a random projection of the output."""
    target.require(p.x, *reversed(p.mixture.mixing_weight.shape), given is not None)
    dy = torch.randn_like(p.x)
    gradients = []
    for ours in (True, False):
        q = p if ours else p.to("cpu")
        nu = given if ours or given is None else given.cpu()
        leaves = leaves_of(q, nu, learned)
        for leaf in leaves:
            leaf.grad = None
            leaf.requires_grad_()
        arguments = (q.x, *q.mixture, q.weight, q.bias)
        if ours:
            y, _ = mixture_normalize(
                *arguments, responsibilities=nu, backend=target.backend, **options
            )
        else:
            y = oracle(*arguments, responsibilities=nu, **options).y
        gradients.append(torch.autograd.grad(y, leaves, dy.to(y.device), allow_unused=True))
        for leaf in leaves:
            leaf.requires_grad_(False)
    for grad, expected in zip(*gradients, strict=True):
        if expected is None or expected.norm() == 0:
            assert grad is None or grad.abs().max() == 0
        else:
            assert_close(grad, expected, ROUNDING, terms=1)


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("components", [1, 2, 3, 5])
class TestAgainstAutograd:
    def test_constant_mixture(self, target: Target, seed: int, components, groups, training):
        for affine, mixing_scale in itertools.product((None, "shared", "component"), (True, False)):
            p = problem((4, 4, 3, 3), components, groups, affine=affine, device=target.device)
            compare(target, p, training=training, mixing_scale=mixing_scale)

    def test_detached_responsibilities(self, target: Target, components, groups, training):
        p = problem((4, 4, 3, 3), components, groups, affine="component", device=target.device)
        compare(target, p, training=training, responsibility_grad=False)

    def test_learned_mixture(self, target: Target, seed: int, components, groups, training):
        for mixing_scale, responsibility_grad in itertools.product((True, False), (True, False)):
            p = problem((4, 4, 3, 3), components, groups, affine="component", device=target.device)
            compare(
                target, p, learned=True, training=training, mixing_scale=mixing_scale,
                responsibility_grad=responsibility_grad,
            )  # fmt: skip

    def test_given_responsibilities(self, target: Target, components, groups, training):
        for per_position, affine in itertools.product((False, True), ("shared", "component")):
            p = problem((4, 4, 3, 3), components, groups, affine=affine, device=target.device)
            size = (4, components, 3, 3) if per_position else (4, components)
            nu = torch.rand(size, dtype=torch.float64, device=target.device)
            compare(target, p, given=nu, training=training)


@pytest.mark.parametrize("spatial_rank", [0, 1, 3])
def test_any_number_of_spatial_dimensions(target: Target, spatial_rank):
    shape = {0: (30, 4), 1: (6, 4, 5), 3: (3, 4, 2, 3, 2)}[spatial_rank]
    for training in (True, False):
        compare(target, problem(shape, 3, 2, device=target.device), training=training)


def test_no_gradient_flows_through_em(target: Target):
    compare(target, problem((6, 4, 5), 3, 2, affine="component", device=target.device), em_iters=2)


def test_mixing_weight_below_its_floor(target: Target):
    """λ < 1e-3: λ̃ is constant there, so the scale gives λ no gradient."""
    p = problem((6, 4, 5), 3, device=target.device)
    p = p._replace(mixture=p.mixture._replace(mixing_weight=torch.tensor(
        [[5e-4, 0.4995, 0.5]], dtype=torch.float64, device=target.device
    )))  # fmt: skip
    compare(target, p, learned=True)
    compare(target, p, learned=True, training=False)


def test_gradients_only_where_asked_for(target: Target):
    """Frozen affine pairs and a frozen input get none, and do not disturb the others."""
    for frozen in range(3):
        p = problem((6, 4, 5), 3, device=target.device)
        tensors = [p.x, p.weight, p.bias]
        for i, tensor in enumerate(tensors):
            tensor.requires_grad_(i != frozen)
        for training in (True, False):
            y, _ = mixture_normalize(
                tensors[0], *p.mixture, *tensors[1:], training=training, backend=target.backend
            )
            wanted = [t for t in tensors if t.requires_grad]
            cpu = [t.detach().cpu().requires_grad_(t.requires_grad) for t in tensors]
            expected = oracle(cpu[0], *p.to("cpu").mixture, *cpu[1:], training=training).y
            for grad, reference in zip(
                torch.autograd.grad(y.square().sum(), wanted),
                torch.autograd.grad(expected.square().sum(), [t for t in cpu if t.requires_grad]),
                strict=True,
            ):
                assert_close(grad, reference, ROUNDING, terms=1)


def test_two_backward_passes_through_one_graph(target: Target):
    p = problem((6, 4, 5), 3, device=target.device)
    y, _ = mixture_normalize(p.x.requires_grad_(), *p.mixture, p.weight, backend=target.backend)
    first = torch.autograd.grad(y.square().sum(), p.x, retain_graph=True)
    second = torch.autograd.grad(y.square().sum(), p.x)
    assert torch.equal(*first, *second)


def estimated(estimator: str, x: Tensor, components: int, groups: int) -> Mixture:
    """θ as a training step gets it: the running statistics, or seeding and two EM steps."""
    if estimator == "online":
        return problem(tuple(x.shape), components, groups, device=x.device.type).mixture
    seeded = seed_mixture(x, components, groups, EPS)
    return em(x, seeded, iters=2, eps=EPS, backend="reference")


@pytest.mark.parametrize("estimator", ["online", "batch"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("components", [1, 2, 3, 5])
class TestFiniteDifferences:
    def test_constant_mixture(self, target: Target, components, groups, estimator):
        p = problem((6, 4, 2), components, groups, affine="component", device=target.device)
        mixture = estimated(estimator, p.x, components, groups)
        target.require(p.x, components, groups)

        def y(x, weight, bias):
            return mixture_normalize(x, *mixture, weight, bias, backend=target.backend)[0]

        leaves = [t.requires_grad_() for t in (p.x, p.weight, p.bias)]
        assert torch.autograd.gradcheck(y, leaves)

    def test_learned_mixture_and_shared_affine(self, target: Target, components, groups, estimator):
        p = problem((6, 4, 2), components, groups, device=target.device)
        mixture = estimated(estimator, p.x, components, groups)
        target.require(p.x, components, groups)

        def y(*arguments):
            return mixture_normalize(*arguments, backend=target.backend)[0]

        leaves = [t.requires_grad_() for t in (p.x, *mixture, p.weight, p.bias)]
        assert torch.autograd.gradcheck(y, leaves)


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("per_position", [False, True], ids=["per-sample", "per-position"])
def test_finite_differences_of_given_responsibilities(target: Target, per_position, training):
    p = problem((5, 4, 2), 3, 2, affine="component", device=target.device)
    target.require(p.x, 3, 2, given=True)
    size = (5, 3, 2) if per_position else (5, 3)
    nu = torch.rand(size, dtype=torch.float64, device=target.device)

    def y(x, weight, bias, nu):
        return mixture_normalize(
            x, *p.mixture, weight, bias,
            responsibilities=nu, training=training, backend=target.backend,
        )[0]  # fmt: skip

    assert torch.autograd.gradcheck(y, [t.requires_grad_() for t in (p.x, p.weight, p.bias, nu)])


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_backward_of_an_eval_step_after_a_training_step(backend: str) -> None:
    torch.manual_seed(0)
    layer = MixtureNorm2d(4, backend=backend, dtype=torch.float64)
    layer(torch.randn(8, 4, 3, 3, dtype=torch.float64))
    x = torch.randn(5, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    dy = torch.randn_like(x)
    (wanted,) = torch.autograd.grad(layer.eval()(x), x, dy)
    y = layer(x)
    layer.train()(torch.randn(8, 4, 3, 3, dtype=torch.float64) + 1)
    (found,) = torch.autograd.grad(y, x, dy)
    assert torch.equal(found, wanted)
