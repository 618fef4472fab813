"""The small tuples that every room passes to the next. Nothing here computes."""

from typing import NamedTuple

from torch import Tensor


class Mixture(NamedTuple):
    """Parameters θ of the diagonal Gaussian mixture, one mixture per channel group.

    ``mixing_weight`` λ is ``[G, K]`` (rows sum to 1); ``mean`` μ and ``var`` σ² are ``[K, C]``.
    """

    mixing_weight: Tensor
    mean: Tensor
    var: Tensor

    def detach(self) -> "Mixture":
        return Mixture(*(t.detach() for t in self))


class BatchMoments(NamedTuple):
    """Responsibility-weighted moments of one batch.

    ``mass`` S = Σ ν is ``[G, K]``; ``mean`` m and biased ``var`` q are ``[K, C]``. All in the
    accumulation dtype: float64 for float64 input, float32 otherwise.
    """

    mass: Tensor
    mean: Tensor
    var: Tensor


class Forward(NamedTuple):
    """What a backend's training forward returns; all but ``y`` is kept for the backward."""

    y: Tensor
    moments: BatchMoments
    mixture: Mixture
    """θ after the EM steps: what the responsibilities were computed from."""
    responsibilities: Tensor
    """ν in the backend's own layout: only the same backend's backward reads it."""


class Step(NamedTuple):
    """Options of a layer's training step that is one operator."""

    momentum: float | None
    """None: the cumulative average."""
    eps: float
    em_iters: int
    mixing_scale: bool
    responsibility_grad: bool


class Stepped(NamedTuple):
    """What such a step returns; all but ``y`` is kept for the backward."""

    y: Tensor
    state: Tensor
    """The batch's moments and the mixture that they are under, in one tensor."""
    responsibilities: Tensor


class GradientSums(NamedTuple):
    """What the gradients through the moments are made of, ``[K, C]`` each."""

    h1: Tensor
    """H1 = Σ ν dy."""
    h2: Tensor
    """H2 = Σ ν dy (x − m)."""


class Gradients(NamedTuple):
    """What a backend's backward returns.

    ``weight`` and ``bias`` have the parameter's shape, or are per component, ``[K, C]``, to be
    summed by the caller.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor
    responsibilities: Tensor | None = None
    """Only for given responsibilities, in their layout."""
    mixture: Mixture | None = None
    """Only when asked for."""
