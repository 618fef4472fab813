"""Registration of the fake implementations for the operators of a library."""

import torch
from torch import Tensor

from mixnorm_cuda.kernels import fake

OPERATORS = tuple(fake.operators(lambda *_: (0,)))


def register(namespace: str) -> None:
    """Attach the fake implementations to a namespace's operators; its library must be loaded."""
    kept_shape = _emulated_kept_shape if namespace == "mixnorm_emulated" else _kept_shape
    for name, implementation in fake.operators(kept_shape).items():
        torch.library.register_fake(f"{namespace}::{name}", implementation)


def absent(namespace: str) -> list[str]:
    """Operators that a loaded library lacks: it was built from older sources."""
    return [name for name in OPERATORS if not hasattr(getattr(torch.ops, namespace), name)]


def _kept_shape(x: Tensor, groups: int, components: int) -> tuple[int, ...]:
    """The CPU kernels keep ν of a joint mixture, the CUDA kernels compute it again."""
    if components == 1 or groups > 1 or x.device.type == "cuda":
        return (0,)
    return (components, x.numel() // x.shape[1])


def _emulated_kept_shape(x: Tensor, groups: int, components: int) -> tuple[int, ...]:
    """Of the CUDA kernels, on whatever device they run."""
    return (0,)
