"""Held to the float64 reference before any timing: SPEC bounds on output and gradients."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bench.baselines import positions
from bench.cases import Case
from bench.inputs import Inputs
from bench.layers import Layer, Outcome, run_step
from bench.ours import EPS, em_steps
from mixnorm_cuda.functional import mixture_normalize
from mixnorm_cuda.types import Mixture

GRADIENTS = ("dx", "dweight", "dbias")


class Bounds(NamedTuple):
    """Largest relative Frobenius error allowed."""

    y: float
    gradient: float


BOUNDS = {
    torch.float32: Bounds(1e-6, 1e-5),
    # Two roundings to the output's precision; an exact result rounded once has a fifth of that.
    torch.bfloat16: Bounds(torch.finfo(torch.bfloat16).eps, 2e-2),
    torch.float16: Bounds(torch.finfo(torch.float16).eps, 2e-2 / 8),
}
EM_BOUND = 1e-5
"""Of means and covariances after ten float32 EM steps; errors of a step feed the next."""


class Check(NamedTuple):
    """Relative errors by name, and the names of those out of bounds."""

    errors: dict[str, float]
    red: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.red


def expected(case: Case, inputs: Inputs) -> Outcome:
    """Output and gradients of the reference in float64, from the case's own rounded input.

    For a batch of one block repeated, the output and dx of one block: a repeated batch has the
    block's moments.
    """
    mixture = Mixture(*(t.double() for t in inputs.mixture))
    block = case.shape.size[0] // case.shape.repeats
    x, dy = (t[:block].double() for t in (inputs.x, inputs.dy))
    if case.phase == "em":
        return Outcome(em_steps(positions(x), mixture, "reference"))
    weight, bias = (t.double().requires_grad_() for t in (inputs.weight, inputs.bias))
    train = case.phase == "train"
    x.requires_grad_(train)
    with torch.set_grad_enabled(train):
        y, _ = mixture_normalize(
            x, *mixture, weight, bias, training=case.phase != "eval",
            eps=EPS, em_iters=case.em_iters, backend="reference",
        )  # fmt: skip
    if not train:
        return Outcome(y)
    dx, dweight, dbias = torch.autograd.grad(y, (x, weight, bias), dy)
    scale = case.shape.repeats
    return Outcome(y.detach(), (dx, dweight * scale, dbias * scale))


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """‖actual − expected‖ / ‖expected‖ in float64; the worst over a repeated batch's blocks."""
    if actual.shape[1:] != expected.shape[1:] or actual.shape[0] % max(expected.shape[0], 1):
        return math.inf
    blocks = torch.split(actual, expected.shape[0]) if actual.dim() > 1 else (actual,)
    norm = float(expected.norm())
    worst = max(float((block.double() - expected).norm()) for block in blocks)
    return worst / norm if norm else worst


def check(case: Case, layer: Layer, inputs: Inputs, truth: Outcome) -> Check:
    """Run the case's phase once on a fresh ``layer`` and compare with ``truth``."""
    x = inputs.x.detach().requires_grad_(case.phase in ("train", "forward"))
    outcome = run_step(case, layer, x, inputs.dy)
    bounds = BOUNDS[case.dtype]
    y_bound = EM_BOUND if case.phase == "em" else bounds.y
    errors = {"y": relative_error(outcome.y.detach(), truth.y)}
    errors |= {
        name: relative_error(actual, right)
        for name, actual, right in zip(GRADIENTS, outcome.gradients, truth.gradients, strict=False)
    }
    limits = {"y": y_bound, **dict.fromkeys(GRADIENTS, bounds.gradient)}
    # A NaN compares false, so that it is out of bounds as well.
    red = tuple(name for name, error in errors.items() if not error <= limits[name])
    if outcome.y.dtype != case.dtype and case.phase != "em":
        red = (*red, f"y is {outcome.y.dtype}")
    if len(outcome.gradients) < len(truth.gradients):
        red = (*red, "a gradient is missing")
    return Check(errors, red)
