"""One training in a folder of its own: started there, or taken up where it stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from examples import checkpoint
from examples.data import ImageData
from examples.log import TensorBoard, write_csv
from examples.models import build
from examples.norms import Norm
from examples.training import Evaluation, Recipe, Training

CHECKPOINT, LOG = "checkpoint.pt", "log.csv"


@dataclass(frozen=True)
class Spec:
    """What a training is, but for its data: equal specs on equal data give equal curves."""

    model: str
    width: float
    norm: str
    learning_rate: float
    seed: int
    recipe: Recipe

    def build(self, data: ImageData) -> nn.Module:
        """The untrained network, on the device of ``data``.

        Raises:
            ValueError: a norm that does not fit the network.
        """
        classes, norm = len(data.classes), Norm.parse(self.norm)
        model = build(self.model, data.channels, classes, norm, self.width, self.seed)
        return model.to(data.train.images.device)


def configuration(spec: Spec, data: ImageData) -> dict[str, Any]:
    """What a checkpoint must agree with. The channels' means tell sets of equal sizes apart."""
    return {
        "data": data.describe(),
        "classes": list(data.classes),
        "channel_means": data.mean.flatten().tolist(),
        "channel_stds": data.std.flatten().tolist(),
        **{k: v for k, v in vars(spec).items() if k != "recipe"},
        **dataclasses.asdict(spec.recipe),
    }


def open_training(
    folder: Path, spec: Spec, data: ImageData, kind: type[Training] = Training
) -> Training:
    """The training of ``spec`` in ``folder``: new, or as its checkpoint there left it.

    Raises:
        checkpoint.CheckpointError: ``folder`` holds another training, or a log without a
            checkpoint. Nothing in it has been changed.
        ValueError: ``spec`` cannot be built.
    """
    path = folder / CHECKPOINT
    state = None
    if path.exists():
        state = checkpoint.read_matching(path, configuration(spec, data))
    elif (folder / LOG).exists():
        raise checkpoint.CheckpointError(
            f"{folder / LOG}: a log without its {CHECKPOINT}; nothing was changed: choose another "
            "--out folder, or remove this one"
        )
    training = kind(spec.build(data), data, spec.recipe, spec.learning_rate, spec.seed)
    if state is not None:
        training.load_state_dict(state)
    return training


def advance(
    folder: Path,
    training: Training,
    spec: Spec,
    data: ImageData,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[Evaluation | None], None] = lambda evaluation: None,
    tensorboard: bool = False,
) -> None:
    """Train until the end or until ``stop()``; checkpoint and log at every evaluation and stop.

    ``on_step`` is called after every step with the latest evaluation.
    """
    described = configuration(spec, data)
    board = TensorBoard(folder, training.step) if tensorboard else None
    saved = -1

    def save() -> None:
        nonlocal saved
        if saved != training.step:
            checkpoint.save(folder / CHECKPOINT, described, training.state_dict())
            write_csv(folder / LOG, training.evaluations, training.evaluation_type)
            saved = training.step

    try:
        while not training.ended and not stop():
            evaluation = training.advance()
            if evaluation is not None:
                save()
                if board is not None:
                    board.write(evaluation)
            on_step(training.evaluations[-1] if training.evaluations else None)
        save()
    finally:
        if board is not None:
            board.close()
