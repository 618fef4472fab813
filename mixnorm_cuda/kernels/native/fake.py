"""Fake (meta) implementations: the shapes, dtypes and devices that each raw operator returns."""

from collections.abc import Callable

import torch
from torch import Tensor

CPU_ALONE = ("normalize", "backward_sums", "backward_apply")
"""The training passes in parts: operators that the CUDA library does not have."""


def register(namespace: str) -> None:
    """Attach the fake implementations to a namespace's operators; its library must be loaded."""
    for operator in operators():
        implementation = operator
        if operator is forward and namespace == "mixnorm_emulated":
            implementation = forward_without_responsibilities
        torch.library.register_fake(f"{namespace}::{operator.__name__}", implementation)


def absent(namespace: str) -> list[str]:
    """Operators that a loaded library lacks: it was built from older sources."""
    names = [operator.__name__ for operator in operators()]
    return [name for name in names if not hasattr(getattr(torch.ops, namespace), name)]


def operators() -> tuple[Callable[..., object], ...]:
    """A fake implementation of each operator, of its name."""
    return (
        moments,
        normalize,
        forward,
        backward,
        backward_sums,
        backward_apply,
        evaluate,
        evaluate_backward,
        update_running,
    )


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
    groups, components = mixing_weight.shape
    kept: tuple[int, ...] = (0,)
    if components > 1 and groups == 1 and x.device.type != "cuda":
        kept = (components, x.numel() // x.shape[1])
    return _forward(x, (mixing_weight, mean, var), kept)


def forward_without_responsibilities(
    x: Tensor, mixing_weight: Tensor, mean: Tensor, var: Tensor, *_: object
) -> tuple[Tensor, ...]:
    """Of the CUDA kernels, which compute them again, on whatever device they run."""
    return _forward(x, (mixing_weight, mean, var), (0,))


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


def _forward(
    x: Tensor, mixture: tuple[Tensor, Tensor, Tensor], kept: tuple[int, ...]
) -> tuple[Tensor, ...]:
    moments, final = (map(_like, mixture) for _ in range(2))
    return _output(x), *moments, mixture[1].new_empty(kept), *final


def _gradient(parameter: Tensor | None, mean: Tensor) -> Tensor:
    return mean.new_empty(mean.shape if parameter is None else parameter.shape)


def _like(tensor: Tensor) -> Tensor:
    return tensor.new_empty(tensor.shape)


def _output(x: Tensor) -> Tensor:
    """In the memory format of a dense ``x``, contiguous for any other."""
    if x.is_contiguous() or _is_channels_last(x):
        return torch.empty_like(x)
    return x.new_empty(x.shape)


def _is_channels_last(x: Tensor) -> bool:
    expected = 1
    for d in (1, *range(x.dim() - 1, 1, -1), 0):
        if x.shape[d] != 1 and x.stride(d) != expected:
            return False
        expected *= x.shape[d]
    return True
