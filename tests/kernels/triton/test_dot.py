"""Moments with `tl.dot`: against the reference, with the rounding of the matrix units."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from mixnorm_cuda.kernels.triton import config, launch, ops
from mixnorm_cuda.kernels.triton.geometry import geometry
from tests.kernels.triton.cases import BOUNDS, REFERENCE, Case
from tests.support import EPS, assert_close, relative_error

PRODUCT = "_dot_moments_kernel"
OPTIONS = {"eps": EPS, "mixing_scale": True}


@pytest.fixture(autouse=True)
def launched(monkeypatch, separate_launches) -> Iterator[list[str]]:
    """Names of the kernels that were started, with `tl.dot` from two components on."""
    names: list[str] = []
    run = launch.run

    def noted(kernel, *arguments, **sizes):
        names.append(kernel.__name__)
        run(kernel, *arguments, **sizes)

    monkeypatch.setattr(launch, "run", noted)
    never = config.budget_of("fused_forward")
    moments = dataclasses.replace(config.BUDGETS["moments"], dot_components=2)
    with config.using({"moments": moments, "fused_forward": never, "fused_backward": never}):
        yield names


def check(case: Case, em_iters: int = 0) -> None:
    found = ops.forward(case.x, case.mixture, *case.affine, em_iters=em_iters, **OPTIONS)
    x, mixture, weight, bias = case.exact()
    wanted = REFERENCE.forward(x, mixture, weight, bias, em_iters=em_iters, **OPTIONS)
    assert_close(found.y, wanted.y, BOUNDS[case.dtype][0])
    for actual, expected in zip(found.moments, wanted.moments, strict=True):
        assert_close(actual, expected, BOUNDS[torch.float32][0])


def tf32(a: np.ndarray) -> np.ndarray:
    """Ten bits of mantissa, the rest cut off."""
    bits = np.ascontiguousarray(a, dtype=np.float32).view(np.uint32) & np.uint32(0xFFFFE000)
    return bits.view(np.float32)


@pytest.fixture
def matrix_units(monkeypatch, device) -> list[int]:
    """The interpreter multiplies exactly: round operands as "tf32x3" does on matrix units."""
    if device != "cpu":
        return [1]  # they are there
    from triton.runtime import interpreter

    used: list[int] = []

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        high_a, high_b = tf32(a.data), tf32(b.data)
        low_a, low_b = tf32(a.data - high_a), tf32(b.data - high_b)
        used.append(1)
        product = np.matmul(low_a, high_b) + np.matmul(high_a, low_b) + np.matmul(high_a, high_b)
        return interpreter.TensorHandle(product + d.data, d.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
    return used


@pytest.mark.parametrize(
    ("shape", "components", "groups", "channels_last"),
    [
        ((3, 40, 5, 5), 16, 1, True),
        ((4, 64, 5, 7), 5, 2, False),
        ((2, 32, 5, 7), 2, 1, True),
        ((100, 64), 3, 1, False),
    ],
    ids=str,
)
def test_against_the_reference(
    shape, components, groups, channels_last, device, launched, matrix_units
):
    case = Case(shape, components, groups, channels_last=channels_last, device=device)
    check(case, em_iters=1)
    assert launched.count(PRODUCT) == 2
    assert matrix_units


def test_bfloat16_and_large_means(device, launched, matrix_units):
    check(Case((3, 32, 6, 6), 8, dtype=torch.bfloat16, device=device))
    case = Case((6, 32, 9, 9), 3, offset=1.5e4, device=device)
    x, mixture, weight, bias = case.exact()
    wanted = REFERENCE.forward(x, mixture, weight, bias, em_iters=0, **OPTIONS)
    found = ops.forward(case.x, case.mixture, *case.affine, em_iters=0, **OPTIONS)
    assert relative_error(found.y, wanted.y) <= 1e-3
    assert PRODUCT in launched


@pytest.mark.parametrize(
    ("shape", "groups", "dtype"),
    [((9, 80), 1, torch.float32), ((9, 32), 4, torch.float32), ((9, 32), 1, torch.float64)],
    ids=["wide", "narrow", "float64"],
)
def test_what_it_does_not_serve(shape, groups, dtype, device, launched):
    check(Case(shape, 3, groups, dtype=dtype, device=device))
    assert PRODUCT not in launched


@pytest.mark.parametrize(
    ("components", "itemsize", "taken"),
    [(4, 4, False), (5, 4, True), (5, 2, False), (6, 2, True)],
)
def test_what_the_table_takes(components, itemsize, taken):
    with config.using({}):
        tile = config.choose_dot(
            "moments", geometry(torch.empty(8, 32, 4, 4)), 32, components, itemsize=itemsize
        )
    assert (tile is not None) == taken
