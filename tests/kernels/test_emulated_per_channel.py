"""The CUDA kernels for one mixture per channel against the reference in float64, on the CPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mixnorm_cuda.kernels.native import ops
from tests.kernels.operators import EPS, Problem, check, check_same, relative_error, views
from tests.support import Target

LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])
FAMILIES = pytest.mark.parametrize("family", ["streaming", "resident", "cluster", "small"])


@pytest.fixture(autouse=True)
def _plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIXNORM_CUDA_KERNELS", raising=False)


def problem(
    target: Target, shape: tuple[int, ...], components: int = 3, *rest: Any, **options: Any
) -> Problem:
    emulated = target.backend == "emulated"
    return Problem(
        shape, components, shape[1], *rest, **options, device=target.device, emulated=emulated
    )


@LAYOUTS
@FAMILIES
@pytest.mark.parametrize("components", [1, 3, 4])
@pytest.mark.parametrize(
    "shape",
    [(2, 3), (63, 8), (1, 5, 1025), (2, 1, 63), (4, 7, 9, 9), (9, 8, 2, 2), (3, 6, 4, 4, 4)],
    ids=str,
)
def test_shapes(
    cuda_target: Target,
    shape: tuple[int, ...],
    components: int,
    family: str,
    channels_last: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIXNORM_CUDA_KERNELS", family)
    check(problem(cuda_target, shape, components, channels_last=channels_last))


@LAYOUTS
@pytest.mark.parametrize("shape", [(3, 200, 5, 5), (40, 130), (2, 66, 6, 6)], ids=str)
def test_many_channels(cuda_target: Target, shape: tuple[int, ...], channels_last: bool) -> None:
    """More than the blocks that are resident at once, and not a multiple of a block's."""
    check(problem(cuda_target, shape, channels_last=channels_last), em_iters=1)


@LAYOUTS
@pytest.mark.parametrize("components", [2, 5, 8, 11, 16])
def test_components(cuda_target: Target, components: int, channels_last: bool) -> None:
    check(problem(cuda_target, (6, 8, 6, 6), components, channels_last=channels_last))


@LAYOUTS
@pytest.mark.parametrize("components", [2, 3, 6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(3, 8, 8, 8), (3, 7, 9, 9), (40, 3, 2, 2)], ids=str)
def test_dtypes(
    cuda_target: Target,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    components: int,
    channels_last: bool,
) -> None:
    check(problem(cuda_target, shape, components, dtype, channels_last))


@LAYOUTS
@FAMILIES
@pytest.mark.parametrize(
    "options",
    [
        {"em_iters": 2},
        {"mixing_scale": False},
        {"em_iters": 1, "mixing_scale": False, "responsibility_grad": False},
    ],
    ids=str,
)
def test_options(
    cuda_target: Target,
    options: dict[str, Any],
    family: str,
    channels_last: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIXNORM_CUDA_KERNELS", family)
    check(problem(cuda_target, (3, 8, 11, 11), channels_last=channels_last), **options)


def test_affine_pairs(cuda_target: Target) -> None:
    """None, and one for all components: gradients are summed over them."""
    check(problem(cuda_target, (3, 20, 7, 7), affine=False))
    p = problem(cuda_target, (3, 20, 7, 7))
    assert p.weight is not None
    assert p.bias is not None
    p.weight, p.bias = p.weight[1], p.bias[1]
    found, exact = p.operators(), p.reference(torch.float64)
    for name in ("dx", "dweight", "dbias", "eval dweight", "eval dbias"):
        wanted = exact[name].sum(0) if exact[name].dim() == 2 else exact[name]
        assert relative_error(found[name], wanted) <= 1e-5, name


@pytest.mark.parametrize("name", views())
def test_strides_do_not_matter(cuda_target: Target, name: str) -> None:
    view = views()[name][:, :, :5].to(cuda_target.device)
    p = problem(cuda_target, tuple(view.shape))
    p.x = view.contiguous()
    wanted = p.operators()
    p.x, p.dy = view, p.dy.transpose(-1, -2).contiguous().transpose(-1, -2)
    check_same(p.operators(), wanted)


@LAYOUTS
def test_large_means(cuda_target: Target, channels_last: bool) -> None:
    """|mean| / std of 1e4."""
    p = problem(cuda_target, (4, 8, 9, 9), channels_last=channels_last, offset=2e4)
    assert relative_error(p.operators()["y"], p.reference(torch.float64)["y"]) <= 1e-3


@pytest.mark.parametrize("components", [1, 3])
def test_empty_batch(cuda_target: Target, components: int) -> None:
    p = problem(cuda_target, (0, 6, 4, 4), components)
    found = p.operators()
    assert found["y"].shape == found["dx"].shape == (0, 6, 4, 4)
    for name in ("moments.mass", "dweight", "dbias", "dmixture.mean", "eval dweight"):
        assert torch.equal(found[name], torch.zeros_like(found[name])), name
    torch.testing.assert_close(found["moments.mean"], p.mixture.mean)


@LAYOUTS
@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_channel(
    cuda_target: Target, value: float, components: int, channels_last: bool
) -> None:
    p = problem(cuda_target, (4, 6, 9, 9), components, channels_last=channels_last)
    p.x[2, 5, 3, 3] = value
    for name, found in p.operators(em_iters=1).items():
        if name in ("y", "dx", "eval y", "eval dx"):
            if not (name == "eval dx" and components == 1):  # which depends on dy alone
                assert not found[2, 5, 3, 3].isfinite(), name
            assert found[:, :5].isfinite().all(), name
        elif found.shape == (6, components):
            assert found[:5].isfinite().all(), name
        else:
            assert found[:, :5].isfinite().all(), name


@pytest.mark.parametrize("groups", [1, 8])
def test_one_launch(cuda_target: Target, groups: int) -> None:
    """What fits a block, or a block for every few groups, needs no other: not even a memset."""
    if cuda_target.backend != "emulated":
        pytest.skip("only the emulation counts launches")
    p = Problem((3, 8, 11, 11), 3, groups, emulated=True)
    assert ops.cuda_plan(p.x, 3, groups, emulated=True).startswith("small, ")
    count: Callable[[], int] = torch.ops.mixnorm_emulated.enqueued
    before = count()
    out = ops.forward(
        p.x,
        p.mixture,
        p.weight,
        p.bias,
        eps=EPS,
        em_iters=2,
        mixing_scale=True,
        emulated=True,
    )
    assert count() == before + 1
    ops.backward(
        p.dy,
        p.x,
        out.responsibilities,
        out.moments,
        out.mixture,
        p.weight,
        p.bias,
        eps=EPS,
        mixing_scale=True,
        responsibility_grad=True,
        mixture_grad=groups == 8,
        emulated=True,
    )
    assert count() == before + 2


@LAYOUTS
def test_gradients_of_eval_take_one_sweep(
    channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One launch before it, for the tables, and one after it, for the sums."""
    monkeypatch.setenv("MIXNORM_CUDA_KERNELS", "streaming")
    p = Problem((3, 8, 11, 11), 3, 8, emulated=True, channels_last=channels_last)
    count: Callable[[], int] = torch.ops.mixnorm_emulated.enqueued
    before = count()
    ops.evaluate_backward(
        p.dy,
        p.x,
        p.mixture,
        p.weight,
        p.bias,
        eps=EPS,
        mixing_scale=True,
        responsibility_grad=True,
        emulated=True,
    )
    assert count() == before + 3
    check(p)


@pytest.mark.parametrize("components", [1, 3, 4])
@pytest.mark.parametrize("length", [1, 20, 28, 516])
def test_rows_that_end_within_a_tile(
    cuda_target: Target, components: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shorter than a thread's chunks lie apart, than a tile, or longer; in both directions."""
    monkeypatch.setenv("MIXNORM_CUDA_KERNELS", "streaming")
    check(problem(cuda_target, (41, 3, length), components), em_iters=1)


def test_rows_too_long_for_steps() -> None:
    """Places in a row are ints: the general kernels, which count in 64 bits, serve longer ones."""
    x = torch.zeros(1, dtype=torch.bfloat16)
    for length, starts in ((2**30, False), (2**30 - 8, True)):
        plan = ops.cuda_plan(x.expand(2, 4, length), 3, 4, emulated=True)
        assert plan.startswith("general") != starts, plan
