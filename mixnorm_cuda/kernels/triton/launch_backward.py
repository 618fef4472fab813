"""Gradients of the training forward, whole or in two parts."""

import torch
from torch import Tensor

from mixnorm_cuda.kernels.triton import launch
from mixnorm_cuda.kernels.triton.geometry import dense, like
from mixnorm_cuda.kernels.triton.gradient_merge import (
    _merge_output_sums_kernel,
    _mixing_weight_gradient_kernel,
    _mixture_gradient_kernel,
    _output_gradient_sums_kernel,
)
from mixnorm_cuda.kernels.triton.launch_forward import MERGE_BLOCK_C, MERGE_BLOCK_J
from mixnorm_cuda.kernels.triton.launch_fused import fused_backward
from mixnorm_cuda.kernels.triton.launch_gradients import (
    COMPUTED,
    NO_GRADIENT,
    input_gradient,
    output_sums,
)
from mixnorm_cuda.kernels.triton.launch_tables import (
    affine_arguments,
    coefficients,
    posterior_table,
)
from mixnorm_cuda.kernels.triton.problem import Problem
from mixnorm_cuda.types import BatchMoments, Gradients, GradientSums, Mixture


def backward(
    dy: Tensor,
    x: Tensor,
    nu: Tensor,
    moments: BatchMoments,
    mixture: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    mixing_scale: bool,
    responsibility_grad: bool,
    mixture_grad: bool,
) -> Gradients:
    if x.numel() == 0:
        dmixture = Mixture(*(torch.zeros_like(t) for t in mixture)) if mixture_grad else None
        return no_gradients(x, mixture, weight, bias)._replace(mixture=dmixture)
    x = dense(x)
    dy = like(dy, x)
    problem = Problem.of(x, mixture, eps)
    through = responsibility_grad and problem.components > 1
    log_sums = through and mixture_grad
    kept = nu if problem.keeps_nu else None
    scale_sums = torch.empty_like(mixture.mean) if mixture_grad and mixing_scale else None
    grid = problem.fused("fused_backward", sums=2 * problem.components * log_sums)
    if grid is not None:
        table = posterior_table(problem)
        dweight, dbias = affine_gradient(weight, mixture), affine_gradient(bias, mixture)
        dx, log_mass, dlog_sums = fused_backward(
            problem, grid, dy, x, kept, moments, mixture, weight, bias, table, scale_sums,
            dweight, dbias, dlog=COMPUTED if through else NO_GRADIENT, log_sums=log_sums,
            mixing_scale=mixing_scale,
        )  # fmt: skip
    else:
        table = coefficients(problem, x, mixture, moments)
        sums, kept = output_sums(problem, dy, x, table, kept)
        output, statistics = _gradient_tables(problem)
        dweight, dbias = merge_output_sums(
            problem, sums, moments, mixture, weight, bias, table, output, statistics, scale_sums,
            mixing_scale,
        )  # fmt: skip
        dx, log_mass, dlog_sums = input_gradient(
            problem, dy, x, table, kept, output, statistics, through=through, log_sums=log_sums
        )
    dmixture = None
    if mixture_grad:
        dmixture = _mixture_gradient(
            problem, mixture, table, log_mass, dlog_sums, scale_sums, mixing_scale
        )
    return Gradients(dx, dweight, dbias, mixture=dmixture)


def backward_sums(
    dy: Tensor, x: Tensor, mixture: Mixture, moments: BatchMoments, *, eps: float
) -> GradientSums:
    if x.numel() == 0:
        return GradientSums(torch.zeros_like(mixture.mean), torch.zeros_like(mixture.mean))
    x = dense(x)
    dy = like(dy, x)
    problem = Problem.of(x, mixture, eps)
    table = coefficients(problem, x, mixture, moments)
    sums, _ = output_sums(problem, dy, x, table, None)
    found = GradientSums(torch.empty_like(mixture.mean), torch.empty_like(mixture.mean))
    launch.run(
        _output_gradient_sums_kernel,
        (-(-problem.channels // MERGE_BLOCK_C),),
        sums,
        sums.shape[0],
        moments.mean,
        table,
        *found,
        C=problem.channels,
        K=problem.components,
        BLOCK_C=MERGE_BLOCK_C,
        BLOCK_J=MERGE_BLOCK_J,
        **launch.BESIDE,
    )
    return found


def backward_apply(
    dy: Tensor,
    x: Tensor,
    mixture: Mixture,
    moments: BatchMoments,
    sums: GradientSums,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    mixing_scale: bool,
    responsibility_grad: bool,
) -> Gradients:
    x = dense(x)
    dy = like(dy, x)
    problem = Problem.of(x, mixture, eps)
    table = coefficients(problem, x, mixture, moments)
    output, statistics = _gradient_tables(problem)
    chunk = torch.stack(sums, dim=1).view(1, 2 * problem.components, problem.channels)
    dweight, dbias = merge_output_sums(
        problem, chunk, moments, mixture, weight, bias, table, output, statistics, None,
        mixing_scale, centred=True,
    )  # fmt: skip
    if x.numel() == 0:
        return Gradients(torch.empty_like(x), dweight, dbias)
    dx, *_ = input_gradient(
        problem, dy, x, table, None, output, statistics,
        through=responsibility_grad and problem.components > 1,
    )  # fmt: skip
    return Gradients(dx, dweight, dbias)


def _gradient_tables(problem: Problem) -> tuple[Tensor, Tensor]:
    """Memory for the rows (α, τ) and (b, a, h) of every component."""
    k, channels = problem.components, problem.channels
    return problem.empty(2 * k, channels), problem.empty(3 * k, channels)


def merge_output_sums(
    problem: Problem,
    sums: Tensor,
    moments: BatchMoments,
    mixture: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    table: Tensor,
    output: Tensor | None,
    statistics: Tensor | None,
    scale_sums: Tensor | None,
    mixing_scale: bool,
    *,
    centred: bool = False,
) -> tuple[Tensor, Tensor]:
    """dγ and dβ; in training also the tables that dx is computed from."""
    dweight, dbias = affine_gradient(weight, mixture), affine_gradient(bias, mixture)
    launch.run(
        _merge_output_sums_kernel,
        (-(-problem.channels // MERGE_BLOCK_C),),
        sums,
        sums.shape[0],
        *moments,
        mixture.mixing_weight,
        *affine_arguments(weight),
        *affine_arguments(bias),
        table,
        output,
        statistics,
        scale_sums,
        dweight,
        dbias,
        C=problem.channels,
        SPAN=problem.channels,
        D=problem.group_channels,
        K=problem.components,
        STATISTICS=statistics is not None,
        CENTRED=centred,
        SHARED_WEIGHT=dweight.dim() == 1,
        SHARED_BIAS=dbias.dim() == 1,
        EPS=problem.eps,
        MIXING_SCALE=mixing_scale,
        BLOCK_C=MERGE_BLOCK_C,
        BLOCK_J=MERGE_BLOCK_J,
        **launch.BESIDE,
    )
    return dweight, dbias


def _mixture_gradient(
    problem: Problem,
    mixture: Mixture,
    table: Tensor,
    log_mass: Tensor | None,
    log_sums: Tensor | None,
    scale_sums: Tensor | None,
    mixing_scale: bool,
) -> Mixture:
    through = log_mass is not None and log_sums is not None
    chunks = log_mass.shape[0] if log_mass is not None else 0
    sizes = {"C": problem.channels, "D": problem.group_channels, "K": problem.components}
    gradient = Mixture(*(torch.empty_like(t) for t in mixture))
    if through:
        launch.run(
            _mixture_gradient_kernel,
            (-(-problem.channels // MERGE_BLOCK_C),),
            log_mass,
            log_sums,
            chunks,
            mixture.mean,
            mixture.var,
            table,
            gradient.mean,
            gradient.var,
            **sizes,
            EPS=problem.eps,
            BLOCK_C=MERGE_BLOCK_C,
            BLOCK_J=MERGE_BLOCK_J,
            **launch.BESIDE,
        )
    else:
        gradient = gradient._replace(
            mean=torch.zeros_like(mixture.mean), var=torch.zeros_like(mixture.var)
        )
    launch.run(
        _mixing_weight_gradient_kernel,
        (problem.groups * problem.components,),
        log_mass,
        chunks,
        scale_sums,
        mixture.mixing_weight,
        gradient.mixing_weight,
        **sizes,
        LOG_SUMS=through,
        MIXING_SCALE=mixing_scale,
        BLOCK_C=256,
        BLOCK_J=64,
        **launch.BESIDE,
    )
    return gradient


def affine_gradient(parameter: Tensor | None, mixture: Mixture) -> Tensor:
    """Memory for a gradient in the shape of its parameter, [K, C] where there is none."""
    return mixture.mean.new_empty(mixture.mean.shape if parameter is None else parameter.shape)


def no_gradients(
    x: Tensor, mixture: Mixture, weight: Tensor | None, bias: Tensor | None
) -> Gradients:
    return Gradients(
        torch.empty_like(x),
        affine_gradient(weight, mixture).zero_(),
        affine_gradient(bias, mixture).zero_(),
    )
