"""The raw operator mixnorm::moments against the reference in float64."""

import pytest
import torch
from torch import Tensor

from mixnorm_cuda.kernels.native import loader, ops
from mixnorm_cuda.kernels.native.backend import NativeCpuBackend
from mixnorm_cuda.reference import ReferenceBackend
from mixnorm_cuda.types import BatchMoments, Mixture

pytestmark = pytest.mark.skipif(
    loader.missing("cpu") is not None, reason=f"no CPU operators: {loader.missing('cpu')}"
)

EPS = 1e-5
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SHAPES = ((2, 6, 5, 7), (16, 6), (3, 6, 40), (2, 6, 3, 4, 5), (1, 6, 1, 1))


def accumulation(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def problem(
    shape: tuple[int, ...], dtype: torch.dtype, components: int = 3, groups: int = 2
) -> tuple[Tensor, Mixture]:
    generator = torch.Generator().manual_seed(0)
    channels = shape[1]

    def randn(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    mixture = Mixture(
        randn(groups, components).softmax(1),
        randn(components, channels),
        0.5 + randn(components, channels).square(),
    )
    statistics = accumulation(dtype)
    return (2 * randn(*shape) + 0.5).to(dtype), Mixture(*(t.to(statistics) for t in mixture))


def expected(x: Tensor, mixture: Mixture) -> BatchMoments:
    return ReferenceBackend().moments(x.double(), Mixture(*(t.double() for t in mixture)), eps=EPS)


def check(actual: BatchMoments, x: Tensor, mixture: Mixture) -> None:
    """Equal to the reference up to the rounding of the logits, of magnitude 50 a channel here."""
    unit = torch.finfo(accumulation(x.dtype)).eps
    depth = x.shape[1] // mixture.mixing_weight.shape[0]
    for name, found, wanted in zip(BatchMoments._fields, actual, expected(x, mixture), strict=True):
        assert found.dtype == accumulation(x.dtype), name
        error = (found.double() - wanted).norm() / wanted.norm().clamp_min(1e-3)
        assert error <= 50 * depth * unit, f"{name}: relative error {error:.2e}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("components", [1, 3, 5])
def test_equals_the_reference(
    shape: tuple[int, ...], dtype: torch.dtype, components: int, groups: int
) -> None:
    x, mixture = problem(shape, dtype, components, groups)
    check(ops.moments(x, mixture, eps=EPS), x, mixture)


def _slice_of_positions(x: Tensor) -> Tensor:
    return torch.cat([x, x], -1)[..., : x.shape[-1]]


LAYOUTS = {
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "slice over channels": lambda x: torch.cat([x, x], 1)[:, x.shape[1] :],
    "slice over positions": _slice_of_positions,
    "transposed positions": lambda x: x.mT.contiguous().mT,
    "expanded batch": lambda x: x[:1].expand(4, -1, -1, -1),
    "expanded positions": lambda x: x[..., :1].expand(-1, -1, -1, 8),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(layout: str) -> None:
    x, mixture = problem((3, 4, 5, 7), torch.float32)
    x = LAYOUTS[layout](x)
    assert layout == "expanded batch" or not x.is_contiguous()
    check(ops.moments(x, mixture, eps=EPS), x, mixture)


def test_statistics_of_any_strides() -> None:
    x, mixture = problem((3, 4, 5), torch.float32)
    strided = Mixture(*(t.T.contiguous().T for t in mixture))
    assert not strided.mean.is_contiguous()
    for a, b in zip(
        ops.moments(x, strided, eps=EPS), ops.moments(x, mixture, eps=EPS), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(7, 6, 33, 31), (1, 4, 300)], ids=str)
def test_does_not_depend_on_the_number_of_threads(shape: tuple[int, ...]) -> None:
    x, mixture = problem(shape, torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(ops.moments(x, mixture, eps=EPS))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_large_mean() -> None:
    """|mean|/std of 1e4: sums of raw squares would lose the variance altogether."""
    generator = torch.Generator().manual_seed(0)
    x = 1e4 + torch.randn(8, 3, 20, 20, generator=generator)
    mixture = Mixture(torch.ones(1, 1), torch.zeros(1, 3), torch.ones(1, 3))
    var = ops.moments(x, mixture, eps=EPS).var
    assert torch.allclose(var.double(), expected(x, mixture).var, rtol=1e-5, atol=0)


def test_empty_batch_keeps_the_means() -> None:
    x, mixture = problem((0, 4, 3), torch.float32)
    mass, mean, var = ops.moments(x, mixture, eps=EPS)
    assert torch.equal(mass, torch.zeros(2, 3))
    assert torch.equal(mean, mixture.mean)
    assert torch.equal(var, torch.zeros(3, 4))


def test_nan_reaches_the_moments() -> None:
    x, mixture = problem((2, 4, 9), torch.float32)
    x[1, 0, 3] = torch.nan
    mass, mean, var = ops.moments(x, mixture, eps=EPS)
    # Group 0 holds channels 0 and 1; group 1 has seen no NaN.
    assert mass[0].isnan().all()
    assert mean[:, 0].isnan().all()
    assert var[:, 0].isnan().all()
    assert mean[:, 2:].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_opcheck(dtype: torch.dtype) -> None:
    x, mixture = problem((2, 4, 5), dtype)
    torch.library.opcheck(torch.ops.mixnorm.moments.default, (x, *mixture, EPS))


def test_compiles_to_one_graph() -> None:
    x, mixture = problem((2, 4, 5), torch.float32)
    graph = torch.compile(
        lambda x: ops.moments(x, mixture, eps=EPS), backend="aot_eager", fullgraph=True
    )
    for a, b in zip(graph(x), ops.moments(x, mixture, eps=EPS), strict=True):
        assert torch.equal(a, b)


def _bad_arguments() -> dict[str, tuple[dict[str, object], str]]:
    return {
        "rank of x": ({"x": torch.zeros(4)}, r"x has shape \[4\], expected \[N, C, \*S\]"),
        "dtype of x": ({"x": torch.zeros(2, 4, dtype=torch.int32)}, "x has dtype Int, expected"),
        "no channel": ({"x": torch.zeros(2, 0, 3)}, r"x has shape \[2, 0, 3\], expected C >= 1"),
        "groups": (
            {"mixing_weight": torch.ones(3, 3)},
            "mixing_weight has G = 3 groups, expected a divisor of the 4 channels",
        ),
        "rank of mixing_weight": (
            {"mixing_weight": torch.ones(3)},
            r"mixing_weight has shape \[3\], expected \[G, K\]",
        ),
        "shape of mean": (
            {"mean": torch.zeros(3, 5)},
            r"mean has shape \[3, 5\], expected \[K, C\] = \[3, 4\]",
        ),
        "shape of var": (
            {"var": torch.zeros(2, 4)},
            r"var has shape \[2, 4\], expected \[K, C\] = \[3, 4\]",
        ),
        "dtype of var": (
            {"var": torch.ones(3, 4, dtype=torch.float64)},
            "var has dtype Double, expected Float for x of Float",
        ),
        "eps": ({"eps": 0.0}, "eps is 0, expected a positive number"),
        "eps NaN": ({"eps": float("nan")}, "eps is nan, expected a positive number"),
    }


@pytest.mark.parametrize("case", _bad_arguments())
def test_bad_arguments_are_named(case: str) -> None:
    wrong, message = _bad_arguments()[case]
    x, mixture = problem((2, 4, 5), torch.float32)
    arguments = {"x": x, **mixture._asdict(), "eps": EPS} | wrong
    with pytest.raises(ValueError, match=message):
        torch.ops.mixnorm.moments(*arguments.values())


def test_backend_serves_moments() -> None:
    x, mixture = problem((2, 4, 5), torch.float32)
    check(NativeCpuBackend().moments(x, mixture, eps=EPS), x, mixture)
