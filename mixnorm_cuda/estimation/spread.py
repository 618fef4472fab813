"""Components placed apart around one Gaussian, without data."""

import math

import torch
from torch import Tensor

AMPLITUDE = 0.5


def spread(num_components: int, channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Offsets d ``[K, channels]`` in standard deviations: d_kc = ½ cos 2π(k/K + φ_c), Σ_k d = 0.

    φ_c steps by the golden ratio, so no two channels share a direction. K = 1 gives zeros.
    """
    if num_components == 1:
        return torch.zeros(1, channels, device=device, dtype=dtype)
    golden = (math.sqrt(5) - 1) / 2
    phase = torch.arange(channels, device=device, dtype=torch.float64).mul(golden).frac()
    turn = torch.arange(num_components, device=device, dtype=torch.float64) / num_components
    return (AMPLITUDE * torch.cos(2 * math.pi * (turn[:, None] + phase))).to(dtype)
