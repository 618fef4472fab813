"""DenseNets for 32×32 images (Huang et al., *Densely Connected Convolutional Networks*, 2017)."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from examples.models.initialization import he_


class _Layer(nn.Module):
    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(torch.relu(self.norm(x)))], dim=1)


class _Transition(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(self.conv(torch.relu(self.norm(x))), 2)


class DenseNet(nn.Module):
    """The basic DenseNet of ``depth`` layers, growth rate ``12 · width``, no compression.

    Three dense blocks of (depth − 4)/3 layers, with a transition between them.
    ``[N, in_channels, H, W]`` -> ``[N, num_classes]``. Normalization layers:
    ``blocks.<block>.<layer>.norm``, ``transitions.<0 or 1>.norm`` and ``norm`` at the end.
    """

    # Those that see a whole block's features; a layer's own is read by 12 channels only.
    MIXTURE_LAYERS = ("transitions.*.norm", "norm")

    def __init__(
        self, in_channels: int, num_classes: int, width: float = 1.0, *, depth: int
    ) -> None:
        super().__init__()
        growth, channels = max(1, round(12 * width)), max(1, round(16 * width))
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList()
        self.transitions = nn.ModuleList()
        for block in range(3):
            if block > 0:
                self.transitions.append(_Transition(channels))
            layers = nn.Sequential()
            for _ in range((depth - 4) // 3):
                layers.append(_Layer(channels, growth))
                channels += growth
            self.blocks.append(layers)
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, num_classes)
        self.apply(he_)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for number, block in enumerate(self.blocks):
            if number > 0:
                x = self.transitions[number - 1](x)
            x = block(x)
        logits: Tensor = self.classifier(torch.relu(self.norm(x)).mean(dim=(2, 3)))
        return logits


densenet40 = functools.partial(DenseNet, depth=40)
densenet100 = functools.partial(DenseNet, depth=100)
