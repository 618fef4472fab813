"""What the processes of a team are asked to do, and the same in one process."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from mixnorm_cuda import MixtureNorm1d, SyncMixtureNorm
from mixnorm_cuda.modules.mixture_norm import MixtureNormBase

CHANNELS = 6


class Step(NamedTuple):
    """What a training step leaves."""

    y: Tensor
    dx: Tensor
    parameter_gradients: dict[str, Tensor]
    given_gradient: Tensor | None
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]


class Batches(NamedTuple):
    """A joined batch per step, with its output gradients; process r has the r-th part of each."""

    x: Tensor
    """[steps, N, C, *S]"""
    dy: Tensor
    given: Tensor | None = None
    """[steps, N, K] or [steps, N, K, *S]"""
    sizes: tuple[int, ...] = ()

    def of(self, part: int) -> "Batches":
        def mine(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.split(self.sizes, dim=1)[part]

        return Batches(mine(self.x), mine(self.dy), mine(self.given))


def layer(kind: type[MixtureNormBase], state: dict[str, Tensor] | None, options: Any) -> Any:
    made = kind(CHANNELS, **options)
    if state is not None:
        made.load_state_dict(state)
    return made


def train(norm: nn.Module, batches: Batches) -> list[Step]:
    steps = []
    for i, (x, dy) in enumerate(zip(batches.x, batches.dy, strict=True)):
        norm.zero_grad()
        x = x.clone().requires_grad_()
        given = () if batches.given is None else (batches.given[i].clone().requires_grad_(),)
        y = norm(x, *given)
        y.backward(dy)
        steps.append(
            Step(
                y.detach(),
                x.grad,
                {name: p.grad.clone() for name, p in norm.named_parameters()},
                given[0].grad if given else None,
                {name: p.detach().clone() for name, p in norm.named_parameters()},
                {name: b.clone() for name, b in norm.named_buffers()},
            )
        )
    return steps


def train_part(
    rank: int, batches: Batches, state: dict[str, Tensor] | None, options: Any
) -> list[Step]:
    return train(layer(SyncMixtureNorm, state, options), batches.of(rank))


def train_whole(batches: Batches, state: dict[str, Tensor] | None, options: Any) -> list[Step]:
    class Any1d(MixtureNorm1d):
        def _check_input(self, x: Tensor) -> None:
            MixtureNormBase._check_input(self, x)

    return train(layer(Any1d, state, options), batches)
