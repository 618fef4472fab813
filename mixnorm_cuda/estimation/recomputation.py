"""Steps that activation checkpointing computes twice: the second run takes the first one's mixture.

A checkpointed forward pass runs again inside the backward pass, after the running statistics have
moved. So the first run remembers its mixture; the second one recalls it, draws the random numbers
of a seeding again and tracks nothing.

Which first run it repeats, the batch tells: of the steps remembered, the one whose batch has the
same mean. This holds for every implementation of checkpointing, nested or not, for micro-batches
in flight in any order, and for layers called several times; autograd's sequence numbers tell equal
batches apart. Nothing is read on the host.
"""

import weakref
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from mixnorm_cuda.checks import statistics_dtype
from mixnorm_cuda.types import Mixture

MAX_WITHOUT_GRAPH = 64
"""Steps kept for one layer where no graph says how long they are needed."""

_C: Any = torch._C


@dataclass(eq=False)
class Step:
    """What a training step started from, and how its repetition is recognized."""

    mixture: Mixture
    em_iters: int
    generator: Tensor | None
    """State of the random generator before the seeding; None where nothing was drawn."""
    shape: torch.Size
    batch_mean: Tensor
    number: int
    """Autograd's next sequence number at the time of the step."""
    in_graph: bool
    """Whether autograd recorded the step: not under reentrant checkpointing."""

    def distance(self, node: int) -> tuple[bool, int]:
        """Least for the step that is most likely repeated on behalf of node number ``node``.

        Non-reentrant checkpointing repeats on behalf of a node made after the step and before the
        next, reentrant checkpointing on behalf of its own, made before the step.
        """
        if self.in_graph:
            return self.number > node, -self.number
        return self.number <= node, self.number


class _Memory:
    """The steps of one layer."""

    def __init__(self) -> None:
        self.steps: list[weakref.ref[Step]] = []
        self.without_graph: deque[Step] = deque(maxlen=MAX_WITHOUT_GRAPH)
        self.not_repeated = 0

    def add(self, step: Step, y: Tensor) -> None:
        if self.not_repeated == 0:
            self.without_graph.clear()
        self.not_repeated += 1
        if y.grad_fn is None:
            self.without_graph.append(step)
        else:
            node: Any = y.grad_fn
            node.metadata[__name__] = step  # kept as long as the graph
        self.steps = [other for other in self.steps if other() is not None]
        self.steps.append(weakref.ref(step))

    def find(self, x: Tensor) -> Step | None:
        self.not_repeated = max(self.not_repeated - 1, 0)
        steps = [step for step in (other() for other in self.steps) if step is not None]
        steps = [step for step in steps if step.shape == x.shape]
        node = _C._current_autograd_node()
        number = 0 if node is None else node._sequence_nr()
        steps.sort(key=lambda step: step.distance(number))
        drawn = [step for step in steps if step.generator is not None]
        if drawn:
            state = generator_state(x)
            for step in drawn:
                if torch.equal(step.generator, state):  # type: ignore[arg-type]
                    return step
        found = _nearest(steps, x) if len(steps) > 1 else next(iter(steps), None)
        return None if found is None else replace(found, generator=None)


_memories: Any = WeakTensorKeyDictionary()
"""By the running mean: a layer's buffer, or the argument of the functional form."""


def may_be_repeated() -> bool:
    """Whether activation checkpointing may be at work around this step.

    It keeps autograd from saving tensors, by hooks or by recording no graph at all.
    """
    if torch.compiler.is_compiling() or _C._are_functorch_transforms_active():
        return False
    return (
        not torch.is_grad_enabled()
        or _C._autograd._top_saved_tensors_default_hooks(True) is not None
    )


def is_repetition() -> bool:
    """Whether this step runs inside a backward pass: then it has been computed before."""
    return not torch.compiler.is_compiling() and _C._current_graph_task_id() != -1


def generator_state(x: Tensor) -> Tensor:
    """The state of the generator that a seeding on ``x`` draws from; lies on the host."""
    if x.device.type == "cpu":
        return torch.get_rng_state()
    state: Tensor = torch.get_device_module(x.device).get_rng_state(x.device)
    return state


def step_of(x: Tensor, mixture: Mixture, em_iters: int, generator: Tensor | None) -> Step:
    """The step that normalizes ``x`` by ``mixture``, which may change in place afterwards."""
    return Step(
        Mixture(*(t.detach().clone() for t in mixture)),
        em_iters,
        generator,
        x.shape,
        _batch_mean(x),
        _C._autograd._get_sequence_nr(),
        torch.is_grad_enabled(),
    )


def remember(running_mean: Tensor, step: Step, y: Tensor) -> None:
    """Keep ``step`` of the layer with ``running_mean``, as long as the graph of ``y``."""
    if running_mean not in _memories:
        _memories[running_mean] = _Memory()
    _memories[running_mean].add(step, y)


def recall(running_mean: Tensor, x: Tensor) -> Step | None:
    """The step of the layer with ``running_mean`` that is repeated on ``x``; None if unknown.

    With ``generator`` where the seeding can be repeated too: the generator is where it was.
    """
    memory = _memories.get(running_mean)
    return None if memory is None else memory.find(x)


def remember_again(running_mean: Tensor, step: Step, y: Tensor) -> None:
    """Keep a repeated ``step``, if it is to be repeated once more: nested reentrant checkpointing.

    The second repetition is on behalf of a node that the first one made.
    """
    if not torch.is_grad_enabled():
        remember(running_mean, replace(step, number=_C._autograd._get_sequence_nr()), y)


def _batch_mean(x: Tensor) -> Tensor:
    dims = [d for d in range(x.dim()) if d != 1]
    return x.detach().mean(dims, dtype=statistics_dtype(x.dtype))


def _nearest(steps: list[Step], x: Tensor) -> Step:
    """The step with the batch mean of ``x``, selected on the device; of equals the first."""
    means = torch.stack([step.batch_mean for step in steps])
    squares = (means - _batch_mean(x)).nan_to_num().square()
    index = squares.sum(1).argmin().reshape(1)
    selected = (
        torch.stack(parts).index_select(0, index).squeeze(0)
        for parts in zip(*(step.mixture for step in steps), strict=True)
    )
    return replace(steps[0], mixture=Mixture(*selected))
