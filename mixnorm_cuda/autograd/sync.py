"""Training over several processes: the passes in parts, with sums exchanged between them."""

from typing import Any

import torch
from torch import Tensor

from mixnorm_cuda.autograd.function import parameter_gradients
from mixnorm_cuda.dispatch import BACKENDS, REFERENCE, SplitBackend, split
from mixnorm_cuda.distributed import Processes, joined_moments, joined_sums
from mixnorm_cuda.reference import affine_gradients
from mixnorm_cuda.types import BatchMoments, Mixture


class SyncMixtureNormFunction(torch.autograd.Function):
    """`MixtureNormFunction` with the statistics of all processes' batches.

    Inputs: x, θ (three tensors, constants), weight and bias (None, [C] or [K, C]), given
    responsibilities (None or [N, G, K, L]), eps, mixing_scale, responsibility_grad, the backend's
    name, and the name and size of the group. Outputs: y and the joined moments (three), which
    carry no gradient. One collective in each direction, with an empty x too.

    The gradients of weight and bias are of this process's own loss, as all parameters' are.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        x, mixing_weight, mean, var, weight, bias, given = inputs[:7]
        eps, mixing_scale, responsibility_grad, backend, *processes = inputs[7:]
        mixture = Mixture(mixing_weight, mean, var)
        if given is None:
            own = BACKENDS[backend].moments(x, mixture, eps=eps)
        else:
            own = REFERENCE.moments(x, mixture, given, eps=eps)
        moments = joined_moments(own, mean, Processes(*processes))
        y = _passes(backend, given).normalize(
            x,
            mixture,
            moments,
            weight,
            bias,
            given,
            eps=eps,
            mixing_scale=mixing_scale,
        )
        # θ is usually the running statistics, which the step changes in place after this.
        copies = (t.clone() for t in mixture)
        ctx.save_for_backward(x, *copies, weight, bias, given, *moments)
        ctx.eps, ctx.mixing_scale, ctx.responsibility_grad = eps, mixing_scale, responsibility_grad
        ctx.backend, ctx.processes = backend, processes
        ctx.mark_non_differentiable(*moments)
        ctx.set_materialize_grads(False)
        return (y, *moments)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "second derivatives through SyncMixtureNorm in several processes: expected a "
                "backward without create_graph=True"
            )
        x, mixing_weight, mean, var, weight, bias, given, *batch = ctx.saved_tensors
        mixture, moments = Mixture(mixing_weight, mean, var), BatchMoments(*batch)
        if dy is None:  # the other processes wait for this one's part
            dy = torch.zeros_like(x)
        passes = _passes(ctx.backend, given)
        own = passes.backward_sums(dy, x, mixture, moments, given, eps=ctx.eps)
        grads = passes.backward_apply(
            dy,
            x,
            mixture,
            moments,
            joined_sums(own, Processes(*ctx.processes)),
            weight,
            bias,
            given,
            eps=ctx.eps,
            mixing_scale=ctx.mixing_scale,
            responsibility_grad=ctx.responsibility_grad,
        )
        dweight, dbias = affine_gradients(
            own, moments.var, mixing_weight, ctx.eps, ctx.mixing_scale
        )
        grads = grads._replace(weight=dweight, bias=dbias)
        affine = parameter_gradients(grads, weight, bias)
        return (grads.x, None, None, None, *affine, grads.responsibilities, *(None,) * 6)


def _passes(backend: str, given: Tensor | None) -> SplitBackend:
    return REFERENCE if given is not None else split(backend)
