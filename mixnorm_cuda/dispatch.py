"""Which backend serves an input, and why the others do not.

``"auto"`` tries the backends of the input's device, fastest first, and ends at the reference,
which serves everything; a GPU whose kernels are all missing is warned about once. A backend asked
for by name serves or raises `BackendUnavailableError`. The environment variable
``MIXNORM_BACKEND`` replaces ``"auto"``.
"""

import functools
import os
import warnings
from typing import Protocol, cast

import torch
from torch import Tensor

from mixnorm_cuda.kernels import preference
from mixnorm_cuda.kernels.native.backend import NativeCpuBackend, NativeCudaBackend
from mixnorm_cuda.kernels.triton.backend import TritonBackend
from mixnorm_cuda.reference import ReferenceBackend
from mixnorm_cuda.tracing import exporting
from mixnorm_cuda.types import (
    BatchMoments,
    Forward,
    Gradients,
    GradientSums,
    Mixture,
    Step,
    Stepped,
)

ENVIRONMENT_VARIABLE = "MIXNORM_BACKEND"


class BackendUnavailableError(RuntimeError):
    """The backend asked for by name is not usable here or cannot serve this input."""


class Backend(Protocol):
    """What a set of kernels offers.

    ``x`` is [N, C, *S]; weight and bias are None, [C] (shared by the components) or [K, C].
    """

    @property
    def name(self) -> str: ...

    def missing(self) -> str | None:
        """Why the backend is not usable on this machine and how to get it; None when it is."""

    def refuses(
        self, x: Tensor, num_components: int, groups: int, responsibilities_given: bool
    ) -> str | None:
        """Why this input cannot be served; None when it can."""

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
    ) -> Forward: ...

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
    ) -> Gradients: ...

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
    ) -> Tensor: ...

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
    ) -> Gradients: ...

    def moments(self, x: Tensor, mixture: Mixture, *, eps: float) -> BatchMoments: ...

    def update_running(
        self, running: Mixture, moments: BatchMoments, count: int, factor: float | Tensor
    ) -> Tensor: ...


class SplitBackend(Backend, Protocol):
    """A backend whose training passes come in parts too, for what runs between them elsewhere.

    Over several processes these exchange sums: each calls `moments` on its own ``x``, `normalize`
    with the moments of all, `backward_sums`, and `backward_apply` with the sums of all.
    """

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
    ) -> Tensor: ...

    def backward_sums(
        self,
        dy: Tensor,
        x: Tensor,
        mixture: Mixture,
        moments: BatchMoments,
        given: Tensor | None = None,
        *,
        eps: float,
    ) -> GradientSums: ...

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
        """The affine pairs' gradients are those of ``sums``."""


class StepBackend(Backend, Protocol):
    """A backend that has a layer's training step as one operator, and its backward as another.

    A small input's step is bound by the calls that it makes, not by their kernels.
    """

    def step(
        self,
        x: Tensor,
        running: Mixture,
        num_batches_tracked: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        options: Step,
    ) -> Stepped:
        """`forward` from ``running``, which then moves as by `update_running`, and the counter."""

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
    ) -> Gradients: ...


REFERENCE = ReferenceBackend()

BACKENDS: dict[str, Backend] = {
    "reference": REFERENCE,
    "cpu": NativeCpuBackend(),
    "triton": TritonBackend(),
    "cuda": NativeCudaBackend(),
    "emulated": NativeCudaBackend(emulated=True),
}


def _preferred(x: Tensor, num_components: int, groups: int) -> tuple[str, ...]:
    """Backends for "auto" to try, fastest first."""
    if x.device.type == "cuda":
        return preference.preferred(x, num_components, groups)
    return ("cpu",) if x.device.type == "cpu" else ()


def check_name(backend: str, source: str = "backend") -> None:
    """Raise ValueError, naming its ``source``, unless ``backend`` is "auto" or a backend's name."""
    if backend != "auto" and backend not in BACKENDS:
        names = ", ".join(repr(name) for name in ("auto", *BACKENDS))
        raise ValueError(f"{source}={backend!r}: expected one of {names}")


def select(
    backend: str, x: Tensor, num_components: int, groups: int, responsibilities_given: bool = False
) -> Backend:
    """The backend that serves ``x``; under torch.export always the reference.

    Raises:
        ValueError: ``backend`` is not a known name.
        BackendUnavailableError: ``backend`` was asked for by name and cannot serve ``x``.
    """
    source = "backend"
    if backend == "auto" and ENVIRONMENT_VARIABLE in os.environ:
        backend = os.environ[ENVIRONMENT_VARIABLE] or "auto"
        source = ENVIRONMENT_VARIABLE
    check_name(backend, source)
    if exporting():
        return REFERENCE  # an exported graph must run where our operators are not
    if backend == "auto":
        preferred = _preferred(x, num_components, groups)
        for name in preferred:
            if why_not(name, x, num_components, groups, responsibilities_given) is None:
                return BACKENDS[name]
        if x.device.type == "cuda":
            missing = [BACKENDS[name].missing() for name in preferred]
            if all(missing):
                _warn_once(f"mixture normalization runs slowly on this GPU: {missing[0]}")
        return REFERENCE
    reason = why_not(backend, x, num_components, groups, responsibilities_given)
    if reason is not None:
        raise BackendUnavailableError(f"{source}={backend!r} cannot serve this input: {reason}")
    return BACKENDS[backend]


@functools.cache
def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


# torch.compile calls this instead of tracing into it.
_warn_once = torch.compiler.assume_constant_result(_warn)  # type: ignore[no-untyped-call]


def split(name: str) -> SplitBackend:
    """Backend ``name`` if its passes come in parts, else the reference, which serves all."""
    backend = BACKENDS[name]
    return cast(SplitBackend, backend) if hasattr(backend, "backward_apply") else REFERENCE


def whole_step(backend: Backend) -> StepBackend | None:
    """``backend`` if it has a training step as one operator."""
    return cast(StepBackend, backend) if hasattr(backend, "step") else None


def why_not(
    name: str, x: Tensor, num_components: int, groups: int, responsibilities_given: bool = False
) -> str | None:
    """Why backend ``name`` cannot serve ``x``; None when it can."""
    backend = BACKENDS[name]
    reason = backend.missing()
    if reason is None:
        reason = backend.refuses(x, num_components, groups, responsibilities_given)
    return reason
