"""BatchNorm layers to compare with."""

from typing import Any

from torch import nn


def make_batch_norm(
    layer: type[nn.Module], channels: int, *, bias: bool = True, **options: Any
) -> Any:
    """``layer(channels, bias=bias, **options)``; BatchNorm has no ``bias`` before torch 2.13."""
    norm = layer(channels, **options)
    if not bias:
        norm.register_parameter("bias", None)
    return norm
