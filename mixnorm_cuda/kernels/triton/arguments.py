"""Checks of the operators' arguments: errors name the argument, its value, what is expected."""

import torch
from torch import Tensor

from mixnorm_cuda.types import BatchMoments, Mixture

MAX_COMPONENTS = 16


def kept_shape(x: Tensor, groups: int, components: int) -> tuple[int, ...]:
    """ν is kept for the backward where it is small beside x: for one mixture of many channels."""
    if groups == 1 and components > 1 and x.shape[1] > 1 and x.numel() > 0:
        return (1, components, x.numel() // x.shape[1])
    return (0,)


def require(operator: str, condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"mixnorm::triton_{operator}: {message}")


def check_mixture(operator: str, mixture: Mixture) -> None:
    mixing_weight, mean, var = mixture
    require(
        operator,
        mixing_weight.dim() == 2 and 1 <= mixing_weight.shape[1] <= MAX_COMPONENTS,
        f"mixing_weight has shape {tuple(mixing_weight.shape)}: expected [G, K] with K from 1 to "
        f"{MAX_COMPONENTS}",
    )
    groups, components = mixing_weight.shape
    require(
        operator,
        mean.dim() == 2 and mean.shape[0] == components,
        f"mean has shape {tuple(mean.shape)}: expected [{components}, C]",
    )
    require(
        operator,
        groups > 0 and mean.shape[1] % groups == 0,
        f"mixing_weight has G = {groups}: expected a divisor of the {mean.shape[1]} channels",
    )
    check_like(operator, "var", var, mean)
    for name, t in mixture._asdict().items():
        require(
            operator,
            t.dtype == mean.dtype and t.dtype in (torch.float32, torch.float64),
            f"{name} has dtype {t.dtype}: expected float32, or float64 for all of float64",
        )
        require(
            operator,
            t.device == mean.device and t.is_contiguous(),
            f"{name} is on {t.device}, strides {t.stride()}: expected {mean.device}, contiguous",
        )


def check_like(operator: str, name: str, found: Tensor, like: Tensor) -> None:
    require(
        operator,
        found.shape == like.shape,
        f"{name} has shape {tuple(found.shape)}: expected {tuple(like.shape)}",
    )
    require(
        operator,
        found.dtype == like.dtype and found.device == like.device,
        f"{name} has dtype {found.dtype} on {found.device}: expected {like.dtype} on {like.device}",
    )


def checked(
    operator: str,
    x: Tensor,
    mixture: Mixture,
    eps: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> Mixture:
    """``mixture``, contiguous, once every argument fits the others."""
    mixture = Mixture(*(t.contiguous() for t in mixture))
    require(operator, x.dim() >= 2, f"x has shape {tuple(x.shape)}: expected [N, C, *S]")
    statistics = torch.float64 if x.dtype == torch.float64 else torch.float32
    require(operator, x.is_floating_point(), f"x has dtype {x.dtype}: expected a floating dtype")
    require(
        operator,
        mixture.mean.dim() == 2 and mixture.mean.shape[1] == x.shape[1],
        f"mean has shape {tuple(mixture.mean.shape)}: expected [K, {x.shape[1]}]",
    )
    check_mixture(operator, mixture)
    require(
        operator,
        mixture.mean.dtype == statistics and mixture.mean.device == x.device,
        f"mean has dtype {mixture.mean.dtype} on {mixture.mean.device}: expected {statistics} on "
        f"{x.device}",
    )
    for name, t in (("weight", weight), ("bias", bias)):
        if t is None:
            continue
        require(
            operator,
            t.shape in (mixture.mean.shape, mixture.mean.shape[1:]),
            f"{name} has shape {tuple(t.shape)}: expected {tuple(mixture.mean.shape)}, or "
            f"{tuple(mixture.mean.shape[1:])} shared by the components",
        )
        require(
            operator,
            t.is_floating_point() and t.device == x.device,
            f"{name} has dtype {t.dtype} on {t.device}: expected a floating dtype on {x.device}",
        )
    require(operator, eps > 0, f"eps is {eps}: expected a number above 0")
    return mixture


def checked_moments(operator: str, moments: BatchMoments, mixture: Mixture) -> BatchMoments:
    """``moments``, contiguous, if they fit the checked ``mixture``."""
    for name, found, like in zip(
        ("mass", "batch_mean", "batch_var"), moments, mixture, strict=True
    ):
        check_like(operator, name, found, like)
    return BatchMoments(*(t.contiguous() for t in moments))
