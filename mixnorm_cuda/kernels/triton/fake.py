"""Fake implementations: shapes, dtypes and memory formats of what the operators return."""

import torch
from torch import Tensor

from mixnorm_cuda.kernels.triton.arguments import kept_shape
from mixnorm_cuda.kernels.triton.geometry import is_channels_last
from mixnorm_cuda.types import Mixture


def moments(
    x: Tensor, mixing_weight: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _new(mixing_weight), _new(mean), _new(var)


def forward(
    x: Tensor,
    mixing_weight: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    em_iters: int,
    mixing_scale: bool,
) -> tuple[Tensor, ...]:
    theta = Mixture(mixing_weight, mean, var)
    kept = mean.new_empty(kept_shape(x, theta))
    return (_output(x), *map(_new, theta), kept, *map(_new, theta))


def backward(
    dy: Tensor,
    x: Tensor,
    responsibilities: Tensor,
    mass: Tensor,
    batch_mean: Tensor,
    batch_var: Tensor,
    mixing_weight: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mixing_scale: bool,
    responsibility_grad: bool,
    mixture_grad: bool,
) -> tuple[Tensor, ...]:
    theta = (mixing_weight, mean, var)
    dmixture = (_new(t) if mixture_grad else t.new_empty(0) for t in theta)
    return (_output(x), _gradient(weight, mean), _gradient(bias, mean), *dmixture)


def normalize(
    x: Tensor,
    mixing_weight: Tensor,
    mean: Tensor,
    var: Tensor,
    mass: Tensor,
    batch_mean: Tensor,
    batch_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mixing_scale: bool,
) -> Tensor:
    return _output(x)


def evaluate_backward(
    dy: Tensor,
    x: Tensor,
    mixing_weight: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mixing_scale: bool,
    responsibility_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _output(x), _gradient(weight, mean), _gradient(bias, mean)


def backward_sums(
    dy: Tensor,
    x: Tensor,
    mixing_weight: Tensor,
    mean: Tensor,
    var: Tensor,
    mass: Tensor,
    batch_mean: Tensor,
    batch_var: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    return _new(mean), _new(mean)


def backward_apply(
    dy: Tensor,
    x: Tensor,
    mixing_weight: Tensor,
    mean: Tensor,
    var: Tensor,
    mass: Tensor,
    batch_mean: Tensor,
    batch_var: Tensor,
    h1: Tensor,
    h2: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    mixing_scale: bool,
    responsibility_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _output(x), _gradient(weight, mean), _gradient(bias, mean)


def update_running(
    running_weight: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    mass: Tensor,
    mean: Tensor,
    var: Tensor,
    count: int,
    momentum: float,
    factor: Tensor | None,
) -> Tensor:
    return mass.new_empty((), dtype=torch.bool)


def _output(x: Tensor) -> Tensor:
    """In the memory format of a dense ``x``, contiguous for any other."""
    if x.is_contiguous() or is_channels_last(x):
        return torch.empty_like(x)
    return x.new_empty(x.shape)


def _gradient(parameter: Tensor | None, mean: Tensor) -> Tensor:
    return mean.new_empty(mean.shape if parameter is None else parameter.shape)


def _new(tensor: Tensor) -> Tensor:
    return tensor.new_empty(tensor.shape)
