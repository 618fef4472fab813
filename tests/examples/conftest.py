import pytest
import torch

from examples.data import ImageData, Split


def _digits(count: int, seed: int) -> Split:
    """Noisy images whose bright quadrant is their label: learnable in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    images = torch.randint(0, 120, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = 4 * (int(label) // 2), 4 * (int(label) % 2)
        image[:, row : row + 4, column : column + 4] += 100
    return Split(images, labels)


@pytest.fixture(scope="session")
def quadrants() -> ImageData:
    return ImageData.of("quadrants", ("a", "b", "c", "d"), _digits(128, 0), _digits(64, 1))


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    pass
