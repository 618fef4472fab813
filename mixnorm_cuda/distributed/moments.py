"""Moments and gradient sums of a batch that lies in parts on several processes.

T. F. Chan, G. H. Golub and R. J. LeVeque, *Updating formulae and a pairwise algorithm for computing
sample variances*, 1979.
"""

import torch
from torch import Tensor

from mixnorm_cuda.distributed.collectives import gather, total
from mixnorm_cuda.distributed.processes import Processes
from mixnorm_cuda.reference import per_channel, safe_mass
from mixnorm_cuda.types import BatchMoments, GradientSums


def joined_moments(own: BatchMoments, mean: Tensor, processes: Processes) -> BatchMoments:
    """The moments of all processes' parts, from this one's ``own``: one collective.

    Each sends (G + 2C)·K numbers. The parts are merged by every process in the order of ranks, so
    that all have the same bits. ``mean`` is the μ that an empty component keeps.
    """
    sizes = [t.numel() for t in own]
    packed = torch.cat([t.flatten() for t in own])
    parts = torch.split(gather(packed, processes), sizes, dim=1)
    return merged(
        BatchMoments(*(part.reshape(-1, *t.shape) for part, t in zip(parts, own, strict=True))),
        mean,
    )


def merged(parts: BatchMoments, mean: Tensor) -> BatchMoments:
    """Moments of the whole from ``parts`` [W, G, K], [W, K, C], [W, K, C].

    With S̃ = max(S, 1e-6) as in the parts, and the first moment e_w = (S̃_w − S_w)(m_w − μ) about
    its own mean that only a part of next to no mass has:

        S = Σ S_w,   m = c + Σ [S_w (m_w − c) + e_w]/S̃ + (μ − c)(1 − S/S̃),
        q = Σ [S̃_w q_w + (m_w − m)(S_w (m_w − m) + 2 e_w)]/S̃.

    Equal for every c; the mean of the m_w by mass keeps the differences small.
    """
    channels = mean.shape[1]
    mass = parts.mass.sum(0)
    whole = per_channel(mass, channels)
    floor = safe_mass(whole)
    share = torch.stack([per_channel(part, channels) for part in parts.mass])
    share_floor = safe_mass(share)
    rest = (share_floor - share) * (parts.mean - mean)
    centre = (share * parts.mean).sum(0) / floor
    m = (
        centre
        + ((share * (parts.mean - centre) + rest).sum(0) + (mean - centre) * (floor - whole))
        / floor
    )
    apart = parts.mean - m
    q = (share_floor * parts.var + apart * (share * apart + 2 * rest)).sum(0) / floor
    return BatchMoments(mass, m, q)


def joined_count(moments: BatchMoments) -> Tensor:
    """The number of positions ``[G, 1]`` that ``moments`` are of: Σ_k ν = 1 at each of them."""
    return moments.mass.sum(1, keepdim=True)


def joined_sums(own: GradientSums, processes: Processes) -> GradientSums:
    """H1 and H2 over all processes' parts, from this one's ``own``: one collective of 2·C·K."""
    return GradientSums(*total(torch.stack(own), processes))
