"""One training run: the same seed gives the same data order, and the same curve."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from examples.data import ImageData, Split

_EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Recipe:
    """What all runs of a comparison share."""

    steps: int
    batch_size: int = 128
    weight_decay: float = 1e-4
    evaluations: int = 20


@dataclass(frozen=True)
class Run:
    """Test accuracy in percent after each of the evaluated ``steps`` of one training."""

    norm: str
    learning_rate: float
    seed: int
    steps: tuple[int, ...]
    accuracy: tuple[float, ...]
    seconds: float


def evaluation_steps(recipe: Recipe) -> tuple[int, ...]:
    """``recipe.evaluations`` equal parts of the training, rounded up, the last step included."""
    parts = recipe.evaluations
    return tuple(sorted({-(-part * recipe.steps // parts) for part in range(1, parts + 1)}))


def train(
    model: nn.Module,
    data: ImageData,
    recipe: Recipe,
    *,
    norm: str,
    learning_rate: float,
    seed: int,
    on_step: Callable[[float], None] = lambda accuracy: None,
) -> Run:
    """Train ``model`` in place with AdamW on cross entropy.

    ``seed`` orders the training images, whatever the model; ``on_step`` is called after every
    step with the latest test accuracy. ``model`` and ``data`` are on the same device.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=recipe.weight_decay
    )
    device = data.train.labels.device
    batches = _batches(len(data.train), recipe.batch_size, seed)
    due = set(evaluation_steps(recipe))
    steps: list[int] = []
    accuracies: list[float] = []
    start = time.perf_counter()
    model.train()
    for step in range(1, recipe.steps + 1):
        index = next(batches).to(device)
        images, labels = data.normalize(data.train.images[index]), data.train.labels[index]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        torch.autograd.backward(loss)
        optimizer.step()
        if step in due:
            steps.append(step)
            accuracies.append(evaluate(model, data))
        on_step(accuracies[-1] if accuracies else 0.0)
    seconds = time.perf_counter() - start
    return Run(norm, learning_rate, seed, tuple(steps), tuple(accuracies), seconds)


@torch.no_grad()
def evaluate(model: nn.Module, data: ImageData) -> float:
    """Percent of the test images classified correctly in eval mode; the mode is restored."""
    was_training = model.training
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=data.test.labels.device)
    for images, labels in _chunks(data.test):
        correct += (model(data.normalize(images)).argmax(dim=1) == labels).sum()
    model.train(was_training)
    return 100.0 * correct.item() / len(data.test)


def _chunks(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(
        torch.split(split.images, _EVALUATION_BATCH),
        torch.split(split.labels, _EVALUATION_BATCH),
        strict=True,
    )


def _batches(count: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Endless batches of indices, every epoch in a new order; an epoch's odd rest is left out."""
    # Its own generator: seeding a mixture draws from torch's, which must not move the data.
    generator = torch.Generator().manual_seed(seed)
    batch_size = min(batch_size, count)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from torch.split(order[: count - count % batch_size], batch_size)
