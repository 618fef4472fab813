"""The one place that saves tensors for a backward pass."""

from mixnorm_cuda.autograd.function import EvaluateFunction, MixtureNormFunction
from mixnorm_cuda.autograd.normalize import normalize, normalize_batch

__all__ = ["EvaluateFunction", "MixtureNormFunction", "normalize", "normalize_batch"]
