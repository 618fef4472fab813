"""Population statistics after training."""

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mixnorm_cuda.modules.mixture_norm import MixtureNormBase
from mixnorm_cuda.types import Mixture


@torch.no_grad()
def update_statistics(
    loader: Iterable[Any], module: nn.Module, device: torch.device | str | None = None
) -> None:
    """Set the running statistics of all mixture layers to averages over ``loader``.

    The counterpart of ``torch.optim.swa_utils.update_bn``: one pass in training mode without
    gradients, in which every batch has the same weight. All batches are assigned to components by
    the statistics at hand, so the result does not depend on their order and components keep their
    identity (and their affine pairs their meaning). With batch b's λ̂_b, m_b and unbiased q̂_b,

        λ = mean_b λ̂_b,   μ = Σ_b λ̂_b m_b / Σ_b λ̂_b,   σ² = Σ_b λ̂_b q̂_b / Σ_b λ̂_b.

    An untrained layer is seeded by the first batch. Batches that are empty or whose moments are
    not finite do not count. Momentum and training modes are restored; after an error the layers'
    statistics and parameters are too. Layers that are frozen or have no
    running statistics are left alone. BN layers see the same training forward passes and move their
    own running statistics by their momentum: a model with both calls ``update_bn`` first.

    Args:
        loader: batches; of a tuple or list the first entry is the input.
        module: the model.
        device: where batches are moved to before the forward pass; None leaves them.

    Raises:
        ValueError: ``module`` has mixture layers to update and ``loader`` is empty (then nothing
            has changed).
    """
    layers = [
        m
        for m in module.modules()
        if isinstance(m, MixtureNormBase) and m._running() is not None and not m.frozen
    ]
    if not layers:
        return
    batches = iter(loader)
    first = next(batches, None)
    if first is None:
        raise ValueError("loader is empty: expected at least one batch")
    training = {m: m.training for m in module.modules()}
    averages = [_PopulationAverage(layer) for layer in layers]
    try:
        module.train()
        for average in averages:
            average.start()
        # Hooks and another momentum would make a compiled module compile anew, twice.
        with torch.compiler.set_stance("force_eager"):
            for batch in itertools.chain([first], batches):
                x: Tensor = batch[0] if isinstance(batch, (list, tuple)) else batch
                module(x if device is None else x.to(device))
        for average in averages:
            average.finish()
    except BaseException:
        for average in averages:
            average.undo()
        raise
    finally:
        for average in averages:
            average.release()
        for m, mode in training.items():
            m.training = mode


class _PopulationAverage:
    """Averages one layer's batch statistics, each taken under the mixture it started with.

    With momentum 1 a step leaves the statistics of its batch in the buffers; a hook adds them up
    and puts the starting mixture back.
    """

    def __init__(self, layer: MixtureNormBase) -> None:
        self.layer = layer
        self.awaits_seeding = layer._awaits_seeding()
        self.momentum, self.seeded = layer.momentum, layer._seeded
        # Parameters too: with affine_init="batchnorm" the seeding of a new layer sets them.
        self.before = [(t, t.clone()) for t in (*layer.parameters(), *layer.buffers())]
        self.mixture = self._snapshot()
        self.sums = Mixture(*(torch.zeros_like(t) for t in self.mixture))
        self.hook = layer.register_forward_hook(self._add)

    def start(self) -> None:
        self.layer.momentum = 1.0
        self._tracked().zero_()
        self.count = self._tracked().clone()

    def finish(self) -> None:
        """The averages into the layer; what no batch had any mass for stays as it was."""
        share = self._per_channel(self.sums.mixing_weight)
        averages = (
            self.sums.mixing_weight / self.count,
            self.sums.mean / share,
            self.sums.var / share,
        )
        for buffer, average in zip(self._running(), averages, strict=True):
            buffer.copy_(torch.where(average.isfinite(), average, buffer))

    def undo(self) -> None:
        for tensor, value in self.before:
            tensor.copy_(value)
        self.layer._seeded = self.seeded

    def release(self) -> None:
        self.hook.remove()
        self.layer.momentum = self.momentum

    def _add(self, *_: Any) -> None:
        counted = self._tracked() > self.count
        self.count.copy_(self._tracked())
        batch = self._running()
        share = self._per_channel(batch.mixing_weight)
        parts = (batch.mixing_weight, share * batch.mean, share * batch.var)
        for total, part in zip(self.sums, parts, strict=True):
            total.add_(torch.where(counted, part, 0))
        if self.awaits_seeding and self.layer._seeded:
            self.mixture = self._snapshot()
            self.awaits_seeding = False
        for buffer, value in zip(batch, self.mixture, strict=True):
            buffer.copy_(value)

    def _running(self) -> Mixture:
        running = self.layer._running()
        assert running is not None
        return running

    def _tracked(self) -> Tensor:
        tracked = self.layer.num_batches_tracked
        assert tracked is not None
        return tracked

    def _snapshot(self) -> Mixture:
        return Mixture(*(t.clone() for t in self._running()))

    def _per_channel(self, value: Tensor) -> Tensor:
        """[G, K] -> [K, C]."""
        return value.T.repeat_interleave(self.layer.num_features // self.layer.groups, dim=1)
