"""`torch.autograd.Function`s over the backends, with hand-written first derivatives.

The second derivative comes from the same formulas evaluated by the reference in differentiable
torch operations, whatever backend served the first.
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
    name. Outputs: y, the moments (three), θ after the EM steps
    (three) and the backend's responsibilities; only y carries a gradient.
    """

    # Named parameters would cost a small input as much as its kernels: `apply` binds them through
    # inspect.signature in every call.
    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        x, mixing_weight, mean, var, weight, bias, given = inputs[:7]
        eps, em_iters, mixing_scale, _, backend = inputs[7:]
        result = BACKENDS[backend].forward(
            x,
            Mixture(mixing_weight, mean, var),
            per_component(weight, mean),
            per_component(bias, mean),
            given,
            eps=eps,
            em_iters=em_iters,
            mixing_scale=mixing_scale,
        )
        # An input must not be returned as an output: given responsibilities are saved as the input.
        nu = result.responsibilities if given is None else x.new_empty(0)
        return (result.y, *result.moments, *result.mixture, nu)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, mixing_weight, mean, var, weight, bias, given = inputs[:7]
        _, mass, batch_mean, batch_var, *final_mixture, nu = output
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        mixture_grad = any(ctx.needs_input_grad[1:4])
        # θ is usually the running statistics, which the step changes in place after this: save
        # the copies among the outputs, unless θ is learned and its own graph is needed.
        mixture = (mixing_weight, mean, var) if mixture_grad else final_mixture
        ctx.save_for_backward(x, *mixture, weight, bias, given, mass, batch_mean, batch_var, nu)
        ctx.eps, _, ctx.mixing_scale, ctx.responsibility_grad, ctx.backend = inputs[7:]
        ctx.mixture_grad = mixture_grad

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 12
        x, mixing_weight, mean, var, weight, bias, given, *batch, nu = ctx.saved_tensors
        mixture, moments = Mixture(mixing_weight, mean, var), BatchMoments(*batch)
        backend = BACKENDS[ctx.backend]
        if torch.is_grad_enabled():
            backend = REFERENCE
            nu, moments = REFERENCE.differentiable_state(
                x, mixture, given, eps=ctx.eps, responsibility_grad=ctx.responsibility_grad
            )
        grads = backend.backward(
            dy,
            x,
            nu if given is None else given,
            moments,
            mixture,
            per_component(weight, mean),
            per_component(bias, mean),
            eps=ctx.eps,
            mixing_scale=ctx.mixing_scale,
            responsibility_grad=ctx.responsibility_grad,
            given=given is not None,
            mixture_grad=ctx.mixture_grad,
        )
        dmixture = (None, None, None) if grads.mixture is None else grads.mixture
        return (
            grads.x,
            *dmixture,
            *_affine_gradients(ctx, grads, weight, bias, 4),
            grads.responsibilities,
            *(None,) * 5,
        )


class EvaluateFunction(torch.autograd.Function):
    """Eval: m, q and λ are constants. Inputs as `MixtureNormFunction` less em_iters, output y."""

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        x, mixing_weight, mean, var, weight, bias, given = inputs[:7]
        eps, mixing_scale, _, backend = inputs[7:]
        evaluate = BACKENDS[backend].evaluate
        return evaluate(
            x,
            Mixture(mixing_weight, mean, var),
            per_component(weight, mean),
            per_component(bias, mean),
            given,
            eps=eps,
            mixing_scale=mixing_scale,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:7])
        ctx.eps, ctx.mixing_scale, ctx.responsibility_grad, ctx.backend = inputs[7:]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, mixing_weight, mean, var, weight, bias, given = ctx.saved_tensors
        backend = REFERENCE if torch.is_grad_enabled() else BACKENDS[ctx.backend]
        grads = backend.evaluate_backward(
            dy,
            x,
            Mixture(mixing_weight, mean, var),
            per_component(weight, mean),
            per_component(bias, mean),
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
            *_affine_gradients(ctx, grads, weight, bias, 4),
            grads.responsibilities,
            *(None,) * 4,
        )


def per_component(parameter: Tensor | None, mean: Tensor) -> Tensor | None:
    """[C] or [K, C] -> [K, C], without a copy."""
    return None if parameter is None else parameter.expand_as(mean)


def _affine_gradients(
    ctx: Any, grads: Gradients, weight: Tensor | None, bias: Tensor | None, first: int
) -> tuple[Tensor | None, Tensor | None]:
    """Per-component gradients summed to the parameter's own shape and dtype."""
    return (
        _reduced(grads.weight, weight if ctx.needs_input_grad[first] else None),
        _reduced(grads.bias, bias if ctx.needs_input_grad[first + 1] else None),
    )


def _reduced(gradient: Tensor, parameter: Tensor | None) -> Tensor | None:
    if parameter is None:
        return None
    return (gradient.sum(0) if parameter.dim() == 1 else gradient).to(parameter.dtype)
