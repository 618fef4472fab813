"""Training forward, EM steps and eval."""

from typing import Any

import torch
from torch import Tensor

from mixnorm_cuda.kernels.triton import launch
from mixnorm_cuda.kernels.triton.coefficients import _coefficients_kernel
from mixnorm_cuda.kernels.triton.config import NU_JOINT, NU_LOADED, Launch
from mixnorm_cuda.kernels.triton.geometry import dense
from mixnorm_cuda.kernels.triton.moments import _merge_moments_kernel, _moments_kernel
from mixnorm_cuda.kernels.triton.normalize import _normalize_kernel
from mixnorm_cuda.kernels.triton.posterior import _responsibilities_kernel
from mixnorm_cuda.kernels.triton.problem import Problem
from mixnorm_cuda.types import BatchMoments, Forward, Mixture

TABLE_BLOCK_C, SAMPLES = 16, 16
MERGE_BLOCK_C, MERGE_BLOCK_J = 8, 64


def moments(x: Tensor, mixture: Mixture, *, eps: float) -> BatchMoments:
    if x.numel() == 0:
        return _no_moments(mixture)
    x = dense(x)
    problem = Problem.of(x, mixture, eps)
    table = coefficients(problem, x, mixture)
    mass, sums, _ = _sums(problem, x, table, None)
    batch = _empty_moments(mixture)
    _merge(problem, mass, sums, mixture, None, None, table, None, batch, None)
    return batch


def forward(
    x: Tensor,
    mixture: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    em_iters: int,
    mixing_scale: bool,
) -> Forward:
    if x.numel() == 0:
        final = Mixture(*(t.clone() for t in mixture))
        return Forward(torch.empty_like(x), _no_moments(mixture), final, mixture.mean.new_empty(0))
    x = dense(x)
    problem = Problem.of(x, mixture, eps)
    table = coefficients(problem, x, mixture)
    final = Mixture(*(torch.empty_like(t) for t in mixture))
    theta = mixture
    for _ in range(em_iters):
        mass, sums, _ = _sums(problem, x, table, None)
        _merge(problem, mass, sums, theta, None, None, table, None, None, final)
        theta = final
    stored = problem.empty_nu() if problem.nu == NU_LOADED else None
    mass, sums, nu = _sums(problem, x, table, stored)
    batch, output = _empty_moments(mixture), problem.empty(2 * problem.components, x.shape[1])
    copied = final if em_iters == 0 else None
    _merge(
        problem, mass, sums, theta, weight, bias, table, output, batch, copied,
        mixing_scale=mixing_scale,
    )  # fmt: skip
    y = torch.empty_like(x)
    _normalize(
        problem, problem.nu, problem.blocked("normalize", problem.nu), x, table, nu, output, y
    )
    kept = stored if stored is not None and problem.keeps_nu else problem.empty(0)
    return Forward(y, batch, final, kept)


def evaluate(
    x: Tensor,
    mixture: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    mixing_scale: bool,
) -> Tensor:
    x = dense(x)
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    problem = Problem.of(x, mixture, eps)
    table, output = constant_coefficients(problem, x, mixture, weight, bias, mixing_scale)
    nu, how, grid = None, problem.nu, None
    if how == NU_LOADED:
        grid = problem.launch("normalize", NU_JOINT)
        how = NU_LOADED if grid is None else NU_JOINT
        nu = responsibilities(problem, x, table) if grid is None else None
    _normalize(problem, how, grid or problem.blocked("normalize", how), x, table, nu, output, y)
    return y


def responsibilities(
    problem: Problem, x: Tensor, table: Tensor, out: Tensor | None = None
) -> Tensor:
    """ν [G, K, M] of groups that fit no tile."""
    nu = problem.empty_nu() if out is None else out
    launch.sweep(
        _responsibilities_kernel,
        problem.per_group("responsibilities"),
        problem.geometry,
        x,
        table,
        nu,
        span=problem.group_channels,
        K=problem.components,
    )
    return nu


def coefficients(
    problem: Problem, x: Tensor, mixture: Mixture, moments: BatchMoments | None = None
) -> Tensor:
    """Table of the shift and the log-odds; shifted to the batch's mean where that is known."""
    table = problem.empty(1 + 3 * (problem.components - 1), problem.channels)
    _coefficients(problem, x, mixture, moments, None, None, table, None, False)
    return table


def constant_coefficients(
    problem: Problem,
    x: Tensor,
    mixture: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    mixing_scale: bool,
) -> tuple[Tensor, Tensor]:
    """Eval: the log-odds' table, shifted to the mixture's own mean, and the output's."""
    table = problem.empty(1 + 3 * (problem.components - 1), problem.channels)
    output = problem.empty(2 * problem.components, problem.channels)
    own = BatchMoments(mixture.mixing_weight, mixture.mean, mixture.var)
    _coefficients(problem, x, mixture, own, weight, bias, table, output, mixing_scale)
    return table, output


def affine_arguments(parameter: Tensor | None) -> tuple[Any, ...]:
    """Pointer and strides over (k, c) of a pair that is None, [C] (shared by the components) or
    [K, C]."""
    if parameter is None:
        return None, 0, 0
    return (parameter, *((0, *parameter.stride()) if parameter.dim() == 1 else parameter.stride()))


def _coefficients(
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
        (-(-problem.channels // TABLE_BLOCK_C),),
        x,
        *mixture,
        None if moments is None else moments.mass,
        None if moments is None else moments.mean,
        *affine_arguments(weight),
        *affine_arguments(bias),
        table,
        output,
        problem.geometry.positions,
        problem.geometry.length,
        C=problem.channels,
        D=problem.group_channels,
        K=problem.components,
        EPS=problem.eps,
        MIXING_SCALE=mixing_scale,
        FROM_DATA=moments is None,
        SAMPLES=SAMPLES,
        BLOCK_C=TABLE_BLOCK_C,
        CHANNELS_LAST=problem.geometry.channels_last,
        num_warps=4,
    )


def _sums(
    problem: Problem, x: Tensor, table: Tensor, stored: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Partial masses [chunks, G, K] and sums [chunks, 2K, C]; ν where it is stored or loaded."""
    nu, how, grid = stored, problem.nu, None
    if how == NU_LOADED:
        grid = problem.launch("moments", NU_JOINT)
        if grid is None:
            nu = responsibilities(problem, x, table, stored)
        else:
            how = NU_JOINT
    grid = grid or problem.blocked("moments", how)
    mass = problem.empty(grid.chunks, problem.groups, problem.components)
    sums = problem.empty(grid.chunks, 2 * problem.components, problem.channels)
    launch.sweep(
        _moments_kernel,
        grid,
        problem.geometry,
        x,
        table,
        nu,
        mass,
        sums,
        span=problem.span(how),
        sums=True,
        K=problem.components,
        NU=how,
        STORE_NU=how == NU_JOINT and stored is not None,
    )
    return mass, sums, nu


def _merge(
    problem: Problem,
    mass: Tensor,
    sums: Tensor,
    theta: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    table: Tensor,
    output: Tensor | None,
    batch: BatchMoments | None,
    final: Mixture | None,
    *,
    mixing_scale: bool = False,
) -> None:
    """To moments and the output's table or, without ``batch``, to the next EM step's θ."""
    launch.run(
        _merge_moments_kernel,
        (-(-problem.channels // MERGE_BLOCK_C),),
        mass,
        sums,
        mass.shape[0],
        problem.geometry.positions,
        *theta,
        *affine_arguments(weight),
        *affine_arguments(bias),
        table,
        output,
        *(batch or (None,) * 3),
        *(final or (None,) * 3),
        C=problem.channels,
        D=problem.group_channels,
        K=problem.components,
        EM=batch is None,
        EPS=problem.eps,
        MIXING_SCALE=mixing_scale,
        BLOCK_C=MERGE_BLOCK_C,
        BLOCK_J=MERGE_BLOCK_J,
        num_warps=4,
    )


def _normalize(
    problem: Problem,
    how: str,
    grid: Launch,
    x: Tensor,
    table: Tensor,
    nu: Tensor | None,
    output: Tensor,
    y: Tensor,
) -> None:
    launch.sweep(
        _normalize_kernel,
        grid,
        problem.geometry,
        x,
        table,
        nu,
        output,
        y,
        span=problem.span(how),
        K=problem.components,
        NU=how,
    )


def _empty_moments(mixture: Mixture) -> BatchMoments:
    return BatchMoments(*(torch.empty_like(t) for t in mixture))


def _no_moments(mixture: Mixture) -> BatchMoments:
    """Of no position at all: every component is empty and keeps its mean."""
    return BatchMoments(
        torch.zeros_like(mixture.mixing_weight), mixture.mean.clone(), torch.zeros_like(mixture.var)
    )
