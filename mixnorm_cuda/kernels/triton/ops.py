"""Typed functions over the operators ``mixnorm::triton_*``."""

from typing import cast

import torch
from torch import Tensor

from mixnorm_cuda.kernels.triton import operators  # noqa: F401  (registers them)
from mixnorm_cuda.types import BatchMoments, Forward, Gradients, GradientSums, Mixture


def moments(x: Tensor, mixture: Mixture, *, eps: float) -> BatchMoments:
    """Mass [G, K], mean [K, C] and biased variance [K, C] of ``x`` [N, C, *S] under ``mixture``.

    Raises:
        ValueError: an argument has a wrong shape or dtype, or ``eps`` is not positive.
    """
    return BatchMoments(*torch.ops.mixnorm.triton_moments(x, *mixture, eps))


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
    """Training forward of ``x`` [N, C, *S]: EM steps, responsibilities, moments, output.

    ``weight`` and ``bias`` are None, [C] or [K, C]. ``responsibilities`` of the result is [G, K, M]
    where `backward` reads it, else empty. y has the memory format of a contiguous or channels-last
    ``x`` and is contiguous otherwise.

    Raises:
        ValueError: an argument has a wrong shape or dtype, ``eps`` is not positive or ``em_iters``
            is negative.
    """
    y, mass, mean, var, nu, *final = torch.ops.mixnorm.triton_forward(
        x, *mixture, weight, bias, eps, em_iters, mixing_scale
    )
    return Forward(y, BatchMoments(mass, mean, var), Mixture(*final), nu)


def backward(
    dy: Tensor,
    x: Tensor,
    responsibilities: Tensor,
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
    """Gradients of `forward`; ``weight`` and ``bias`` of the result have the parameter's shape,
    [K, C] where it is None.

    Raises:
        ValueError: an argument has a wrong shape or dtype, or ``eps`` is not positive.
    """
    dx, dweight, dbias, *dmixture = torch.ops.mixnorm.triton_backward(
        dy, x, responsibilities, *moments, *mixture, weight, bias,
        eps, mixing_scale, responsibility_grad, mixture_grad,
    )  # fmt: skip
    return Gradients(dx, dweight, dbias, mixture=Mixture(*dmixture) if mixture_grad else None)


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
    """Output of ``x`` [N, C, *S] under known ``moments``, which may be of more than ``x``.

    Raises:
        ValueError: an argument has a wrong shape or dtype, or ``eps`` is not positive.
    """
    y = torch.ops.mixnorm.triton_normalize(x, *mixture, *moments, weight, bias, eps, mixing_scale)
    return cast(Tensor, y)


def backward_sums(
    dy: Tensor, x: Tensor, mixture: Mixture, moments: BatchMoments, *, eps: float
) -> GradientSums:
    """H1 = Σ ν dy and H2 = Σ ν dy (x − m), [K, C], of this ``x`` under ``moments`` of more.

    Raises:
        ValueError: an argument has a wrong shape or dtype, or ``eps`` is not positive.
    """
    return GradientSums(*torch.ops.mixnorm.triton_backward_sums(dy, x, *mixture, *moments, eps))


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
    """Gradients that go with ``sums`` over all that ``moments`` are of; shapes as `backward`.

    Raises:
        ValueError: an argument has a wrong shape or dtype, or ``eps`` is not positive.
    """
    return Gradients(
        *torch.ops.mixnorm.triton_backward_apply(
            dy, x, *mixture, *moments, *sums, weight, bias, eps, mixing_scale, responsibility_grad
        )
    )


def evaluate(
    x: Tensor,
    mixture: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    mixing_scale: bool,
) -> Tensor:
    """Eval output of ``x`` [N, C, *S]: the mixture's own mean and variance stand for m and q.

    Raises:
        ValueError: an argument has a wrong shape or dtype, or ``eps`` is not positive.
    """
    y = torch.ops.mixnorm.triton_evaluate(x, *mixture, weight, bias, eps, mixing_scale)
    return cast(Tensor, y)


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
    """Gradients of `evaluate` for x, and for weight and bias as `backward`.

    Raises:
        ValueError: an argument has a wrong shape or dtype, or ``eps`` is not positive.
    """
    return Gradients(
        *torch.ops.mixnorm.triton_evaluate_backward(
            dy, x, *mixture, weight, bias, eps, mixing_scale, responsibility_grad
        )
    )


def update_running(
    running: Mixture, moments: BatchMoments, count: int, factor: float | Tensor
) -> Tensor:
    """Move ``running`` in place towards ``moments`` of ``count`` positions with weight ``factor``.

    Returns whether all moments were finite (else nothing changes), a 0-dim bool tensor.

    Raises:
        ValueError: an argument has a wrong shape or dtype, or ``count`` is not positive.
    """
    momentum, tensor = (0.0, factor) if isinstance(factor, Tensor) else (factor, None)
    finite = torch.ops.mixnorm.triton_update_running(*running, *moments, count, momentum, tensor)
    return cast(Tensor, finite)
