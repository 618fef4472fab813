"""What a trained network's normalization layer does to a batch."""

import torch
from torch import Tensor, nn

from examples.norms import normalization_layers
from mixnorm_cuda.introspection import Activations, observe


@torch.no_grad()
def record(model: nn.Module, position: int, images: Tensor) -> Activations:
    """Run ``model`` on ``images`` and keep what its normalization layer ``position`` does.

    The layer is the position-th of :func:`examples.norms.normalization_layers`, from 1. The
    model is left in eval mode.
    """
    layer = normalization_layers(model)[position - 1]
    captured: list[Tensor] = []
    # A copy: a ReLU that follows may work in place.
    handle = layer.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0].clone()))
    try:
        model.eval()(images)
    finally:
        handle.remove()
    (x,) = captured
    return observe(layer, x)
