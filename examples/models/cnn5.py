"""The 5-layer CNN of Kalayeh and Shah (arXiv 1806.02892)."""

from __future__ import annotations

from torch import Tensor, nn


class CNN5(nn.Module):
    """The 5-layer CNN of Kalayeh and Shah (arXiv 1806.02892).

    5×5 convolutions with 64, 128, 128 and 256 channels times ``width``, each followed by
    normalization and ReLU, 3×3 max pooling of stride 2 between them, then average pooling over
    the image and a linear layer. ``[N, in_channels, H, W]`` -> ``[N, num_classes]``.

    Normalization layers: ``features.1``, ``features.5``, ``features.9``, ``features.13``.
    """

    CHANNELS = (64, 128, 128, 256)
    MIXTURE_LAYERS = ("features.5",)  # the second, as in the paper

    def __init__(self, in_channels: int, num_classes: int, width: float = 1.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for position, full in enumerate(self.CHANNELS, start=1):
            if position > 1:
                layers.append(nn.MaxPool2d(3, stride=2, padding=1))
            out_channels = max(1, round(full * width))
            layers += [
                nn.Conv2d(channels, out_channels, 5, padding=2, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(),
            ]
            channels = out_channels
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).mean(dim=(2, 3)))
        return logits
