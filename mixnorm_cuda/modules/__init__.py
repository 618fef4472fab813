"""Layers, and conversion of models to and from them."""

from mixnorm_cuda.modules.conversion import convert_mixture_norm, revert_mixture_norm
from mixnorm_cuda.modules.lazy import LazyMixtureNorm1d, LazyMixtureNorm2d, LazyMixtureNorm3d
from mixnorm_cuda.modules.mixture_norm import MixtureNorm1d, MixtureNorm2d, MixtureNorm3d
from mixnorm_cuda.modules.statistics import update_statistics
from mixnorm_cuda.modules.sync import SyncMixtureNorm
from mixnorm_cuda.modules.sync_conversion import convert_sync_mixture_norm

__all__ = [
    "LazyMixtureNorm1d",
    "LazyMixtureNorm2d",
    "LazyMixtureNorm3d",
    "MixtureNorm1d",
    "MixtureNorm2d",
    "MixtureNorm3d",
    "SyncMixtureNorm",
    "convert_mixture_norm",
    "convert_sync_mixture_norm",
    "revert_mixture_norm",
    "update_statistics",
]
