"""A layer's training step as one operator, differentiated: forward, running statistics, counter.

The same as `MixtureNormFunction` followed by the update, with fewer calls: on a tensor of a
thousand elements these cost more than the kernels.
"""

from typing import Any, cast

import torch
from torch import Tensor

from mixnorm_cuda.autograd.function import differentiable_gradients, parameter_gradients
from mixnorm_cuda.dispatch import StepBackend
from mixnorm_cuda.types import Mixture, Step


class StepFunction(torch.autograd.Function):
    """Inputs: x, weight, bias, the running statistics and their counter, options and backend."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        x, weight, bias, running, tracked, options, backend = inputs
        y, state, nu = backend.step(x, running, tracked, weight, bias, options)
        ctx.save_for_backward(x, weight, bias, state, nu)
        ctx.groups, ctx.components = running.mixing_weight.shape
        ctx.options, ctx.backend = options, backend
        return cast(Tensor, y)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, state, nu = ctx.saved_tensors
        components, groups, options = ctx.components, ctx.groups, ctx.options
        if torch.is_grad_enabled():
            grads = differentiable_gradients(
                dy, x, _mixture(state, components, groups), weight, bias, None,
                mixture_grad=False, eps=options.eps, mixing_scale=options.mixing_scale,
                responsibility_grad=options.responsibility_grad,
            )  # fmt: skip
        else:
            grads = ctx.backend.step_backward(
                dy, x, state, nu, weight, bias, components, groups, options
            )
        return (grads.x, *parameter_gradients(grads, weight, bias), None, None, None, None)


def step(
    x: Tensor,
    running: Mixture,
    num_batches_tracked: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    backend: StepBackend,
    options: Step,
) -> Tensor:
    """y of one training step from ``running``, which move with the counter."""
    inputs = (x, weight, bias, running, num_batches_tracked, options, backend)
    if torch.is_grad_enabled():
        return StepFunction.apply(*inputs)  # type: ignore[no-any-return, no-untyped-call]
    return backend.step(x, running, num_batches_tracked, weight, bias, options).y


def _mixture(state: Tensor, components: int, groups: int) -> Mixture:
    """The second half of the state: λ [G, K], μ [K, C], σ² [K, C]."""
    half = state[state.numel() // 2 :]
    mixing_weight, statistics = half[: groups * components], half[groups * components :]
    mean, var = statistics.view(2, components, -1)
    return Mixture(mixing_weight.view(groups, components), mean, var)
