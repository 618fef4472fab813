"""The native CPU backend: C++ operators behind the interface that dispatch asks for."""

from typing import NoReturn

from torch import Tensor

from mixnorm_cuda.kernels.native import loader, ops
from mixnorm_cuda.types import BatchMoments, Forward, Gradients, Mixture

_NOT_FUSED = (
    "the fused CPU operators are not part of this build: it has only the moments operator; "
    "use backend='auto' or 'reference', or upgrade mixnorm_cuda once a release lists them"
)


class NativeCpuBackend:
    """C++ operators on the CPU. Today one of them: `moments`."""

    name = "cpu"

    def missing(self) -> str | None:
        return loader.missing("cpu") or _NOT_FUSED

    def refuses(
        self, x: Tensor, num_components: int, groups: int, responsibilities_given: bool
    ) -> str | None:
        if x.device.type != "cpu":
            return f"x is on {x.device}, the CPU operators need a CPU tensor"
        if responsibilities_given:
            return "the CPU operators compute the responsibilities, here they are given"
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
        self._unavailable()

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
        self._unavailable()

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
        self._unavailable()

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
        self._unavailable()

    def moments(self, x: Tensor, mixture: Mixture, *, eps: float) -> BatchMoments:
        return ops.moments(x, mixture, eps=eps)

    def _unavailable(self) -> NoReturn:
        raise RuntimeError(self.missing())
