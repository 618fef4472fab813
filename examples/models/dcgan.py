"""DCGAN (Radford, Metz and Chintala, 2016) for 32×32 images."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

NOISE = 100


class Generator(nn.Module):
    """Noise ``[N, 100]`` -> images ``[N, channels, 32, 32]`` in (−1, 1).

    Transposed 4×4 convolutions to 4×4, 8×8, 16×16 and 32×32 pixels with 256, 128 and 64 channels
    times ``width`` in between. Normalization layers: ``blocks.0.norm`` to ``blocks.2.norm``.
    """

    MIXTURE_LAYERS = ("blocks.1.norm", "blocks.2.norm")

    def __init__(self, channels: int, width: float = 1.0) -> None:
        super().__init__()
        widths = [max(1, round(full * width)) for full in (256, 128, 64)]
        self.blocks = nn.Sequential()
        before = NOISE
        for number, after in enumerate(widths):
            stride, padding = (1, 0) if number == 0 else (2, 1)
            conv = nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False)
            self.blocks.append(
                nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(after), relu=nn.ReLU()))
            )
            before = after
        self.image = nn.ConvTranspose2d(before, channels, 4, 2, 1)
        self.apply(_start)

    def forward(self, noise: Tensor) -> Tensor:
        images: Tensor = self.image(self.blocks(noise[:, :, None, None])).tanh()
        return images


class Discriminator(nn.Module):
    """Images ``[N, channels, 32, 32]`` -> logits ``[N]`` of being real; BN but in the first."""

    def __init__(self, channels: int, width: float = 1.0) -> None:
        super().__init__()
        widths = [max(1, round(full * width)) for full in (64, 128, 256)]
        layers: list[nn.Module] = []
        before = channels
        for number, after in enumerate(widths):
            layers.append(nn.Conv2d(before, after, 4, 2, 1, bias=number == 0))
            if number > 0:
                layers.append(nn.BatchNorm2d(after))
            layers.append(nn.LeakyReLU(0.2))
            before = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, 1, 4))
        self.apply(_start)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images).flatten()
        return logits


def _start(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
