"""Eval: the output under the mixture's own moments, and its gradients."""

import torch
from torch import Tensor

from mixnorm_cuda.kernels.triton import launch
from mixnorm_cuda.kernels.triton.config import NU_JOINT, NU_LOADED, Launch, next_power_of_two
from mixnorm_cuda.kernels.triton.evaluate import (
    ROWS,
    _evaluate_kernel,
    _evaluate_responsibilities_kernel,
    _evaluation_table_kernel,
)
from mixnorm_cuda.kernels.triton.evaluate_gradients import (
    _evaluate_gradient_kernel,
    _evaluate_log_odds_gradient_kernel,
)
from mixnorm_cuda.kernels.triton.geometry import dense, like
from mixnorm_cuda.kernels.triton.launch_backward import merge_output_sums, no_gradients
from mixnorm_cuda.kernels.triton.launch_gradients import COMPUTED, LOADED, NO_GRADIENT
from mixnorm_cuda.kernels.triton.launch_tables import BLOCK_C, affine_arguments
from mixnorm_cuda.kernels.triton.problem import Problem
from mixnorm_cuda.types import BatchMoments, Gradients, Mixture


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
    table = _table(problem, mixture, weight, bias, mixing_scale)
    shared = bias is None or bias.dim() == 1
    how, grid = _launch(problem, "evaluate", 0 if shared else problem.components - 1)
    nu = _responsibilities(problem, x, table) if how == NU_LOADED else None
    launch.sweep(
        _evaluate_kernel,
        grid,
        problem.geometry,
        x,
        table,
        nu,
        y,
        span=problem.span(how),
        K=problem.components,
        NU=how,
        SHARED_BIAS=shared,
    )
    return y


def evaluate_backward(
    dy: Tensor,
    x: Tensor,
    mixture: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    mixing_scale: bool,
    responsibility_grad: bool,
) -> Gradients:
    if x.numel() == 0:
        return no_gradients(x, mixture, weight, bias)
    x = dense(x)
    dy = like(dy, x)
    problem = Problem.of(x, mixture, eps)
    table = _table(problem, mixture, weight, bias, mixing_scale)
    through = responsibility_grad and problem.components > 1
    how, grid = _launch(problem, "evaluate_gradient", problem.components - 1)
    dlog, nu, log_odds = COMPUTED if through else NO_GRADIENT, None, None
    if how == NU_LOADED:
        nu = _responsibilities(problem, x, table)
        if through:
            dlog, log_odds = LOADED, _log_odds_gradient(problem, dy, x, table, nu)
    dx = torch.empty_like(x)
    sums = problem.empty(grid.chunks, 2 * problem.components, problem.channels)
    launch.sweep(
        _evaluate_gradient_kernel,
        grid,
        problem.geometry,
        dy,
        x,
        table,
        nu,
        log_odds,
        dx,
        sums,
        span=problem.span(how),
        sums=True,
        K=problem.components,
        NU=how,
        DLOG=dlog,
    )
    dweight, dbias = merge_output_sums(
        problem, sums, BatchMoments(*mixture), mixture, weight, bias, table, None, None, None,
        mixing_scale, centred=True,
    )  # fmt: skip
    return Gradients(dx, dweight, dbias)


def _table(
    problem: Problem,
    mixture: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    mixing_scale: bool,
) -> Tensor:
    """Coefficients [6 K, C] of the logits and of the output."""
    table = problem.empty(int(ROWS) * problem.components, problem.channels)
    launch.run(
        _evaluation_table_kernel,
        (-(-problem.channels // BLOCK_C),),
        *mixture,
        *affine_arguments(weight),
        *affine_arguments(bias),
        table,
        C=problem.channels,
        D=problem.group_channels,
        K=problem.components,
        EPS=problem.eps,
        MIXING_SCALE=mixing_scale,
        BLOCK_C=BLOCK_C,
        BLOCK_K=next_power_of_two(problem.components),
        **launch.BESIDE,
    )
    return table


def _launch(problem: Problem, kernel: str, more: int) -> tuple[str, Launch]:
    """How ``kernel`` gets ν, and its launch: ν is loaded where a group fits no tile. A channel has
    ``more`` values than of a bias that components share."""
    how = NU_JOINT if problem.nu == NU_LOADED else problem.nu
    grid = problem.launch(kernel, how, sums=more)
    return (how, grid) if grid is not None else (NU_LOADED, problem.blocked(kernel, sums=more))


def _responsibilities(problem: Problem, x: Tensor, table: Tensor) -> Tensor:
    """ν [G, K, M] of groups that fit no tile."""
    nu = problem.empty_nu()
    launch.sweep(
        _evaluate_responsibilities_kernel,
        problem.per_group("responsibilities"),
        problem.geometry,
        x,
        table,
        nu,
        span=problem.group_channels,
        K=problem.components,
    )
    return nu


def _log_odds_gradient(
    problem: Problem, dy: Tensor, x: Tensor, table: Tensor, nu: Tensor
) -> Tensor:
    """dℓ [G, K, M] of groups that fit no tile."""
    found = problem.empty_nu()
    launch.sweep(
        _evaluate_log_odds_gradient_kernel,
        problem.per_group("log_odds_gradient"),
        problem.geometry,
        dy,
        x,
        table,
        nu,
        found,
        span=problem.group_channels,
        K=problem.components,
    )
    return found
