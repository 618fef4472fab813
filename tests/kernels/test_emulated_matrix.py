"""Joint mixtures of 5 to 16 components in the CUDA kernels: sums by matrix products.

Tensor cores read 11 significant bits of a number; the results are held to the bounds of fp32.
"""

from typing import Any

import pytest
import torch

from mixnorm_cuda.kernels.native import ops
from tests.kernels.operators import EPS, Problem, check, relative_error
from tests.support import Target

LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])
FAMILIES = pytest.mark.parametrize("family", ["streaming", "resident", "cluster", "small"])


@pytest.fixture(autouse=True)
def _plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIXNORM_CUDA_KERNELS", raising=False)


def problem(target: Target, *arguments: Any, **options: Any) -> Problem:
    emulated = target.backend == "emulated"
    p = Problem(*arguments, **options, device=target.device, emulated=emulated)
    # Components that stay in play: their distances would grow with the channels of a group.
    width = p.x.shape[1] / p.mixture.mixing_weight.shape[0]
    middle = p.mixture.mean.mean(0)
    p.mixture.mean.sub_(middle).div_(width**0.5).add_(middle)
    p.mixture.var.sub_(4).div_(width).add_(4)
    return p


def plan(p: Problem, channels_last: bool, **options: bool) -> str:
    groups, components = p.mixture.mixing_weight.shape
    return ops.cuda_plan(
        p.x, components, groups, channels_last=channels_last, emulated=p.emulated, **options
    )


@LAYOUTS
@FAMILIES
@pytest.mark.parametrize("components", [5, 8, 9, 16])
def test_families(
    cuda_target: Target,
    components: int,
    family: str,
    channels_last: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIXNORM_CUDA_KERNELS", family)
    p = problem(cuda_target, (4, 36, 6, 8), components, channels_last=channels_last)
    kind = f"matrix products, 4 {'channels' if channels_last else 'positions'} at once"
    assert kind in plan(p, channels_last)
    check(p, em_iters=1)


@LAYOUTS
@pytest.mark.parametrize(
    ("shape", "components", "groups"),
    [
        ((2, 5, 4, 8), 5, 1),
        ((3, 21, 6, 6), 8, 3),
        ((2, 60, 4, 7), 16, 5),
        ((1, 17, 1500), 8, 1),
        ((2, 77, 12), 9, 1),
        ((65, 32), 16, 2),
        ((2, 128, 6, 6), 16, 1),
        ((2, 131, 8, 8), 6, 1),
        ((2, 256, 8, 8), 8, 1),
        ((3, 512, 4), 7, 2),
    ],
    ids=str,
)
def test_shapes(
    cuda_target: Target, shape: tuple[int, ...], components: int, groups: int, channels_last: bool
) -> None:
    """Odd channels, several groups to a block, one and many warps of channels or of positions."""
    check(problem(cuda_target, shape, components, groups, channels_last=channels_last))


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("components", [5, 16])
def test_half_precision(
    cuda_target: Target, components: int, dtype: torch.dtype, channels_last: bool
) -> None:
    shape = (2, 40, 8, 9)
    check(problem(cuda_target, shape, components, 2, dtype, channels_last=channels_last))


@LAYOUTS
@pytest.mark.parametrize("options", [{"responsibility_grad": False}, {"mixing_scale": False}])
def test_options(cuda_target: Target, options: dict[str, bool], channels_last: bool) -> None:
    p = problem(cuda_target, (3, 24, 6, 6), 8, channels_last=channels_last)
    check(p, em_iters=2, **options)


@pytest.mark.parametrize(
    ("shape", "components"), [((8, 64, 28, 28), 8), ((8, 64, 28, 28), 16), ((2, 256, 14, 14), 8)]
)
def test_precision(cuda_target: Target, shape: tuple[int, ...], components: int) -> None:
    """No allowance for ill-conditioned batches: these are ordinary ones."""
    p = problem(cuda_target, shape, components)
    exact = p.reference(torch.float64)
    options = {"eps": EPS, "emulated": p.emulated}
    out = ops.forward(p.x, p.mixture, p.weight, p.bias, em_iters=0, mixing_scale=True, **options)
    assert relative_error(out.y, exact["y"]) <= 1e-6
    for name, value in out.moments._asdict().items():
        assert relative_error(value, exact[f"moments.{name}"]) <= 1e-6, name


@LAYOUTS
def test_large_means(cuda_target: Target, channels_last: bool) -> None:
    """|mean| / std of 1e4."""
    p = problem(cuda_target, (4, 24, 9, 8), 8, channels_last=channels_last, offset=2e4)
    assert relative_error(p.operators()["y"], p.reference(torch.float64)["y"]) <= 1e-3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@LAYOUTS
def test_non_finite_input(cuda_target: Target, channels_last: bool, value: float) -> None:
    p = problem(cuda_target, (4, 20, 8, 8), 8, channels_last=channels_last)
    p.x[2, 5, 3, 3] = value
    found = p.operators()
    assert not found["y"][2, 5, 3, 3].isfinite()
    assert not found["eval y"][2, 5, 3, 3].isfinite()
    others = torch.ones(4, 8, 8, dtype=torch.bool)
    others[2, 3, 3] = False  # in eval nothing leaves the position
    assert found["eval y"].movedim(1, -1).cpu()[others].isfinite().all()


def test_empty_batch(cuda_target: Target) -> None:
    p = problem(cuda_target, (0, 12, 4, 4), 8)
    found = p.operators()
    assert found["y"].shape == (0, 12, 4, 4)
    assert torch.equal(found["moments.mass"], torch.zeros_like(found["moments.mass"]))
    torch.testing.assert_close(found["moments.mean"], p.mixture.mean)


@pytest.mark.parametrize(
    ("shape", "components"),
    [((4, 4, 8, 8), 8), ((2, 257, 4, 4), 8), ((2, 129, 4, 4), 16), ((2, 20, 5, 5), 8)],
    ids=["narrow", "wide", "wide, K = 16", "rows of 25"],
)
def test_what_they_do_not_serve(
    cuda_target: Target, shape: tuple[int, ...], components: int
) -> None:
    """Takes the kernels of single elements: too few channels, too many, or not 4 at once."""
    p = problem(cuda_target, shape, components)
    if shape[-1] != 5:
        assert "1 element at once" in plan(p, False)
    check(p)
