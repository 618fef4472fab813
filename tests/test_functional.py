"""Outputs and moments of the functional interface against the oracle, in float64."""

import itertools

import pytest
import torch
from torch.nn.functional import batch_norm, one_hot

from mixnorm_cuda.functional import BatchMoments, mixture_norm, mixture_normalize
from tests.oracle import oracle
from tests.support import EPS, Target, assert_close, problem, same_bits

# Sums of some hundred float64 terms of order one: rounding errors of about 1e-15 each.
ROUNDING = 1e-13
SHAPES = {0: (40, 4), 1: (8, 4, 5), 2: (4, 4, 3, 3), 3: (3, 4, 2, 3, 2)}


def check(target: Target, p, **options) -> None:
    given = options.get("responsibilities")
    target.require(
        p.x, p.mixture.mean.shape[0], p.mixture.mixing_weight.shape[0], given is not None
    )
    y, moments = mixture_normalize(
        p.x, *p.mixture, p.weight, p.bias, backend=target.backend, **options
    )
    on_cpu = {**options, "responsibilities": None if given is None else given.cpu()}
    cpu = p.to("cpu")
    expected = oracle(cpu.x, *cpu.mixture, cpu.weight, cpu.bias, **on_cpu)
    assert_close(y, expected.y, ROUNDING)
    if options.get("training", True):
        for value, reference in zip(moments, expected[2:], strict=True):
            assert_close(value, reference, ROUNDING)
    else:
        assert moments is None


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("components", [1, 2, 3, 5])
def test_equals_the_oracle(target: Target, seed: int, components, groups, training):
    for affine, mixing_scale in itertools.product((None, "shared", "component"), (True, False)):
        p = problem(SHAPES[2], components, groups, affine=affine, device=target.device)
        check(target, p, training=training, mixing_scale=mixing_scale)


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("spatial_rank", SHAPES)
def test_any_number_of_spatial_dimensions(target: Target, spatial_rank, training):
    check(target, problem(SHAPES[spatial_rank], 3, 2, device=target.device), training=training)


@pytest.mark.parametrize("em_iters", [1, 2, 5])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_em_steps_before_the_normalization(target: Target, groups, em_iters):
    check(target, problem((9, 4, 5), 3, groups, device=target.device), em_iters=em_iters)


def test_epsilon_is_the_covariance_floor_everywhere(target: Target):
    check(target, problem((9, 4, 5), 3, 2, device=target.device), eps=0.3)
    check(target, problem((9, 4, 5), 3, 2, device=target.device), eps=0.3, training=False)


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("per_position", [False, True], ids=["per-sample", "per-position"])
@pytest.mark.parametrize("spatial_rank", SHAPES)
def test_given_responsibilities(target: Target, spatial_rank, per_position, training):
    shape = SHAPES[spatial_rank]
    for groups in (1, 2):
        p = problem(shape, 3, groups, affine="component", device=target.device)
        size = (shape[0], 3, *shape[2:]) if per_position else (shape[0], 3)
        nu = torch.rand(size, dtype=torch.float64, device=target.device).softmax(1)
        check(target, p, responsibilities=nu, training=training)


def test_given_responsibilities_need_no_mixture(target: Target):
    p = problem((6, 4, 5), 3, affine="component", device=target.device)
    target.require(p.x, 3, given=True)
    nu = torch.rand(6, 3, dtype=torch.float64, device=target.device).softmax(1)
    y, moments = mixture_normalize(
        p.x, None, None, None, p.weight, p.bias, responsibilities=nu, backend=target.backend
    )
    third = torch.full((1, 3), 1 / 3, dtype=torch.float64)
    cpu = p.to("cpu")
    expected = oracle(
        cpu.x, third, *cpu.mixture[1:], cpu.weight, cpu.bias, responsibilities=nu.cpu()
    )
    assert_close(y, expected.y, ROUNDING)
    assert_close(moments.mean, expected.mean, ROUNDING)


def test_one_hot_responsibilities_are_separate_batch_norms(target: Target):
    p = problem((12, 4, 5), 2, affine="component", device=target.device)
    target.require(p.x, 2, given=True)
    domain = torch.tensor([0, 1] * 6, device=target.device)
    nu = one_hot(domain).double()
    y, _ = mixture_normalize(
        p.x, None, None, None, p.weight, p.bias,
        responsibilities=nu, mixing_scale=False, backend=target.backend,
    )  # fmt: skip
    for k in range(2):
        of_domain = p.x[domain == k]
        expected = batch_norm(of_domain, None, None, p.weight[k], p.bias[k], True, 0.0, EPS)
        assert_close(y[domain == k], expected, ROUNDING)


def test_is_pure(target: Target):
    p = problem((6, 4, 5), 3, 2, affine="component", device=target.device)
    before = [t.clone() for t in (p.x, *p.mixture, p.weight, p.bias)]
    for training, em_iters in ((True, 0), (True, 2), (False, 0)):
        mixture_normalize(
            p.x, *p.mixture, p.weight, p.bias,
            training=training, em_iters=em_iters, backend=target.backend,
        )  # fmt: skip
    for value, original in zip((p.x, *p.mixture, p.weight, p.bias), before, strict=True):
        assert same_bits(value, original)


def test_moments_carry_no_gradient(target: Target):
    p = problem((6, 4, 5), 3, device=target.device)
    y, moments = mixture_normalize(
        p.x.requires_grad_(), *p.mixture, p.weight, p.bias, backend=target.backend
    )
    assert isinstance(moments, BatchMoments)
    assert y.requires_grad
    assert not any(t.requires_grad for t in moments)


class TestOneComponentIsBatchNorm:
    @pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
    @pytest.mark.parametrize("affine", [None, "shared"])
    def test_over_several_steps(self, target: Target, seed: int, shape, affine):
        """Output, gradients and buffers, then eval with the buffers reached."""
        mean = torch.zeros(4, dtype=torch.float64, device=target.device)
        var = torch.ones_like(mean)
        running = (torch.ones_like(mean[:1, None]), mean.clone()[None], var.clone()[None])

        def compare(training: bool) -> None:
            p = problem(shape, 1, affine=affine, device=target.device)
            dy = torch.randn_like(p.x)
            leaves = [t for t in (p.x, p.weight, p.bias) if t is not None]
            ours, theirs = ([t.clone().requires_grad_() for t in leaves] for _ in range(2))
            y = mixture_norm(
                ours[0], *running, *ours[1:],
                training=training, momentum=0.3, backend=target.backend,
            )  # fmt: skip
            expected = (
                batch_norm(theirs[0], mean, var, *theirs[1:], training, 0.3, EPS)
                if (affine)
                else batch_norm(theirs[0], mean, var, None, None, training, 0.3, EPS)
            )
            assert_close(y, expected, ROUNDING)
            grads = torch.autograd.grad(y, ours, dy)
            for grad, reference in zip(
                grads, torch.autograd.grad(expected, theirs, dy), strict=True
            ):
                assert_close(grad, reference, ROUNDING)
            assert_close(running[1][0], mean, ROUNDING)
            assert_close(running[2][0], var, ROUNDING)
            assert running[0].item() == 1

        for _ in range(4):
            compare(training=True)
        compare(training=False)

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_a_channel_with_values_that_are_not_finite_spoils_no_other(self, target: Target, bad):
        p = problem((6, 4, 5), 1, device=target.device)
        p.x[1, 2, 3] = bad
        for training in (True, False):
            y, _ = mixture_normalize(
                p.x, *p.mixture, p.weight, training=training, backend=target.backend
            )
            assert not y[1, 2, 3].isfinite()
            assert y[:, [0, 1, 3]].isfinite().all()

    def test_mixing_weight_and_groups_do_not_matter(self, target: Target):
        p = problem((6, 4, 5), 1, groups=2, device=target.device)
        y, _ = mixture_normalize(p.x, *p.mixture, p.weight, p.bias, backend=target.backend)
        expected = batch_norm(p.x, None, None, p.weight, p.bias, True, 0.0, EPS)
        assert_close(y, expected, ROUNDING)


class TestMixtureNorm:
    """The counterpart of F.batch_norm: running statistics in and out."""

    @pytest.mark.parametrize("em_iters", [0, 2])
    @pytest.mark.parametrize("groups", [1, 2, 4])
    def test_training_normalizes_and_tracks(self, target: Target, groups, em_iters):
        p = problem((7, 4, 5), 3, groups, affine="component", device=target.device)
        running = [t.clone() for t in p.mixture]
        y = mixture_norm(
            p.x, *running, p.weight, p.bias, True, 0.2, em_iters=em_iters, backend=target.backend
        )
        cpu = p.to("cpu")
        expected = oracle(cpu.x, *cpu.mixture, cpu.weight, cpu.bias, em_iters=em_iters)
        assert_close(y, expected.y, ROUNDING)

        positions, channels_per_group = 35, 4 // groups
        for k, c in itertools.product(range(3), range(4)):
            g = c // channels_per_group
            s = expected.mass[g, k].item()
            unbiased = expected.var[k, c].item() * s / (s - 1)
            share, old = s / positions, cpu.mixture.mixing_weight[g, k].item()
            new = 0.8 * old + 0.2 * share
            rho = 0.2 * share / new
            mean, var = cpu.mixture.mean[k, c].item(), cpu.mixture.var[k, c].item()
            assert running[0][g, k].item() == pytest.approx(new, rel=ROUNDING)
            assert running[1][k, c].item() == pytest.approx(
                mean + rho * (expected.mean[k, c].item() - mean), rel=1e-12
            )
            assert running[2][k, c].item() == pytest.approx(var + rho * (unbiased - var), rel=1e-12)

    def test_eval_uses_the_running_statistics_and_leaves_them(self, target: Target):
        p = problem((7, 4, 5), 3, 2, affine="component", device=target.device)
        running = [t.clone() for t in p.mixture]
        y = mixture_norm(p.x, *running, p.weight, p.bias, backend=target.backend)
        cpu = p.to("cpu")
        expected = oracle(cpu.x, *cpu.mixture, cpu.weight, cpu.bias, training=False)
        assert_close(y, expected.y, ROUNDING)
        assert all(map(same_bits, running, p.mixture))

    def test_backward_sees_the_statistics_from_before_the_update(self, target: Target):
        p = problem((7, 4, 5), 3, 2, device=target.device)
        x, dy = p.x.clone().requires_grad_(), torch.randn_like(p.x)
        running = [t.clone() for t in p.mixture]
        y = mixture_norm(x, *running, p.weight, p.bias, True, 0.9, backend=target.backend)
        assert not same_bits(running[1], p.mixture.mean)
        pure = p.x.clone().requires_grad_()
        again, _ = mixture_normalize(pure, *p.mixture, p.weight, p.bias, backend=target.backend)
        for first, second in zip(
            torch.autograd.grad(y, x, dy), torch.autograd.grad(again, pure, dy), strict=True
        ):
            assert same_bits(first, second)

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
    def test_values_that_are_not_finite_reach_y_and_not_the_statistics(self, target: Target, bad):
        p = problem((7, 4, 5), 3, 2, device=target.device)
        running = [t.clone() for t in p.mixture]
        p.x[2, 1, 3] = bad
        y = mixture_norm(p.x, *running, p.weight, p.bias, True, backend=target.backend)
        assert not y[2, 1, 3].isfinite()
        assert y[:, 2:].isfinite().all(), "the other group saw only finite values"
        assert all(map(same_bits, running, p.mixture))
        again = mixture_norm(p.x, *running, p.weight, p.bias, backend=target.backend)
        assert not again[2, 1, 3].isfinite()
        assert again[:, :, :3].isfinite().all(), "in eval a position is on its own"
        mixture_norm(p.x[3:], *running, p.weight, p.bias, True, backend=target.backend)
        assert not same_bits(running[1], p.mixture.mean), "the next finite batch counts again"
        assert all(t.isfinite().all() for t in running)

    @pytest.mark.parametrize("shape", [(0, 4, 5), (3, 4, 0), (0, 4), (0, 4, 2, 2)], ids=str)
    def test_empty_batch(self, target: Target, shape):
        for groups, em_iters, training in itertools.product((1, 2), (0, 2), (True, False)):
            p = problem((7, 4, 5), 3, groups, affine="component", device=target.device)
            running = [t.clone() for t in p.mixture]
            x = torch.empty(shape, dtype=torch.float64, device=target.device, requires_grad=True)
            weight, bias = p.weight.clone().requires_grad_(), p.bias.clone().requires_grad_()
            y = mixture_norm(
                x, *running, weight, bias, training,
                em_iters=em_iters if training else 0, backend=target.backend,
            )  # fmt: skip
            assert y.shape == shape
            y.sum().backward()
            assert x.grad.shape == shape
            assert torch.equal(weight.grad, torch.zeros_like(weight))
            assert torch.equal(bias.grad, torch.zeros_like(bias))
            assert all(map(same_bits, running, p.mixture))

    def test_momentum_zero_keeps_and_one_replaces(self, target: Target):
        p = problem((7, 4, 5), 3, 2, device=target.device)
        running = [t.clone() for t in p.mixture]
        mixture_norm(p.x, *running, training=True, momentum=0.0, backend=target.backend)
        assert all(map(same_bits, running, p.mixture))
        mixture_norm(p.x, *running, training=True, momentum=1.0, backend=target.backend)
        expected = oracle(p.x.cpu(), *p.to("cpu").mixture)
        assert_close(running[0], expected.mass / 35, ROUNDING)
        assert_close(running[1], expected.mean, ROUNDING)
