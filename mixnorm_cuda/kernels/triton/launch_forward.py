"""Training forward, EM steps, and the output under known moments (eval)."""

import torch
from torch import Tensor

from mixnorm_cuda.kernels.triton import launch
from mixnorm_cuda.kernels.triton.config import NU_JOINT, NU_LOADED, Launch
from mixnorm_cuda.kernels.triton.geometry import dense
from mixnorm_cuda.kernels.triton.launch_fused import fused_forward
from mixnorm_cuda.kernels.triton.launch_tables import (
    affine_arguments,
    coefficients,
    output_coefficients,
)
from mixnorm_cuda.kernels.triton.moments import _merge_moments_kernel, _moments_kernel
from mixnorm_cuda.kernels.triton.moments_dot import _dot_moments_kernel
from mixnorm_cuda.kernels.triton.normalize import _normalize_kernel
from mixnorm_cuda.kernels.triton.posterior import _responsibilities_kernel
from mixnorm_cuda.kernels.triton.problem import Problem
from mixnorm_cuda.types import BatchMoments, Forward, Mixture

MERGE_BLOCK_C, MERGE_BLOCK_J = 8, 64


def moments(x: Tensor, mixture: Mixture, *, eps: float) -> BatchMoments:
    if x.numel() == 0:
        return _no_moments(mixture)
    x = dense(x)
    problem = Problem.of(x, mixture, eps)
    table = coefficients(problem, x, mixture)
    mass, sums, _ = _sums(problem, x, table, None)
    batch = BatchMoments(*(torch.empty_like(t) for t in mixture))
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
    stored = problem.empty_nu() if problem.nu == NU_LOADED else None
    y = torch.empty_like(x)
    batch = BatchMoments(*(torch.empty_like(t) for t in mixture))
    final = Mixture(*(torch.empty_like(t) for t in mixture))
    kept = stored if stored is not None and problem.keeps_nu else problem.empty(0)
    result = Forward(y, batch, final, kept)
    estimated = em_iters > 0 and problem.components == 1
    grid = None if estimated else problem.fused("fused_forward")
    if grid is not None:
        fused_forward(problem, grid, x, mixture, weight, bias, result, em_iters, mixing_scale)
        return result
    table = coefficients(problem, x, mixture)
    theta = mixture
    for _ in range(em_iters):
        mass, sums, _ = _sums(problem, x, table, None)
        _merge(problem, mass, sums, theta, None, None, table, None, None, final)
        theta = final
    mass, sums, nu = _sums(problem, x, table, stored)
    output = problem.empty(2 * problem.components, x.shape[1])
    copied = final if em_iters == 0 else None
    _merge(
        problem, mass, sums, theta, weight, bias, table, output, batch, copied,
        mixing_scale=mixing_scale,
    )  # fmt: skip
    grid = problem.blocked("normalize", problem.nu)
    _normalize(problem, problem.nu, grid, x, table, nu, output, y)
    return result


def normalize(
    x: Tensor,
    mixture: Mixture,
    moments: BatchMoments,
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
    table, output = output_coefficients(problem, x, mixture, moments, weight, bias, mixing_scale)
    how, grid, nu = with_responsibilities(problem, "normalize", x, table)
    _normalize(problem, how, grid, x, table, nu, output, y)
    return y


def with_responsibilities(
    problem: Problem, kernel: str, x: Tensor, table: Tensor, out: Tensor | None = None
) -> tuple[str, Launch, Tensor | None]:
    """How ``kernel`` gets ν where it is not known, its launch, and ν if it is loaded: computed
    before, into ``out``, where a group's channels fit no tile."""
    if problem.nu != NU_LOADED:
        return problem.nu, problem.blocked(kernel, problem.nu), None
    grid = problem.launch(kernel, NU_JOINT)
    if grid is not None:
        return NU_JOINT, grid, None
    return NU_LOADED, problem.blocked(kernel), responsibilities(problem, x, table, out)


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


def _sums(
    problem: Problem, x: Tensor, table: Tensor, stored: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Partial masses [chunks, G, K] and sums [chunks, 2K, C]; ν where it is stored or loaded."""
    k, grid = problem.components, problem.dot("moments")
    dot = grid is not None
    how, nu = NU_JOINT, None
    if grid is None:
        how, grid, nu = with_responsibilities(problem, "moments", x, table, stored)
    store = how == NU_JOINT and stored is not None
    nu = stored if store else nu
    mass = problem.empty(grid.chunks, problem.groups, k)
    sums = problem.empty(grid.chunks, 2 * k, problem.channels)
    arguments = (grid, problem.geometry, x, table, nu, mass, sums)
    options = {"span": problem.span(how), "K": k, "STORE_NU": store}
    if dot:
        # Three products of tensor-float-32 make nearly one of float32.
        launch.sweep(_dot_moments_kernel, *arguments, **options, ROWS=16, PRECISION="tf32x3")
    else:
        launch.sweep(_moments_kernel, *arguments, **options, sums=True, NU=how)
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
        SPAN=problem.channels,
        D=problem.group_channels,
        K=problem.components,
        EM=batch is None,
        EPS=problem.eps,
        MIXING_SCALE=mixing_scale,
        BLOCK_C=MERGE_BLOCK_C,
        BLOCK_J=MERGE_BLOCK_J,
        **launch.BESIDE,
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


def _no_moments(mixture: Mixture) -> BatchMoments:
    """Of no position at all: every component is empty and keeps its mean."""
    return BatchMoments(
        torch.zeros_like(mixture.mixing_weight), mixture.mean.clone(), torch.zeros_like(mixture.var)
    )
