"""How a tensor lies in memory, as the kernels address it. No Triton here."""

from typing import NamedTuple

import torch
from torch import Tensor

from mixnorm_cuda.kernels.layout import is_channels_last


class Geometry(NamedTuple):
    """[N, C, *S] as M = N·L positions of C channels, contiguous or channels-last."""

    positions: int
    length: int
    """L, the positions of one sample (M where samples join to one row)."""
    channels: int
    channels_last: bool
    one_row: bool
    """Positions are equally spaced over the whole batch."""
    vec: int
    """Power of two, at most 16 bytes of elements, that divides L in contiguous tensors."""

    def runs(self, vec: int) -> tuple[int, int]:
        """M and L as the kernels take them: in runs of ``vec`` positions where these are rows."""
        per_run = 1 if self.channels_last else vec
        return self.positions // per_run, self.length // per_run


def dense(x: Tensor) -> Tensor:
    """``x`` itself when it is contiguous or channels-last, else a contiguous copy."""
    return x if x.is_contiguous() or is_channels_last(x) else x.contiguous()


def like(t: Tensor, x: Tensor) -> Tensor:
    """``t`` in the layout of a dense ``x``, copied only if it has another one."""
    if t.stride() == x.stride():
        return t
    if x.is_contiguous():
        return t.contiguous()
    return torch.empty_like(x, dtype=t.dtype).copy_(t)


def geometry(x: Tensor) -> Geometry:
    """Of a dense ``x``."""
    samples, channels = x.shape[:2]
    length = x.shape[2:].numel()
    positions = samples * length
    if not x.is_contiguous() or length == 1:
        return Geometry(positions, positions, channels, True, True, 1)
    one_row = samples == 1
    vec = 16 // x.element_size()
    while length % vec:
        vec //= 2
    return Geometry(positions, length, channels, False, one_row, vec)
