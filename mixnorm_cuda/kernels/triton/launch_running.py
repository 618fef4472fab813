"""The update of the running statistics."""

import torch
from torch import Tensor

from mixnorm_cuda.kernels.triton import launch
from mixnorm_cuda.kernels.triton.running import _update_running_kernel
from mixnorm_cuda.types import BatchMoments, Mixture


def update_running(
    running: Mixture, moments: BatchMoments, count: int, factor: float | Tensor
) -> Tensor:
    groups, components = running.mixing_weight.shape
    channels = running.mean.shape[1]
    finite = torch.empty((), dtype=torch.bool, device=running.mean.device)
    launch.run(
        _update_running_kernel,
        (components,),
        *running,
        *(t.contiguous() for t in moments),
        factor if isinstance(factor, Tensor) else None,
        0.0 if isinstance(factor, Tensor) else float(factor),
        count,
        finite,
        C=channels,
        D=channels // groups,
        K=components,
        BLOCK=1024,
        **launch.BESIDE,
    )
    return finite
