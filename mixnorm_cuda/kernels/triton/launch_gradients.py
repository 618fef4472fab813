"""The backward's sweeps over (x, dy): the sums of the output's gradient, then dx."""

import torch
from torch import Tensor

from mixnorm_cuda.kernels.triton import launch
from mixnorm_cuda.kernels.triton.config import NU_JOINT, NU_LOADED
from mixnorm_cuda.kernels.triton.gradients import (
    _input_gradient_kernel,
    _log_odds_gradient_kernel,
    _output_sums_kernel,
)
from mixnorm_cuda.kernels.triton.launch_forward import responsibilities, with_responsibilities
from mixnorm_cuda.kernels.triton.problem import Problem

NO_GRADIENT, COMPUTED, LOADED = "none", "computed", "loaded"
"""Where the gradient of the log-odds comes from."""


def output_sums(
    problem: Problem, dy: Tensor, x: Tensor, table: Tensor, nu: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Partial sums [chunks, 2K, C], and ν where it is loaded."""
    if nu is None:
        how, grid, nu = with_responsibilities(problem, "output_sums", x, table)
    else:
        how, grid = NU_LOADED, problem.blocked("output_sums")
    sums = problem.empty(grid.chunks, 2 * problem.components, problem.channels)
    launch.sweep(
        _output_sums_kernel,
        grid,
        problem.geometry,
        dy,
        x,
        table,
        nu,
        sums,
        span=problem.span(how),
        sums=True,
        K=problem.components,
        NU=how,
    )
    return sums, nu


def input_gradient(
    problem: Problem,
    dy: Tensor,
    x: Tensor,
    table: Tensor,
    nu: Tensor | None,
    output: Tensor,
    statistics: Tensor,
    *,
    through: bool,
    log_sums: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """dx, and on demand partial sums for θ."""
    k, channels = problem.components, problem.channels
    accumulated = 2 * k * log_sums
    how, dlog, log_odds = problem.nu, COMPUTED if through else NO_GRADIENT, None
    if how == NU_LOADED and (through or nu is None):
        grid = problem.launch("input_gradient", NU_JOINT, sums=accumulated)
        if grid is None:
            nu = responsibilities(problem, x, table) if nu is None else nu
            if through:
                log_odds = _log_odds_gradient(problem, dy, x, table, nu, output, statistics)
                dlog = LOADED
        elif nu is None:
            how = NU_JOINT
    else:
        grid = None
    grid = grid or problem.blocked("input_gradient", how, sums=accumulated)
    dx = torch.empty_like(x)
    dlog_mass = dlog_sums = None
    if log_sums:
        dlog_mass = problem.empty(grid.chunks, problem.groups, k)
        dlog_sums = problem.empty(grid.chunks, 2 * k, channels)
    launch.sweep(
        _input_gradient_kernel,
        grid,
        problem.geometry,
        dy,
        x,
        table,
        nu,
        output,
        statistics,
        log_odds,
        dx,
        dlog_sums,
        dlog_mass,
        span=problem.span(how),
        sums=True,
        K=k,
        NU=how,
        DLOG=dlog,
        LOG_SUMS=log_sums,
    )
    return dx, dlog_mass, dlog_sums


def _log_odds_gradient(
    problem: Problem,
    dy: Tensor,
    x: Tensor,
    table: Tensor,
    nu: Tensor,
    output: Tensor,
    statistics: Tensor,
) -> Tensor:
    """dℓ [G, K, M] of groups that fit no tile."""
    found = problem.empty_nu()
    launch.sweep(
        _log_odds_gradient_kernel,
        problem.per_group("log_odds_gradient"),
        problem.geometry,
        dy,
        x,
        table,
        nu,
        output,
        statistics,
        found,
        span=problem.group_channels,
        K=problem.components,
    )
    return found
