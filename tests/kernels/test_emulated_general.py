"""The CUDA kernels that serve any width of groups and, in float64, any number of components."""

from typing import Any

import pytest
import torch

from mixnorm_cuda import dispatch
from mixnorm_cuda.kernels.native import ops
from mixnorm_cuda.types import BatchMoments
from tests.kernels.operators import EPS, Problem, check, check_same
from tests.support import Target

LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])
# Each just wider than what the threads of a block hold.
WIDE = {
    "K = 1": ((2, 2049, 6), 1, torch.float32),
    "K = 3": ((4, 2050, 1, 3), 3, torch.float32),
    "K = 8": ((4, 1026, 5), 8, torch.float32),
    "K = 16": ((6, 515, 7), 16, torch.float32),
    "bfloat16": ((4, 2056, 3), 3, torch.bfloat16),
    "float16": ((4, 2056, 3), 3, torch.float16),
    "float64": ((4, 513, 3), 3, torch.float64),
    "float64, K = 8": ((4, 257, 5), 8, torch.float64),
}


def problem(target: Target, *arguments: Any, **options: Any) -> Problem:
    emulated = target.backend == "emulated"
    p = Problem(*arguments, **options, device=target.device, emulated=emulated)
    # Components that stay in play: their distances would grow with the channels of a group.
    width = p.x.shape[1] / p.mixture.mixing_weight.shape[0]
    p.mixture.mean.div_(width**0.5)
    p.mixture.var.sub_(4).div_(width).add_(4)
    return p


@LAYOUTS
@pytest.mark.parametrize("case", WIDE)
def test_wide_groups(cuda_target: Target, case: str, channels_last: bool) -> None:
    shape, components, dtype = WIDE[case]
    p = problem(cuda_target, shape, components, dtype=dtype, channels_last=channels_last)
    assert dispatch.why_not(cuda_target.backend, p.x, components, 1) is None
    for backward in (False, True):
        plan = ops.cuda_plan(p.x, components, 1, backward=backward, emulated=p.emulated)
        assert plan.startswith("general, ")
    check(p)


@LAYOUTS
@pytest.mark.parametrize("options", [{}, {"em_iters": 2, "responsibility_grad": False}], ids=str)
@pytest.mark.parametrize("groups", [1, 4, 12])
@pytest.mark.parametrize("components", [9, 16])
def test_components_in_float64(
    cuda_target: Target, components: int, groups: int, options: dict[str, Any], channels_last: bool
) -> None:
    p = problem(
        cuda_target, (3, 12, 5, 7), components, groups, torch.float64, channels_last=channels_last
    )
    check(p, **options)


@pytest.mark.parametrize("family", ["resident", "cluster", "small"])
def test_the_others_are_refused_where_they_do_not_serve(
    cuda_target: Target, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = problem(cuda_target, (1, 2050, 2))
    monkeypatch.setenv("MIXNORM_CUDA_KERNELS", family)
    plan = ops.cuda_plan(p.x, 3, 1, emulated=p.emulated)
    assert plan == "not served: a group has more channels than the threads of a block can hold"
    with pytest.raises(RuntimeError, match=r"mixnorm::forward: the CUDA kernels do not serve x"):
        p.operators()


@LAYOUTS
def test_passes_in_parts(cuda_target: Target, channels_last: bool) -> None:
    """The sums given back to the same batch give what the backward gives."""
    p = problem(cuda_target, (4, 515, 7), 9, channels_last=channels_last)
    whole = p.operators()
    moments = BatchMoments(*(whole[f"moments.{name}"] for name in BatchMoments._fields))
    common = {"eps": EPS, "emulated": p.emulated}
    affine, scale = (p.weight, p.bias), {"mixing_scale": True}
    y = ops.normalize(p.x, p.mixture, moments, *affine, **scale, **common)
    sums = ops.backward_sums(p.dy, p.x, p.mixture, moments, **common)
    grads = ops.backward_apply(
        p.dy, p.x, p.mixture, moments, sums, *affine, responsibility_grad=True, **scale, **common
    )
    check_same({"y": y, "dx": grads.x, "dweight": grads.weight, "dbias": grads.bias}, whole)
