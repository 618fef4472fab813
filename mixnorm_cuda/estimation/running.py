"""Running statistics: mass-weighted exponential averages, updated on the device."""

from typing import Any

import torch
from torch import Tensor

from mixnorm_cuda import dispatch
from mixnorm_cuda.estimation import recomputation
from mixnorm_cuda.tracing import compiling
from mixnorm_cuda.types import BatchMoments, Mixture


@torch.library.custom_op("mixnorm::snapshot", mutates_args=())
def _snapshot(mixing_weight: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return mixing_weight.clone(), mean.clone(), var.clone()


@_snapshot.register_fake
def _(mixing_weight: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(mixing_weight), torch.empty_like(mean), torch.empty_like(var)


@torch.library.custom_op("mixnorm::is_first_run", mutates_args=())
def _is_first_run(mean: Tensor) -> Tensor:
    """Asked by a compiled graph when it runs, for it is the same one in a repetition."""
    return mean.new_full((), not recomputation.is_repetition(), dtype=torch.bool)


@_is_first_run.register_fake
def _(mean: Tensor) -> Tensor:
    return mean.new_empty((), dtype=torch.bool)


def starting_mixture(running: Mixture) -> Mixture:
    """θ₀ = the running statistics of this moment, for a step that goes on to change them.

    Eager code needs no copy: what the backward reads is copied when it is saved. A compiled graph
    does: its partitioner may recompute values from the buffers in the backward, after their
    update (pytorch/pytorch#197039); what an opaque operator returns is never recomputed.
    """
    if not compiling():
        return running
    return Mixture(*_snapshot(*running))


def update_running_statistics(
    running: Mixture,
    moments: BatchMoments,
    count: int | Tensor,
    factor: float | Tensor,
    backend: str = "auto",
) -> Tensor:
    """Move ``running`` in place towards the batch's moments over ``count`` positions.

    With λ̂ = S/M and q̂ = q·min(S/(S−1), 2):
    λ' = (1−f)λ + f λ̂, ρ = f λ̂/λ', μ' = μ + ρ(m − μ), σ²' = σ² + ρ(q̂ − σ²):
    a component that saw little of the batch keeps its own statistics. A batch whose moments are
    not all finite changes nothing; returns whether they were, a 0-dim bool tensor on the device.
    A ``count`` [G, 1] on the device, of several processes' batches, may be 0: then nothing changes.
    """
    if compiling():
        # Not by an operator: the graph would hold its count, an integer, as a constant and be
        # compiled anew for every batch size.
        first: Tensor = _is_first_run(running.mean)
        weight = factor * first.to(running.mean.dtype)
        finite = dispatch.REFERENCE.update_running(running, moments, count, weight)
        return first.logical_and(finite)
    if isinstance(count, Tensor):
        return dispatch.REFERENCE.update_running(running, moments, count, factor)
    components, groups = running.mean.shape[0], running.mixing_weight.shape[0]
    chosen = dispatch.select(backend, running.mean, components, groups)
    transforms: Any = torch._C
    if transforms._are_functorch_transforms_active():
        chosen = dispatch.REFERENCE  # torch.func does not see what an operator changes in place
    return chosen.update_running(running, moments, count, factor)
