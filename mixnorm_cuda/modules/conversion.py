"""BatchNorm layers of a model to mixture layers, and K = 1 layers back."""

from collections import OrderedDict
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mixnorm_cuda.modules.mixture_norm import (
    MixtureNorm1d,
    MixtureNorm2d,
    MixtureNorm3d,
    MixtureNormBase,
)
from mixnorm_cuda.modules.sync import SyncMixtureNorm

Only = str | Callable[[str, nn.Module], bool] | None

_COUNTERPARTS: tuple[tuple[type[nn.Module], type[MixtureNormBase]], ...] = (
    (nn.BatchNorm1d, MixtureNorm1d),
    (nn.BatchNorm2d, MixtureNorm2d),
    (nn.BatchNorm3d, MixtureNorm3d),
    (nn.SyncBatchNorm, SyncMixtureNorm),
)


def convert_mixture_norm(
    module: nn.Module, *, only: Only = None, num_components: int = 3, **layer_options: Any
) -> nn.Module:
    """Replace BatchNorm layers by mixture layers, in place, keeping parameters and statistics.

    ``BatchNorm1d/2d/3d`` become ``MixtureNorm1d/2d/3d`` and ``SyncBatchNorm`` becomes
    `SyncMixtureNorm`, with the same eps, momentum, affine, tracking, device, dtypes, training mode
    and ``requires_grad``. A trained layer's mixture starts as K distinct equal components whose
    overall mean and variance are BN's; an untrained one is seeded from its first batch. With
    ``component_affine=True``, and at K = 1, eval outputs stay as they were.

    Args:
        module: a model, or a BatchNorm layer itself.
        only: which layers: a pattern (`fnmatch`) on the layer's name within ``module``, such as
            ``"layer1.*.bn2"``, or a predicate ``(name, layer) -> bool``. None: all.
        num_components: K.
        layer_options: further keyword arguments of the mixture layer.

    Returns:
        ``module``, or the new layer when ``module`` is a BatchNorm itself.

    Raises:
        ValueError: ``only`` is a pattern that matches no BatchNorm layer; an option is out of
            range for a layer (then nothing has been replaced).
        TypeError: a BatchNorm class without a counterpart, such as a lazy one.
    """
    chosen = {
        name: layer
        for name, layer in module.named_modules(remove_duplicate=False)
        if isinstance(layer, _BatchNorm) and _matches(only, name, layer)
    }
    if not chosen and isinstance(only, str):
        raise ValueError(f"only={only!r}: expected a pattern that matches a BatchNorm layer's name")
    # One new layer for each old one, made before any is replaced: a layer that several names
    # share stays shared, and an error leaves the model whole.
    converted = {
        layer: _with_activation(layer, _from_batch_norm_layer(layer, num_components, layer_options))
        for layer in dict.fromkeys(chosen.values())
    }
    return _replace(module, {name: converted[layer] for name, layer in chosen.items()})


def revert_mixture_norm(module: nn.Module) -> nn.Module:
    """Replace mixture layers with K = 1 by the BatchNorm layers they are equal to, in place.

    Returns:
        ``module``, or the new layer when ``module`` is a mixture layer itself.

    Raises:
        ValueError: a mixture layer has K > 1 (then nothing has been replaced).
        TypeError: a mixture class without a counterpart, such as a lazy one.
    """
    chosen = {
        name: layer
        for name, layer in module.named_modules(remove_duplicate=False)
        if isinstance(layer, MixtureNormBase)
    }
    for name, layer in chosen.items():
        if layer.num_components != 1:
            raise ValueError(
                f"{name or 'module'} has num_components={layer.num_components}: expected 1, "
                "since BatchNorm has no counterpart of several components"
            )
    reverted = {layer: _to_batch_norm_layer(layer) for layer in dict.fromkeys(chosen.values())}
    return _replace(module, {name: reverted[layer] for name, layer in chosen.items()})


def _matches(only: Only, name: str, layer: nn.Module) -> bool:
    if only is None:
        return True
    return fnmatchcase(name, only) if isinstance(only, str) else only(name, layer)


def _replace(module: nn.Module, replacements: dict[str, nn.Module]) -> nn.Module:
    for name, layer in replacements.items():
        if not name:
            return layer
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, layer)
    return module


def _from_batch_norm_layer(
    old: _BatchNorm, num_components: int, layer_options: dict[str, Any]
) -> MixtureNormBase:
    kind: type[nn.Module] = nn.BatchNorm2d if _has_activation(old) else type(old)
    counterpart = next((new for bn, new in _COUNTERPARTS if kind is bn), None)
    if counterpart is None:
        known = ", ".join(batch_norm.__name__ for batch_norm, _ in _COUNTERPARTS)
        raise TypeError(f"layer of type {type(old).__name__}: expected one of {known}")
    tensor = next((t for t in (old.weight, old.running_mean) if t is not None), None)
    options: dict[str, Any] = {
        "eps": old.eps,
        "momentum": old.momentum,
        "affine": old.affine,
        "track_running_stats": old.track_running_stats,
        "bias": old.bias is not None or not old.affine,
        "device": None if tensor is None else tensor.device,
        "dtype": None if tensor is None else tensor.dtype,
    }
    new = counterpart(old.num_features, num_components=num_components, **(options | layer_options))
    if isinstance(new, SyncMixtureNorm):
        new.process_group = layer_options.get("process_group", old.process_group)
    # Not strict: the options may ask for a layer without what BN has, such as a bias.
    new.load_state_dict(old.state_dict(), strict=False)
    for name, parameter in new.named_parameters():
        source = getattr(old, name)
        if source is not None:
            parameter.requires_grad_(source.requires_grad)
    return new.train(old.training)


def _has_activation(layer: _BatchNorm) -> bool:
    """Whether ``layer`` is timm's BatchNormAct2d: BatchNorm2d, then ``drop``, then ``act``."""
    parts = (getattr(layer, "drop", None), getattr(layer, "act", None))
    return isinstance(layer, nn.BatchNorm2d) and all(isinstance(p, nn.Module) for p in parts)


def _with_activation(old: _BatchNorm, new: MixtureNormBase) -> nn.Module:
    """``new`` with what ``old`` does after its normalization."""
    if not _has_activation(old):
        return new
    parts = OrderedDict[str, nn.Module](norm=new)
    for name in ("drop", "act"):
        parts[name] = old.get_submodule(name)
    return nn.Sequential(parts).train(old.training)


@torch.no_grad()
def _to_batch_norm_layer(old: MixtureNormBase) -> nn.Module:
    counterpart = next((bn for bn, mixture in _COUNTERPARTS if type(old) is mixture), None)
    if counterpart is None:
        known = ", ".join(mixture.__name__ for _, mixture in _COUNTERPARTS)
        raise TypeError(f"layer of type {type(old).__name__}: expected one of {known}")
    tensor = next((t for t in (old.weight, old.running_mean) if t is not None), None)
    new: Any = counterpart(
        old.num_features,
        eps=old.eps,
        momentum=old.momentum,
        affine=old.affine,
        track_running_stats=old.track_running_stats,
        device=None if tensor is None else tensor.device,
        dtype=None if tensor is None else tensor.dtype,
    )
    for name in ("weight", "bias"):
        source, target = getattr(old, name), getattr(new, name)
        if source is not None:
            target.copy_(source.reshape(-1)).requires_grad_(source.requires_grad)
        elif target is not None:
            new.register_parameter(name, None)
    running = old._running()
    if running is not None:
        new.running_mean.copy_(running.mean[0])
        new.running_var.copy_(running.var[0])
        new.num_batches_tracked.copy_(old.num_batches_tracked)
    if isinstance(old, SyncMixtureNorm):
        new.process_group = old.process_group
    converted: nn.Module = new.train(old.training)
    return converted
