"""Which images a step trains on and how they are augmented: fixed by a seed, resumable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

AUGMENTATIONS = ("none", "crop", "crop-flip")
_PADDING = 4


class Batches:
    """Endless batches of indices, every epoch in a new order; an epoch's odd rest is left out."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        # Its own generator: seeding a mixture draws from torch's, which must not move the data.
        self._generator = torch.Generator().manual_seed(seed)
        self._count = count
        self._batch_size = min(batch_size, count)
        self._order = torch.empty(0, dtype=torch.int64)
        self._next = 0

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Tensor:
        if self._next + self._batch_size > len(self._order):
            self._order = torch.randperm(self._count, generator=self._generator)
            self._next = 0
        batch = self._order[self._next : self._next + self._batch_size]
        self._next += self._batch_size
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {
            "generator": self._generator.get_state(),
            "order": self._order,
            "next": self._next,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"])
        self._order, self._next = state["order"], state["next"]


class Augmentation:
    """Zero padding by 4 pixels and a random crop to the size before; ``crop-flip``: mirrored too.

    The draws are made on the CPU, the same ones for every device; the pixels are moved where the
    images are, in one gather.
    """

    def __init__(self, kind: str, seed: int) -> None:
        if kind not in AUGMENTATIONS:
            raise ValueError(f"augmentation {kind!r}: expected one of {', '.join(AUGMENTATIONS)}")
        self._kind = kind
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 ``[N, C, H, W]`` in and out."""
        if self._kind == "none":
            return images
        count, channels, height, width = images.shape
        device = images.device
        draws = torch.randint(2 * _PADDING + 1, (2, count, 1), generator=self._generator)
        flips = torch.randint(2, (count, 1), generator=self._generator, dtype=torch.bool)
        shifts = draws.to(device)
        rows = torch.arange(height, device=device) + shifts[0]
        columns = torch.arange(width, device=device).expand(count, width)
        if self._kind == "crop-flip":
            columns = torch.where(flips.to(device), width - 1 - columns, columns)
        columns = columns + shifts[1]
        padded = torch.nn.functional.pad(images, (_PADDING,) * 4)
        sample = torch.arange(count, device=device)[:, None, None, None]
        channel = torch.arange(channels, device=device)[None, :, None, None]
        return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"])
