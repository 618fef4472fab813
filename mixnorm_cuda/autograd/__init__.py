"""The one place that saves tensors for a backward pass."""

from mixnorm_cuda.autograd.function import EvaluateFunction, MixtureNormFunction
from mixnorm_cuda.autograd.normalize import normalize, normalize_batch
from mixnorm_cuda.autograd.step import StepFunction, step
from mixnorm_cuda.autograd.sync import SyncMixtureNormFunction

__all__ = [
    "EvaluateFunction",
    "MixtureNormFunction",
    "StepFunction",
    "SyncMixtureNormFunction",
    "normalize",
    "normalize_batch",
    "step",
]
