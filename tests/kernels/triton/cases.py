"""One layer's tensors, and what the Triton operators and the reference make of them."""

from typing import Any

import torch
from torch import Tensor

from mixnorm_cuda.kernels.triton import ops
from mixnorm_cuda.reference import ReferenceBackend
from mixnorm_cuda.types import Gradients, Mixture
from tests.support import EPS, assert_close, problem

REFERENCE = ReferenceBackend()
# Relative Frobenius norms that the method promises for outputs and gradients in float32 and half
# precision (two rounding steps of the output; gradients of half precision inputs are rounded
# once more); rounding errors of a few hundred operations in float64.
BOUNDS = {
    torch.float64: (1e-13, 1e-12),
    torch.float32: (1e-6, 1e-5),
    torch.bfloat16: (2 * 2.0**-8, 4 * 2.0**-8),
    torch.float16: (2 * 2.0**-11, 4 * 2.0**-11),
}


class Case:
    def __init__(
        self,
        shape: tuple[int, ...],
        components: int = 3,
        groups: int = 1,
        *,
        device: str,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        affine: str | None = "component",
        offset: float = 0.0,
    ) -> None:
        p = problem(shape, components, groups, affine=affine, dtype=torch.float64)
        statistics = torch.float64 if dtype == torch.float64 else torch.float32
        self.x = (p.x + offset).to(device, dtype)
        self.dy = torch.randn(shape, dtype=torch.float64).to(device, dtype)
        if channels_last:
            self.x, self.dy = (
                t.movedim(1, -1).contiguous().movedim(-1, 1) for t in (self.x, self.dy)
            )
        mixture = p.mixture._replace(mean=p.mixture.mean + offset)
        self.mixture = Mixture(*(t.to(device, statistics) for t in mixture))
        self.affine = tuple(
            None if t is None else t.to(device, statistics) for t in (p.weight, p.bias)
        )
        self.dtype = dtype

    def operators(self, **options: Any) -> dict[str, Tensor]:
        return _results(ops, self.x, self.dy, self.mixture, self.affine, **options)

    def reference(self, **options: Any) -> dict[str, Tensor]:
        x, mixture, *affine = self.exact()
        return _results(
            REFERENCE, x, self.dy.double(), mixture, tuple(affine), given=False, **options
        )

    def exact(self) -> tuple[Any, ...]:
        """x, θ, weight and bias in float64, the same numbers."""
        mixture = Mixture(*(t.double() for t in self.mixture))
        return (
            self.x.double(),
            mixture,
            *(None if t is None else t.double() for t in self.affine),
        )

    def check(self, **options: Any) -> dict[str, Tensor]:
        """Every operator's results are as near the reference as the method promises."""
        found, wanted = self.operators(**options), self.reference(**options)
        assert found.keys() == wanted.keys()
        output, gradient = BOUNDS[self.dtype]
        statistics = BOUNDS[self.mixture.mean.dtype]
        for name, expected in wanted.items():
            actual = found[name]
            if expected.dim() > actual.dim():  # per component, of a shared pair
                expected = expected.sum(0)
            if name in ("y", "eval y"):
                tolerance = output
            elif name in ("dx", "eval dx"):
                tolerance = gradient
            else:
                tolerance = statistics[name.startswith(("d", "eval d"))]
            try:
                # Sums of θ's gradient cancel: an error is relative to what was summed.
                assert_close(actual, expected, tolerance, terms=_terms(name, wanted))
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from error
        for name in {"y", "dx", "eval y", "eval dx"} & found.keys():
            assert found[name].stride() == self.x.stride(), name
            assert found[name].dtype == self.dtype
        return found


def _terms(name: str, wanted: dict[str, Tensor]) -> float:
    return float(wanted["dx"].double().norm()) if name.startswith("dmixture") else 0.0


def _results(
    target: Any,
    x: Tensor,
    dy: Tensor,
    mixture: Mixture,
    affine: tuple[Tensor | None, ...],
    *,
    em_iters: int = 0,
    evaluated: bool = True,
    mixing_scale: bool = True,
    responsibility_grad: bool = True,
    mixture_grad: bool = True,
    **given: bool,
) -> dict[str, Tensor]:
    options = {"eps": EPS, "mixing_scale": mixing_scale}
    out = target.forward(x, mixture, *affine, em_iters=em_iters, **options)
    grads: Gradients = target.backward(
        dy, x, out.responsibilities, out.moments, out.mixture, *affine,
        responsibility_grad=responsibility_grad, mixture_grad=mixture_grad, **options, **given,
    )  # fmt: skip
    found = {"y": out.y, "dx": grads.x, "dweight": grads.weight, "dbias": grads.bias}
    found |= {f"moments.{n}": t for n, t in out.moments._asdict().items()}
    found |= {f"mixture.{n}": t for n, t in out.mixture._asdict().items()}
    if evaluated:
        moments = target.moments(x, mixture, eps=EPS)
        found |= {f"alone.{n}": t for n, t in moments._asdict().items()}
        found["eval y"] = target.evaluate(x, mixture, *affine, **options)
        eval_grads = target.evaluate_backward(
            dy, x, mixture, *affine, responsibility_grad=responsibility_grad, **options
        )
        found |= {"eval dx": eval_grads.x, "eval dweight": eval_grads.weight}
        found["eval dbias"] = eval_grads.bias
    if grads.mixture is not None:
        found |= {f"dmixture.{n}": t for n, t in grads.mixture._asdict().items()}
    return found
