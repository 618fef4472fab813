"""Small problems: one launch forward and one backward (`config.Budget.program_elements`)."""

import torch
from torch import Tensor

from mixnorm_cuda.kernels.triton import launch
from mixnorm_cuda.kernels.triton.config import NU_JOINT, NU_LOADED, Launch
from mixnorm_cuda.kernels.triton.fused import _fused_backward_kernel, _fused_forward_kernel
from mixnorm_cuda.kernels.triton.launch_tables import SAMPLES, affine_arguments, posterior_table
from mixnorm_cuda.kernels.triton.problem import Problem
from mixnorm_cuda.types import BatchMoments, Forward, Mixture


def fused_forward(
    problem: Problem,
    grid: Launch,
    x: Tensor,
    mixture: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    out: Forward,
    em_iters: int,
    mixing_scale: bool,
) -> None:
    """EM steps, moments and output into ``out``."""
    k, channels = problem.components, problem.channels
    store = problem.nu == NU_LOADED
    how = NU_JOINT if store else problem.nu
    launch.sweep(
        _fused_forward_kernel,
        grid,
        problem.geometry,
        x,
        *mixture,
        *affine_arguments(weight),
        *affine_arguments(bias),
        posterior_table(problem),
        problem.empty(2 * k, channels),
        out.responsibilities if store else None,
        problem.empty(problem.groups, k),
        problem.empty(2 * k, channels),
        *out.moments,
        *out.mixture,
        out.y,
        em_iters,
        problem.geometry.positions,
        problem.geometry.length,
        span=problem.span(how),
        sums=True,
        D=problem.group_channels,
        K=k,
        NU=how,
        STORE_NU=store,
        EPS=problem.eps,
        MIXING_SCALE=mixing_scale,
        SAMPLES=SAMPLES,
    )


def fused_backward(
    problem: Problem,
    grid: Launch,
    dy: Tensor,
    x: Tensor,
    nu: Tensor | None,
    moments: BatchMoments,
    mixture: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    table: Tensor,
    scale_sums: Tensor | None,
    dweight: Tensor,
    dbias: Tensor,
    *,
    dlog: str,
    log_sums: bool,
    mixing_scale: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """dx, and θ's sums as masses [1, G, K] and sums [1, 2K, C]; the rest goes to what is given."""
    k, channels = problem.components, problem.channels
    dx = torch.empty_like(x)
    dlog_mass = problem.empty(1, problem.groups, k) if log_sums else None
    dlog_sums = problem.empty(1, 2 * k, channels) if log_sums else None
    launch.sweep(
        _fused_backward_kernel,
        grid,
        problem.geometry,
        dy,
        x,
        nu,
        *moments,
        *mixture,
        *affine_arguments(weight),
        *affine_arguments(bias),
        table,
        problem.empty(2 * k, channels),
        problem.empty(3 * k, channels),
        problem.empty(2 * k, channels),
        scale_sums,
        dweight,
        dbias,
        dx,
        dlog_sums,
        dlog_mass,
        problem.geometry.positions,
        problem.geometry.length,
        span=problem.span(problem.nu),
        sums=True,
        D=problem.group_channels,
        K=k,
        NU=problem.nu,
        DLOG=dlog,
        LOG_SUMS=log_sums,
        SHARED_WEIGHT=dweight.dim() == 1,
        SHARED_BIAS=dbias.dim() == 1,
        EPS=problem.eps,
        MIXING_SCALE=mixing_scale,
        SAMPLES=SAMPLES,
    )
    return dx, dlog_mass, dlog_sums
