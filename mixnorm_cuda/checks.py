"""Argument checks. Each names the argument, its value and what was expected."""

import torch
from torch import Tensor

INPUT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of statistics for inputs of ``dtype``: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_input(x: Tensor) -> None:
    """``x`` is a floating [N, C, *S]."""
    if x.dim() < 2:
        raise ValueError(f"input has shape {tuple(x.shape)}: expected [N, C, *S], 2 or more dims")
    if x.dtype not in INPUT_DTYPES:
        names = ", ".join(str(dtype) for dtype in INPUT_DTYPES)
        raise TypeError(f"input has dtype {x.dtype}: expected one of {names}")


def check_rank(x: Tensor, ranks: tuple[int, ...]) -> None:
    """``x`` has one of ``ranks`` dimensions."""
    if x.dim() not in ranks:
        expected = " or ".join(f"{rank}D" for rank in ranks)
        raise ValueError(
            f"input has shape {tuple(x.shape)}: expected {expected} input (got {x.dim()}D input)"
        )


def check_eps(eps: float) -> None:
    if not eps > 0:
        raise ValueError(f"eps={eps}: expected a number above 0")


def check_em_iters(em_iters: int) -> None:
    if em_iters < 0:
        raise ValueError(f"em_iters={em_iters}: expected 0 or more EM steps")


def check_components(num_components: int) -> None:
    if num_components < 1:
        raise ValueError(f"num_components={num_components}: expected 1 or more")


def check_groups(groups: int, channels: int) -> None:
    if groups < 1 or channels % groups != 0:
        raise ValueError(f"groups={groups}: expected a divisor of the {channels} channels")


def check_momentum(momentum: float | None, *, or_none: bool = True) -> None:
    if or_none and momentum is None:
        return
    if momentum is None or not 0 <= momentum <= 1:
        expected = "a number from 0 to 1" + (", or None" if or_none else "")
        raise ValueError(f"momentum={momentum}: expected {expected}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(repr, choices))}")


def check_enough_values(x: Tensor) -> None:
    """One position per channel has no variance; no position at all is an empty batch."""
    if x.numel() == x.shape[1] and x.numel() > 0:
        raise ValueError(
            f"input has shape {tuple(x.shape)}: expected more than 1 value per channel in training"
        )


def check_mixture(x: Tensor, mixing_weight: Tensor, mean: Tensor, var: Tensor, prefix: str) -> None:
    """θ fits ``x``: [G, K], [K, C], [K, C] in the statistics dtype on the device of ``x``.

    ``prefix`` comes before the argument names in messages: "" or "running_".
    """
    channels, device, dtype = x.shape[1], x.device, statistics_dtype(x.dtype)
    if mixing_weight.dim() != 2 or mixing_weight.shape[1] < 1:
        raise ValueError(
            f"{prefix or 'mixing_'}weight has shape {tuple(mixing_weight.shape)}: expected "
            "[groups, num_components]"
        )
    groups, components = mixing_weight.shape
    check_groups(groups, channels)
    if mixing_weight.dtype != dtype or mixing_weight.device != device:
        check_like(f"{prefix or 'mixing_'}weight", mixing_weight, x, (dtype,))
    for name, tensor in (("mean", mean), ("var", var)):
        if tensor.shape != (components, channels):
            raise ValueError(
                f"{prefix}{name} has shape {tuple(tensor.shape)}: expected "
                f"[{components}, {channels}], num_components by the channels of the input "
                f"{tuple(x.shape)}"
            )
        if tensor.dtype != dtype or tensor.device != device:
            check_like(prefix + name, tensor, x, (dtype,))


def check_affine(name: str, parameter: Tensor | None, x: Tensor, components: int) -> None:
    """γ or β: None, [C] or [K, C] in the dtype of ``x`` or of its statistics."""
    if parameter is None:
        return
    shape, channels = parameter.shape, x.shape[1]
    if shape != (channels,) and shape != (components, channels):
        raise ValueError(
            f"{name} has shape {tuple(parameter.shape)}: expected [{channels}], or "
            f"[{components}, {channels}] for one affine pair per component"
        )
    if parameter.dtype != x.dtype or parameter.device != x.device:
        check_like(name, parameter, x, (x.dtype, statistics_dtype(x.dtype)))


def check_responsibilities(responsibilities: Tensor, x: Tensor, components: int) -> None:
    """ν: [N, K] or [N, K, *S]."""
    per_sample = (x.shape[0], components)
    per_position = (*per_sample, *x.shape[2:])
    if responsibilities.shape != (per_sample if responsibilities.dim() == 2 else per_position):
        raise ValueError(
            f"responsibilities has shape {tuple(responsibilities.shape)}: expected "
            f"{list(per_sample)} or {list(per_position)}"
        )
    check_like("responsibilities", responsibilities, x, (x.dtype, statistics_dtype(x.dtype)))


def check_like(name: str, tensor: Tensor, x: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    """``tensor`` is on the device of ``x`` in one of ``dtypes``."""
    if tensor.device != x.device:
        raise ValueError(
            f"{name} is on device {tensor.device}: expected {x.device}, the device of the input"
        )
    if tensor.dtype not in dtypes:
        expected = " or ".join(str(dtype) for dtype in dict.fromkeys(dtypes))
        raise TypeError(
            f"{name} has dtype {tensor.dtype}: expected {expected} for an input of {x.dtype}"
        )
