"""Mixture normalization at the price of batch normalization."""

from mixnorm_cuda import functional, metrics
from mixnorm_cuda._version import __version__
from mixnorm_cuda.dispatch import BackendUnavailableError
from mixnorm_cuda.gaussian_mixture import GaussianMixture
from mixnorm_cuda.installation import build_info
from mixnorm_cuda.introspection import MixtureMonitor, plot_mixture
from mixnorm_cuda.modules import (
    LazyMixtureNorm1d,
    LazyMixtureNorm2d,
    LazyMixtureNorm3d,
    MixtureNorm1d,
    MixtureNorm2d,
    MixtureNorm3d,
    SyncMixtureNorm,
    convert_mixture_norm,
    convert_sync_mixture_norm,
    revert_mixture_norm,
    update_statistics,
)

__all__ = [
    "BackendUnavailableError",
    "GaussianMixture",
    "LazyMixtureNorm1d",
    "LazyMixtureNorm2d",
    "LazyMixtureNorm3d",
    "MixtureMonitor",
    "MixtureNorm1d",
    "MixtureNorm2d",
    "MixtureNorm3d",
    "SyncMixtureNorm",
    "__version__",
    "build_info",
    "convert_mixture_norm",
    "convert_sync_mixture_norm",
    "functional",
    "metrics",
    "plot_mixture",
    "revert_mixture_norm",
    "update_statistics",
]
