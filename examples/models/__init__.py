"""The networks of the trainings. They are built with batch normalization; a norm replaces some."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from examples.models.cnn5 import CNN5
from examples.models.densenet import densenet40, densenet100
from examples.models.inception import InceptionV3
from examples.models.resnet import resnet20, resnet56
from examples.norms import Norm

__all__ = ["CNN5", "MODELS", "InceptionV3", "build"]

MODELS: dict[str, Callable[[int, int, float], nn.Module]] = {
    "cnn5": CNN5,
    "densenet40": densenet40,
    "densenet100": densenet100,
    "inception": InceptionV3,
    "resnet20": resnet20,
    "resnet56": resnet56,
}


def build(
    name: str, in_channels: int, num_classes: int, norm: Norm, width: float, seed: int
) -> nn.Module:
    """A network whose weights depend on ``seed`` alone, not on ``norm``.

    Raises:
        ValueError: ``norm`` names a layer that the network does not have, or its options are bad.
    """
    torch.manual_seed(seed)
    model = MODELS[name](in_channels, num_classes, width)
    norm.apply(model)
    return model
