"""The order of components: by their distance from the whole mixture, or to match another mixture.

On the device, without a synchronisation with the host.
"""

import torch
from torch import Tensor

from mixnorm_cuda.reference import remoteness
from mixnorm_cuda.types import Mixture


@torch.no_grad()
def order_components(mixture: Mixture, eps: float) -> Mixture:
    """``mixture`` with the least remote component of every group first.

    Kernels take log-odds relative to the first component: one that is broad and amid the others
    costs them the fewest digits.
    """
    return _reordered(mixture, remoteness(mixture, eps).argsort(dim=1, stable=True))


@torch.no_grad()
def match_components(mixture: Mixture, target: Mixture, eps: float) -> Mixture:
    """``mixture`` with its components reordered to lie closest to those of ``target``.

    Per group, the one-to-one assignment with the least total squared 2-Wasserstein distance
    Σ_c [(μ − μ')² + (σ − σ')²] / (mean over k of σ'² + ε): between diagonal Gaussians, with
    channels on their own scale. K = 1 has nothing to order.
    """
    groups, components = mixture.mixing_weight.shape
    if components == 1:
        return mixture
    return _reordered(mixture, cheapest_assignment(_distances(mixture, target, groups, eps)))


def _reordered(mixture: Mixture, order: Tensor) -> Mixture:
    """Entry k of every group is its component ``order[g, k]``."""
    channels_per_group = mixture.mean.shape[1] // order.shape[0]
    by_channel = order.T.repeat_interleave(channels_per_group, dim=1)
    return Mixture(
        mixture.mixing_weight.gather(1, order),
        mixture.mean.gather(0, by_channel),
        mixture.var.gather(0, by_channel),
    )


def _distances(mixture: Mixture, target: Mixture, groups: int, eps: float) -> Tensor:
    """[G, K, K]: entry (g, i, j) from component i of ``target`` to component j of ``mixture``."""
    scale = (target.var.mean(0) + eps).rsqrt()

    def points(m: Mixture) -> Tensor:
        k = m.mean.shape[0]
        features = torch.stack((m.mean, m.var.clamp_min(0).sqrt()), dim=2) * scale[:, None]
        return features.view(k, groups, -1).transpose(0, 1)

    return (points(target).unsqueeze(2) - points(mixture).unsqueeze(1)).square().sum(-1)


def cheapest_assignment(cost: Tensor) -> Tensor:
    """The permutation p that minimizes Σ_i cost[g, i, p_i], for every g; ``[G, K]`` from [G, K, K].

    Dynamic programming over sets of used columns: exact, K·2^K work, no host synchronisation
    (the Hungarian method branches on values).
    """
    groups, size, _ = cost.shape
    cost = cost.nan_to_num(nan=torch.finfo(cost.dtype).max / size**2).clamp_max(
        torch.finfo(cost.dtype).max / size**2
    )
    sets = torch.arange(2**size, device=cost.device)
    columns = torch.arange(size, device=cost.device)
    uses = (sets[:, None] >> columns).bitwise_and(1).bool()
    without = sets[:, None] ^ (1 << columns)
    # best[s]: least cost of giving the first |s| rows the columns of s; sets of other sizes than
    # the row at hand hold stale values that a later row replaces before it reads them.
    best = cost.new_zeros(groups, 2**size)
    last_column = []
    for row in range(size):
        through = best[:, without] + cost[:, row, None, :]
        best, last = through.masked_fill(~uses, torch.inf).min(dim=2)
        last_column.append(last)
    order = []
    left = torch.full((groups, 1), 2**size - 1, device=cost.device)
    for last in reversed(last_column):
        column = last.gather(1, left)
        order.append(column)
        left = left ^ (1 << column)
    return torch.cat(order[::-1], dim=1)
