"""Tables of coefficients per channel, which the sweeps over the input read."""

from typing import Any

from torch import Tensor

from mixnorm_cuda.kernels.triton import launch
from mixnorm_cuda.kernels.triton.coefficients import _coefficients_kernel
from mixnorm_cuda.kernels.triton.problem import Problem
from mixnorm_cuda.types import BatchMoments, Mixture

BLOCK_C, SAMPLES = 16, 16


def posterior_table(problem: Problem) -> Tensor:
    """Memory for the shift and the log-odds."""
    return problem.empty(1 + 3 * (problem.components - 1), problem.channels)


def coefficients(
    problem: Problem, x: Tensor, mixture: Mixture, moments: BatchMoments | None = None
) -> Tensor:
    """The posterior's table, shifted to the batch's mean where that is known."""
    table = posterior_table(problem)
    _store(problem, x, mixture, moments, None, None, table, None, False)
    return table


def output_coefficients(
    problem: Problem,
    x: Tensor,
    mixture: Mixture,
    moments: BatchMoments,
    weight: Tensor | None,
    bias: Tensor | None,
    mixing_scale: bool,
) -> tuple[Tensor, Tensor]:
    """The posterior's table and the output's under known ``moments``."""
    table, output = posterior_table(problem), problem.empty(2 * problem.components, x.shape[1])
    _store(problem, x, mixture, moments, weight, bias, table, output, mixing_scale)
    return table, output


def affine_arguments(parameter: Tensor | None) -> tuple[Any, ...]:
    """Pointer and strides over (k, c) of a pair that is None, [C] (shared by the components) or
    [K, C]."""
    if parameter is None:
        return None, 0, 0
    return (parameter, *((0, *parameter.stride()) if parameter.dim() == 1 else parameter.stride()))


def _store(
    problem: Problem,
    x: Tensor,
    mixture: Mixture,
    moments: BatchMoments | None,
    weight: Tensor | None,
    bias: Tensor | None,
    table: Tensor,
    output: Tensor | None,
    mixing_scale: bool,
) -> None:
    launch.run(
        _coefficients_kernel,
        (-(-problem.channels // BLOCK_C),),
        x,
        *mixture,
        *(moments or (None,) * 3),
        *affine_arguments(weight),
        *affine_arguments(bias),
        table,
        output,
        problem.geometry.positions,
        problem.geometry.length,
        C=problem.channels,
        SPAN=problem.channels,
        D=problem.group_channels,
        K=problem.components,
        EPS=problem.eps,
        MIXING_SCALE=mixing_scale,
        SAMPLES=SAMPLES,
        BLOCK_C=BLOCK_C,
        CHANNELS_LAST=problem.geometry.channels_last,
        **launch.BESIDE,
    )
