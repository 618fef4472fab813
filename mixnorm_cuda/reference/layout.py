"""Shapes inside the reference: activations [N, G, D, L], parameters broadcast against them."""

import torch
from torch import Tensor


def grouped(x: Tensor, groups: int) -> Tensor:
    """[N, C, *S] -> [N, G, D, L] with L = prod(S), a view wherever the strides allow it."""
    flat = x.flatten(2) if x.dim() > 2 else x.unsqueeze(2)
    samples, channels, positions = flat.shape
    return flat.view(samples, groups, channels // groups, positions)


def ungrouped(y: Tensor, like: Tensor) -> Tensor:
    """[N, G, D, L] -> the shape, dtype and memory format of ``like``, in memory of its own.

    Not a view: autograd refuses in-place operations, such as a ReLU's, on a view that a custom
    function returns.
    """
    y = y.reshape(like.shape).to(like.dtype, copy=True)
    if like.dim() in (4, 5):
        channels_last = torch.channels_last if like.dim() == 4 else torch.channels_last_3d
        if not like.is_contiguous() and like.is_contiguous(memory_format=channels_last):
            return y.contiguous(memory_format=channels_last)
    return y.contiguous()


def by_component(parameter: Tensor, groups: int) -> Tensor:
    """[K, C] -> [K, G, D, 1]: entry k broadcasts against activations."""
    components, channels = parameter.shape
    return parameter.reshape(components, groups, channels // groups, 1)


def affine_by_component(parameter: Tensor | None, mean: Tensor, groups: int) -> Tensor | None:
    """γ or β, [C] or [K, C], like `by_component`, for means [K, C]."""
    if parameter is None:
        return None
    return by_component(parameter.to(mean.dtype).expand_as(mean), groups)


def by_channel(parameter: Tensor) -> Tensor:
    """[K, G, D, 1] -> [K, C]."""
    return parameter.flatten(1)


def group_entry(parameter: Tensor, k: int) -> Tensor:
    """Column k of [G, K] as [G, 1, 1], which broadcasts against activations."""
    return parameter[:, k, None, None]


def per_channel(parameter: Tensor, channels: int) -> Tensor:
    """[G, K] -> [K, C]: every channel gets its group's entry."""
    return parameter.T.repeat_interleave(channels // parameter.shape[0], dim=1)
