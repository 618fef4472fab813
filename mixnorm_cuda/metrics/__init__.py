"""Distances between sets of features, by the mixtures fitted to them."""

from mixnorm_cuda.metrics.wasserstein import mixture_distance, wasserstein_mixture

__all__ = ["mixture_distance", "wasserstein_mixture"]
