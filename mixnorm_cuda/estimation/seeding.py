"""A first mixture from one batch: k-means++ and two Lloyd steps, on the device.

Arthur and Vassilvitskii, *k-means++: the advantages of careful seeding*, SODA 2007.
"""

import torch
from torch import Tensor

from mixnorm_cuda.checks import statistics_dtype
from mixnorm_cuda.estimation.spread import spread
from mixnorm_cuda.types import Mixture

MAX_POSITIONS = 4096
LLOYD_STEPS = 2


def initial_mixture(x: Tensor, num_components: int, groups: int) -> Mixture:
    """θ before any data: λ = 1/K, μ = 0, σ² = 1, for the channels and dtype of ``x``."""
    channels, dtype = x.shape[1], statistics_dtype(x.dtype)
    return Mixture(
        torch.full((groups, num_components), 1 / num_components, device=x.device, dtype=dtype),
        torch.zeros(num_components, channels, device=x.device, dtype=dtype),
        torch.ones(num_components, channels, device=x.device, dtype=dtype),
    )


@torch.no_grad()
def seed_mixture(x: Tensor, num_components: int, groups: int, eps: float) -> Mixture:
    """θ of each group from at most 4,096 positions of ``x`` [N, C, *S] drawn at random.

    Channels are scaled by their standard deviation. Draws come from torch's generator, so a seed
    reproduces them and activation checkpointing replays them; nothing is read on the host.
    Positions with values that are not finite, or so large that a sum of their squares is not, are
    left out; the result is finite for every input.
    Each component's weight and variance count one more observation at the overall variance, so
    that none starts empty or with no width.
    """
    points, valid, mean, var = _draw(x, groups)
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
    return Mixture(
        (size + 1) / (size + 1).sum(1, keepdim=True),
        _by_channel(mean + centres / scale),
        _by_channel(spread * (var + eps)),
    )


def _draw(x: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points [G, P, D], which are valid [G, P], and the mean and variance [G, 1, D] of those."""
    flat = x.flatten(2) if x.dim() > 2 else x.unsqueeze(2)
    samples, channels, positions = flat.shape
    total = samples * positions
    index = torch.arange(total, device=x.device)
    if total > MAX_POSITIONS:
        index = torch.randint(total, (MAX_POSITIONS,), device=x.device)
    points = flat[index // positions, :, index % positions].to(statistics_dtype(x.dtype))
    points = points.view(-1, groups, channels // groups).transpose(0, 1)
    # |p| ≤ limit: the differences p − p' are at most twice that, and P of their squares can be
    # summed. NaN compares false.
    limit = 0.5 * (torch.finfo(points.dtype).max / MAX_POSITIONS) ** 0.5
    valid = (points.abs() <= limit).all(dim=2, keepdim=True)
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
