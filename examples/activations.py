"""What a trained network's normalization layer sees and gives, and the mixture it has fitted."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from examples.norms import normalization_layers
from mixnorm_cuda import MixtureNorm2d


@dataclass(frozen=True)
class Activations:
    """A normalization layer in eval mode on a batch, M positions of C channels, on the CPU.

    ``before`` and ``after`` are ``[M, C]``, the latter without γ and β; λ ``[G, K]``, μ ``[K, C]``
    and σ² + ε ``[K, C]`` are the layer's running statistics: BN is the mixture of one Gaussian.
    """

    before: Tensor
    after: Tensor
    mixing_weight: Tensor
    mean: Tensor
    var: Tensor

    @property
    def num_components(self) -> int:
        return len(self.mean)

    def _group(self, channel: int) -> tuple[int, slice]:
        size = self.mean.shape[1] // len(self.mixing_weight)
        group = channel // size
        return group, slice(group * size, (group + 1) * size)

    def responsibilities(self, channel: int) -> Tensor:
        """ν of the channel's group at every position, ``[M, K]``."""
        group, members = self._group(channel)
        log_density = gaussian_log_density(
            self.before[:, None, members], self.mean[:, members], self.var[:, members]
        )
        return (self.mixing_weight[group].log() + log_density.sum(dim=2)).softmax(dim=1)

    def log_densities(self, channel: int, values: Tensor) -> Tensor:
        """log λ_k N(value; μ_k, σ²_k + ε) of the channel's marginal, ``[len(values), K]``."""
        group, _ = self._group(channel)
        log_density = gaussian_log_density(
            values[:, None], self.mean[:, channel], self.var[:, channel]
        )
        return self.mixing_weight[group].log() + log_density

    def gain(self, channel: int) -> float:
        """Mean log-likelihood of the channel's values, less that of one Gaussian fitted to them."""
        values = self.before[:, channel]
        one = gaussian_log_density(values, values.mean(), values.var()).mean()
        mixture = self.log_densities(channel, values).logsumexp(dim=1).mean()
        return float(mixture - one)

    def most_mixed_channel(self) -> int:
        """The channel that a mixture describes best in comparison with one Gaussian."""
        gains = [self.gain(channel) for channel in range(self.mean.shape[1])]
        return max(range(len(gains)), key=lambda c: -math.inf if math.isnan(gains[c]) else gains[c])


def gaussian_log_density(values: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """log N(value; μ, σ²), with σ² of at least 1e-12 so that a dead channel stays finite."""
    var = var.clamp_min(1e-12)
    return -0.5 * ((values - mean).square() / var + var.log() + math.log(2.0 * math.pi))


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
    bare = copy.deepcopy(layer)
    for name, parameter in bare.named_parameters():
        parameter.fill_(1.0 if name == "weight" else 0.0)
    (x,) = captured
    before, after = (_positions(values) for values in (x, bare(x)))
    if isinstance(layer, MixtureNorm2d):
        weight, mean, var = layer.running_weight, layer.running_mean, layer.running_var
    else:
        assert isinstance(layer, nn.BatchNorm2d)
        weight = torch.ones(1, 1)
        mean, var = (_present(buffer)[None] for buffer in (layer.running_mean, layer.running_var))
    kept = (_present(t).float().cpu() for t in (weight, mean, var))
    weight, mean, var = kept
    return Activations(before, after, weight, mean, var + layer.eps)


def _positions(x: Tensor) -> Tensor:
    return x.movedim(1, -1).flatten(0, -2).float().cpu()


def _present(buffer: Tensor | None) -> Tensor:
    if buffer is None:
        raise ValueError("the layer keeps no running statistics (track_running_stats=False)")
    return buffer
