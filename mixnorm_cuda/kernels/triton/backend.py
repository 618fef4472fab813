"""The Triton backend: raw operators behind the interface that dispatch asks for."""

from torch import Tensor

from mixnorm_cuda.kernels.triton import availability, ops
from mixnorm_cuda.kernels.triton.arguments import MAX_COMPONENTS
from mixnorm_cuda.types import BatchMoments, Forward, Gradients, GradientSums, Mixture


class TritonBackend:
    """Fused kernels that Triton compiles on first use: CUDA devices from Ampere on, any layout."""

    name = "triton"

    def missing(self) -> str | None:
        return availability.missing()

    def refuses(
        self, x: Tensor, num_components: int, groups: int, responsibilities_given: bool
    ) -> str | None:
        if x.device.type != ("cpu" if availability.interpreted() else "cuda"):
            wanted = "a CPU tensor under TRITON_INTERPRET=1" if x.is_cuda else "a CUDA tensor"
            return f"x is on {x.device}, the Triton kernels need {wanted}"
        if x.is_cuda:
            reason = availability.too_old(x.get_device())
            if reason is not None:
                return reason
        if responsibilities_given:
            return "the Triton kernels compute the responsibilities, here they are given"
        if num_components > MAX_COMPONENTS:
            return (
                f"num_components={num_components}, the Triton kernels take up to {MAX_COMPONENTS}"
            )
        if x.shape[2:].numel() >= 2**31:
            return f"a sample has {x.shape[2:].numel()} positions, 2**31 is too many"
        return None

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
            x, mixture, weight, bias, eps=eps, em_iters=em_iters, mixing_scale=mixing_scale
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
        return ops.evaluate(x, mixture, weight, bias, eps=eps, mixing_scale=mixing_scale)

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
        )

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
        return ops.normalize(x, mixture, moments, weight, bias, eps=eps, mixing_scale=mixing_scale)

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
        return ops.backward_sums(dy, x, mixture, moments, eps=eps)

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
        )

    def moments(self, x: Tensor, mixture: Mixture, *, eps: float) -> BatchMoments:
        return ops.moments(x, mixture, eps=eps)

    def update_running(
        self, running: Mixture, moments: BatchMoments, count: int, factor: float | Tensor
    ) -> Tensor:
        return ops.update_running(running, moments, count, factor)
