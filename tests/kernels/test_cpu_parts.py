"""The passes in parts on the CPU: halves of a batch against the whole in the float64 reference."""

import pytest
import torch
from torch import Tensor

from mixnorm_cuda.dispatch import BACKENDS, split
from mixnorm_cuda.kernels.native import loader, ops
from mixnorm_cuda.types import BatchMoments, GradientSums, Mixture
from tests.kernels.operators import (
    BOUNDS,
    EPS,
    REFERENCE,
    Problem,
    relative_error,
    statistics_dtype,
    views,
)

pytestmark = pytest.mark.skipif(
    loader.missing("cpu") is not None, reason=f"no CPU operators: {loader.missing('cpu')}"
)

# Channels 1, 3, 17, 1000; positions of a half 2, 63, 4097; an empty half.
SHAPES = (
    (4, 3),
    (126, 16),
    (2, 24, 4097),
    (2, 1, 63),
    (8, 17, 9, 9),
    (6, 64, 7, 7),
    (4, 6, 3, 4, 5),
    (1, 12, 40, 40),
    (6, 1000, 7, 7),
)


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
    affine, scale = (problem.weight, problem.bias), options.get("mixing_scale", True)
    half = problem.x.shape[0] // 2
    parts = [
        (problem.x[:half], problem.dy[:half]),
        (problem.x[half:], problem.dy[half:]),
    ]
    y = [
        ops.normalize(x, problem.mixture, moments, *affine, eps=EPS, mixing_scale=scale)
        for x, _ in parts
    ]
    sums = [ops.backward_sums(dy, x, problem.mixture, moments, eps=EPS) for x, dy in parts]
    joined = GradientSums(*(a + b for a, b in zip(*sums, strict=True)))
    grads = [
        ops.backward_apply(
            dy,
            x,
            problem.mixture,
            moments,
            joined,
            *affine,
            eps=EPS,
            mixing_scale=scale,
            responsibility_grad=options.get("responsibility_grad", True),
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


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("components", [1, 3])
def test_shapes(shape: tuple[int, ...], components: int, channels_last: bool) -> None:
    check(Problem(shape, components, channels_last=channels_last))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("components", "groups"), [(2, 1), (8, 1), (9, 1), (16, 1), (3, 8), (3, 24)]
)
def test_components_and_groups(components: int, groups: int, channels_last: bool) -> None:
    check(Problem((6, 24, 11, 11), components, groups, channels_last=channels_last))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("groups", [1, 24])
def test_dtypes(groups: int, dtype: torch.dtype, channels_last: bool) -> None:
    check(Problem((6, 24, 9, 9), 3, groups, dtype, channels_last))


@pytest.mark.parametrize("name", ["mixing_scale", "responsibility_grad"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_options(name: str, channels_last: bool) -> None:
    check(Problem((6, 20, 13, 13), channels_last=channels_last), **{name: False})


def test_shared_affine_pairs_have_gradients_of_their_shape() -> None:
    problem = Problem((6, 20, 13, 13))
    moments = moments_in(whole(problem, torch.float64), torch.float32)
    per_component = Problem((6, 20, 13, 13))
    problem.weight, problem.bias = torch.randn(20), torch.randn(20)
    per_component.weight, per_component.bias = (
        t.expand(3, 20) for t in (problem.weight, problem.bias)
    )
    shared, apart = (in_halves(p, moments) for p in (problem, per_component))
    for name in ("y", "dx"):
        assert torch.equal(shared[name], apart[name]), name
    for name in ("dweight", "dbias"):
        torch.testing.assert_close(shared[name], apart[name].sum(0), msg=name)


@pytest.mark.parametrize("name", views())
def test_strides_do_not_matter(name: str) -> None:
    view = views()[name]
    problem = Problem(tuple(view.shape))
    problem.x = view.contiguous()
    moments = moments_in(whole(problem, torch.float64), torch.float32)
    wanted = in_halves(problem, moments)
    problem.x, problem.dy = view, problem.dy.transpose(-1, -2).contiguous().transpose(-1, -2)
    for key, value in in_halves(problem, moments).items():
        torch.testing.assert_close(value, wanted[key], rtol=1e-5, atol=1e-5, msg=key)


@pytest.mark.parametrize("channels_last", [False, True])
def test_memory_format_is_that_of_the_input(channels_last: bool) -> None:
    problem = Problem((4, 24, 9, 9), channels_last=channels_last)
    moments, mixture = moments_in(whole(problem, torch.float64), torch.float32), problem.mixture
    sums = ops.backward_sums(problem.dy, problem.x, mixture, moments, eps=EPS)
    y = ops.normalize(problem.x, mixture, moments, None, None, eps=EPS, mixing_scale=True)
    grads = ops.backward_apply(
        problem.dy, problem.x, mixture, moments, sums, None, None,
        eps=EPS, mixing_scale=True, responsibility_grad=True,
    )  # fmt: skip
    assert y.stride() == grads.x.stride() == problem.x.stride()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("groups", [1, 4, 24])
def test_same_bits_on_one_and_two_threads(groups: int, channels_last: bool) -> None:
    problem = Problem((16, 24, 33, 33), groups=groups, channels_last=channels_last)
    moments = ops.moments(problem.x, problem.mixture, eps=EPS)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = in_halves(problem, moments)
        torch.set_num_threads(2)
        two = in_halves(problem, moments)
    finally:
        torch.set_num_threads(before)
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


@pytest.mark.parametrize("components", [1, 3])
def test_large_means(components: int) -> None:
    """|mean| / std of 1e4: the joined moments are the shift, wherever the old mean was."""
    problem = Problem((8, 16, 15, 15), components, offset=2e4)
    exact = whole(problem, torch.float64)
    found = in_halves(problem, moments_in(exact, torch.float32))
    for name in ("y", "dx"):
        assert relative_error(found[name], exact[name]) <= 1e-3, name


def test_empty_batch() -> None:
    problem = Problem((4, 6, 4, 4))
    moments = moments_in(whole(problem, torch.float64), torch.float32)
    problem.x, problem.dy = problem.x[:0], problem.dy[:0]
    found = in_halves(problem, moments)
    assert found["y"].shape == found["dx"].shape == (0, 6, 4, 4)
    assert not found["h1"].any()
    assert not found["h2"].any()


def test_dispatch_takes_them() -> None:
    assert split("cpu") is BACKENDS["cpu"]
