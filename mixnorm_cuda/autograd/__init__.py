"""The one place that saves tensors for a backward pass."""

from mixnorm_cuda.autograd.function import EvaluateFunction, MixtureNormFunction

__all__ = ["EvaluateFunction", "MixtureNormFunction"]
