"""The fused CPU operators against the reference in float64, over shapes that break blocking."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from mixnorm_cuda.kernels.native import loader, ops
from mixnorm_cuda.reference import ReferenceBackend
from mixnorm_cuda.types import Mixture

pytestmark = pytest.mark.skipif(
    loader.missing("cpu") is not None, reason=f"no CPU operators: {loader.missing('cpu')}"
)

EPS = 1e-5
REFERENCE = ReferenceBackend()
# Channels 1, 3, 17, 1000; positions 2, 63, 4097; runs of 1, 4, 9, 49, 81 and 1600 positions.
SHAPES = (
    (2, 3),
    (63, 16),
    (1, 24, 4097),
    (2, 1, 63),
    (4, 17, 9, 9),
    (9, 32, 2, 2),
    (7, 12, 3, 3),
    (3, 64, 7, 7),
    (2, 12, 40, 40),
    (2, 6, 3, 4, 5),
    (130, 1000),
    (3, 1000, 7, 7),
)
# Relative Frobenius norms that the method promises for outputs and gradients.
BOUNDS = {
    torch.float64: (1e-11, 1e-9),
    torch.float32: (1e-6, 1e-5),
    torch.bfloat16: (2 * 2.0**-8, 2e-2),
    torch.float16: (2 * 2.0**-11, 2e-2),
}


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class Problem:
    """One layer's tensors, and what the operators and the reference make of them."""

    def __init__(
        self,
        shape: tuple[int, ...],
        components: int = 3,
        groups: int = 1,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        offset: float = 0.0,
        affine: bool = True,
    ) -> None:
        generator = torch.Generator().manual_seed(0)

        def randn(*size: int) -> Tensor:
            return torch.randn(size, generator=generator, dtype=torch.float64)

        channels = shape[1]
        self.x = (randn(*shape) * 2 + offset).to(dtype)
        self.dy = randn(*shape).to(dtype)
        if channels_last:
            self.x, self.dy = (
                t.movedim(1, -1).contiguous().movedim(-1, 1) for t in (self.x, self.dy)
            )
        mixture = Mixture(
            randn(groups, components).softmax(1),
            randn(components, channels) + offset,
            2 + randn(components, channels).square(),
        )
        statistics = statistics_dtype(dtype)
        self.mixture = Mixture(*(t.to(statistics) for t in mixture))
        self.weight = randn(components, channels).to(statistics) if affine else None
        self.bias = randn(components, channels).to(statistics) if affine else None

    def operators(self, em_iters: int = 0, **options: bool) -> dict[str, Tensor]:
        affine, scale = (self.weight, self.bias), options.get("mixing_scale", True)
        through = options.get("responsibility_grad", True)
        out = ops.forward(
            self.x, self.mixture, *affine, eps=EPS, em_iters=em_iters, mixing_scale=scale
        )
        grads = ops.backward(
            self.dy,
            self.x,
            out.responsibilities,
            out.moments,
            out.mixture,
            *affine,
            eps=EPS,
            mixing_scale=scale,
            responsibility_grad=through,
            mixture_grad=True,
        )
        y = ops.evaluate(self.x, self.mixture, *affine, eps=EPS, mixing_scale=scale)
        eval_grads = ops.evaluate_backward(
            self.dy,
            self.x,
            self.mixture,
            *affine,
            eps=EPS,
            mixing_scale=scale,
            responsibility_grad=through,
        )
        return collect(out, grads, y, eval_grads)

    def reference(
        self, dtype: torch.dtype, em_iters: int = 0, **options: bool
    ) -> dict[str, Tensor]:
        x, dy = self.x.to(dtype), self.dy.to(dtype)
        mixture = Mixture(*(t.to(dtype) for t in self.mixture))
        affine = [None if t is None else t.to(dtype) for t in (self.weight, self.bias)]
        scale = options.get("mixing_scale", True)
        through = options.get("responsibility_grad", True)
        out = REFERENCE.forward(x, mixture, *affine, eps=EPS, em_iters=em_iters, mixing_scale=scale)
        grads = REFERENCE.backward(
            dy,
            x,
            out.responsibilities,
            out.moments,
            out.mixture,
            *affine,
            eps=EPS,
            mixing_scale=scale,
            responsibility_grad=through,
            given=False,
            mixture_grad=True,
        )
        y = REFERENCE.evaluate(x, mixture, *affine, eps=EPS, mixing_scale=scale)
        eval_grads = REFERENCE.evaluate_backward(
            dy, x, mixture, *affine, eps=EPS, mixing_scale=scale, responsibility_grad=through
        )
        return collect(out, grads, y, eval_grads)


def collect(out: Any, grads: Any, y: Tensor, eval_grads: Any) -> dict[str, Tensor]:
    return {
        "y": out.y,
        **{f"moments.{n}": t for n, t in out.moments._asdict().items()},
        **{f"mixture.{n}": t for n, t in out.mixture._asdict().items()},
        "dx": grads.x,
        "dweight": grads.weight,
        "dbias": grads.bias,
        **{f"dmixture.{n}": t for n, t in grads.mixture._asdict().items()},
        "eval y": y,
        "eval dx": eval_grads.x,
        "eval dweight": eval_grads.weight,
        "eval dbias": eval_grads.bias,
    }


def relative_error(found: Tensor, wanted: Tensor) -> float:
    scale = wanted.norm().clamp_min(1e-6 * wanted.numel() ** 0.5)
    return ((found.double() - wanted).norm() / scale).item()


def check(problem: Problem, em_iters: int = 0, **options: bool) -> None:
    """Within the promised bounds, or within 16 times what plain formulas lose in the same type.

    A handful of positions can be ill conditioned (a variance of next to nothing); there the
    reference in the statistics' own dtype says how much any evaluation must lose.
    """
    dtype = problem.x.dtype
    found = problem.operators(em_iters, **options)
    exact = problem.reference(torch.float64, em_iters, **options)
    plain = problem.reference(statistics_dtype(dtype), em_iters, **options)
    output_bound, gradient_bound = BOUNDS[dtype]
    for name, wanted in exact.items():
        bound = gradient_bound if "d" in name.split(".")[0].split()[-1][:1] else output_bound
        allowed = max(bound, 16 * relative_error(plain[name], wanted))
        error = relative_error(found[name], wanted)
        assert error <= allowed, f"{name}: relative error {error:.2e}, allowed {allowed:.2e}"
    assert found["y"].stride() == problem.x.stride()
    assert found["dx"].stride() == problem.x.stride()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("components", [1, 2, 3])
def test_shapes(shape: tuple[int, ...], components: int, channels_last: bool) -> None:
    check(Problem(shape, components, channels_last=channels_last))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("components", [4, 5, 6, 7, 8, 9, 16])
def test_components(components: int, channels_last: bool) -> None:
    check(Problem((5, 24, 11, 11), components, channels_last=channels_last))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(4, 24, 9, 9), (50, 24)], ids=str)
@pytest.mark.parametrize("groups", [2, 8, 24])
@pytest.mark.parametrize("components", [1, 3])
def test_groups(shape: tuple[int, ...], components: int, groups: int, channels_last: bool) -> None:
    check(Problem(shape, components, groups, channels_last=channels_last))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("shape", "groups"), [((5, 24, 9, 9), 1), ((5, 24, 9, 9), 24), ((40, 3, 2, 2), 1)], ids=str
)
@pytest.mark.parametrize("components", [1, 3])
def test_dtypes(
    shape: tuple[int, ...], groups: int, components: int, dtype: torch.dtype, channels_last: bool
) -> None:
    check(Problem(shape, components, groups, dtype, channels_last))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"em_iters": 2},
        {"mixing_scale": False},
        {"responsibility_grad": False},
        {"em_iters": 1, "mixing_scale": False, "responsibility_grad": False},
    ],
    ids=str,
)
def test_options(options: dict[str, Any], channels_last: bool) -> None:
    check(Problem((6, 20, 13, 13), channels_last=channels_last), **options)


def test_shared_affine_pairs_and_none() -> None:
    problem = Problem((6, 20, 13, 13))
    problem.weight, problem.bias = (
        torch.randn(20).expand(3, 20),
        torch.randn(20).expand(3, 20),
    )
    check(problem)
    check(Problem((6, 20, 13, 13), affine=False))


def views() -> dict[str, Tensor]:
    base = torch.randn(6, 40, 13, 14)
    return {
        "channel slice": base[:, 5:25],
        "batch slice": base[1::2, :20],
        "row slice": base[:, :20, 2:9, 3:12],
        "stepped": base[:, ::2, ::3, ::2],
        "transposed": base[:, :20].transpose(2, 3),
        "batch and channels swapped": torch.randn(20, 6, 9, 9).transpose(0, 1),
        "channels-last slice": base.contiguous(memory_format=torch.channels_last)[:, 3:23],
        "expanded": torch.randn(6, 20, 1, 1).expand(6, 20, 5, 5) + torch.zeros(6, 20, 5, 5),
        "storage offset": torch.randn(6 * 20 * 81 + 3)[3:].view(6, 20, 9, 9),
    }


@pytest.mark.parametrize("name", views())
def test_strides_do_not_matter(name: str) -> None:
    """Any view of the input gives what its contiguous copy gives, and stays as it was."""
    view = views()[name]
    problem = Problem(tuple(view.shape))
    before = view.clone()
    problem.x = view.contiguous()
    wanted = problem.operators()
    problem.x, problem.dy = view, problem.dy.transpose(-1, -2).contiguous().transpose(-1, -2)
    found = problem.operators()
    assert torch.equal(view, before)
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5, msg=key)
    assert found["y"].is_contiguous()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("groups", [1, 4, 24])
def test_same_bits_on_one_and_two_threads(groups: int, channels_last: bool) -> None:
    problem = Problem((16, 24, 33, 33), groups=groups, channels_last=channels_last)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = problem.operators(em_iters=1)
        torch.set_num_threads(2)
        two = problem.operators(em_iters=1)
    finally:
        torch.set_num_threads(before)
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


@pytest.mark.parametrize("channels_last", [False, True])
def test_large_means_with_one_component(channels_last: bool) -> None:
    """|mean| / std of 1e4: at most 4 times the error of BatchNorm."""
    problem = Problem((8, 16, 15, 15), 1, channels_last=channels_last, offset=2e4, affine=False)
    exact = problem.reference(torch.float64)["y"]
    batch_norm = torch.nn.functional.batch_norm(problem.x, None, None, training=True, eps=EPS)
    allowed = 4 * relative_error(batch_norm, exact) + 1e-7
    assert relative_error(problem.operators()["y"], exact) <= allowed


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("stale", [0.0, 2e4], ids=["stale mean", "mean near the data"])
def test_large_means_with_three_components(stale: float, channels_last: bool) -> None:
    problem = Problem((8, 16, 15, 15), 3, channels_last=channels_last, offset=2e4)
    problem.mixture = problem.mixture._replace(mean=problem.mixture.mean - 2e4 + stale)
    exact = problem.reference(torch.float64)["y"]
    assert relative_error(problem.operators()["y"], exact) <= 1e-3


@pytest.mark.parametrize("components", [1, 3])
def test_empty_batch(components: int) -> None:
    problem = Problem((0, 6, 4, 4), components)
    found = problem.operators()
    assert found["y"].shape == (0, 6, 4, 4)
    assert found["dx"].shape == (0, 6, 4, 4)
    for name in ("moments.mass", "dweight", "dbias", "dmixture.mean", "eval dweight"):
        assert torch.equal(found[name], torch.zeros_like(found[name])), name
    torch.testing.assert_close(found["moments.mean"], problem.mixture.mean)


def test_empty_component_keeps_its_mean() -> None:
    problem = Problem((4, 6, 9, 9))
    problem.mixture.mean[1] += 1e3
    problem.mixture.mixing_weight[:] = torch.tensor([0.4, 1e-4, 0.5999])  # as running averages end
    moments = ops.moments(problem.x, problem.mixture, eps=EPS)
    assert moments.mass[0, 1] == 0
    torch.testing.assert_close(moments.mean[1], problem.mixture.mean[1])
    assert torch.equal(moments.var[1], torch.zeros(6))
    check(problem)


def test_rows_of_responsibilities_sum_to_one() -> None:
    problem = Problem((4, 6, 9, 9))
    out = ops.forward(
        problem.x, problem.mixture, None, None, eps=EPS, em_iters=0, mixing_scale=True
    )
    total = out.responsibilities.sum(0)
    torch.testing.assert_close(total, torch.ones_like(total))
    torch.testing.assert_close(out.moments.mass.sum(), torch.tensor(4 * 81.0))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("components", [1, 3])
def test_non_finite_input_reaches_the_output(
    components: int, channels_last: bool, value: float
) -> None:
    problem = Problem((4, 20, 9, 9), components, channels_last=channels_last)
    problem.x[2, 5, 3, 3] = value
    found = problem.operators()
    assert not found["y"][2, 5, 3, 3].isfinite()
    y = found["eval y"]
    assert not y[2, 5, 3, 3].isfinite()
    y = y.movedim(1, -1)  # in eval nothing leaves the position
    others = torch.ones(4, 9, 9, dtype=torch.bool)
    others[2, 3, 3] = False
    assert y[others].isfinite().all()


@pytest.mark.parametrize("capability", ["plain", "avx2", "avx512"])
def test_every_instruction_set(capability: str) -> None:
    """The choice is made once a process: each one the processor has runs in its own."""
    tests = ["test_components", "test_dtypes", "test_non_finite"]
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
            *(__file__, "-k", " or ".join(tests)),
        ],
        env={**os.environ, "MIXNORM_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:]
