"""`torch.autograd.Function`s over the backends, with hand-written first derivatives.

The second derivative comes from the same formulas evaluated by the reference in differentiable
torch operations, whatever backend served the first.

Two choices keep a small input's call near the price of its kernels. Arguments are positional
(``*inputs``): `apply` binds named parameters through inspect.signature in every call. ``forward``
takes ``ctx``: the variant with a separate ``setup_context`` costs 12 µs more a call (2-core Xeon),
for transforms of torch.func, which `normalize` sends along another path.
"""

from typing import Any

import torch
from torch import Tensor

from mixnorm_cuda.dispatch import BACKENDS, REFERENCE
from mixnorm_cuda.types import BatchMoments, Gradients, Mixture


class MixtureNormFunction(torch.autograd.Function):
    """Training: statistics of the batch, differentiated.

    Inputs: x, θ (three tensors), weight and bias (None, [C] or [K, C]), given responsibilities
    (None or [N, G, K, L]), eps, em_iters, mixing_scale, responsibility_grad and the backend's
    name. Outputs: y and the moments (three), which carry no gradient.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        x, mixing_weight, mean, var, weight, bias, given = inputs[:7]
        eps, em_iters, mixing_scale, responsibility_grad, backend = inputs[7:]
        mixture = Mixture(mixing_weight, mean, var)
        result = BACKENDS[backend].forward(
            x,
            mixture,
            weight,
            bias,
            given,
            eps=eps,
            em_iters=em_iters,
            mixing_scale=mixing_scale,
        )
        ctx.mixture_grad = any(ctx.needs_input_grad[1:4])
        # θ is usually the running statistics, which the step changes in place after this: save
        # the copies that the forward made, unless θ is learned and its own graph is needed.
        saved = mixture if ctx.mixture_grad else result.mixture
        nu = result.responsibilities if given is None else given
        ctx.save_for_backward(x, *saved, weight, bias, nu, *result.moments)
        ctx.given = given is not None
        ctx.eps, ctx.mixing_scale, ctx.responsibility_grad = eps, mixing_scale, responsibility_grad
        ctx.backend = backend
        ctx.mark_non_differentiable(*result.moments)
        ctx.set_materialize_grads(False)
        return (result.y, *result.moments)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 12
        x, mixing_weight, mean, var, weight, bias, nu, *batch = ctx.saved_tensors
        mixture = Mixture(mixing_weight, mean, var)
        options = {
            "eps": ctx.eps,
            "mixing_scale": ctx.mixing_scale,
            "responsibility_grad": ctx.responsibility_grad,
        }
        if torch.is_grad_enabled():
            given = nu if ctx.given else None
            grads = differentiable_gradients(
                dy, x, mixture, weight, bias, given, mixture_grad=ctx.mixture_grad, **options
            )
        else:
            grads = BACKENDS[ctx.backend].backward(
                dy,
                x,
                nu,
                BatchMoments(*batch),
                mixture,
                weight,
                bias,
                given=ctx.given,
                mixture_grad=ctx.mixture_grad,
                **options,
            )
        dmixture = (None, None, None) if grads.mixture is None else grads.mixture
        return (
            grads.x,
            *dmixture,
            *parameter_gradients(grads, weight, bias),
            grads.responsibilities,
            *(None,) * 5,
        )


class EvaluateFunction(torch.autograd.Function):
    """Eval: m, q and λ are constants. Inputs as `MixtureNormFunction` less em_iters, output y."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        x, mixing_weight, mean, var, weight, bias, given = inputs[:7]
        # θ is usually the running statistics: a training step may move them before the backward.
        theta = (t.clone() for t in (mixing_weight, mean, var))
        ctx.save_for_backward(x, *theta, weight, bias, given)
        ctx.eps, ctx.mixing_scale, ctx.responsibility_grad, ctx.backend = inputs[7:]
        return BACKENDS[ctx.backend].evaluate(
            x,
            Mixture(mixing_weight, mean, var),
            weight,
            bias,
            given,
            eps=ctx.eps,
            mixing_scale=ctx.mixing_scale,
        )

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, mixing_weight, mean, var, weight, bias, given = ctx.saved_tensors
        backend = REFERENCE if torch.is_grad_enabled() else BACKENDS[ctx.backend]
        grads = backend.evaluate_backward(
            dy,
            x,
            Mixture(mixing_weight, mean, var),
            weight,
            bias,
            given,
            eps=ctx.eps,
            mixing_scale=ctx.mixing_scale,
            responsibility_grad=ctx.responsibility_grad,
        )
        return (
            grads.x,
            None,
            None,
            None,
            *parameter_gradients(grads, weight, bias),
            grads.responsibilities,
            *(None,) * 4,
        )


def differentiable_gradients(
    dy: Tensor,
    x: Tensor,
    mixture: Mixture,
    weight: Tensor | None,
    bias: Tensor | None,
    given: Tensor | None,
    *,
    mixture_grad: bool,
    eps: float,
    mixing_scale: bool,
    responsibility_grad: bool,
) -> Gradients:
    """The first derivative as operations that autograd records: ν and the moments anew, too."""
    nu, moments = REFERENCE.differentiable_state(
        x, mixture, given, eps=eps, responsibility_grad=responsibility_grad
    )
    return REFERENCE.backward(
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
        given=given is not None,
        mixture_grad=mixture_grad,
    )


def parameter_gradients(
    grads: Gradients, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """In the parameter's own shape and dtype."""
    return _reduced(grads.weight, weight), _reduced(grads.bias, bias)


def _reduced(gradient: Tensor, parameter: Tensor | None) -> Tensor | None:
    if parameter is None:
        return None
    if gradient.dim() > parameter.dim():
        gradient = gradient.sum(0)
    return gradient if gradient.dtype == parameter.dtype else gradient.to(parameter.dtype)
