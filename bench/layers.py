"""What every implementation offers: a layer for a case, and the step that is timed."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from bench.cases import Case
from bench.inputs import Inputs


class Layer(NamedTuple):
    """``forward`` maps x to y; ``parameters`` (γ, β and others) receive gradients."""

    forward: Callable[[Tensor], Tensor]
    parameters: Sequence[Tensor]


class Implementation(Protocol):
    """One way to normalize. ``name`` names its rows."""

    name: str
    compiled: bool
    """Its first call compiles: time for that is rationed."""
    ours: bool
    """Ours are held to the float64 reference before they are timed."""
    heavy: bool
    """Far slower than the rest: run where `cases.shows_heavy` says, or when asked for by name."""

    def serves(self, phase: str) -> bool:
        """Whether the phase means anything to it: EM fits are no normalization."""

    def why_not(self, case: Case, x: Tensor) -> str | None:
        """Why it cannot serve ``x`` here; None when it can."""

    def layer(self, case: Case, inputs: Inputs) -> Layer:
        """A layer with its own copy of the parameters and running statistics."""


def trainable(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.clone().requires_grad_() for t in tensors)


class Outcome(NamedTuple):
    """``gradients`` of x and the parameters, in that order; empty unless trained."""

    y: Tensor
    gradients: tuple[Tensor, ...] = ()


def run_step(case: Case, layer: Layer, x: Tensor, dy: Tensor) -> Outcome:
    """One call of the case's phase; for ``"train"`` and ``"forward"``, x must require grad.

    A layer without parameters (a copy, an EM fit) runs forward only.
    """
    if case.phase in ("eval", "em") or not layer.parameters:
        with torch.no_grad():
            return Outcome(layer.forward(x))
    y = layer.forward(x)
    if case.phase == "forward":
        return Outcome(y)
    return Outcome(y, torch.autograd.grad(y, (x, *layer.parameters), dy))
