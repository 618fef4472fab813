"""Small problems: one launch forward and one backward, chosen by the table's threshold."""

import dataclasses

import pytest
import torch

from mixnorm_cuda.kernels.triton import config, launch
from mixnorm_cuda.kernels.triton.problem import Problem
from mixnorm_cuda.types import Mixture
from tests.kernels.triton.cases import Case
from tests.support import EPS

FORWARD, BACKWARD = "_fused_forward_kernel", "_fused_backward_kernel"


@pytest.fixture(autouse=True)
def _last_program_first(monkeypatch, device):
    """The interpreter runs programs one after the other: one that reads what another has to write
    finds it in their usual order, and poisoned memory in this one."""
    if device != "cpu":
        return
    from triton.runtime import interpreter

    set_index = interpreter.InterpreterBuilder.set_grid_idx

    def reversed_index(self, x, y, z):
        set_index(self, self.grid_dim[0] - 1 - x, y, z)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "set_grid_idx", reversed_index)


@pytest.fixture
def launched(monkeypatch):
    """Names of the kernels that were started."""
    names = []
    run = launch.run

    def noted(kernel, *arguments, **sizes):
        names.append(kernel.__name__)
        run(kernel, *arguments, **sizes)

    monkeypatch.setattr(launch, "run", noted)
    return names


def limited(elements: int) -> dict[str, config.Budget]:
    return {
        kernel: dataclasses.replace(config.BUDGETS[kernel], program_elements=elements)
        for kernel in ("fused_forward", "fused_backward")
    }


@pytest.mark.parametrize(
    ("shape", "components", "groups", "channels_last"),
    [
        ((5, 17, 9, 5), 3, 1, False),  # several tiles, channels that fill no block
        ((5, 17, 9, 5), 3, 1, True),
        ((4, 6, 12, 12), 1, 2, False),
        ((3, 12, 6, 7), 2, 3, True),
        ((3, 10, 16, 16), 3, 10, False),
        ((3, 10, 8, 8), 3, 10, True),
        ((40, 6), 4, 1, False),
    ],
    ids=str,
)
def test_against_the_reference(shape, components, groups, channels_last, device, launched):
    case = Case(shape, components, groups, channels_last=channels_last, device=device)
    em_iters = 2 if components > 1 else 0
    case.check(evaluated=False, em_iters=em_iters, mixture_grad=False)
    assert launched == [FORWARD, BACKWARD]


@pytest.mark.parametrize(
    ("dtype", "groups", "options"),
    [
        (torch.float64, 1, {}),
        (torch.float64, 6, {}),
        (torch.bfloat16, 2, {"responsibility_grad": False}),
        (torch.float32, 1, {"mixing_scale": False}),
    ],
    ids=str,
)
def test_options(dtype, options, groups, device, launched):
    """The gradient of θ takes its sums from the launch, and up to two small ones more."""
    case = Case((4, 6, 5, 5), 3, groups, dtype=dtype, device=device, affine="shared")
    case.check(evaluated=False, **options)
    assert launched[:2] == [FORWARD, BACKWARD]
    assert all(name.startswith("_mix") for name in launched[2:])


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_the_threshold_is_what_one_program_goes_over(groups, device, launched):
    case = Case((4, 8, 5, 5), 3, groups, device=device)
    per_program = 100 * 8 // (1 if groups == 8 else groups)
    with config.using(limited(per_program)):
        case.check(evaluated=False, mixture_grad=False)
    assert launched == [FORWARD, BACKWARD]
    launched.clear()
    with config.using(limited(per_program - 1)):
        case.check(evaluated=False, mixture_grad=False)
    if groups == 8:  # channels of a program may be fewer, one in the end
        assert launched == [FORWARD, BACKWARD]
    else:
        assert not {FORWARD, BACKWARD} & set(launched)


def test_both_ways_agree(device):
    case = Case((4, 8, 6, 6), device=device)
    together = case.operators(em_iters=1)
    with config.using(limited(0)):
        apart = case.operators(em_iters=1)
    for name, value in apart.items():
        torch.testing.assert_close(together[name], value, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("shape", "components", "groups", "expected"),
    [
        ((8, 64, 8, 8), 3, 1, True),
        ((16, 64, 8, 8), 3, 1, False),
        ((16, 64, 8, 8), 3, 64, True),
        ((64, 64, 56, 56), 3, 64, False),
        ((8, 64, 8, 8), 8, 1, False),  # takes long to compile
        ((8, 4096), 3, 1, False),  # 4,096 channels fit no tile
    ],
    ids=str,
)
def test_what_the_table_takes(shape, components, groups, expected):
    statistics = [torch.empty(components, shape[1], device="meta") for _ in range(2)]
    x = torch.empty(shape, device="meta")
    mixture = Mixture(torch.empty(groups, components, device="meta"), *statistics)
    grid = Problem.of(x, mixture, EPS).fused("fused_forward")
    assert (grid is not None) == expected
