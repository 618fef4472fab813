"""One training run: the same seed gives the same data order, and the same curve."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from examples.batches import Augmentation, Batches
from examples.data import ImageData, Split

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("constant", "cosine")
_EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Recipe:
    """What all runs of a comparison share.

    ``optimizer``: AdamW, or SGD with Nesterov momentum 0.9, both with ``weight_decay``.
    ``schedule``: the learning rate stays, or falls to 0 along a half cosine.
    """

    steps: int
    batch_size: int = 128
    weight_decay: float = 1e-4
    evaluations: int = 20
    optimizer: str = "adamw"
    schedule: str = "constant"
    augmentation: str = "none"


@dataclass(frozen=True)
class Run:
    """Test accuracy in percent after each of the evaluated ``steps`` of one training."""

    norm: str
    learning_rate: float
    seed: int
    steps: tuple[int, ...]
    accuracy: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """What is known after ``step`` steps: ``loss`` is the mean since the last evaluation."""

    step: int
    loss: float
    learning_rate: float
    seconds: float
    accuracy: float


def evaluation_steps(recipe: Recipe) -> tuple[int, ...]:
    """``recipe.evaluations`` equal parts of the training, rounded up, the last step included."""
    parts = recipe.evaluations
    return tuple(sorted({-(-part * recipe.steps // parts) for part in range(1, parts + 1)}))


class Training:
    """A training that can stop after any step and go on, elsewhere, as if it had not.

    ``model`` is trained in place on cross entropy; it and ``data`` are on one device. ``seed``
    fixes the order of the images and their augmentation, whatever the model.

    A training with another loss overrides ``_loss_of``; one that measures more than accuracy has
    an ``evaluation_type`` with more fields, and overrides ``_measure``.
    """

    evaluation_type: type[Evaluation] = Evaluation

    def __init__(
        self, model: nn.Module, data: ImageData, recipe: Recipe, learning_rate: float, seed: int
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.evaluations: list[Evaluation] = []
        self.step = 0
        self._data = data
        self._learning_rate = learning_rate
        self._optimizer = _optimizer(model, recipe, learning_rate)
        self._batches = Batches(len(data.train), recipe.batch_size, seed)
        self._augmentation = Augmentation(recipe.augmentation, seed)
        self._due = set(evaluation_steps(recipe))
        self._summed_loss = torch.zeros((), device=data.train.labels.device)
        self._seconds = 0.0
        self._start = time.perf_counter()
        model.train()

    @property
    def ended(self) -> bool:
        return self.step >= self.recipe.steps

    def advance(self) -> Evaluation | None:
        """One step; the evaluation if one was due."""
        data = self._data
        index = next(self._batches).to(data.train.labels.device, non_blocking=True)
        images = data.normalize(self._augmentation(data.train.images[index]))
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate()
        self._optimizer.zero_grad()
        loss = self._loss_of(images, data.train.labels[index])
        torch.autograd.backward(loss)
        self._optimizer.step()
        self._summed_loss += loss.detach()
        self.step += 1
        return self._evaluate() if self.step in self._due else None

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the curve depends on, torch's generators included."""
        device = self._data.train.labels.device
        self._count_time()
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "batches": self._batches.state_dict(),
            "augmentation": self._augmentation.state_dict(),
            "generator": torch.get_rng_state(),
            "device_generator": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "loss": self._summed_loss,
            "seconds": self._seconds,
            "evaluations": [vars(evaluation) for evaluation in self.evaluations],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._batches.load_state_dict(state["batches"])
        self._augmentation.load_state_dict(state["augmentation"])
        torch.set_rng_state(state["generator"])
        device = self._data.train.labels.device
        if state["device_generator"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(state["device_generator"], device)
        self.step = state["step"]
        self._summed_loss.copy_(state["loss"])
        self._seconds = state["seconds"]
        self.evaluations = [self.evaluation_type(**entry) for entry in state["evaluations"]]
        self._start = time.perf_counter()

    def run(self, norm: str, seed: int) -> Run:
        """The curve so far."""
        self._count_time()
        return Run(
            norm,
            self._learning_rate,
            seed,
            tuple(evaluation.step for evaluation in self.evaluations),
            tuple(evaluation.accuracy for evaluation in self.evaluations),
            self._seconds,
        )

    def _loss_of(self, images: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.model(images), labels)

    def _measure(self) -> dict[str, float]:
        return {"accuracy": evaluate(self.model, self._data)}

    def _evaluate(self) -> Evaluation:
        since = self.step - (self.evaluations[-1].step if self.evaluations else 0)
        measured = self._measure()
        self._count_time()
        evaluation = self.evaluation_type(
            step=self.step,
            loss=float(self._summed_loss) / since,
            learning_rate=self._last_rate(),
            seconds=self._seconds,
            **measured,
        )
        self._summed_loss.zero_()
        self.evaluations.append(evaluation)
        return evaluation

    def _rate(self) -> float:
        if self.recipe.schedule == "constant":
            return self._learning_rate
        return 0.5 * self._learning_rate * (1 + math.cos(math.pi * self.step / self.recipe.steps))

    def _last_rate(self) -> float:
        rate: float = self._optimizer.param_groups[0]["lr"]
        return rate

    def _count_time(self) -> None:
        now = time.perf_counter()
        self._seconds += now - self._start
        self._start = now


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
    """A whole :class:`Training`; ``on_step`` gets the latest test accuracy after every step."""
    training = Training(model, data, recipe, learning_rate, seed)
    while not training.ended:
        training.advance()
        on_step(training.evaluations[-1].accuracy if training.evaluations else 0.0)
    return training.run(norm, seed)


@torch.no_grad()
def evaluate(model: nn.Module, data: ImageData) -> float:
    """Percent of the test images classified correctly in eval mode; the mode is restored."""
    was_training = model.training
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=data.test.labels.device)
    for images, labels in chunks(data.test):
        correct += (model(data.normalize(images)).argmax(dim=1) == labels).sum()
    model.train(was_training)
    return 100.0 * correct.item() / len(data.test)


def _optimizer(model: nn.Module, recipe: Recipe, learning_rate: float) -> torch.optim.Optimizer:
    if recipe.schedule not in SCHEDULES:
        raise ValueError(f"schedule {recipe.schedule!r}: expected one of {', '.join(SCHEDULES)}")
    parameters, decay = model.parameters(), recipe.weight_decay
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=decay)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=learning_rate, momentum=0.9, weight_decay=decay, nesterov=True
        )
    raise ValueError(f"optimizer {recipe.optimizer!r}: expected one of {', '.join(OPTIMIZERS)}")


def chunks(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(
        torch.split(split.images, _EVALUATION_BATCH),
        torch.split(split.labels, _EVALUATION_BATCH),
        strict=True,
    )
