"""What the tests share: targets, random problems, errors."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from mixnorm_cuda import dispatch
from mixnorm_cuda.types import Mixture

EPS = 1e-5
UNIT_ROUNDOFF = {dtype: torch.finfo(dtype).eps / 2 for dtype in (torch.float16, torch.bfloat16)}


class Target(NamedTuple):
    """A backend on a device that it is meant to serve."""

    backend: str
    device: str

    @property
    def id(self) -> str:
        return f"{self.backend}-{self.device}"

    def unusable(self) -> str | None:
        if self.device == "cuda" and not torch.cuda.is_available():
            return "torch finds no CUDA device"
        return dispatch.BACKENDS[self.backend].missing()

    def require(self, x: Tensor, components: int, groups: int = 1, given: bool = False) -> None:
        """Skip where the backend says that it does not serve ``x``."""
        reason = dispatch.why_not(self.backend, x, components, groups, given)
        if reason is not None:
            pytest.skip(f"{self.id}: {reason}")


TARGETS = (
    Target("reference", "cpu"),
    Target("cpu", "cpu"),
    Target("emulated", "cpu"),
    Target("reference", "cuda"),
    Target("triton", "cuda"),
    Target("cuda", "cuda"),
)


class Problem(NamedTuple):
    """An input, a mixture whose components overlap on it, and affine pairs."""

    x: Tensor
    mixture: Mixture
    weight: Tensor | None
    bias: Tensor | None

    def to(self, *args: object) -> "Problem":
        def moved(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.to(*args)

        mixture = Mixture(*(t.to(*args) for t in self.mixture))
        return Problem(self.x.to(*args), mixture, moved(self.weight), moved(self.bias))


def problem(
    shape: tuple[int, ...],
    components: int,
    groups: int = 1,
    *,
    affine: str | None = "shared",
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> Problem:
    """Random ``x`` of ``shape`` in ``dtype``; statistics and affine pairs at least in float32.

    ``affine`` is None, "shared" or "component". Drawn on the CPU, so that every device sees the
    same numbers.
    """
    statistics = torch.float64 if dtype == torch.float64 else torch.float32
    channels = shape[1]
    x = torch.randn(shape, dtype=torch.float64) * 1.5 + 0.5
    mixture = Mixture(
        torch.rand(groups, components, dtype=torch.float64).add(0.3),
        # Distances shrink with the channels of a group, so that several components stay in play.
        torch.randn(components, channels, dtype=torch.float64) / (channels / groups) ** 0.5 + 0.5,
        torch.rand(components, channels, dtype=torch.float64) * 0.5 + 2,
    )
    mixture = mixture._replace(
        mixing_weight=mixture.mixing_weight / mixture.mixing_weight.sum(1, keepdim=True)
    )
    weight = bias = None
    if affine is not None:
        size = (channels,) if affine == "shared" else (components, channels)
        weight, bias = torch.randn(2, *size, dtype=torch.float64).to(device, statistics)
    return Problem(
        x.to(device, dtype),
        Mixture(*(t.to(device, statistics) for t in mixture)),
        weight,
        bias,
    )


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """‖actual − expected‖ / ‖expected‖ in float64 (Frobenius)."""
    expected = expected.detach().double().cpu()
    difference = actual.detach().double().cpu() - expected
    return (difference.norm() / expected.norm().clamp_min(1e-300)).item()


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, terms: float = 0.0) -> None:
    """Relative Frobenius error of at most ``tolerance``, same shape, finite.

    ``terms`` is the size of what was summed, to which the error is relative where sums cancel.
    """
    assert actual.shape == expected.shape
    assert actual.isfinite().all()
    size = max(expected.detach().double().norm().item(), terms)
    error = (actual.detach().double().cpu() - expected.detach().double().cpu()).norm().item()
    assert error <= tolerance * size, f"error {error:.2e} > {tolerance:.1e} of {size:.2e}"


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal to the last bit; NaNs of one place count as equal."""
    return (
        a.dtype == b.dtype
        and torch.equal(a.nan_to_num(0.125), b.nan_to_num(0.125))
        and (torch.equal(a.isnan(), b.isnan()))
    )
