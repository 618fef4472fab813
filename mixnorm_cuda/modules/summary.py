"""A mixture layer in a few numbers."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mixnorm_cuda.modules.mixture_norm import MixtureNormBase

EMPTY = 1e-3
"""A mixing weight below which a component is empty: the floor of λ in 1/√λ."""


def empty_components(mixing_weight: Tensor) -> Tensor:
    """Which components have less than a thousandth of their group's mass; bool ``[G, K]``."""
    return mixing_weight < EMPTY


@torch.no_grad()
def summarize(layer: "MixtureNormBase") -> dict[str, float]:
    """See `MixtureNormBase.summary`."""
    running, tracked = layer._running(), layer.num_batches_tracked
    if running is None or tracked is None:
        raise ValueError("the layer has no running statistics: expected track_running_stats=True")
    mixing_weight = running.mixing_weight
    effective = torch.special.entr(mixing_weight).sum(1).exp()
    numbers = torch.stack(
        [
            *mixing_weight.mean(0),
            effective.mean(),
            effective.min(),
            empty_components(mixing_weight).sum().to(effective),
            tracked.to(effective),
        ]
    ).tolist()
    names = [f"weight/{k}" for k in range(layer.num_components)]
    names += ["effective_components", "effective_components/least", "empty_components"]
    return dict(zip([*names, "batches_tracked"], numbers, strict=True))
