"""The raw operators, typed. Their argument checks are in csrc/ops/ and raise ValueError.

The library is that of the device of ``x``; with ``emulated=True`` CPU tensors are served by the
CUDA kernels' own source (csrc/README.md, "Emulation").
"""

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from mixnorm_cuda.kernels.native import loader
from mixnorm_cuda.types import (
    BatchMoments,
    Forward,
    Gradients,
    GradientSums,
    Mixture,
    Step,
    Stepped,
)


class CudaDeviceInfo(NamedTuple):
    """What a CUDA device offers, and which binary of the CUDA library it runs."""

    multiprocessors: int
    shared_memory_per_block: int
    """The most shared memory, in bytes, that one block may opt in to."""
    l2_bytes: int
    binary_version: int
    """10 * major + minor of the machine code in use."""
    ptx_version: int
    """Of the PTX that it came from; differs from ``binary_version`` if compiled on loading."""


def _namespace(x: Tensor, emulated: bool) -> Any:
    if emulated:
        loader.require("emulated")
        return torch.ops.mixnorm_emulated
    loader.require("cuda" if x.is_cuda else "cpu")
    return torch.ops.mixnorm


def moments(x: Tensor, mixture: Mixture, *, eps: float, emulated: bool = False) -> BatchMoments:
    """Mass [G, K], mean [K, C] and biased variance [K, C] of ``x`` [N, C, *S] under ``mixture``.

    ν from θ (E-step), then S = Σ ν, m = μ + Σ ν (x − μ)/S̃, q = Σ ν (x − m)²/S̃ with
    S̃ = max(S, 1e-6). The result does not depend on the number of threads.

    Raises:
        RuntimeError: the operator library is missing.
        ValueError: an argument has a wrong shape or dtype, or ``eps`` is not positive.
    """
    return BatchMoments(*_namespace(x, emulated).moments(x, *mixture, eps))


def normalize(
    x: Tensor,
    mixture: Mixture,
    moments: BatchMoments,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    mixing_scale: bool,
    emulated: bool = False,
) -> Tensor:
    """The output of `forward` under ``moments``, which may be of more than ``x``.

    Raises:
        RuntimeError: the operator library is missing.
        ValueError: an argument has a wrong shape or dtype, or ``eps`` is not positive.
    """
    operator = _namespace(x, emulated).normalize
    return cast(Tensor, operator(x, *mixture, *moments, weight, bias, eps, mixing_scale))


def forward(
    x: Tensor,
    mixture: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    em_iters: int,
    mixing_scale: bool,
    emulated: bool = False,
) -> Forward:
    """Training forward of ``x`` [N, C, *S]: EM steps, responsibilities, moments, output.

    y = Σ_k ν_k [γ_k (x − m_k) (q_k + ε)^(−½) λ̃_k^(−½) + β_k] with ν, m, q under θ after
    ``em_iters`` EM steps; ``weight`` γ and ``bias`` β are None, [C] or [K, C]. y has the memory
    format of a contiguous or channels-last ``x`` and is contiguous otherwise. ``responsibilities``
    is [K, N · ∏S] on the CPU for one group of several components, else empty: `backward` computes ν
    again.

    Raises:
        RuntimeError: the operator library is missing.
        ValueError: an argument has a wrong shape or dtype, ``eps`` is not positive or ``em_iters``
            is negative.
    """
    y, mass, batch_mean, batch_var, responsibilities, *final = _namespace(x, emulated).forward(
        x, *mixture, weight, bias, eps, em_iters, mixing_scale
    )
    return Forward(y, BatchMoments(mass, batch_mean, batch_var), Mixture(*final), responsibilities)


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
    emulated: bool = False,
) -> Gradients:
    """Gradients of `forward`, whose moments, final mixture and responsibilities are passed back.

    Two sweeps over (x, dy): the sums Σ ν dy and Σ ν dy (x − m), then dx. ``weight`` and ``bias``
    of the result have the parameter's shape, [K, C] where it is None; ``mixture`` is None unless
    ``mixture_grad``.
    ``responsibility_grad=False`` treats ν as a constant.

    Raises:
        RuntimeError: the operator library is missing.
        ValueError: an argument has a wrong shape or dtype, or ``eps`` is not positive.
    """
    dx, dweight, dbias, *dmixture = _namespace(x, emulated).backward(
        dy,
        x,
        responsibilities,
        *moments,
        *mixture,
        weight,
        bias,
        eps,
        mixing_scale,
        responsibility_grad,
        mixture_grad,
    )
    return Gradients(dx, dweight, dbias, mixture=Mixture(*dmixture) if mixture_grad else None)


def backward_sums(
    dy: Tensor,
    x: Tensor,
    mixture: Mixture,
    moments: BatchMoments,
    *,
    eps: float,
    emulated: bool = False,
) -> GradientSums:
    """The first sweep of `backward`: Σ ν dy and Σ ν dy (x − m) of this ``x``, [K, C] each.

    Raises:
        RuntimeError: the operator library is missing.
        ValueError: an argument has a wrong shape or dtype, or ``eps`` is not positive.
    """
    operator = _namespace(x, emulated).backward_sums
    return GradientSums(*operator(dy, x, *mixture, *moments, eps))


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
    emulated: bool = False,
) -> Gradients:
    """The second sweep of `backward`, from ``sums`` over all that ``moments`` are of.

    Raises:
        RuntimeError: the operator library is missing.
        ValueError: an argument has a wrong shape or dtype, or ``eps`` is not positive.
    """
    operator = _namespace(x, emulated).backward_apply
    options = (eps, mixing_scale, responsibility_grad)
    return Gradients(*operator(dy, x, *mixture, *moments, *sums, weight, bias, *options))


def evaluate(
    x: Tensor,
    mixture: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    mixing_scale: bool,
    emulated: bool = False,
) -> Tensor:
    """Eval output of ``x`` [N, C, *S]: the mixture's own mean and variance stand for m and q.

    Raises:
        RuntimeError: the operator library is missing.
        ValueError: an argument has a wrong shape or dtype, or ``eps`` is not positive.
    """
    operator = _namespace(x, emulated).evaluate
    return cast(Tensor, operator(x, *mixture, weight, bias, eps, mixing_scale))


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
    emulated: bool = False,
) -> Gradients:
    """Gradients of `evaluate` for x, and for weight and bias as `backward`, in one sweep.

    Raises:
        RuntimeError: the operator library is missing.
        ValueError: an argument has a wrong shape or dtype, or ``eps`` is not positive.
    """
    return Gradients(
        *_namespace(x, emulated).evaluate_backward(
            dy, x, *mixture, weight, bias, eps, mixing_scale, responsibility_grad
        )
    )


def update_running(
    running: Mixture,
    moments: BatchMoments,
    count: int,
    factor: float | Tensor,
    *,
    emulated: bool = False,
) -> Tensor:
    """Move ``running`` in place towards ``moments`` of ``count`` positions with weight ``factor``.

    λ' = λ + f(S/M − λ), ρ = f (S/M)/λ', μ' = μ + ρ(m − μ), σ²' = σ² + ρ(q·min(S/(S−1), 2) − σ²),
    unless a moment is not finite; returns whether all were, a 0-dim bool tensor.

    Raises:
        RuntimeError: the operator library is missing.
        ValueError: an argument has a wrong shape or dtype, or ``count`` is not positive.
    """
    momentum, tensor = (0.0, factor) if isinstance(factor, Tensor) else (factor, None)
    operator = _namespace(moments.mass, emulated).update_running
    return cast(Tensor, operator(*running, *moments, count, momentum, tensor))


def step(
    x: Tensor,
    running: Mixture,
    num_batches_tracked: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    options: Step,
    *,
    emulated: bool = False,
) -> Stepped:
    """`forward` from ``running``, then `update_running` and the counter, in place: a layer's step.

    Raises:
        RuntimeError: the operator library is missing.
        ValueError: an argument has a wrong shape or dtype, or ``x`` is empty.
    """
    momentum, eps, em_iters, mixing_scale, _ = options
    return Stepped(
        *_namespace(x, emulated).step(
            x, *running, num_batches_tracked, weight, bias, momentum, eps, em_iters, mixing_scale
        )
    )


def step_backward(
    dy: Tensor,
    x: Tensor,
    state: Tensor,
    responsibilities: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    components: int,
    groups: int,
    options: Step,
    *,
    emulated: bool = False,
) -> Gradients:
    """`backward` of a `step`, from what it returned.

    Raises:
        RuntimeError: the operator library is missing.
        ValueError: an argument has a wrong shape or dtype.
    """
    return Gradients(
        *_namespace(x, emulated).step_backward(
            dy, x, state, responsibilities, weight, bias, components, groups,
            options.eps, options.mixing_scale, options.responsibility_grad,
        )
    )  # fmt: skip


def cuda_device_info(device: int = 0) -> CudaDeviceInfo:
    """Facts of CUDA device number ``device`` as the CUDA library sees it.

    Raises:
        RuntimeError: the CUDA library is missing, or there is no CUDA device.
        ValueError: there is no such device.
    """
    loader.require("cuda")
    return CudaDeviceInfo(
        *cast("tuple[int, ...]", torch.ops.mixnorm.cuda_device_info(device)),
    )


def cuda_plan(
    x: Tensor,
    num_components: int,
    groups: int,
    *,
    channels_last: bool = False,
    backward: bool = False,
    emulated: bool = False,
) -> str:
    """The launch that an input of the shape and dtype of ``x`` [N, C, *S] would get, and why.

    Raises:
        RuntimeError: the operator library is missing.
        ValueError: a dtype or size that no kernel takes, or MIXNORM_CUDA_KERNELS is not a name.
    """
    batch, channels, *positions = x.shape
    device = 0 if emulated else x.get_device()
    return cast(
        str,
        _namespace(x, emulated).cuda_plan(
            x.dtype,
            batch,
            channels,
            math.prod(positions),
            channels_last,
            num_components,
            groups,
            backward,
            device,
        ),
    )
