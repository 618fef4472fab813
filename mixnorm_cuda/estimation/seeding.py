"""A first mixture from one batch: k-means++ and two Lloyd steps, on the device.

Arthur and Vassilvitskii, *k-means++: the advantages of careful seeding*, SODA 2007.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from mixnorm_cuda.checks import statistics_dtype
from mixnorm_cuda.distributed import Processes, from_first, gather
from mixnorm_cuda.estimation.matching import order_components
from mixnorm_cuda.estimation.spread import spread
from mixnorm_cuda.types import Mixture

MAX_POSITIONS = 4096
LLOYD_STEPS = 2


class Drawn(NamedTuple):
    """Positions to seed from."""

    points: Tensor
    """[P, C]"""
    counts: Tensor
    """[P], bool: the others are left out."""


def initial_mixture(x: Tensor, num_components: int, groups: int) -> Mixture:
    """θ before any data: λ = 1/K, μ = 0, σ² = 1, for the channels and dtype of ``x``."""
    channels, dtype = x.shape[1], statistics_dtype(x.dtype)
    return Mixture(
        torch.full((groups, num_components), 1 / num_components, device=x.device, dtype=dtype),
        torch.zeros(num_components, channels, device=x.device, dtype=dtype),
        torch.ones(num_components, channels, device=x.device, dtype=dtype),
    )


@torch.no_grad()
def seed_mixture(
    x: Tensor, num_components: int, groups: int, eps: float, processes: Processes | None = None
) -> Mixture:
    """θ of each group from at most 4,096 positions of ``x`` [N, C, *S] drawn at random.

    Channels are scaled by their standard deviation. Draws come from torch's generator, so a seed
    reproduces them and activation checkpointing replays them; nothing is read on the host.
    Positions with values that are not finite, or so large that a sum of their squares is not, are
    left out; the result is finite for every input.
    Each component's weight and variance count one more observation at the overall variance, so
    that none starts empty or with no width. The first component is the one that is least remote
    from the whole mixture (`order_components`).
    With ``processes`` the positions are of all their ``x``, and all get the same θ.
    """
    if processes is None:
        return _cluster(_draw(x), num_components, groups, eps)
    mixture = _cluster(_draw_together(x, processes), num_components, groups, eps)
    sizes = [t.numel() for t in mixture]
    parts = from_first(torch.cat([t.flatten() for t in mixture]), processes)
    return Mixture(
        *(part.view(t.shape) for part, t in zip(torch.split(parts, sizes), mixture, strict=True))
    )


def _cluster(drawn: Drawn, num_components: int, groups: int, eps: float) -> Mixture:
    points, valid, mean, var = _standardization(drawn, groups)
    scale = (var + eps).rsqrt()
    z = torch.where(valid.unsqueeze(2), (points - mean) * scale, 0)

    centres = _plus_plus(z, valid, num_components)
    for _ in range(LLOYD_STEPS):
        members = _members(z, centres, valid)
        size = members.sum(1).unsqueeze(2)
        centres = torch.where(size > 0, members.mT @ z / size.clamp_min(1), centres)
    members = _members(z, centres, valid)
    size = members.sum(1)
    spread = torch.stack(
        [
            (members[..., k, None] * (z - centres[:, k, None]).square()).sum(1)
            for k in range(num_components)
        ],
        dim=1,
    )
    spread = (spread + 1) / (size + 1).unsqueeze(2)
    mixture = Mixture(
        (size + 1) / (size + 1).sum(1, keepdim=True),
        _by_channel(mean + centres / scale),
        _by_channel(spread * (var + eps)),
    )
    return order_components(mixture, eps)


def _draw(x: Tensor) -> Drawn:
    """All positions of ``x``, or 4,096 of them drawn with replacement."""
    total = _positions(x)
    index = torch.arange(total, device=x.device)
    if total > MAX_POSITIONS:
        index = torch.randint(total, (MAX_POSITIONS,), device=x.device)
    return Drawn(_take(x, index), torch.ones_like(index, dtype=torch.bool))


def _draw_together(x: Tensor, processes: Processes) -> Drawn:
    """Positions of every process's ``x``, in proportion to their number, the same for all.

    Each sends its share of the 4,096 and how many it has; which of them count is then known
    everywhere without another exchange. One process's largest batch sets the rate.
    """
    total, size = _positions(x), max(MAX_POSITIONS // processes.size, 1)
    if total > size:
        index = torch.randint(total, (size,), device=x.device)
    else:  # in random order, for less than all of them may count
        index = torch.randperm(total, device=x.device)
    points = pad(_take(x, index), (0, 0, 0, size - index.shape[0]))
    packed = torch.cat([points.flatten(), points.new_full((1,), total)])
    parts = gather(packed, processes)
    totals = parts[:, -1:]
    quota = totals * (size / totals.max().clamp_min(size))
    return Drawn(
        parts[:, :-1].reshape(-1, x.shape[1]),
        (torch.arange(size, device=x.device) < quota).flatten(),
    )


def _positions(x: Tensor) -> int:
    return x.shape[0] * x.shape[2:].numel()


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Rows [P, C] of the positions ``index``, in the statistics dtype."""
    flat = x.flatten(2) if x.dim() > 2 else x.unsqueeze(2)
    positions = max(flat.shape[2], 1)
    return flat[index // positions, :, index % positions].to(statistics_dtype(x.dtype))


def _standardization(drawn: Drawn, groups: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points [G, P, D], which are valid [G, P], and the mean and variance [G, 1, D] of those."""
    channels = drawn.points.shape[1]
    points = drawn.points.view(-1, groups, channels // groups).transpose(0, 1)
    # |p| ≤ limit: the differences p − p' are at most twice that, and P of their squares can be
    # summed. NaN compares false.
    limit = 0.5 * (torch.finfo(points.dtype).max / MAX_POSITIONS) ** 0.5
    valid = (points.abs() <= limit).all(dim=2, keepdim=True) & drawn.counts[:, None]
    size = valid.sum(1, keepdim=True).clamp_min(1)
    mean = torch.where(valid, points, 0).sum(1, keepdim=True) / size
    var = torch.where(valid, (points - mean).square(), 0).sum(1, keepdim=True) / size
    return points, valid.squeeze(2), mean, torch.where(valid.any(1, keepdim=True), var, 1)


def _plus_plus(z: Tensor, valid: Tensor, num_components: int) -> Tensor:
    """k-means++ centres [G, K, D]: each next one drawn with probability ∝ squared distance.

    Where no distinct point is left (a constant input), the offsets of `spread` take the rest, for
    components that start identical would stay identical. An even number of them has no zero, where
    a constant input lies.
    """
    offsets = spread(2 * num_components, z.shape[2], z.device, z.dtype)
    centres: list[Tensor] = []
    distance = valid.to(z.dtype)
    for k in range(num_components):
        # The largest of weight/Exponential(1) is a draw in proportion to the weights; unlike
        # multinomial it accepts all-zero weights (a constant input) without an error.
        index = (distance / torch.empty_like(distance).exponential_()).argmax(dim=1)
        centre = z.gather(1, index[:, None, None].expand(-1, 1, z.shape[2]))
        exhausted = distance.amax(dim=1) == 0
        centre = torch.where(exhausted[:, None, None], offsets[k], centre)
        to_centre = (z - centre).square().sum(2) * valid
        distance = to_centre if not centres else torch.minimum(distance, to_centre)
        centres.append(centre)
    return torch.cat(centres, dim=1)


def _members(z: Tensor, centres: Tensor, valid: Tensor) -> Tensor:
    """One-hot assignment [G, P, K] of valid points to their nearest centre."""
    distance = torch.stack(
        [(z - centres[:, k, None]).square().sum(2) for k in range(centres.shape[1])], dim=2
    )
    nearest = distance.argmin(dim=2, keepdim=True)
    one_hot = nearest == torch.arange(centres.shape[1], device=z.device)
    return (one_hot & valid.unsqueeze(2)).to(z.dtype)


def _by_channel(value: Tensor) -> Tensor:
    """[G, K, D] -> [K, C]."""
    return value.transpose(0, 1).flatten(1)
