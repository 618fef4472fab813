"""Layers that learn their number of channels from the first input."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from mixnorm_cuda import checks
from mixnorm_cuda.modules.mixture_norm import (
    MixtureNorm1d,
    MixtureNorm2d,
    MixtureNorm3d,
    MixtureNormBase,
)
from mixnorm_cuda.modules.running import RUNNING


class _LazyMixtureNorm(LazyModuleMixin, MixtureNormBase):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(0, *args, **options)

    def _allocate(
        self,
        weight: bool,
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        # torch's annotations of the uninitialized tensors lack their constructors' arguments.
        new_parameter: Any = UninitializedParameter
        new_buffer: Any = UninitializedBuffer
        for name, present in (("weight", weight), ("bias", bias)):
            parameter = new_parameter(device=device, dtype=dtype) if present else None
            self.register_parameter(name, parameter)
        if not self.track_running_stats:
            for name in (*RUNNING, "num_batches_tracked"):
                self.register_buffer(name, None)
            return
        statistics = checks.statistics_dtype(dtype or torch.get_default_dtype())
        for name in RUNNING:
            self.register_buffer(name, new_buffer(device=device, dtype=statistics))
        self.register_buffer(
            "num_batches_tracked", torch.zeros((), device=device, dtype=torch.long)
        )

    def reset_parameters(self) -> None:
        if not self.has_uninitialized_params():
            super().reset_parameters()

    def initialize_parameters(self, x: Tensor) -> None:
        """Take the number of channels, and allocate what a checkpoint has not filled already."""
        if self.num_features > 0:
            return
        checks.check_input(x)
        channels, components = x.shape[1], self.num_components
        checks.check_groups(self.groups, channels)
        self.num_features = channels
        if not self.has_uninitialized_params():
            return
        affine = (components, channels) if self.component_affine else (channels,)
        shapes = {
            "weight": affine,
            "bias": affine,
            "running_weight": (self.groups, components),
            "running_mean": (components, channels),
            "running_var": (components, channels),
        }
        for name, shape in shapes.items():
            tensor = getattr(self, name)
            if tensor is not None:
                tensor.materialize(shape)
        self.reset_parameters()


def _lazy(counterpart: type[MixtureNormBase], shape: str) -> str:
    return (
        f"`{counterpart.__name__}` with ``num_features`` from its first input, {shape}.\n\n"
        "    Takes the layer's other arguments, positionally from ``eps`` on.\n    "
    )


class LazyMixtureNorm1d(_LazyMixtureNorm):
    __doc__ = _lazy(MixtureNorm1d, "``[N, C]`` or ``[N, C, L]``")
    cls_to_become = MixtureNorm1d


class LazyMixtureNorm2d(_LazyMixtureNorm):
    __doc__ = _lazy(MixtureNorm2d, "``[N, C, H, W]``")
    cls_to_become = MixtureNorm2d


class LazyMixtureNorm3d(_LazyMixtureNorm):
    __doc__ = _lazy(MixtureNorm3d, "``[N, C, D, H, W]``")
    cls_to_become = MixtureNorm3d
