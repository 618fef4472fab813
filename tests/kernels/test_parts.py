"""The passes in parts: halves of a batch against the whole in the float64 reference."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mixnorm_cuda.dispatch import BACKENDS, split
from mixnorm_cuda.kernels.native import ops
from mixnorm_cuda.types import BatchMoments, GradientSums, Mixture
from tests.kernels.operators import (
    BOUNDS,
    EPS,
    REFERENCE,
    Problem,
    check_same,
    relative_error,
    statistics_dtype,
    views,
)
from tests.support import Target

# Channels 1, 3, 17; positions of a half 2, 63, 243; an empty half.
SHAPES = ((4, 3), (126, 16), (2, 1, 63), (6, 17, 9, 9), (6, 64, 7, 7), (4, 6, 3, 4, 5), (1, 12, 8))
LARGE_SHAPES = ((2, 24, 4097), (1, 12, 40, 40), (6, 1000, 7, 7))


@pytest.fixture
def cpu() -> Target:
    """For what is about threads, and for sizes that the emulation takes minutes for."""
    target = Target("cpu", "cpu")
    if target.unusable() is not None:
        pytest.skip(f"{target.unusable()}")
    return target


def problem(target: Target, *arguments: Any, **options: Any) -> Problem:
    emulated = target.backend == "emulated"
    return Problem(*arguments, **options, device=target.device, emulated=emulated)


def whole(problem: Problem, dtype: torch.dtype, **options: bool) -> dict[str, Tensor]:
    """What the reference makes of the joined batch, and the moments that the halves are given."""
    x, dy = problem.x.to(dtype), problem.dy.to(dtype)
    mixture = Mixture(*(t.to(dtype) for t in problem.mixture))
    affine = [None if t is None else t.to(dtype) for t in (problem.weight, problem.bias)]
    scale = {"eps": EPS, "mixing_scale": options.get("mixing_scale", True)}
    out = REFERENCE.forward(x, mixture, *affine, em_iters=0, **scale)
    grads = REFERENCE.backward(
        dy,
        x,
        out.responsibilities,
        out.moments,
        out.mixture,
        *affine,
        responsibility_grad=options.get("responsibility_grad", True),
        given=False,
        mixture_grad=False,
        **scale,
    )
    sums = REFERENCE.backward_sums(dy, x, mixture, out.moments, eps=EPS)
    return {
        "y": out.y,
        "dx": grads.x,
        "dweight": grads.weight,
        "dbias": grads.bias,
        **sums._asdict(),
        **{f"moments.{name}": t for name, t in out.moments._asdict().items()},
    }


def moments_in(found: dict[str, Tensor], dtype: torch.dtype) -> BatchMoments:
    return BatchMoments(*(found[f"moments.{name}"].to(dtype) for name in BatchMoments._fields))


def in_halves(problem: Problem, moments: BatchMoments, **options: bool) -> dict[str, Tensor]:
    """The operators on each half of the batch, with the ``moments`` of both."""
    mixture, affine = problem.mixture, (problem.weight, problem.bias)
    half, emulated = problem.x.shape[0] // 2, problem.emulated
    scale = {"eps": EPS, "mixing_scale": options.get("mixing_scale", True), "emulated": emulated}
    through = options.get("responsibility_grad", True)
    parts = [
        (problem.x[:half], problem.dy[:half]),
        (problem.x[half:], problem.dy[half:]),
    ]
    y = [ops.normalize(x, mixture, moments, *affine, **scale) for x, _ in parts]
    sums = [
        ops.backward_sums(dy, x, mixture, moments, eps=EPS, emulated=emulated) for x, dy in parts
    ]
    joined = GradientSums(*(a + b for a, b in zip(*sums, strict=True)))
    grads = [
        ops.backward_apply(
            dy, x, mixture, moments, joined, *affine, responsibility_grad=through, **scale
        )
        for x, dy in parts
    ]
    assert torch.equal(grads[0].weight, grads[1].weight)  # both are those of the joined sums
    assert torch.equal(grads[0].bias, grads[1].bias)
    return {
        "y": torch.cat(y),
        "dx": torch.cat([g.x for g in grads]),
        "dweight": grads[0].weight,
        "dbias": grads[0].bias,
        **joined._asdict(),
    }


def check(problem: Problem, **options: bool) -> None:
    """Within the promised bounds, or 16 times what the plain formulas lose in the same type."""
    dtype = problem.x.dtype
    statistics = statistics_dtype(dtype)
    exact = whole(problem, torch.float64, **options)
    plain = whole(problem, statistics, **options)
    found = in_halves(problem, moments_in(exact, statistics), **options)
    output_bound, gradient_bound = BOUNDS[dtype]
    for name, value in found.items():
        bound = output_bound if name == "y" else gradient_bound
        allowed = max(bound, 16 * relative_error(plain[name], exact[name]))
        error = relative_error(value, exact[name])
        assert error <= allowed, f"{name}: relative error {error:.2e}, allowed {allowed:.2e}"


LAYOUTS = pytest.mark.parametrize("channels_last", [False, True])


@LAYOUTS
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("components", [1, 3])
def test_shapes(
    native_target: Target, shape: tuple[int, ...], components: int, channels_last: bool
) -> None:
    check(problem(native_target, shape, components, channels_last=channels_last))


@LAYOUTS
@pytest.mark.parametrize("shape", LARGE_SHAPES, ids=str)
@pytest.mark.parametrize("components", [1, 3])
def test_large_shapes(
    cpu: Target, shape: tuple[int, ...], components: int, channels_last: bool
) -> None:
    check(problem(cpu, shape, components, channels_last=channels_last))


@LAYOUTS
@pytest.mark.parametrize(
    ("components", "groups"), [(2, 1), (8, 1), (9, 1), (16, 1), (3, 8), (3, 24)]
)
def test_components_and_groups(
    native_target: Target, components: int, groups: int, channels_last: bool
) -> None:
    check(problem(native_target, (4, 24, 6, 6), components, groups, channels_last=channels_last))


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("groups", [1, 24])
def test_dtypes(
    native_target: Target, groups: int, dtype: torch.dtype, channels_last: bool
) -> None:
    check(problem(native_target, (6, 24, 5, 5), 3, groups, dtype, channels_last))


@pytest.mark.parametrize("name", ["mixing_scale", "responsibility_grad"])
@LAYOUTS
def test_options(native_target: Target, name: str, channels_last: bool) -> None:
    check(problem(native_target, (6, 20, 7, 7), channels_last=channels_last), **{name: False})


def test_shared_affine_pairs_have_gradients_of_their_shape(native_target: Target) -> None:
    p, per_component = (problem(native_target, (6, 20, 7, 7)) for _ in range(2))
    moments = moments_in(whole(p, torch.float64), torch.float32)
    p.weight, p.bias = torch.randn(2, 20, device=native_target.device)
    per_component.weight, per_component.bias = (t.expand(3, 20) for t in (p.weight, p.bias))
    shared, apart = (in_halves(each, moments) for each in (p, per_component))
    for name in ("y", "dx"):
        assert torch.equal(shared[name], apart[name]), name
    for name in ("dweight", "dbias"):
        torch.testing.assert_close(shared[name], apart[name].sum(0), msg=name)


@pytest.mark.parametrize("name", views())
def test_strides_do_not_matter(native_target: Target, name: str) -> None:
    view = views()[name][:, :, :5].to(native_target.device)
    p = problem(native_target, tuple(view.shape))
    p.x = view.contiguous()
    moments = moments_in(whole(p, torch.float64), torch.float32)
    wanted = in_halves(p, moments)
    p.x, p.dy = view, p.dy.transpose(-1, -2).contiguous().transpose(-1, -2)
    check_same(in_halves(p, moments), wanted)


@LAYOUTS
def test_memory_format_is_that_of_the_input(native_target: Target, channels_last: bool) -> None:
    p = problem(native_target, (4, 24, 5, 5), affine=False, channels_last=channels_last)
    moments = moments_in(whole(p, torch.float64), torch.float32)
    common = {"eps": EPS, "emulated": p.emulated}
    sums = ops.backward_sums(p.dy, p.x, p.mixture, moments, **common)
    y = ops.normalize(p.x, p.mixture, moments, None, None, mixing_scale=True, **common)
    grads = ops.backward_apply(
        p.dy, p.x, p.mixture, moments, sums, None, None,
        mixing_scale=True, responsibility_grad=True, **common,
    )  # fmt: skip
    assert y.stride() == grads.x.stride() == p.x.stride()


@LAYOUTS
@pytest.mark.parametrize("groups", [1, 4, 24])
def test_same_bits_on_one_and_two_threads(cpu: Target, groups: int, channels_last: bool) -> None:
    p = problem(cpu, (16, 24, 33, 33), groups=groups, channels_last=channels_last)
    moments = ops.moments(p.x, p.mixture, eps=EPS)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = in_halves(p, moments)
        torch.set_num_threads(2)
        two = in_halves(p, moments)
    finally:
        torch.set_num_threads(before)
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


@pytest.mark.parametrize("components", [1, 3])
def test_large_means(native_target: Target, components: int) -> None:
    """|mean| / std of 1e4: the joined moments are the shift, wherever the old mean was."""
    p = problem(native_target, (8, 16, 7, 7), components, offset=2e4)
    exact = whole(p, torch.float64)
    found = in_halves(p, moments_in(exact, torch.float32))
    for name in ("y", "dx"):
        assert relative_error(found[name], exact[name]) <= 1e-3, name


def test_empty_batch(native_target: Target) -> None:
    p = problem(native_target, (4, 6, 4, 4))
    moments = moments_in(whole(p, torch.float64), torch.float32)
    p.x, p.dy = p.x[:0], p.dy[:0]
    found = in_halves(p, moments)
    assert found["y"].shape == found["dx"].shape == (0, 6, 4, 4)
    assert not found["h1"].any()
    assert not found["h2"].any()


def test_dispatch_takes_them(native_target: Target) -> None:
    assert split(native_target.backend) is BACKENDS[native_target.backend]
