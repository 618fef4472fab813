"""A BatchNorm checkpoint as a mixture layer's: the one path for loading and for conversion."""

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn.parameter import is_lazy

from mixnorm_cuda.estimation import expand_affine, split_gaussian

if TYPE_CHECKING:
    from mixnorm_cuda.modules.mixture_norm import MixtureNormBase


def batch_norm_entries(
    layer: "MixtureNormBase", state_dict: dict[str, Any], prefix: str
) -> dict[str, Tensor]:
    """The entries to replace if ``state_dict`` holds a BatchNorm's at ``prefix``, else none.

    The mixture's overall mean and variance are BN's. With one affine pair per component the layer
    then computes in eval what BN does; with a shared pair it does so only at K = 1.
    """
    old = {
        name: state_dict[prefix + name]
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        if prefix + name in state_dict and not is_lazy(state_dict[prefix + name])
    }
    one_per_channel = all(
        old[name].shape == (layer.num_features,) for name in old.keys() - {"num_batches_tracked"}
    )
    if prefix + "running_weight" in state_dict or not old or not one_per_channel:
        return {}
    new = {}
    mean, var = old.get("running_mean"), old.get("running_var")
    expand = layer.component_affine and layer.weight is not None
    if mean is not None and var is not None and layer.running_mean is not None:
        dtype = layer.running_mean.dtype
        mean, var = mean.to(dtype), var.to(dtype)
        mixture = split_gaussian(mean, var, layer.num_components, layer.groups)
        new["running_weight"], new["running_mean"], new["running_var"] = mixture
        if "num_batches_tracked" not in old and layer.num_batches_tracked is not None:
            # BatchNorm before its version 2 had no counter.
            tracked = layer.num_batches_tracked
            new["num_batches_tracked"] = mean.new_zeros((), dtype=tracked.dtype)
            if not tracked.is_meta:
                new["num_batches_tracked"] = tracked
        if expand:
            new["weight"], new["bias"] = expand_affine(
                old.get("weight", mean.new_ones(mean.shape)).to(mean),
                old.get("bias", mean.new_zeros(mean.shape)).to(mean),
                mixture,
                eps=layer.eps,
                mixing_scale=layer.mixing_scale,
            )
            if layer.bias is None and "bias" not in old:
                del new["bias"]
    elif expand:
        shape = (layer.num_components, layer.num_features)
        new = {name: old[name].expand(shape) for name in ("weight", "bias") if name in old}
    return {prefix + name: value for name, value in new.items()}


def describes_data(entries: dict[str, Any], prefix: str) -> bool:
    """Whether statistics in a checkpoint came from data: counted, or not BN's starting values."""
    tracked = entries.get(prefix + "num_batches_tracked")
    if tracked is not None and (tracked.is_meta or bool(tracked > 0)):
        return not tracked.is_meta
    mean, var = entries.get(prefix + "running_mean"), entries.get(prefix + "running_var")
    if mean is None or var is None or is_lazy(mean):
        return False
    return not bool((mean == 0).all() & (var == 1).all())
