"""What a normalization layer sees and gives, and the mixture it has fitted."""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mixnorm_cuda.modules.mixture_norm import MixtureNormBase


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
def observe(layer: nn.Module, x: Tensor) -> Activations:
    """What ``layer``, a mixture layer or a BatchNorm, does to ``x`` in eval. It is left as it was.

    Raises:
        TypeError: ``layer`` is of another kind.
        ValueError: ``layer`` keeps no running statistics.
    """
    if isinstance(layer, MixtureNormBase):
        running = layer._running()
        weight, mean, var = running if running is not None else (None, None, None)
    elif isinstance(layer, _BatchNorm):
        weight = torch.ones(1, 1)
        mean, var = (t if t is None else t[None] for t in (layer.running_mean, layer.running_var))
    else:
        raise TypeError(
            f"layer of type {type(layer).__name__}: expected a mixture layer or BatchNorm"
        )
    if weight is None or mean is None or var is None:
        raise ValueError("layer has no running statistics: expected track_running_stats=True")
    bare = copy.deepcopy(layer).eval()
    for name, parameter in bare.named_parameters():
        parameter.fill_(1.0 if name == "weight" else 0.0)
    before, after = (_positions(values) for values in (x, bare(x)))
    weight, mean, var = (t.float().cpu() for t in (weight, mean, var))
    return Activations(before, after, weight, mean, var + layer.eps)


def _positions(x: Tensor) -> Tensor:
    return x.detach().movedim(1, -1).flatten(0, -2).float().cpu()
