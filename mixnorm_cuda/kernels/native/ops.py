"""The raw operators, typed. Their argument checks are in csrc/ops/ and raise ValueError."""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from mixnorm_cuda.kernels.native import loader
from mixnorm_cuda.types import BatchMoments, Mixture


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


def moments(x: Tensor, mixture: Mixture, *, eps: float) -> BatchMoments:
    """Mass [G, K], mean [K, C] and biased variance [K, C] of ``x`` [N, C, *S] under ``mixture``.

    ν from θ (E-step), then S = Σ ν, m = μ + Σ ν (x − μ)/S̃, q = Σ ν (x − m)²/S̃ with
    S̃ = max(S, 1e-6). The result does not depend on the number of threads.

    Raises:
        RuntimeError: the operator library is missing.
        ValueError: an argument has a wrong shape or dtype, or ``eps`` is not positive.
    """
    loader.require("cpu")
    return BatchMoments(*torch.ops.mixnorm.moments(x, *mixture, eps))


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
