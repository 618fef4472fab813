"""Precision, formats and determinism: what float arithmetic may cost, and what it may not.

The truth is the reference in float64 on the same numbers: a half or float32 input is exact in
float64, so the error is that of the computation.
"""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import batch_norm

from mixnorm_cuda.functional import mixture_norm, mixture_normalize
from mixnorm_cuda.types import Mixture
from tests.support import EPS, Problem, Target, assert_close, problem, relative_error, same_bits

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# One rounding of the output is at most eps/2 of each value; two are allowed.
OUTPUT = {dtype: 2 * torch.finfo(dtype).eps / 2 for dtype in DTYPES} | {torch.float32: 1e-6}
# 2e-2 in bfloat16 is about five units of its rounding; float16 rounds eight times finer.
GRADIENT = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-2 / 8}
# Wide groups too: their log densities are sums over all channels, their differences are not.
SHAPES = [
    (8, 64, 14, 14),
    (64, 32, 6, 6),
    (256, 100),
    (4, 16, 300),
    (2, 8, 4, 9, 9),
    (32, 512, 2, 2),
]


def run(p: Problem, dy: Tensor, backend: str, **options) -> tuple[Tensor, list[Tensor]]:
    """The output, and the gradients of x, γ and β."""
    leaves = [t.detach().requires_grad_() for t in (p.x, p.weight, p.bias)]
    y, _ = mixture_normalize(leaves[0], *p.mixture, *leaves[1:], backend=backend, **options)
    return y, list(torch.autograd.grad(y, leaves, dy))


def truth(p: Problem, dy: Tensor, **options) -> tuple[Tensor, list[Tensor]]:
    return run(p.to("cpu", torch.float64), dy.cpu().double(), "reference", **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestErrorBounds:
    @pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
    @pytest.mark.parametrize("groups", [1, 4, "C"])
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_at_three_components(self, target: Target, seed: int, shape, groups, training, dtype):
        groups = shape[1] if groups == "C" else groups
        p = problem(shape, 3, groups, affine="component", dtype=dtype, device=target.device)
        target.require(p.x, 3, groups)
        dy = torch.randn_like(p.x)
        y, grads = run(p, dy, target.backend, training=training)
        expected, expected_grads = truth(p, dy, training=training)
        assert_close(y, expected, OUTPUT[dtype])
        for grad, reference in zip(grads, expected_grads, strict=True):
            assert_close(grad, reference, GRADIENT[dtype])

    @pytest.mark.parametrize("components", [1, 2, 5])
    def test_at_other_numbers_of_components(self, target: Target, components, dtype):
        p = problem(SHAPES[0], components, dtype=dtype, device=target.device)
        target.require(p.x, components)
        dy = torch.randn_like(p.x)
        y, grads = run(p, dy, target.backend)
        expected, expected_grads = truth(p, dy)
        assert_close(y, expected, OUTPUT[dtype])
        for grad, reference in zip(grads, expected_grads, strict=True):
            assert_close(grad, reference, GRADIENT[dtype])

    def test_after_em_steps(self, target: Target, dtype):
        p = problem(SHAPES[1], 3, dtype=dtype, device=target.device)
        target.require(p.x, 3)
        dy = torch.randn_like(p.x)
        y, grads = run(p, dy, target.backend, em_iters=2)
        expected, expected_grads = truth(p, dy, em_iters=2)
        # Each EM step maps a rounding error of θ onto ν again; three passes, three times the bound.
        assert_close(y, expected, max(OUTPUT[dtype], 3 * OUTPUT[torch.float32]))
        for grad, reference in zip(grads, expected_grads, strict=True):
            assert_close(grad, reference, max(GRADIENT[dtype], 3 * GRADIENT[torch.float32]))


class TestLargeMean:
    """|mean|/std = 1e4 in float32, whose values there lie 1e-3 deviations apart."""

    RATIO = 1e4

    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize("tracked", ["stale", "current"])
    def test_one_component_stays_near_batch_norm(self, target: Target, seed: int, tracked, sign):
        """Within four times the error of F.batch_norm, output and gradients.

        ``stale``: the running mean is still 0, as in the first batches.
        """
        p = problem((32, 16, 8, 8), 1, dtype=torch.float32, device=target.device)
        x = p.x + sign * self.RATIO * 1.5
        mean = torch.zeros_like(p.mixture.mean)
        if tracked == "current":
            mean = x.mean((0, 2, 3))[None]
        p = p._replace(x=x, mixture=p.mixture._replace(mean=mean))
        dy = torch.randn_like(p.x)
        y, grads = run(p, dy, target.backend)
        leaves = [t.detach().requires_grad_() for t in (p.x, p.weight, p.bias)]
        theirs = batch_norm(leaves[0], None, None, *leaves[1:], True, 0.0, EPS)
        their_grads = torch.autograd.grad(theirs, leaves, dy)
        expected, expected_grads = truth(p, dy)
        pairs = zip((y, *grads), (theirs, *their_grads), (expected, *expected_grads), strict=True)
        for ours, batch_norms, exact in pairs:
            allowed = max(4 * relative_error(batch_norms, exact), 1e-6)
            assert_close(ours, exact, allowed)

    @pytest.mark.parametrize("groups", [1, 16])
    @pytest.mark.parametrize("sign", [1, -1])
    def test_three_components(self, target: Target, seed: int, groups, sign):
        p = problem((16, 16, 8, 8), 3, groups, dtype=torch.float32, device=target.device)
        target.require(p.x, 3, groups)
        shift = sign * self.RATIO * 1.5
        p = p._replace(x=p.x + shift, mixture=p.mixture._replace(mean=p.mixture.mean + shift))
        dy = torch.randn_like(p.x)
        for options in ({"training": True}, {"training": False}, {"em_iters": 2}):
            y, grads = run(p, dy, target.backend, **options)
            expected, expected_grads = truth(p, dy, **options)
            assert_close(y, expected, 1e-3)
            for grad, reference in zip(grads, expected_grads, strict=True):
                assert_close(grad, reference, 1e-3)

    def test_the_variance_survives(self, target: Target):
        """E[x²] − E[x]² would be wrong by several times the variance."""
        p = problem((32, 16, 8, 8), 3, 4, dtype=torch.float32, device=target.device)
        target.require(p.x, 3, 4)
        p = p._replace(x=p.x + 15000, mixture=p.mixture._replace(mean=p.mixture.mean + 15000))
        _, moments = mixture_normalize(p.x, *p.mixture, backend=target.backend)
        q = p.to("cpu", torch.float64)
        _, expected = mixture_normalize(q.x, *q.mixture, backend="reference")
        assert_close(moments.var, expected.var, 1e-4)
        assert_close(moments.mass, expected.mass, 1e-4)
        # One unit in the last place of 15000.
        assert (moments.mean.cpu() - expected.mean).abs().max() < 2e-3


class TestFarComponent:
    """A component many deviations from all data, as an empty one may be left behind."""

    @pytest.mark.parametrize("deviations", [30, 1000])
    @pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
    def test_costs_no_digits(self, target: Target, seed: int, training, deviations):
        """The shift of kernels stays near the others, which have most of the weight."""
        self.check(target, training, deviations, far=1)

    @pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
    def test_may_be_the_first_in_the_reference(self, seed: int, training):
        """Kernels take log-odds relative to the first: seeding puts a better one there."""
        self.check(Target("reference", "cpu"), training, 1000, far=0)

    @staticmethod
    def check(target: Target, training: bool, deviations: float, far: int) -> None:
        p = problem((32, 16, 8, 8), 3, dtype=torch.float32, device=target.device)
        target.require(p.x, 3)
        weight, mean = torch.full_like(p.mixture.mixing_weight, 0.35), p.mixture.mean.clone()
        weight[:, far], mean[far] = 0.3, mean[far] + 1.5 * deviations
        p = p._replace(mixture=Mixture(weight, mean, p.mixture.var))
        dy = torch.randn_like(p.x)
        y, grads = run(p, dy, target.backend, training=training)
        expected, expected_grads = truth(p, dy, training=training)
        assert_close(y, expected, OUTPUT[torch.float32])
        for grad, reference in zip(grads, expected_grads, strict=True):
            assert_close(grad, reference, GRADIENT[torch.float32])


class TestFormats:
    @pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
    @pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
    def test_dtypes_of_output_and_gradients(self, target: Target, training, dtype):
        """Those of the tensor that they belong to; parameters in the input's dtype or float32."""
        p = problem((6, 8, 5), 3, dtype=dtype, device=target.device)
        for parameters in {dtype, p.mixture.mean.dtype}:
            q = p._replace(weight=p.weight.to(parameters), bias=p.bias.to(parameters))
            y, grads = run(q, torch.randn_like(p.x), target.backend, training=training)
            assert y.dtype == dtype
            assert [grad.dtype for grad in grads] == [dtype, parameters, parameters]

    def test_given_responsibilities_in_half_precision(self, target: Target):
        p = problem((6, 8, 5), 3, dtype=torch.bfloat16, device=target.device)
        target.require(p.x, 3, given=True)
        nu = torch.rand(6, 3, device=target.device).softmax(1).bfloat16().requires_grad_()
        y, _ = mixture_normalize(p.x, *p.mixture, responsibilities=nu, backend=target.backend)
        (grad,) = torch.autograd.grad(y.float().square().sum(), nu)
        assert grad.dtype == torch.bfloat16
        q, exact = p.to("cpu", torch.float64), nu.detach().cpu().double()
        expected, _ = mixture_normalize(q.x, *q.mixture, responsibilities=exact)
        assert_close(y, expected, OUTPUT[torch.bfloat16])

    @pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
    @pytest.mark.parametrize(
        ("shape", "memory_format"),
        [
            ((4, 6, 5, 3), torch.contiguous_format),
            ((4, 6, 5, 3), torch.channels_last),
            ((4, 6, 2, 5, 3), torch.contiguous_format),
            ((4, 6, 2, 5, 3), torch.channels_last_3d),
        ],
        ids=str,
    )
    def test_memory_format_is_kept(self, target: Target, shape, memory_format, training):
        p = problem(shape, 3, 2, device=target.device)
        dy = torch.randn_like(p.x)
        plain = run(p, dy, target.backend, training=training)
        q = p._replace(x=p.x.contiguous(memory_format=memory_format))
        for upstream in (dy, dy.contiguous(memory_format=memory_format)):
            y, grads = run(q, upstream, target.backend, training=training)
            assert y.is_contiguous(memory_format=memory_format)
            assert grads[0].is_contiguous(memory_format=memory_format)
            assert_close(y, plain[0], 1e-13)
            for grad, expected in zip(grads, plain[1], strict=True):
                assert_close(grad, expected, 1e-12)

    @pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
    @pytest.mark.parametrize(
        "view",
        [
            lambda x: x.transpose(2, 3),
            lambda x: x.transpose(0, 2),
            lambda x: x[:, 1:5, ::2],
            lambda x: x[1:, :, :, 1:],
            lambda x: x.contiguous(memory_format=torch.channels_last)[:, ::2],
            lambda x: x.contiguous(memory_format=torch.channels_last)[:, :, 1:, ::2],
            lambda x: x.permute(1, 0, 2, 3),
            lambda x: x[:, :, :, :1].expand(-1, -1, -1, 4),
            lambda x: x[:, :, 0],
            lambda x: x[:, :, 1, 2],
            lambda x: x[:, :1],
            lambda x: x[..., :1, :1],
        ],
        ids=[
            "transposed", "samples-inside", "sliced-channels", "offset", "sliced-channels-last",
            "sliced-rows-last", "permuted", "expanded", "rank-3", "rank-2", "one-channel",
            "one-place",
        ],
    )  # fmt: skip
    def test_any_strides(self, target: Target, view, training):
        """The same as the contiguous copy, for x and for the incoming gradient."""
        x = view(problem((6, 6, 6, 4), 1, device=target.device).x)
        dy = view(torch.randn(6, 6, 6, 4, dtype=torch.float64, device=target.device))
        p = problem(tuple(x.shape), 3, device=target.device)
        target.require(x, 3)
        contiguous = run(
            p._replace(x=x.contiguous()), dy.contiguous(), target.backend, training=training
        )
        for input_, upstream in ((x, dy), (x, dy.contiguous()), (x.contiguous(), dy)):
            y, grads = run(p._replace(x=input_), upstream, target.backend, training=training)
            assert_close(y, contiguous[0], 1e-13)
            for grad, expected in zip(grads, contiguous[1], strict=True):
                assert_close(grad, expected, 1e-12)

    @pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
    def test_expanded_gradient(self, target: Target, training):
        """What ``y.sum().backward()`` and ``y.mean((2, 3))`` send back: strides of 0."""
        p = problem((6, 4, 5, 3), 3, 2, device=target.device)
        one = torch.ones((), dtype=torch.float64, device=target.device)
        row = torch.randn(6, 4, 1, 1, dtype=torch.float64, device=target.device)
        for dy in (one.expand(6, 4, 5, 3), row.expand(6, 4, 5, 3)):
            _, grads = run(p, dy, target.backend, training=training)
            _, expected = run(p, dy.contiguous(), target.backend, training=training)
            for grad, reference in zip(grads, expected, strict=True):
                assert (grad - reference).abs().max() <= 1e-12

    def test_parameters_and_statistics_may_be_views(self, target: Target):
        p = problem((6, 4, 5), 3, 2, affine="component", device=target.device)
        strided = Problem(
            p.x,
            Mixture(*(t.T.contiguous().T for t in p.mixture)),
            p.weight.T.contiguous().T,
            p.bias.T.contiguous().T,
        )
        dy = torch.randn_like(p.x)
        y, grads = run(strided, dy, target.backend)
        expected, expected_grads = run(p, dy, target.backend)
        assert_close(y, expected, 1e-14)
        for grad, reference in zip(grads, expected_grads, strict=True):
            assert_close(grad, reference, 1e-13)

    @pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
    @pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
    def test_empty_batch(self, target: Target, training, dtype):
        full = problem((6, 4, 5, 3), 3, 2, dtype=dtype, device=target.device)
        p = full._replace(x=full.x[:0].contiguous(memory_format=torch.channels_last))
        y, grads = run(p, torch.empty_like(p.x), target.backend, training=training)
        assert y.shape == grads[0].shape == (0, 4, 5, 3)
        assert y.dtype == dtype
        assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in grads[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_bits_twice(target: Target, dtype):
    p = problem((16, 32, 12, 12), 3, 2, affine="component", dtype=dtype, device=target.device)
    target.require(p.x, 3, 2)
    dy = torch.randn_like(p.x)
    for options in ({}, {"em_iters": 2}, {"training": False}):
        y, grads = run(p, dy, target.backend, **options)
        again, grads_again = run(p, dy, target.backend, **options)
        assert same_bits(y, again)
        assert all(map(same_bits, grads, grads_again))


@pytest.mark.parametrize("components", [1, 3])
def test_running_statistics_stay_float32_for_half_inputs(target: Target, components):
    """An average over many steps in bfloat16 would stop moving."""
    p = problem((64, 8, 5), components, dtype=torch.bfloat16, device=target.device)
    target.require(p.x, components)
    running = [t.clone() for t in p.mixture]
    exact = [t.double().cpu() for t in p.mixture]
    for _ in range(20):
        x = problem((64, 8, 5), components, dtype=torch.bfloat16, device=target.device).x
        mixture_norm(x, *running, training=True, momentum=0.01, backend=target.backend)
        mixture_norm(x.double().cpu(), *exact, training=True, momentum=0.01)
    for ours, reference in zip(running, exact, strict=True):
        assert ours.dtype == torch.float32
        assert_close(ours, reference, 1e-5)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_seen(target: Target, bad):
    """In float32 as well as in the float64 of the functional tests; gradients show them too."""
    p = problem((6, 4, 5), 3, 4, dtype=torch.float32, device=target.device)
    target.require(p.x, 3, 4)
    p.x[1, 2, 3] = bad
    for training in (True, False):
        y, grads = run(p, torch.ones_like(p.x), target.backend, training=training)
        assert not y[1, 2, 3].isfinite()
        assert not grads[1][2].isfinite()
        kept = [c for c in range(4) if c != 2]
        assert y[:, kept].isfinite().all()
        assert grads[0][:, kept].isfinite().all()
        assert grads[1][kept].isfinite().all()
