"""BatchNorm's parameters and statistics as those of a mixture layer, and back."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from mixnorm_cuda.estimation import expand_affine, split_gaussian
from mixnorm_cuda.types import Mixture

if TYPE_CHECKING:
    from mixnorm_cuda.modules.mixture_norm import MixtureNormBase


def from_batch_norm(
    layer: "MixtureNormBase",
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
) -> tuple[Mixture, Tensor | None, Tensor | None]:
    """θ and the affine pairs for ``layer`` from BN's, all ``[C]``.

    The mixture's overall mean and variance are BN's. With one affine pair per component the layer
    then computes in eval what BN does; with a shared pair it does so only at K = 1.
    """
    mixture = split_gaussian(mean, var, layer.num_components, layer.groups)
    if not layer.component_affine or layer.weight is None:
        return mixture, weight, bias
    weight = mean.new_ones(mean.shape) if weight is None else weight.to(mean.dtype)
    zero_bias = mean.new_zeros(mean.shape) if bias is None else bias.to(mean.dtype)
    return mixture, *expand_affine(
        weight, zero_bias, mixture, eps=layer.eps, mixing_scale=layer.mixing_scale
    )


def batch_norm_entries(
    layer: "MixtureNormBase", state_dict: dict[str, Any], prefix: str
) -> dict[str, Tensor]:
    """The entries to replace when ``state_dict`` holds a BatchNorm's at ``prefix``, else nothing."""
    mean, var = state_dict.get(prefix + "running_mean"), state_dict.get(prefix + "running_var")
    if layer.running_mean is None or mean is None or var is None:
        return {}
    if prefix + "running_weight" in state_dict or mean.shape != (layer.num_features,):
        return {}
    statistics = layer.running_mean.dtype
    mixture, weight, bias = from_batch_norm(
        layer,
        mean.to(statistics),
        var.to(statistics),
        state_dict.get(prefix + "weight"),
        state_dict.get(prefix + "bias"),
    )
    entries = {
        "running_weight": mixture.mixing_weight,
        "running_mean": mixture.mean,
        "running_var": mixture.var,
        "weight": weight,
        "bias": bias if layer.bias is not None else state_dict.get(prefix + "bias"),
        # Checkpoints of BatchNorm before its version 2 have no counter.
        "num_batches_tracked": state_dict.get(
            prefix + "num_batches_tracked", layer.num_batches_tracked
        ),
    }
    return {prefix + name: value for name, value in entries.items() if value is not None}
