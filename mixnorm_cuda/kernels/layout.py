"""How tensors lie in memory."""

from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """[N, C, *S] of any rank, dense, with the channels of a position side by side."""
    expected = 1
    for d in (1, *range(x.dim() - 1, 1, -1), 0):
        if x.shape[d] != 1 and x.stride(d) != expected:
            return False
        expected *= x.shape[d]
    return True
