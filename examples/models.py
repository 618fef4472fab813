"""The networks of the trainings, with the normalization layer left to the caller."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from examples.norms import Norm, NormLayer, normalization_layers


class CNN5(nn.Module):
    """The 5-layer CNN of Kalayeh and Shah (arXiv 1806.02892).

    5×5 convolutions with 64, 128, 128 and 256 channels times ``width``, each followed by
    normalization and ReLU, 3×3 max pooling of stride 2 between them, then average pooling over
    the image and a linear layer. ``[N, in_channels, H, W]`` -> ``[N, num_classes]``.
    """

    CHANNELS = (64, 128, 128, 256)

    def __init__(
        self, in_channels: int, num_classes: int, norm_layer: NormLayer, width: float = 1.0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for position, full in enumerate(self.CHANNELS, start=1):
            if position > 1:
                layers.append(nn.MaxPool2d(3, stride=2, padding=1))
            out_channels = max(1, round(full * width))
            layers += [
                nn.Conv2d(channels, out_channels, 5, padding=2, bias=False),
                norm_layer(position, out_channels),
                nn.ReLU(),
            ]
            channels = out_channels
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).mean(dim=(2, 3)))
        return logits


MODELS: dict[str, Callable[[int, int, NormLayer, float], nn.Module]] = {"cnn5": CNN5}


def build(
    name: str, in_channels: int, num_classes: int, norm: Norm, width: float, seed: int
) -> nn.Module:
    """A network whose weights depend on ``seed`` alone, not on ``norm``.

    Raises:
        ValueError: ``norm`` names a layer that the network does not have, or its options are bad.
    """
    torch.manual_seed(seed)
    model = MODELS[name](in_channels, num_classes, norm.layer, width)
    norm.check_depth(len(normalization_layers(model)))
    return model
