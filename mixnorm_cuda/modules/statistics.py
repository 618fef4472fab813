"""Population statistics after training."""

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mixnorm_cuda.modules.mixture_norm import MixtureNormBase


@torch.no_grad()
def update_statistics(
    loader: Iterable[Any], module: nn.Module, device: torch.device | str | None = None
) -> None:
    """Set the running statistics of all mixture layers to averages over ``loader``.

    The counterpart of ``torch.optim.swa_utils.update_bn``: one pass in training mode without
    gradients, with cumulative averages. The statistics at hand stay the starting mixture, so
    components keep their identity and their affine pairs their meaning. Momentum and training
    modes are restored; after an error the statistics are too. Layers without running statistics
    are left alone.

    Args:
        loader: batches; of a tuple or list the first entry is the input.
        module: the model.
        device: where batches are moved to before the forward pass; None leaves them.

    Raises:
        ValueError: ``module`` has mixture layers to update and ``loader`` is empty (then nothing
            has changed).
    """
    layers = [
        m for m in module.modules() if isinstance(m, MixtureNormBase) and m.running_mean is not None
    ]
    if not layers:
        return
    batches = iter(loader)
    first = next(batches, None)
    if first is None:
        raise ValueError("loader is empty: expected at least one batch")
    training = {m: m.training for m in module.modules()}
    momenta = {layer: layer.momentum for layer in layers}
    seeded = {layer: layer._seeded for layer in layers}
    # Parameters too: with affine_init="batchnorm" the seeding of a new layer sets them.
    before = [
        (tensor, tensor.clone())
        for layer in layers
        for tensor in (*layer.parameters(), *layer.buffers())
    ]
    try:
        module.train()
        for layer in layers:
            layer.momentum = None
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked.zero_()
        for batch in itertools.chain([first], batches):
            x: Tensor = batch[0] if isinstance(batch, (list, tuple)) else batch
            module(x if device is None else x.to(device))
    except BaseException:
        for tensor, value in before:
            tensor.copy_(value)
        for layer in layers:
            layer._seeded = seeded[layer]
        raise
    finally:
        for layer, momentum in momenta.items():
            layer.momentum = momentum
        for m, mode in training.items():
            m.training = mode
