"""How one normalization is computed and differentiated: three paths to the same formulas.

- Nothing needs a gradient: the backend, with no graph around it.
- A gradient is needed: the backend inside an `torch.autograd.Function` with our own derivatives.
- torch.export, a transform of torch.func or forward-mode differentiation is at work, or θ of an
  eval step is learned: the reference in differentiable torch operations, which all understand.
"""

import torch
from torch import Tensor

from mixnorm_cuda.autograd.function import EvaluateFunction, MixtureNormFunction
from mixnorm_cuda.dispatch import REFERENCE, Backend
from mixnorm_cuda.tracing import exporting, transforming
from mixnorm_cuda.types import BatchMoments, Mixture


def normalize_batch(
    x: Tensor,
    mixture: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    given: Tensor | None,
    backend: Backend,
    *,
    eps: float,
    em_iters: int,
    mixing_scale: bool,
    responsibility_grad: bool,
) -> tuple[Tensor, BatchMoments]:
    """Training: y and the moments of the batch, which carry no gradient.

    ``given`` responsibilities are None or [N, G, K, L]; arguments are not checked.
    """
    if _transformed():
        return REFERENCE.differentiable_forward(
            x,
            mixture,
            weight,
            bias,
            given,
            eps=eps,
            em_iters=em_iters,
            mixing_scale=mixing_scale,
            responsibility_grad=responsibility_grad,
        )
    inputs = (x, *mixture, weight, bias, given)
    if _needs_gradient(inputs):
        y, *moments = MixtureNormFunction.apply(  # type: ignore[no-untyped-call]
            *inputs, eps, em_iters, mixing_scale, responsibility_grad, backend.name
        )
        return y, BatchMoments(*moments)
    result = backend.forward(
        x,
        mixture,
        weight,
        bias,
        given,
        eps=eps,
        em_iters=em_iters,
        mixing_scale=mixing_scale,
    )
    return result.y, result.moments


def normalize(
    x: Tensor,
    mixture: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    given: Tensor | None,
    backend: Backend,
    *,
    eps: float,
    mixing_scale: bool,
    responsibility_grad: bool,
) -> Tensor:
    """Eval: y by the mixture's own mean and variance. Arguments as `normalize_batch`."""
    inputs = (x, *mixture, weight, bias, given)
    if _transformed() or (torch.is_grad_enabled() and any(t.requires_grad for t in mixture)):
        if given is None and not responsibility_grad:
            given = REFERENCE.responsibilities(x.detach(), mixture.detach(), eps=eps)
        backend = REFERENCE
    elif _needs_gradient(inputs):
        return EvaluateFunction.apply(  # type: ignore[no-any-return, no-untyped-call]
            *inputs, eps, mixing_scale, responsibility_grad, backend.name
        )
    return backend.evaluate(
        x,
        mixture,
        weight,
        bias,
        given,
        eps=eps,
        mixing_scale=mixing_scale,
    )


def _needs_gradient(inputs: tuple[Tensor | None, ...]) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)


def _transformed() -> bool:
    """Whether torch.export, torch.func or forward-mode differentiation sees this call's operations.

    An exported graph must run where this package is not: it gets operators of PyTorch only.
    """
    return exporting() if torch.compiler.is_compiling() else transforming()
