"""Inception-V3 (Szegedy et al., *Rethinking the Inception Architecture*, 2016) at CIFAR's size."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

Kernel = int | tuple[int, int]


class _Parallel(nn.Module):
    """Branches on one input, their channels concatenated."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class InceptionV3(nn.Module):
    """The eleven blocks of Inception-V3, channels times ``width``, behind a stem of stride 1.

    Sizes 32 -> 16 -> 8 at the two reductions, which are padded here; no auxiliary classifier and no
    dropout. ``[N, in_channels, H, W]`` -> ``[N, num_classes]``. Normalization layers:
    ``stem.<0 to 4>.norm`` and ``blocks.<0 to 10>.branches.<…>.norm``.
    """

    MIXTURE_LAYERS = ("blocks.8.*", "blocks.9.*", "blocks.10.*")  # the three blocks at size 8

    def __init__(self, in_channels: int, num_classes: int, width: float = 1.0) -> None:
        super().__init__()
        self._width = width
        self._channels = in_channels  # of what the next layer reads
        stem = ((32, 3), (32, 3), (64, 3), (80, 1), (192, 3))
        self.stem = nn.Sequential(*(self._chain(layer) for layer in stem))
        self.blocks = nn.Sequential(
            *(self._block_35(pooled) for pooled in (32, 64, 64)),
            self._reduction([(384, 3)], [(64, 1), (96, 3), (96, 3)]),
            *(self._block_17(inner) for inner in (128, 160, 160, 192)),
            self._reduction(
                [(192, 1), (320, 3)], [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)]
            ),
            self._block_8(),
            self._block_8(),
        )  # fmt: skip
        self.classifier = nn.Linear(self._channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.blocks(self.stem(x)).mean(dim=(2, 3)))
        return logits

    def _conv(self, full: int, kernel: Kernel, stride: int = 1) -> nn.Module:
        """Convolution, normalization and ReLU; the size stays at stride 1."""
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        channels = max(1, round(full * self._width))
        padding = (kernel[0] // 2, kernel[1] // 2)
        conv = nn.Conv2d(self._channels, channels, kernel, stride, padding, bias=False)
        self._channels = channels
        return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(channels), relu=nn.ReLU()))

    def _chain(self, *layers: tuple[int, Kernel], stride: int = 1) -> nn.Module:
        """Convolutions one after the other, of which the last has the stride."""
        convs = [
            self._conv(full, kernel, stride if number == len(layers) else 1)
            for number, (full, kernel) in enumerate(layers, start=1)
        ]
        return convs[0] if len(convs) == 1 else nn.Sequential(*convs)

    def _parallel(self, *branches: list[tuple[int, Kernel]], stride: int = 1) -> list[nn.Module]:
        """Chains on the same input; afterwards the channels are all of theirs."""
        before, total, chains = self._channels, 0, []
        for layers in branches:
            self._channels = before
            chains.append(self._chain(*layers, stride=stride))
            total += self._channels
        self._channels = total
        return chains

    def _with_pool(self, branches: list[list[tuple[int, Kernel]]], pooled: int) -> nn.Module:
        *chains, last = self._parallel(*branches, [(pooled, 1)])
        pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        return _Parallel(*chains, nn.Sequential(pool, last))

    def _block_35(self, pooled: int) -> nn.Module:
        return self._with_pool([[(64, 1)], [(48, 1), (64, 5)], [(64, 1), (96, 3), (96, 3)]], pooled)

    def _block_17(self, inner: int) -> nn.Module:
        row, column = (1, 7), (7, 1)
        twice: list[tuple[int, Kernel]] = [(inner, column), (inner, row), (inner, column)]
        return self._with_pool(
            [
                [(192, 1)],
                [(inner, 1), (inner, row), (192, column)],
                [(inner, 1), *twice, (192, row)],
            ],
            192,
        )

    def _reduction(self, *branches: list[tuple[int, Kernel]]) -> nn.Module:
        before = self._channels
        chains = self._parallel(*branches, stride=2)
        self._channels += before
        return _Parallel(*chains, nn.MaxPool2d(3, stride=2, padding=1))

    def _block_8(self) -> nn.Module:
        before = self._channels
        first, last = self._parallel([(320, 1)], [(192, 1)])
        pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        total, forks = self._channels, []
        for layers in ([(384, 1)], [(448, 1), (384, 3)]):
            self._channels = before
            trunk = self._chain(*layers)
            fork = _Parallel(*self._parallel([(384, (1, 3))], [(384, (3, 1))]))
            forks.append(nn.Sequential(trunk, fork))
            total += self._channels
        self._channels = total
        return _Parallel(first, *forks, nn.Sequential(pool, last))
