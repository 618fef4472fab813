"""What every loader returns: uint8 images and labels, split into training and test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

TEST_FRACTION = 0.2
_SPLIT_SEED = 0


class DataError(ValueError):
    """The data asked for are missing, damaged or of an unknown layout."""


@dataclass(frozen=True)
class Split:
    """``images`` is uint8 ``[N, C, H, W]``; ``labels`` is int64 ``[N]``."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int | None, classes: int, name: str) -> Split:
        """The first ``count`` images of each class, in the order they had; None: all."""
        if count is None:
            return self
        present = int(torch.bincount(self.labels, minlength=classes).min())
        if not 1 <= count <= present:
            raise ValueError(f"{name}={count}: expected 1 to {present}, what every class has")
        chosen = [(self.labels == label).nonzero()[:count, 0] for label in range(classes)]
        index = torch.cat(chosen).sort().values
        return Split(self.images[index], self.labels[index])

    def resized(self, size: int) -> Split:
        """Every square of pixels averaged and rounded, so that ``size`` are left on a side."""
        height, width = self.images.shape[2:]
        if size < 1 or height % size or height != width:
            raise ValueError(f"size={size}: expected a divisor of {height}×{width} images")
        parts = torch.split(self.images, 1000)
        pooled = [nn.functional.avg_pool2d(part.float(), height // size) for part in parts]
        return Split(torch.cat([part.round().to(torch.uint8) for part in pooled]), self.labels)

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class ImageData:
    """A classification data set on one device.

    The images stay uint8, a quarter of the memory of floats; :meth:`normalize` turns a batch into
    floats with the training set's mean and standard deviation per channel.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, name: str, classes: tuple[str, ...], train: Split, test: Split) -> ImageData:
        """Take both splits and measure the training set's mean and standard deviation."""
        # A histogram per channel: exact, and without a float copy of the whole set.
        levels = torch.arange(256, dtype=torch.float64)
        counts = torch.stack(
            [
                torch.bincount(channel.flatten(), minlength=256)
                for channel in train.images.unbind(dim=1)
            ]
        ).double()
        frequency = counts / counts.sum(dim=1, keepdim=True)
        mean = frequency @ levels
        var = frequency @ levels.square() - mean.square()
        std = var.clamp_min(1.0).sqrt()  # a constant channel is centred, not blown up
        shape = (1, -1, 1, 1)
        return cls(name, classes, train, test, mean.float().view(shape), std.float().view(shape))

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    def normalize(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean) / self.std

    def to(self, device: torch.device) -> ImageData:
        return ImageData(
            self.name,
            self.classes,
            self.train.to(device),
            self.test.to(device),
            self.mean.to(device),
            self.std.to(device),
        )

    def reduced(
        self,
        per_class: int | None = None,
        size: int | None = None,
        test_per_class: int | None = None,
    ) -> ImageData:
        """The first ``per_class`` training (and test) images of each class, averaged to ``size``.

        Raises:
            ValueError: a class has fewer images; the images' sides are not multiples of ``size``.
        """
        train = self.train.first(per_class, len(self.classes), "per_class")
        test = self.test.first(test_per_class, len(self.classes), "test_per_class")
        if size is not None:
            train, test = train.resized(size), test.resized(size)
        return ImageData.of(self.name, self.classes, train, test)

    def describe(self) -> str:
        _, channels, height, width = self.train.images.shape
        return (
            f"{self.name}: {len(self.train):,} training and {len(self.test):,} test images, "
            f"{channels}×{height}×{width}, {len(self.classes)} classes"
        )


def stratified_split(images: Tensor, labels: Tensor) -> tuple[Split, Split]:
    """Hold out ``TEST_FRACTION`` of every class: always the same images, whatever the seed."""
    generator = np.random.default_rng(_SPLIT_SEED)
    label_values: NDArray[np.int64] = labels.numpy()
    in_test = np.zeros(len(label_values), dtype=bool)
    for label in np.unique(label_values):
        members = np.flatnonzero(label_values == label)
        held_out = max(1, round(TEST_FRACTION * len(members)))
        in_test[generator.permutation(members)[:held_out]] = True
    test = torch.from_numpy(in_test)
    return Split(images[~test], labels[~test]), Split(images[test], labels[test])
