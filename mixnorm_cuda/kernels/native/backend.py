"""The native backends: C++ and CUDA operators behind the interface that dispatch asks for."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from mixnorm_cuda.kernels.native import loader, ops
from mixnorm_cuda.types import (
    BatchMoments,
    Forward,
    Gradients,
    GradientSums,
    Mixture,
    Step,
    Stepped,
)

MAX_COMPONENTS = 16
"""What the kernels' registers are laid out for (kMaxComponents in csrc/device/constants.h)."""


class _NativeBackend:
    """The operators of one library."""

    _emulated = False

    def forward(
        self,
        x: Tensor,
        mixture: Mixture,
        weight: Tensor | None,
        bias: Tensor | None,
        given: Tensor | None = None,
        *,
        eps: float,
        em_iters: int,
        mixing_scale: bool,
    ) -> Forward:
        return ops.forward(
            x,
            mixture,
            weight,
            bias,
            eps=eps,
            em_iters=em_iters,
            mixing_scale=mixing_scale,
            emulated=self._emulated,
        )

    def backward(
        self,
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
        given: bool,
        mixture_grad: bool,
    ) -> Gradients:
        return ops.backward(
            dy,
            x,
            nu,
            moments,
            mixture,
            weight,
            bias,
            eps=eps,
            mixing_scale=mixing_scale,
            responsibility_grad=responsibility_grad,
            mixture_grad=mixture_grad,
            emulated=self._emulated,
        )

    def evaluate(
        self,
        x: Tensor,
        mixture: Mixture,
        weight: Tensor | None,
        bias: Tensor | None,
        given: Tensor | None = None,
        *,
        eps: float,
        mixing_scale: bool,
    ) -> Tensor:
        return ops.evaluate(
            x, mixture, weight, bias, eps=eps, mixing_scale=mixing_scale, emulated=self._emulated
        )

    def evaluate_backward(
        self,
        dy: Tensor,
        x: Tensor,
        mixture: Mixture,
        weight: Tensor | None,
        bias: Tensor | None,
        given: Tensor | None = None,
        *,
        eps: float,
        mixing_scale: bool,
        responsibility_grad: bool,
    ) -> Gradients:
        return ops.evaluate_backward(
            dy,
            x,
            mixture,
            weight,
            bias,
            eps=eps,
            mixing_scale=mixing_scale,
            responsibility_grad=responsibility_grad,
            emulated=self._emulated,
        )

    def moments(self, x: Tensor, mixture: Mixture, *, eps: float) -> BatchMoments:
        return ops.moments(x, mixture, eps=eps, emulated=self._emulated)

    def normalize(
        self,
        x: Tensor,
        mixture: Mixture,
        moments: BatchMoments,
        weight: Tensor | None,
        bias: Tensor | None,
        given: Tensor | None = None,
        *,
        eps: float,
        mixing_scale: bool,
    ) -> Tensor:
        return ops.normalize(
            x,
            mixture,
            moments,
            weight,
            bias,
            eps=eps,
            mixing_scale=mixing_scale,
            emulated=self._emulated,
        )

    def backward_sums(
        self,
        dy: Tensor,
        x: Tensor,
        mixture: Mixture,
        moments: BatchMoments,
        given: Tensor | None = None,
        *,
        eps: float,
    ) -> GradientSums:
        return ops.backward_sums(dy, x, mixture, moments, eps=eps, emulated=self._emulated)

    def backward_apply(
        self,
        dy: Tensor,
        x: Tensor,
        mixture: Mixture,
        moments: BatchMoments,
        sums: GradientSums,
        weight: Tensor | None,
        bias: Tensor | None,
        given: Tensor | None = None,
        *,
        eps: float,
        mixing_scale: bool,
        responsibility_grad: bool,
    ) -> Gradients:
        return ops.backward_apply(
            dy,
            x,
            mixture,
            moments,
            sums,
            weight,
            bias,
            eps=eps,
            mixing_scale=mixing_scale,
            responsibility_grad=responsibility_grad,
            emulated=self._emulated,
        )

    def step(
        self,
        x: Tensor,
        running: Mixture,
        num_batches_tracked: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        options: Step,
    ) -> Stepped:
        return ops.step(
            x, running, num_batches_tracked, weight, bias, options, emulated=self._emulated
        )

    def step_backward(
        self,
        dy: Tensor,
        x: Tensor,
        state: Tensor,
        responsibilities: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        components: int,
        groups: int,
        options: Step,
    ) -> Gradients:
        return ops.step_backward(
            dy,
            x,
            state,
            responsibilities,
            weight,
            bias,
            components,
            groups,
            options,
            emulated=self._emulated,
        )

    def update_running(
        self, running: Mixture, moments: BatchMoments, count: int, factor: float | Tensor
    ) -> Tensor:
        return ops.update_running(running, moments, count, factor, emulated=self._emulated)


class NativeCpuBackend(_NativeBackend):
    """Vectorised, multi-threaded C++ kernels on the CPU, any layout and number of dimensions."""

    name = "cpu"

    def missing(self) -> str | None:
        return loader.missing("cpu")

    def refuses(
        self, x: Tensor, num_components: int, groups: int, responsibilities_given: bool
    ) -> str | None:
        if x.device.type != "cpu":
            return f"x is on {x.device}, the CPU operators need a CPU tensor"
        if responsibilities_given:
            return "the CPU operators compute the responsibilities, here they are given"
        if num_components > MAX_COMPONENTS:
            return f"num_components={num_components}, the CPU operators take up to {MAX_COMPONENTS}"
        return None


class NativeCudaBackend(_NativeBackend):
    """CUDA C++ kernels, any layout and number of dimensions.

    As "emulated" the same kernels' source runs on CPU tensors, thread by thread: for tests.
    """

    def __init__(self, *, emulated: bool = False) -> None:
        self.name = "emulated" if emulated else "cuda"
        self._emulated = emulated

    def missing(self) -> str | None:
        reason = loader.missing(self.name)
        return _no_device() if reason is None and not self._emulated else reason

    def refuses(
        self, x: Tensor, num_components: int, groups: int, responsibilities_given: bool
    ) -> str | None:
        wanted = "cpu" if self._emulated else "cuda"
        if x.device.type != wanted:
            return f"x is on {x.device}, the {self.name} operators need a {wanted.upper()} tensor"
        if responsibilities_given:
            return "the CUDA kernels compute the responsibilities, here they are given"
        if num_components > MAX_COMPONENTS:
            return f"num_components={num_components}, the CUDA kernels take up to {MAX_COMPONENTS}"
        return None

    def plans(self, x: Tensor, num_components: int, groups: int) -> dict[str, str]:
        """The launch that each direction would get, in words."""
        return {
            f"{direction}, {layout}": ops.cuda_plan(
                x,
                num_components,
                groups,
                channels_last=layout == "channels-last",
                backward=direction == "backward",
                emulated=self._emulated,
            )
            for direction in ("forward", "backward")
            for layout in ("contiguous", "channels-last")
        }


@functools.cache
def _find_no_device() -> str | None:
    return None if torch.cuda.is_available() else "torch finds no CUDA device"


# torch.compile calls this instead of tracing into it.
_no_device: Callable[[], str | None] = torch.compiler.assume_constant_result(_find_no_device)  # type: ignore[no-untyped-call]
