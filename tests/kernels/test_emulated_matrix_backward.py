"""The CUDA backward of joint mixtures of 5 to 16 components, by matrix products, on the CPU."""

from typing import Any

import pytest
import torch

from mixnorm_cuda.kernels.native import ops
from tests.kernels.operators import Problem, check, relative_error
from tests.support import Target

LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])
FAMILIES = pytest.mark.parametrize("family", ["streaming", "resident", "cluster", "small"])


@pytest.fixture(autouse=True)
def _plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIXNORM_CUDA_KERNELS", raising=False)


def problem(target: Target, *arguments: Any, **options: Any) -> Problem:
    emulated = target.backend == "emulated"
    return Problem(*arguments, **options, device=target.device, emulated=emulated)


def by_products(p: Problem) -> bool:
    groups, components = p.mixture.mixing_weight.shape
    plan = ops.cuda_plan(
        p.x,
        components,
        groups,
        channels_last=not p.x.is_contiguous(),
        backward=True,
        emulated=p.emulated,
    )
    return "matrix products" in plan


@LAYOUTS
@FAMILIES
@pytest.mark.parametrize(
    ("shape", "components", "groups"),
    [
        ((3, 24, 6, 6), 5, 1),
        ((2, 8, 30, 30), 8, 1),  # several tiles, of several warps side by side
        ((1, 20, 4), 9, 1),  # less than a tile
        ((2, 60, 6, 6), 16, 3),
        ((3, 128, 2, 2), 8, 1),
        ((2, 64, 6, 6), 12, 8),
    ],
    ids=str,
)
def test_gradients(
    cuda_target: Target,
    shape: tuple[int, ...],
    components: int,
    groups: int,
    family: str,
    channels_last: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIXNORM_CUDA_KERNELS", family)
    p = problem(cuda_target, shape, components, groups, channels_last=channels_last)
    assert by_products(p)
    check(p)


@pytest.mark.parametrize("components", [5, 16])
@pytest.mark.parametrize("channels", [5, 17, 99])
def test_odd_channels(cuda_target: Target, components: int, channels: int) -> None:
    """Lanes with fewer than their four channels, and with none."""
    p = problem(cuda_target, (3, channels, 6, 6), components)
    assert by_products(p)
    check(p)
    p = problem(cuda_target, (3, channels, 6, 6), components, channels_last=True)
    assert not by_products(p)
    check(p)


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("shape", "components"),
    [((3, 40, 6, 6), 8), ((2, 256, 4, 4), 8), ((2, 128, 4, 4), 16)],
    ids=str,
)
def test_half_precision(
    cuda_target: Target,
    shape: tuple[int, ...],
    components: int,
    dtype: torch.dtype,
    channels_last: bool,
) -> None:
    p = problem(cuda_target, shape, components, dtype=dtype, channels_last=channels_last)
    assert by_products(p)
    check(p)


@LAYOUTS
@FAMILIES
@pytest.mark.parametrize("components", [8, 16])
def test_constant_responsibilities(
    cuda_target: Target,
    components: int,
    family: str,
    channels_last: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIXNORM_CUDA_KERNELS", family)
    p = problem(cuda_target, (3, 20, 10, 10), components, channels_last=channels_last)
    check(p, responsibility_grad=False, mixing_scale=False)


@LAYOUTS
def test_groups_too_wide(cuda_target: Target, channels_last: bool) -> None:
    """Tiles of two tensors in float that no block's shared memory holds; the forward's fit."""
    p = problem(cuda_target, (2, 256, 4, 6), 8, channels_last=channels_last)
    assert not by_products(p)
    assert "matrix products" in ops.cuda_plan(p.x, 8, 1, emulated=p.emulated)
    check(p)


def test_affine_pairs(cuda_target: Target) -> None:
    """None, and one for all components, whose gradients are summed over them."""
    check(problem(cuda_target, (3, 20, 6, 6), 8, affine=False))
    p = problem(cuda_target, (3, 20, 6, 6), 8)
    assert p.weight is not None
    assert p.bias is not None
    p.weight, p.bias = p.weight[1], p.bias[1]
    shared, exact = p.operators(), p.reference(torch.float64)
    for name in ("dx", "dweight", "dbias"):
        wanted = exact[name].sum(0) if exact[name].dim() == 2 else exact[name]
        assert relative_error(shared[name], wanted) <= 1e-5


@LAYOUTS
def test_empty_batch(cuda_target: Target, channels_last: bool) -> None:
    p = problem(cuda_target, (0, 24, 4, 4), 8, channels_last=channels_last)
    found = p.operators()
    assert found["dx"].shape == (0, 24, 4, 4)
    assert torch.equal(found["dweight"], torch.zeros(8, 24, device=p.x.device))
