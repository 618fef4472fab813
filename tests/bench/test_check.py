"""The reference check lets right kernels pass and no wrong one."""

import math

import pytest
import torch

from bench.cases import Case, Shape
from bench.check import BOUNDS, check, expected, relative_error
from bench.inputs import make_inputs
from bench.ours import MixtureModel, MixtureNorm

CPU = torch.device("cpu")


def run(case, implementation=None):
    inputs = make_inputs(case, CPU)
    implementation = implementation or MixtureNorm("cpu")
    return check(case, implementation.layer(case, inputs), inputs, expected(case, inputs))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layout": "channels_last"},
        {"phase": "forward"},
        {"phase": "eval"},
        {"phase": "em"},
        {"em_iters": 2},
        {"groups": "C"},
        {"num_components": 8},
        {"dtype": torch.bfloat16},
        {"dtype": torch.float16, "layout": "channels_last"},
        {"shape": Shape("repeated", (12, 16, 6), "a test", repeats=3)},
    ],
)
def test_the_reference_passes(case, changes):
    result = run(case.vary(**changes), MixtureNorm("reference"))
    assert result.passed, result
    expected_names = {"y"}
    if case.vary(**changes).phase == "train":
        expected_names |= {"dx", "dweight", "dbias"}
    assert set(result.errors) == expected_names


def test_the_mixture_model_passes(case):
    result = run(case.vary(phase="em"), MixtureModel())
    assert result.passed, result


@pytest.mark.parametrize("phase", ["train", "forward", "eval"])
def test_an_output_off_by_3e_6_is_red(cpu_backend, case, phase):
    cpu_backend(output=lambda y: y * (1 + 3e-6))
    assert run(case.vary(phase=phase)).red == ("y",)


def test_a_wrong_gradient_is_red(cpu_backend, case):
    cpu_backend(dx=lambda dx: dx * (1 + 3e-5))
    assert run(case).red == ("dx",)


def test_one_nan_is_red(cpu_backend, case):
    def poisoned(y):
        y = y.clone()
        y.view(-1)[-1] = math.nan
        return y

    cpu_backend(output=poisoned)
    assert run(case).red == ("y",)


def test_one_wrong_block_of_a_repeated_batch_is_red(cpu_backend):
    def last_sample_wrong(y):
        y = y.clone()
        y[-1] += 0.01
        return y

    cpu_backend(output=last_sample_wrong)
    assert run(Case(Shape("repeated", (12, 16, 6), "a test", repeats=3))).red == ("y",)


def test_half_output_in_another_dtype_is_red(cpu_backend, case):
    cpu_backend(output=lambda y: y.float())
    result = run(case.vary(dtype=torch.bfloat16, phase="eval"))
    assert "y is torch.float32" in result.red


def test_truncation_instead_of_rounding_is_allowed_but_not_four_roundings():
    """Where the half-precision bound lies: one truncation is within it, twice the step is not."""
    exact = torch.randn(10_000, 1, generator=torch.Generator().manual_seed(0)).double()
    step = torch.finfo(torch.bfloat16).eps
    bound = BOUNDS[torch.bfloat16].y
    assert relative_error(exact.bfloat16(), exact) < bound
    assert relative_error(exact * (1 - step / 2), exact) < bound
    assert relative_error(exact * (1 - 2 * step), exact) > bound


def test_relative_error():
    assert relative_error(torch.tensor([3.0, 5.0]), torch.tensor([3.0, 4.0])) == pytest.approx(0.2)
    assert relative_error(torch.ones(2, 3), torch.ones(2, 4)) == math.inf
    assert math.isnan(relative_error(torch.tensor([math.nan]), torch.ones(1)))
