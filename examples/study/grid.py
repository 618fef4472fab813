"""What a study is: questions, and for each the trainings that answer it."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from examples.runs import Spec
from examples.training import Recipe

BASELINE = "bn"


@dataclass(frozen=True)
class Question:
    """``norms`` side by side, and beside BN, in every combination of the other fields.

    A field that is empty or None is the study's.
    """

    name: str
    text: str
    norms: tuple[str, ...]
    learning_rates: tuple[float, ...] = ()
    batch_sizes: tuple[int, ...] = ()
    optimizer: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class Setting:
    """What the trainings of one comparison share but for norm and seed."""

    model: str
    optimizer: str
    learning_rate: float
    batch_size: int

    def __str__(self) -> str:
        return (
            f"{self.model}, {self.optimizer}, learning rate {self.learning_rate:g}, "
            f"batch {self.batch_size}"
        )


@dataclass(frozen=True)
class Study:
    """``recipe`` and ``learning_rate`` hold unless a question says otherwise.

    ``per_class``, ``size`` and ``test_per_class`` reduce the images (see ``ImageData.reduced``).
    """

    name: str
    text: str
    questions: tuple[Question, ...]
    recipe: Recipe
    learning_rate: float = 0.001
    model: str = "cnn5"
    width: float = 1.0
    seeds: int = 5
    per_class: int | None = None
    size: int | None = None
    test_per_class: int | None = None

    def settings(self, question: Question) -> list[Setting]:
        return [
            Setting(
                question.model or self.model,
                question.optimizer or self.recipe.optimizer,
                rate,
                batch_size,
            )
            for rate in question.learning_rates or (self.learning_rate,)
            for batch_size in question.batch_sizes or (self.recipe.batch_size,)
        ]

    def norms(self, question: Question) -> tuple[str, ...]:
        return tuple(dict.fromkeys((BASELINE, *question.norms)))

    def spec(self, setting: Setting, norm: str, seed: int) -> Spec:
        recipe = dataclasses.replace(
            self.recipe, optimizer=setting.optimizer, batch_size=setting.batch_size
        )
        return Spec(setting.model, self.width, norm, setting.learning_rate, seed, recipe)

    def specs(self) -> list[Spec]:
        """Every training once, question by question, all norms of a seed before the next seed."""
        return list(dict.fromkeys(self._specs()))

    def _specs(self) -> Iterator[Spec]:
        for question in self.questions:
            for setting in self.settings(question):
                for seed in range(self.seeds):
                    for norm in self.norms(question):
                        yield self.spec(setting, norm, seed)


def folder_name(spec: Spec) -> str:
    """Readable, and different for different specs."""
    digest = hashlib.sha256(repr(spec).encode()).hexdigest()[:8]
    norm = re.sub(r"[^A-Za-z0-9.]+", "-", spec.norm)[:60]
    return f"{spec.model}_{norm}_{spec.learning_rate:g}_seed{spec.seed}_{digest}"
