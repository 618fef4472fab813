"""What the tests of the raw operators share: a problem, its views, and what is held to what."""

from typing import Any

import torch
from torch import Tensor

from mixnorm_cuda.kernels.native import ops
from mixnorm_cuda.reference import ReferenceBackend
from mixnorm_cuda.types import Mixture

EPS = 1e-5
REFERENCE = ReferenceBackend()
# Relative Frobenius norms that the method promises for outputs and gradients.
BOUNDS = {
    torch.float64: (1e-11, 1e-9),
    torch.float32: (1e-6, 1e-5),
    torch.bfloat16: (2 * 2.0**-8, 2e-2),
    torch.float16: (2 * 2.0**-11, 2e-2),
}


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class Problem:
    """One layer's tensors, and what the operators and the reference make of them."""

    def __init__(
        self,
        shape: tuple[int, ...],
        components: int = 3,
        groups: int = 1,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        offset: float = 0.0,
        affine: bool = True,
        device: str = "cpu",
        emulated: bool = False,
    ) -> None:
        generator = torch.Generator().manual_seed(0)

        def randn(*size: int) -> Tensor:
            return torch.randn(size, generator=generator, dtype=torch.float64)

        self.emulated = emulated
        channels = shape[1]
        self.x = (randn(*shape) * 2 + offset).to(dtype)
        self.dy = randn(*shape).to(dtype)
        if channels_last:
            self.x, self.dy = (
                t.movedim(1, -1).contiguous().movedim(-1, 1) for t in (self.x, self.dy)
            )
        mixture = Mixture(
            randn(groups, components).softmax(1),
            randn(components, channels) + offset,
            2 + randn(components, channels).square(),
        )
        statistics = statistics_dtype(dtype)
        self.mixture = Mixture(*(t.to(statistics) for t in mixture))
        self.weight = randn(components, channels).to(statistics) if affine else None
        self.bias = randn(components, channels).to(statistics) if affine else None
        self.to(device)

    def to(self, device: str) -> None:
        self.x, self.dy = self.x.to(device), self.dy.to(device)
        self.mixture = Mixture(*(t.to(device) for t in self.mixture))
        self.weight, self.bias = (
            None if t is None else t.to(device) for t in (self.weight, self.bias)
        )

    def operators(self, em_iters: int = 0, **options: bool) -> dict[str, Tensor]:
        affine, scale = (self.weight, self.bias), options.get("mixing_scale", True)
        through = options.get("responsibility_grad", True)
        out = ops.forward(
            self.x,
            self.mixture,
            *affine,
            eps=EPS,
            em_iters=em_iters,
            mixing_scale=scale,
            emulated=self.emulated,
        )
        grads = ops.backward(
            self.dy,
            self.x,
            out.responsibilities,
            out.moments,
            out.mixture,
            *affine,
            eps=EPS,
            mixing_scale=scale,
            responsibility_grad=through,
            mixture_grad=True,
            emulated=self.emulated,
        )
        y = ops.evaluate(
            self.x, self.mixture, *affine, eps=EPS, mixing_scale=scale, emulated=self.emulated
        )
        eval_grads = ops.evaluate_backward(
            self.dy,
            self.x,
            self.mixture,
            *affine,
            eps=EPS,
            mixing_scale=scale,
            responsibility_grad=through,
            emulated=self.emulated,
        )
        return collect(out, grads, y, eval_grads)

    def reference(
        self, dtype: torch.dtype, em_iters: int = 0, **options: bool
    ) -> dict[str, Tensor]:
        x, dy = self.x.to(dtype), self.dy.to(dtype)
        mixture = Mixture(*(t.to(dtype) for t in self.mixture))
        affine = [None if t is None else t.to(dtype) for t in (self.weight, self.bias)]
        scale = options.get("mixing_scale", True)
        through = options.get("responsibility_grad", True)
        out = REFERENCE.forward(x, mixture, *affine, eps=EPS, em_iters=em_iters, mixing_scale=scale)
        grads = REFERENCE.backward(
            dy,
            x,
            out.responsibilities,
            out.moments,
            out.mixture,
            *affine,
            eps=EPS,
            mixing_scale=scale,
            responsibility_grad=through,
            given=False,
            mixture_grad=True,
        )
        y = REFERENCE.evaluate(x, mixture, *affine, eps=EPS, mixing_scale=scale)
        eval_grads = REFERENCE.evaluate_backward(
            dy, x, mixture, *affine, eps=EPS, mixing_scale=scale, responsibility_grad=through
        )
        return collect(out, grads, y, eval_grads)


def collect(out: Any, grads: Any, y: Tensor, eval_grads: Any) -> dict[str, Tensor]:
    return {
        "y": out.y,
        **{f"moments.{n}": t for n, t in out.moments._asdict().items()},
        **{f"mixture.{n}": t for n, t in out.mixture._asdict().items()},
        "dx": grads.x,
        "dweight": grads.weight,
        "dbias": grads.bias,
        **{f"dmixture.{n}": t for n, t in grads.mixture._asdict().items()},
        "eval y": y,
        "eval dx": eval_grads.x,
        "eval dweight": eval_grads.weight,
        "eval dbias": eval_grads.bias,
    }


def relative_error(found: Tensor, wanted: Tensor) -> float:
    scale = wanted.norm().clamp_min(1e-6 * wanted.numel() ** 0.5)
    return ((found.double() - wanted).norm() / scale).item()


def bound_of(name: str, dtype: torch.dtype) -> float:
    """Of one of the results that `collect` names."""
    output, gradient = BOUNDS[dtype]
    return gradient if name.split(".")[0].split()[-1].startswith("d") else output


def check_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Of float32 results of one problem in two ways: each within its bound of the truth, and so
    within twice that of the other."""
    assert found.keys() <= wanted.keys()
    for name, value in found.items():
        error = relative_error(value, wanted[name].double())
        assert error <= 2 * bound_of(name, torch.float32), f"{name}: relative error {error:.2e}"


def check(problem: Problem, em_iters: int = 0, **options: bool) -> None:
    """Within the promised bounds, or within 16 times what plain formulas lose in the same type.

    A handful of positions can be ill conditioned (a variance of next to nothing); there the
    reference in the statistics' own dtype says how much any evaluation must lose.
    """
    dtype = problem.x.dtype
    found = problem.operators(em_iters, **options)
    exact = problem.reference(torch.float64, em_iters, **options)
    plain = problem.reference(statistics_dtype(dtype), em_iters, **options)
    for name, wanted in exact.items():
        allowed = max(bound_of(name, dtype), 16 * relative_error(plain[name], wanted))
        error = relative_error(found[name], wanted)
        assert error <= allowed, f"{name}: relative error {error:.2e}, allowed {allowed:.2e}"
    assert found["y"].stride() == problem.x.stride()
    assert found["dx"].stride() == problem.x.stride()


def views() -> dict[str, Tensor]:
    base = torch.randn(6, 40, 13, 14)
    return {
        "channel slice": base[:, 5:25],
        "batch slice": base[1::2, :20],
        "row slice": base[:, :20, 2:9, 3:12],
        "stepped": base[:, ::2, ::3, ::2],
        "transposed": base[:, :20].transpose(2, 3),
        "batch and channels swapped": torch.randn(20, 6, 9, 9).transpose(0, 1),
        "channels-last slice": base.contiguous(memory_format=torch.channels_last)[:, 3:23],
        "expanded": torch.randn(6, 20, 1, 1).expand(6, 20, 5, 5) + torch.zeros(6, 20, 5, 5),
        "storage offset": torch.randn(6 * 20 * 81 + 3)[3:].view(6, 20, 9, 9),
    }
