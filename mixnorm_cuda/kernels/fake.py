"""Fake (meta) implementations: the shapes, dtypes and devices that the raw operators return.

One signature each, whichever library an operator is from.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mixnorm_cuda.kernels.layout import is_channels_last

KeptShape = Callable[[Tensor, int, int], tuple[int, ...]]
"""(x, groups, components) -> shape of the responsibilities that a forward keeps, [0] for none."""


def operators(kept_shape: KeptShape) -> dict[str, Callable[..., object]]:
    """A fake implementation of each operator, by name, for a library that keeps ``kept_shape``."""

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
        mixture = (mixing_weight, mean, var)
        kept = mean.new_empty(kept_shape(x, *mixing_weight.shape))
        return _output(x), *map(_like, mixture), kept, *map(_like, mixture)

    def step(
        x: Tensor,
        running_weight: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        num_batches_tracked: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        momentum: float | None,
        eps: float,
        em_iters: int,
        mixing_scale: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        state = 2 * (running_weight.numel() + 2 * running_mean.numel())
        kept = running_mean.new_empty(kept_shape(x, *running_weight.shape))
        return _output(x), running_mean.new_empty(state), kept

    return {
        "moments": moments,
        "normalize": normalize,
        "forward": forward,
        "backward": backward,
        "backward_sums": backward_sums,
        "backward_apply": backward_apply,
        "step": step,
        "step_backward": step_backward,
        "evaluate": evaluate,
        "evaluate_backward": evaluate_backward,
        "update_running": update_running,
    }


def moments(
    x: Tensor, mixing_weight: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(mixing_weight), _like(mean), _like(var)


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
    mixture = (mixing_weight, mean, var)
    dmixture = (_like(t) if mixture_grad else t.new_empty(0) for t in mixture)
    return _output(x), _gradient(weight, mean), _gradient(bias, mean), *dmixture


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
    return _like(mean), _like(mean)


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


def step_backward(
    dy: Tensor,
    x: Tensor,
    state: Tensor,
    responsibilities: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    components: int,
    groups: int,
    eps: float,
    mixing_scale: bool,
    responsibility_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    per_component = state.new_empty(components, x.shape[1])
    return _output(x), _gradient(weight, per_component), _gradient(bias, per_component)


def evaluate(
    x: Tensor,
    mixing_weight: Tensor,
    mean: Tensor,
    var: Tensor,
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


def _gradient(parameter: Tensor | None, mean: Tensor) -> Tensor:
    return mean.new_empty(mean.shape if parameter is None else parameter.shape)


def _like(tensor: Tensor) -> Tensor:
    return tensor.new_empty(tensor.shape)


def _output(x: Tensor) -> Tensor:
    """In the memory format of a dense ``x``, contiguous for any other."""
    if x.is_contiguous() or is_channels_last(x):
        return torch.empty_like(x)
    return x.new_empty(x.shape)
