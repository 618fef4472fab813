"""Mixture layers of a model to layers that share their statistics between processes."""

from torch import distributed, nn

from mixnorm_cuda.modules.conversion import _replace
from mixnorm_cuda.modules.mixture_norm import (
    MixtureNorm1d,
    MixtureNorm2d,
    MixtureNorm3d,
    MixtureNormBase,
)
from mixnorm_cuda.modules.sync import SyncMixtureNorm

_CONVERTED = (MixtureNorm1d, MixtureNorm2d, MixtureNorm3d, SyncMixtureNorm)


def convert_sync_mixture_norm(
    module: nn.Module, process_group: "distributed.ProcessGroup | None" = None
) -> nn.Module:
    """Replace mixture layers by `SyncMixtureNorm`, in place.

    The counterpart of ``nn.SyncBatchNorm.convert_sync_batchnorm``. The new layers have the old
    ones' options, parameters and buffers (the same tensors, so an optimizer stays valid), hooks
    and training mode; a layer that several names share stays shared. Convert before wrapping in
    DistributedDataParallel, and in every process. `SyncMixtureNorm` layers get the group too.

    Args:
        module: a model, or a mixture layer itself.
        process_group: whose batches the layers join; None is the default group.

    Returns:
        ``module``, or the new layer when ``module`` is a mixture layer itself.

    Raises:
        TypeError: a mixture class without a counterpart, such as a lazy one (then nothing has
            been replaced).
    """
    chosen = {
        name: layer
        for name, layer in module.named_modules(remove_duplicate=False)
        if isinstance(layer, MixtureNormBase)
    }
    for name, layer in chosen.items():
        if type(layer) not in _CONVERTED:
            known = ", ".join(mixture.__name__ for mixture in _CONVERTED)
            raise TypeError(
                f"{name or 'module'} is of type {type(layer).__name__}: expected one of {known}"
            )
    converted = {layer: _synchronized(layer, process_group) for layer in set(chosen.values())}
    return _replace(module, {name: converted[layer] for name, layer in chosen.items()})


def _synchronized(
    old: MixtureNormBase, process_group: "distributed.ProcessGroup | None"
) -> SyncMixtureNorm:
    # The classes differ in what they exchange, not in what they hold.
    new = SyncMixtureNorm(0, device="meta")
    for name, value in vars(old).items():
        vars(new)[name] = value.copy() if isinstance(value, (dict, set)) else value
    new.process_group, new._agreed = process_group, False
    return new
