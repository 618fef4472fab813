"""ResNets for 32×32 images (He et al., *Deep Residual Learning for Image Recognition*, 2016)."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from examples.models.initialization import he_


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.padding = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        # The shortcut without parameters: every other position, new channels zero.
        shortcut = x[:, :, :: self.stride, :: self.stride]
        shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, 0, self.padding))
        return torch.relu(out + shortcut)


class ResNet(nn.Module):
    """Three stages of ``blocks`` two-layer blocks with 16, 32 and 64 channels times ``width``.

    ``[N, in_channels, H, W]`` -> ``[N, num_classes]``. Normalization layers: ``norm`` after the
    first convolution, then ``stages.<stage>.<block>.norm1`` and ``.norm2``, stages from 0.
    """

    # What enters the last stage's inner convolutions: its sums keep BN, as does all before it.
    MIXTURE_LAYERS = ("stages.2.*.norm1",)

    def __init__(
        self, in_channels: int, num_classes: int, width: float = 1.0, *, blocks: int
    ) -> None:
        super().__init__()
        widths = [max(1, round(full * width)) for full in (16, 32, 64)]
        self.conv = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        self.stages = nn.Sequential()
        channels = widths[0]
        for out_channels in widths:
            stage = nn.Sequential()
            for block in range(blocks):
                stride = 2 if block == 0 and out_channels != widths[0] else 1
                stage.append(_Block(channels, out_channels, stride))
                channels = out_channels
            self.stages.append(stage)
        self.classifier = nn.Linear(channels, num_classes)
        self.apply(he_)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(torch.relu(self.norm(self.conv(x))))
        logits: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return logits


resnet20 = functools.partial(ResNet, blocks=3)
resnet56 = functools.partial(ResNet, blocks=9)
