"""Components placed apart around one Gaussian, without data."""

import math

import torch
from torch import Tensor

AMPLITUDE = 0.5


def spread(num_components: int, channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Offsets d ``[K, channels]`` in standard deviations, Σ_k d = 0 and Σ_k d² = K/8 for K > 1.

    d_kc = ½ cos 2π(k/K + φ_c) with φ_c = (j_c + ½)/2K: in every channel the K Chebyshev nodes, no
    two of them equal. The integers j_c, in golden-ratio steps, change their order from channel to
    channel. K = 1 gives zeros.
    """
    if num_components == 1:
        return torch.zeros(1, channels, device=device, dtype=dtype)
    golden = (math.sqrt(5) - 1) / 2
    orders = 2 * num_components
    order = torch.arange(channels, device=device, dtype=torch.float64).mul(golden).frac()
    phase = (order.mul(orders).floor() + 0.5) / orders
    turn = torch.arange(num_components, device=device, dtype=torch.float64) / num_components
    return (AMPLITUDE * torch.cos(2 * math.pi * (turn[:, None] + phase))).to(dtype)
